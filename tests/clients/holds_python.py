"""The Python client, 2.x or 1.x (whichever this interpreter has), meets holds in every way that it can.

Started by holds.mjs, which says in COUNTERSIGN_HOLDS where everything is, decides on the calls and kills the server.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import sys
import time
import traceback
import warnings

import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

NEW = not importlib.metadata.version("mcp").startswith("1.")
SCENE = json.loads(os.environ["COUNTERSIGN_HOLDS"])
AMOUNTS = SCENE["amounts"]
PAGE = re.compile(r"/holds/hold_\w{26}$")

if NEW:
    import httpx2 as httpx
    from mcp import Client

    import python_tasks
else:
    import httpx
    from datetime import timedelta


# 1.x says that its tasks are those of 2025-11-25, which is what is wanted of them here
warnings.filterwarnings("ignore", category=DeprecationWarning)


def as_json(model):
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


class Connection:
    """One client of one kind: `rounds`, `page`, `wait`, `oldpage`, `tasks` or `oldtasks`."""

    def __init__(self, agent, kind, seen, action="accept"):
        self.agent, self.kind, self.seen, self.action = agent, kind, seen, action
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        headers = {"Authorization": f"Bearer {SCENE['tokens'][self.agent]}"}
        http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(30, read=120))
        try:
            await self.stack.enter_async_context(http)
            transport = streamable_http_client(SCENE["url"], http_client=http)
            pages = {"elicitation_callback": self.elicit} if "page" in self.kind else {}
            if NEW and self.kind in ("rounds", "page", "tasks"):
                tasks = [python_tasks.Tasks(lambda task: self.seen.append("task"))] if self.kind == "tasks" else None
                client = Client(transport, mode="2026-07-28", extensions=tasks, **pages)
                self.client = await self.stack.enter_async_context(client)
                self.session = self.client.session
            else:
                streams = await self.stack.enter_async_context(transport)
                session = ClientSession(streams[0], streams[1], **pages)
                self.session = self.client = await self.stack.enter_async_context(session)
                await self.session.initialize()
        except BaseException:
            await self.stack.aclose()
            raise
        return self

    async def __aexit__(self, *problem):
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await self.stack.aclose()

    async def elicit(self, context, params):
        if params.mode == "url" and PAGE.search(params.url):
            self.seen.append("page")
        return types.ElicitResult(action=self.action)

    async def call(self, amount, timeout=None, progress=False):
        arguments = {"from": "alice", "to": "bob", "amount": amount}
        if self.kind == "oldtasks":
            return await self.call_as_task(arguments)

        async def on_progress(progress, total, message):
            self.seen.append("progress")

        more = {"progress_callback": on_progress} if progress else {}
        if timeout is not None:
            more["read_timeout_seconds"] = timeout if NEW else timedelta(seconds=timeout)
        return as_json(await self.client.call_tool("bank__transfer", arguments, **more))

    async def call_as_task(self, arguments):
        made = await self.session.experimental.call_tool_as_task("bank__transfer", arguments)
        self.seen.append("task")
        async for _ in self.session.experimental.poll_task(made.task.taskId):
            pass
        return as_json(await self.session.experimental.get_task_result(made.task.taskId, types.CallToolResult))


def decision(result):
    return (result.get("_meta") or {}).get("countersign/decision") or {}


def ran(result, amount):
    assert not result.get("isError"), result
    assert result["structuredContent"]["amount"] == amount, result


async def quick(agent, kind, expected):
    seen = []
    async with Connection(agent, kind, seen) as client:
        ran(await client.call(AMOUNTS["quick"]), AMOUNTS["quick"])
        assert all(each in seen for each in expected), seen
        # what was run is given again, and not done again
        ran(await client.call(AMOUNTS["quick"]), AMOUNTS["quick"])


async def slow(agent, kind, expected):
    async with Connection(agent, kind, []) as client:
        if kind == "wait":
            try:
                late = await client.call(AMOUNTS["slow"], timeout=2)
            except Exception as problem:
                assert re.search("timed out", str(problem), re.IGNORECASE), problem
            else:
                raise AssertionError(f"it waited: {late}")
        ran(await client.call(AMOUNTS["slow"]), AMOUNTS["slow"])


async def told(agent, kind, expected):
    seen = []
    async with Connection(agent, kind, seen) as client:
        first = await client.call(AMOUNTS["told"], timeout=120, progress=True)
        assert first["isError"] and decision(first)["outcome"] == "held", first
        assert seen.count("progress") >= 5, seen
        ran(await client.call(AMOUNTS["told"]), AMOUNTS["told"])


async def declined(agent, kind, expected):
    seen = []
    async with Connection(agent, kind, seen, action="decline") as client:
        result = await client.call(AMOUNTS["declined"])
        assert decision(result).get("reason") == "hold_cancelled" and "page" in seen, result


async def cancelled(agent, kind, expected):
    arguments = {"from": "alice", "to": "bob", "amount": AMOUNTS["cancelled"]}
    async with Connection(agent, kind, []) as client:
        if kind == "oldtasks":
            tasks = client.session.experimental
            task = (await tasks.call_tool_as_task("bank__transfer", arguments)).task.taskId
            assert (await tasks.cancel_task(task)).status == "cancelled"
            result = as_json(await tasks.get_task_result(task, types.CallToolResult))
            assert decision(result)["reason"] == "hold_cancelled", result
            return
        made = await client.session.call_tool("bank__transfer", arguments, allow_claimed=True)
        assert isinstance(made, python_tasks.Created), made
        await python_tasks.cancel(client.session, made.task_id)
        assert (await python_tasks.get(client.session, made.task_id)).status == "cancelled"


async def killed(agent, kind, expected):
    deadline, broken, seen = time.monotonic() + 90, 0, []
    while time.monotonic() < deadline:
        try:
            async with Connection(agent, kind, seen) as client:
                # 1.x waits for ever on a stream that broke off, unless it is told how long
                result = await client.call(AMOUNTS["killed"], timeout=None if NEW else 10)
            if decision(result).get("outcome") != "held":
                ran(result, AMOUNTS["killed"])
                # the task extension rides over it by itself
                assert broken > 0 or kind == "tasks", "the server was not killed in the middle"
                return
        except AssertionError:
            raise
        except BaseException as problem:  # a broken connection arrives in groups of many kinds
            if isinstance(problem, (KeyboardInterrupt, SystemExit)) or asyncio.current_task().cancelling():
                raise
            broken += 1
            await asyncio.sleep(0.3)
    raise AssertionError("it did not come back")


class Tally:
    count = failed = 0


async def check(way, agent, kind, expected=()):
    try:
        await asyncio.wait_for(way(agent, kind, expected), 150)
        line = "ok"
    except BaseException as problem:
        if isinstance(problem, (KeyboardInterrupt, SystemExit)):
            raise
        line, Tally.failed = "not ok", Tally.failed + 1
        for told in "".join(traceback.format_exception(problem)).splitlines()[-14:]:
            print(f"  # {told}", flush=True)
    Tally.count += 1
    print(f"{line} {Tally.count} - {agent}: {way.__name__}", flush=True)


VARIANTS = (
    [
        ("py2-tasks", "tasks", {quick: ["task"], cancelled: []}),
        ("py2-page", "page", {quick: ["page"], slow: [], declined: []}),
        ("py2-rounds", "rounds", {quick: [], slow: []}),
        ("py2-wait", "wait", {quick: [], slow: []}),
    ]
    if NEW
    else [
        ("py1-wait", "wait", {quick: [], slow: [], told: []}),
        ("py1-page", "page", {quick: ["page"], declined: []}),
        ("py1-task", "oldtasks", {quick: ["task"], cancelled: []}),
    ]
)


async def main():
    patient = [check(way, agent, kind, expected) for agent, kind, does in VARIANTS for way, expected in does.items()]
    await asyncio.gather(*patient)
    print("# ready to be killed", flush=True)
    await asyncio.gather(*(check(killed, agent, kind) for agent, kind, _ in VARIANTS))
    print(f"1..{Tally.count}", flush=True)


asyncio.run(main())
sys.exit(1 if Tally.failed else 0)
