"""The Python client, 2.x or 1.x (whichever this interpreter has): what it must see through Countersign.

Started by run.mjs, which says in COUNTERSIGN_SCENE where everything is; prints TAP.
"""

import asyncio
import contextlib
import copy
import importlib.metadata
import json
import os
import re
import sys
import time
import traceback

import mcp.types as types
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

NEW = not importlib.metadata.version("mcp").startswith("1.")
NAME = "python 2" if NEW else "python 1"
SCENE = json.loads(os.environ["COUNTERSIGN_SCENE"])
HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "calls.json"), encoding="utf-8") as table:
    TABLE = json.load(table)
VERSIONS = (["2026-07-28"] if NEW else []) + ["2025-11-25", "2025-06-18", "2025-03-26"]

if NEW:
    import httpx2 as httpx
    from mcp import Client
    from mcp import MCPError as RemoteError
else:
    import httpx
    from mcp.shared.exceptions import McpError as RemoteError


def code_of(problem):
    inner = getattr(problem, "error", None)
    return getattr(inner, "code", getattr(problem, "code", None))


class Connection:
    """One client, with the few verbs that the checks need; results as JSON."""

    def __init__(self, how, version="2025-11-25"):
        self.how, self.wanted, self.stack = how, version, contextlib.AsyncExitStack()

    async def __aenter__(self):
        try:
            await self._open()
        except BaseException:
            await self.stack.aclose()
            raise
        return self

    async def _open(self):
        if "url" in self.how:
            headers = {"Authorization": f"Bearer {self.how['token']}"} if "token" in self.how else {}
            http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(30, read=120))
            await self.stack.enter_async_context(http)
            transport = streamable_http_client(self.how["url"], http_client=http)
        else:
            command, *arguments = self.how["command"]
            env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **self.how.get("env", {})}
            quiet = self.stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            parameters = StdioServerParameters(command=command, args=arguments, env=env, cwd=self.how.get("cwd"))
            transport = stdio_client(parameters, errlog=quiet)
        if NEW and self.wanted >= "2026":
            self.client = await self.stack.enter_async_context(Client(transport, mode=self.wanted, cache=None))
            self.session = self.client.session
            self.agreed = self.client.protocol_version
            return
        streams = await self.stack.enter_async_context(transport)
        self.session = await self.stack.enter_async_context(ClientSession(streams[0], streams[1]))
        self.client = self.session
        self.agreed = await self._initialize()

    async def _initialize(self):
        # the SDK always offers its newest revision: an older release of it would offer an older one
        send = self.session.send_request

        def offering(request, *rest, **named):
            root = getattr(request, "root", request)
            if getattr(root, "method", "") == "initialize":
                name = "protocol_version" if hasattr(root.params, "protocol_version") else "protocolVersion"
                setattr(root.params, name, self.wanted)
            return send(request, *rest, **named)

        self.session.send_request = offering
        result = await self.session.initialize()
        return getattr(result, "protocol_version", None) or result.protocolVersion

    async def __aexit__(self, *problem):
        await self.stack.aclose()

    async def tools(self):
        listed = await self.client.list_tools()
        return [as_json(tool) for tool in listed.tools]

    async def call(self, name, arguments, progress=None):
        return as_json(await self.client.call_tool(name, arguments, progress_callback=progress))

    async def resources(self):
        return [as_json(each) for each in (await self.client.list_resources()).resources]

    async def prompts(self):
        return [as_json(each) for each in (await self.client.list_prompts()).prompts]

    async def read(self, uri):
        return as_json(await self.client.read_resource(uri))

    async def prompt(self, name, arguments):
        return as_json(await self.client.get_prompt(name, arguments))


def as_json(model):
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def plain(result):
    """A result without what Countersign says of its own."""
    kept = copy.deepcopy(result)
    for key in ("resultType", "ttlMs", "cacheScope"):
        kept.pop(key, None)
    meta = kept.pop("_meta", None) or {}
    meta = {
        key: value
        for key, value in meta.items()
        if not key.startswith("countersign/") and key != "io.modelcontextprotocol/serverInfo"
    }
    if meta:
        kept["_meta"] = meta
    return kept


def filled(arguments):
    return json.loads(json.dumps(arguments).replace("{dir}", SCENE["dir"]))


