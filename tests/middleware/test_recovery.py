"""`recovery`: an exception is an error reply; the connection lives on, or is closed once that was told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import code_of, hang, receive_all
from trio_rooms import ActionError, Connection, Context, InternalError, Manager
from trio_rooms.middleware import recovery
from trio_rooms.testing import open_client

INTERNAL = {"code": "INTERNAL", "message": "internal error", "temporary": False}


def failing(**options: Any) -> tuple[Manager, list[Any]]:
    """A manager with handlers that fail, and what `on_error`, which takes its time, was called with."""
    manager = Manager(**options)
    reported: list[Any] = []

    @manager.on_error
    async def on_error(conn: Connection | None, error: BaseException) -> None:
        await trio.sleep(1)
        reported.append(error)

    @manager.on("boom")
    async def boom(conn: Connection) -> None:
        raise ERROR

    @manager.on("beside", concurrent=True)
    async def beside(conn: Connection) -> None:
        raise ERROR

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NO")

    @manager.on("echo")
    async def echo(conn: Connection) -> str:
        return "fine"

    return manager, reported


ERROR = ValueError("secret")


@pytest.mark.parametrize("action", ["boom", "beside"])
async def test_the_connection_lives_on(action: str, autojump_clock: object) -> None:
    """I1: the request is answered INTERNAL, `on_error` runs once with the exception itself, and that is all."""
    manager, reported = failing(middleware=[recovery()])
    async with open_client(manager) as client:
        for ident in (1, 2):
            await client.send_action(action, id=ident)
            assert await receive_all(client, 3) == [{"id": ident, "error": INTERNAL}]
        assert await client.request("echo") == "fine"
    assert reported == [ERROR, ERROR]


@pytest.mark.parametrize("action", ["boom", "beside"])
@pytest.mark.parametrize("middleware", [[recovery(close=True)], []], ids=["close=True", "without"])
async def test_the_connection_is_closed(action: str, middleware: list[Any], autojump_clock: object) -> None:
    """I1: with `close=True`, as without recovery, INTERNAL is told and then the connection closed with 1011."""
    manager, reported = failing(middleware=middleware)
    async with open_client(manager) as client:
        await client.send_action(action, id=1)
        assert await receive_all(client, 3) == [{"id": 1, "error": INTERNAL}, 1011]
    assert reported == [ERROR]


@pytest.mark.parametrize("close", [False, True])
async def test_action_errors_pass(close: bool, autojump_clock: object) -> None:
    """What is for the client stays what it is, and closes nothing."""
    manager, reported = failing(middleware=[recovery(close=close)])
    async with open_client(manager) as client:
        await client.send_action("refuse", id=1)
        assert [code_of(answer) for answer in await receive_all(client)] == ["NO"]
        assert await client.request("echo") == "fine"
    assert reported == []


@pytest.mark.parametrize("close", [False, True])
async def test_what_middleware_outside_sees(close: bool, autojump_clock: object) -> None:
    """Middleware further out sees INTERNAL with the exception as its cause, may wait, and may replace it."""
    seen = []

    async def outer(ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except InternalError as exc:
            error = exc
        await trio.sleep(1)
        seen.append(error.__cause__)
        if ctx.message.data == "replace":
            return "replaced"
        raise error

    manager, reported = failing(middleware=[outer, recovery(close=close)])
    async with open_client(manager) as client:
        assert await client.request("boom", "replace") == "replaced"
        assert reported == []
        await client.send_action("boom", id=1)
        assert await receive_all(client, 5) == [{"id": 1, "error": INTERNAL}, *([1011] if close else [])]
    assert seen == [ERROR, ERROR]
    assert reported == [ERROR]


async def test_cancellations_pass(autojump_clock: object) -> None:
    """A cancelled handler is no failure."""
    manager, reported = failing(middleware=[recovery()])
    manager.handle_message("hang", hang, concurrent=True)
    async with open_client(manager) as client:
        await client.send_action("hang", id=1)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 1})
        assert [code_of(answer) for answer in await receive_all(client)] == ["CANCELLED"]
    assert reported == []


async def test_middleware_inside_is_covered(autojump_clock: object) -> None:
    """Recovery covers everything inside it, also middleware."""

    async def inner(ctx: Context, call_next: Any) -> Any:
        raise ERROR

    manager, reported = failing(middleware=[recovery(), inner])
    async with open_client(manager) as client:
        await client.send_action("echo", id=1)
        assert await receive_all(client, 3) == [{"id": 1, "error": INTERNAL}]
    assert reported == [ERROR]
