"""The tasks extension for the Python client 2.x: declares it, and follows a task to its result.

    Client(transport, extensions=[Tasks()])

`call_tool` then gives the result of a call that became a task as if it had been answered at once.
"""

import anyio
from typing import Any, Literal

from mcp import MCPError
from mcp.client import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

IDENTIFIER = "io.modelcontextprotocol/tasks"
ENDED = ("completed", "failed", "cancelled")


class Task(Result):
    """A task, as a call is answered with it and as `tasks/get` tells it."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    task_id: str = Field(alias="taskId")
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    status_message: str | None = Field(alias="statusMessage", default=None)
    poll_interval_ms: int = Field(alias="pollIntervalMs", default=1_000)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class Created(Task):
    result_type: Literal["task"] = Field(alias="resultType", default="task")


class About(RequestParams):
    task_id: str = Field(alias="taskId")


class Get(Request[About, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: About
    name_param = "taskId"


class Cancel(Request[About, Literal["tasks/cancel"]]):
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: About
    name_param = "taskId"


class Acknowledged(Result):
    model_config = ConfigDict(extra="allow")


class Tasks(ClientExtension):
    identifier = IDENTIFIER

    def __init__(self, on_task=None):
        self.on_task = on_task or (lambda task: None)

    def claims(self):
        return [ResultClaim(result_type="task", model=Created, resolve=self.follow)]

    async def follow(self, task: Created, context: ClaimContext) -> CallToolResult:
        """Asks until the task is over. A server that does not answer may be starting again: the task outlives it."""
        seen: Task = task
        while seen.status not in ENDED:
            self.on_task(seen)
            await anyio.sleep(seen.poll_interval_ms / 1_000)
            try:
                seen = await get(context.session, task.task_id)
            except MCPError as problem:
                if problem.code == -32602:
                    raise
            except Exception:  # the connection; it is made anew with the next request
                continue
        self.on_task(seen)
        if seen.status == "completed":
            return CallToolResult.model_validate(seen.result)
        error = seen.error or {"code": -32603, "message": f"the task is {seen.status}: {seen.status_message}"}
        raise MCPError(code=error["code"], message=error["message"], data=error.get("data"))


async def get(session, task_id: str) -> Task:
    return await session.send_request(Get(params=About(taskId=task_id)), Task)


async def cancel(session, task_id: str) -> None:
    await session.send_request(Cancel(params=About(taskId=task_id)), Acknowledged)