class Tally:
    count = failed = 0


async def check(name, body):
    Tally.count += 1
    try:
        await asyncio.wait_for(body(), 90)
        print(f"ok {Tally.count} - {name}", flush=True)
    except Exception as problem:  # every failure is a line of the report
        Tally.failed += 1
        print(f"not ok {Tally.count} - {name}", flush=True)
        for line in "".join(traceback.format_exception(problem)).splitlines()[-14:]:
            print(f"  # {line}", flush=True)


def same(one, other):
    assert one == other, f"\n  {json.dumps(one, ensure_ascii=False)[:800]}\n  {json.dumps(other, ensure_ascii=False)[:800]}"


async def refused(doing, code=None):
    try:
        result = await doing
    except RemoteError as problem:
        if code is not None:
            same(code_of(problem), code)
        return str(problem)
    raise AssertionError(f"it is not refused: {result}")


def how(agent):
    if SCENE["mode"] == "stdio":
        return {"command": [SCENE["program"], "serve", "--stdio", "--agent", agent], "cwd": SCENE["dir"]}
    return {"url": SCENE["url"], "token": SCENE["tokens"][agent]}


async def in_version(direct, version):
    through = SCENE["mode"] != "direct"
    told = f"{NAME} {version} {SCENE['mode']}:"
    async with contextlib.AsyncExitStack() as opened:
        if through:
            tester = Connection(how("tester"), version)

            async def connects():
                same(tester.agreed, version)

            await opened.enter_async_context(tester)
            await check(f"{told} connects", connects)

        def at(server):
            return (tester, f"{server}__") if through else (direct[server], "")

        async def lists():
            every = await tester.tools() if through else None
            for server, expected in TABLE["listed"].items():
                _, prefix = at(server)
                own = {tool["name"]: plain(tool) for tool in await direct[server].tools()}
                listed = {tool["name"]: plain(tool) for tool in every or await direct[server].tools()}
                for name in expected:
                    found, there = listed[prefix + name], own[name]
                    if through and version == "2025-11-25":
                        # any call may be a task of that revision, since it is Countersign that keeps it
                        same(found.pop("execution", None), {"taskSupport": "optional"})
                        there.pop("execution", None)
                    same({**found, "name": name}, there)

        await check(f"{told} lists every server's tools, as the servers list them", lists)

        for server, tool, arguments in TABLE["same"]:

            async def gives(server=server, tool=tool, arguments=arguments):
                client, prefix = at(server)
                through_it = plain(await client.call(prefix + tool, filled(arguments)))
                same(through_it, plain(await direct[server].call(tool, filled(arguments))))

            await check(f"{told} {server} {tool} gives what the server gives", gives)

        async def memory():
            client, prefix = at("memory")
            name = f"{NAME} {version} {SCENE['mode']}"
            entity = {"name": name, "entityType": "client", "observations": ["was here", "ünïcödé"]}
            await client.call(f"{prefix}create_entities", {"entities": [entity]})
            found = await client.call(f"{prefix}search_nodes", {"query": name})
            assert "ünïcödé" in found["content"][0]["text"]
            client, prefix = at("time")
            now = await client.call(f"{prefix}get_current_time", {"timezone": "Europe/Berlin"})
            same(json.loads(now["content"][0]["text"])["timezone"], "Europe/Berlin")

        await check(f"{told} memory remembers, the time is told", memory)

        for server in ("every", "everyhttp"):

            async def progress(server=server):
                client, prefix = at(server)
                seen = []

                async def on_progress(progress, total, message):
                    seen.append(progress)

                arguments = {"duration": 1, "steps": 4}
                result = await client.call(f"{prefix}trigger-long-running-operation", arguments, on_progress)
                assert "completed" in result["content"][0]["text"]
                assert seen == sorted(seen) and len(seen) >= 3, seen

            await check(f"{told} progress of {server} arrives in order", progress)

        async def at_once():
            client, prefix = at("every")
            sums = await asyncio.gather(*(client.call(f"{prefix}get-sum", {"a": a, "b": a}) for a in range(20)))
            for a, total in enumerate(sums):
                same(total["content"][0]["text"], f"The sum of {a} and {a} is {a + a}.")

        await check(f"{told} twenty calls at once", at_once)

        async def cancelled():
            client, prefix = at("every")
            started = time.monotonic()
            long = client.call(f"{prefix}trigger-long-running-operation", {"duration": 30, "steps": 3})
            try:
                await asyncio.wait_for(long, 0.3)
            except TimeoutError:
                pass
            assert time.monotonic() - started < 5
            after = await client.call(f"{prefix}echo", {"message": "after"})
            same(after["content"][0]["text"], "Echo: after")

        await check(f"{told} a cancelled call ends at once and harms no other", cancelled)
        if through:
            await only_through(direct, version, told, tester, opened)


