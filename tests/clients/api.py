"""The approvers' API under requests that schemathesis makes up from its OpenAPI document.

Runs with the Python that has schemathesis (tests/peers/python-api.txt) and the program named by COUNTERSIGN_BIN. It makes a
house with a bank, an approver and a transfer that waits for them, serves it, and holds every answer against the document:
statuses, types, members, methods, and that nothing opens without a session. Prints `N passed, N failed`; exits 0 when it holds.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PROGRAM = os.environ["COUNTERSIGN_BIN"]
PASSPHRASE = "correct horse battery staple"
GRANTS = """
@id("transfer") @hold("owner") @expires("1h")
permit (principal, action == Action::"bank__transfer", resource);
"""
# Who is right may still be told 410 or 422, which schemathesis takes for a refusal of what is right; and it has no second
# credential to try.
LEFT_OUT = "positive_data_acceptance,object_level_authorization"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def post(url, body, headers=None, timeout=20):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


class House:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.agents, self.console = free_port(), free_port()
        (self.folder / "grants").mkdir()
        (self.folder / "grants" / "api.cedar").write_text(GRANTS)
        (self.folder / "countersign.toml").write_text(
            f'[server]\nlisten = "127.0.0.1:{self.agents}"\n[console]\nlisten = "127.0.0.1:{self.console}"\n'
            f'[upstreams.bank]\ncommand = [{json.dumps(PROGRAM)}, "bank", "--state", "bank.json"]\n'
        )
        self.run("tool", "register")
        self.server = subprocess.Popen([PROGRAM, "serve"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self.ready():
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise SystemExit("the server is not ready")
            time.sleep(0.05)

    def run(self, *arguments):
        done = subprocess.run([PROGRAM, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"`countersign {' '.join(arguments)}` failed: {done.stdout}{done.stderr}")
        return done.stdout

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.console}/readyz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def hold(self, amount):
        """Has an agent ask for a transfer, and leaves it waiting."""
        token = next(word for word in self.run("agent", "token", "demo").split() if word.startswith("eyJ"))
        version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        meta = {**version, "io.modelcontextprotocol/clientInfo": {"name": "api", "version": "1"}, "io.modelcontextprotocol/clientCapabilities": {}}
        transfer = {"from": "alice", "to": "bob", "amount": amount}
        params = {"name": "bank__transfer", "arguments": transfer, "_meta": meta}
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": "bank__transfer",
        }
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        try:
            post(f"http://127.0.0.1:{self.agents}/mcp", call, headers, timeout=2)
        except (TimeoutError, urllib.error.URLError):
            pass

    def close(self):
        self.server.terminate()
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()


def main():
    with tempfile.TemporaryDirectory() as folder:
        house = House(folder)
        try:
            api = f"http://127.0.0.1:{house.console}/api/v1"
            code = json.loads(house.run("approver", "add", "ann", "--role", "owner", "--json"))["code"]
            post(f"{api}/enrol", {"code": code, "passphrase": PASSPHRASE})
            session = post(f"{api}/login", {"approver": "ann", "passphrase": PASSPHRASE})
            house.hold(7)
            bearer = {"authorization": f"Bearer {session['token']}"}
            with urllib.request.urlopen(urllib.request.Request(f"{api}/holds", headers=bearer), timeout=20) as answer:
                assert len(json.load(answer)["holds"]) == 1, "a transfer waits"
            schemathesis = Path(sys.executable).parent / "schemathesis"
            command = [
                str(schemathesis), "run", f"{api}/openapi.json",
                "--header", f"Authorization: {bearer['authorization']}",
                # one ends the session, the other does not end
                "--exclude-operation-id", "logout", "--exclude-operation-id", "holdEvents",
                "--checks", "all", "--exclude-checks", LEFT_OUT,
                "--phases", "coverage,fuzzing", "--max-examples", "25", "--seed", "1",
                "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
            ]
            fuzzed = subprocess.run(command, cwd=folder, timeout=240).returncode == 0
            alive = house.ready()
            house.close()
            house.run("ledger", "verify")
            failed = [what for what, held in (("an answer is not as described", fuzzed), ("the server is not ready any more", alive)) if not held]
            for what in failed:
                print(f"not ok - {what}")
            print(f"{3 - len(failed)} passed, {len(failed)} failed")
            return 1 if failed else 0
        finally:
            house.close()


if __name__ == "__main__":
    sys.exit(main())