async def only_through(direct, version, told, tester, opened):
    for server, tool, arguments, pointer in TABLE["invalid"]:

        async def invalid(server=server, tool=tool, arguments=arguments, pointer=pointer):
            result = await tester.call(f"{server}__{tool}", arguments)
            same(result["isError"], True)
            decision = result["_meta"]["countersign/decision"]
            same((decision["outcome"], decision["reason"]), ("refused", "arguments_invalid"))
            assert pointer in result["content"][0]["text"], result

        await check(f"{told} {tool} with {json.dumps(arguments)} is refused so that a model can act on it", invalid)

    async def by_default():
        await refused(tester.read("demo://resource/static/document/features.md"))
        await refused(tester.prompt("every__simple-prompt", {}))

    await check(f"{told} resources and prompts are refused by default", by_default)
    # over stdio each client has a Countersign of its own, and one store has one owner
    if SCENE["mode"] == "stdio":
        await opened.aclose()
    async with Connection(how("guest"), version) as guest:
        await as_guest(guest, told)
    async with Connection(how("reader"), version) as reader:
        await as_reader(reader, direct, told)


async def as_guest(guest, told):
    async def own():
        same([tool["name"] for tool in await guest.tools()], ["every__echo"])
        same((await guest.call("every__echo", {"message": "guest"}))["content"][0]["text"], "Echo: guest")

    await check(f"{told} an agent sees just its own tools", own)

    async def hidden():
        texts = []
        for name in ("every__get-sum", "every__get-none"):
            text = await refused(guest.call(name, {}), -32602)
            texts.append(re.sub(r"call_\w+", "CALL", text.replace(name, "NAME")))
        same(*texts)

    await check(f"{told} a tool that is not granted looks like one that is not there", hidden)


async def as_reader(reader, direct, told):
    async def granted():
        uris = [each["uri"] for each in await direct["every"].resources()]
        listed = [each["uri"] for each in await reader.resources()]
        assert all(any(there.endswith(uri) for there in listed) for uri in uris), listed
        names = [each["name"] for each in await reader.prompts()]
        assert "every__simple-prompt" in names, names
        through_it = plain(await reader.prompt("every__simple-prompt", {}))
        same(through_it, plain(await direct["every"].prompt("simple-prompt", {})))

    await check(f"{told} resources and prompts pass under their grants", granted)


async def no_way_in(version):
    async def refusals():
        for token in ({}, {"token": "eyJhbGciOiJub25lIn0.e30."}):
            try:
                async with Connection({"url": SCENE["url"], **token}, version) as client:
                    await client.tools()
            except BaseException as problem:  # each transport wraps the 401 in a group of its own
                if isinstance(problem, (KeyboardInterrupt, SystemExit)):
                    raise
                continue
            raise AssertionError(f"a client with {token} got in")

    await check(f"{NAME} {version} {SCENE['mode']}: without a good token there is no way in", refusals)


async def main():
    async with contextlib.AsyncExitStack() as opened:
        direct = {}
        for name, way in SCENE["direct"].items():
            direct[name] = await opened.enter_async_context(Connection(way))
        for version in VERSIONS:
            if SCENE["mode"] == "direct" and version >= "2026":
                continue
            await in_version(direct, version)
            if SCENE["mode"] == "http":
                await no_way_in(version)
    print(f"1..{Tally.count}")
    print(f"# {NAME} ({SCENE['mode']}): {Tally.count - Tally.failed} passed, {Tally.failed} failed", flush=True)


asyncio.run(main())
sys.exit(1 if Tally.failed else 0)
