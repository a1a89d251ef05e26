"""Each example, run as a user runs it: a process of its own, a client of another library, a signal at the end."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from program import ROOT, Program, open_websocket, run_program

EXAMPLES = ROOT / "examples"

Conversation = Callable[[WebSocketConnection, str], Awaitable[None]]


@asynccontextmanager
async def run_example(name: str) -> AsyncIterator[tuple[Program, str]]:
    """Start an example on a free port; with its URL."""
    async with run_program(EXAMPLES / name, "--port", "0") as program:
        url = await program.line()
        assert re.fullmatch(r"ws://127\.0\.0\.1:[1-9]\d*/ws", url)
        yield program, url


async def say(ws: WebSocketConnection, message: object) -> None:
    await ws.send_message(json.dumps(message))


async def hear(ws: WebSocketConnection) -> Any:
    return json.loads(await ws.get_message())


async def converse_with_minimal(ws: WebSocketConnection, url: str) -> None:
    """The conversation that the example's docstring shows, and a second member."""
    await say(ws, {"action": "subscribe", "data": {"room_id": "kitchen"}, "id": 1})
    assert await hear(ws) == {"id": 1, "data": {"status": "subscribed", "room": "kitchen"}}
    async with open_websocket(url) as other:
        await say(other, {"action": "subscribe", "data": {"room_id": "kitchen"}, "id": "x"})
        assert await hear(other) == {"id": "x", "data": {"status": "subscribed", "room": "kitchen"}}
        await say(other, {"action": "say", "data": "hello"})
        heard = await hear(ws)
        assert heard == {"from": heard["from"], "text": "hello"}
        assert await hear(other) == heard


async def converse_with_advanced(ws: WebSocketConnection, url: str) -> None:
    """The conversation that the example's docstring shows, and its errors."""
    await say(ws, {"action": "subscribe", "data": {"room_id": "workflow_123"}})
    assert await hear(ws) == {"status": "subscribed", "room": "workflow_123"}
    await say(ws, {"action": "ping"})
    assert await hear(ws) == {"status": "pong", "rooms": ["workflow_123"]}
    for expected in (
        {"status": "unsubscribed", "room": "workflow_123"},
        {
            "error": {
                "code": "NOT_SUBSCRIBED",
                "message": "not subscribed to workflow_123",
                "temporary": False,
            }
        },
    ):
        await say(ws, {"action": "unsubscribe", "data": {"room_id": "workflow_123"}})
        assert await hear(ws) == expected


async def converse_with_workflow_events(ws: WebSocketConnection, url: str) -> None:
    """All events of an execution, in order and as they were typed; a watcher that comes later does not restart it."""
    await say(ws, {"action": "watch", "data": "exec_123"})
    expected = [
        (f"node.{event}", node, status)
        for node in ("fetch", "transform", "store")
        for event, status in (("started", "running"), ("completed", "succeeded"))
    ]
    events = [await hear(ws)]
    async with open_websocket(url) as late:
        await say(late, {"action": "watch", "data": "exec_123"})
        events += [await hear(ws) for _ in expected[1:]]
    assert [(event["type"], event["node_id"], event["data"]["status"]) for event in events] == expected
    assert {event["workflow_execution_id"] for event in events} == {"exec_123"}
    times = [datetime.fromisoformat(event["timestamp"]) for event in events]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)


CONVERSATIONS: dict[str, Conversation] = {
    "minimal.py": converse_with_minimal,
    "advanced.py": converse_with_advanced,
    "workflow_events.py": converse_with_workflow_events,
}


def test_every_example_is_run() -> None:
    """There is a conversation for each file among the examples."""
    assert sorted(CONVERSATIONS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.sockets
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_example(name: str, signum: signal.Signals) -> None:
    """D4: an example does what it says, and a signal drains it: 1012, status 0, no traceback."""
    async with run_example(name) as (program, url), open_websocket(url) as ws:
        await CONVERSATIONS[name](ws, url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(see_the_end, ws)
            assert await program.stop(signum) == 0
    assert "Traceback" not in program.stderr.decode()
    assert program.stdout.decode() == f"{url}\n"


async def see_the_end(ws: WebSocketConnection) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        await ws.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1012


@pytest.mark.sockets
async def test_advanced_logs() -> None:
    """The advanced example's logger has what its hooks and the logger middleware say."""
    async with run_example("advanced.py") as (program, url):
        async with open_websocket(url) as ws:
            await CONVERSATIONS["advanced.py"](ws, url)
        assert await program.stop(signal.SIGTERM) == 0
    log = program.stderr.decode()
    for pattern in (
        r"client (\S+) connected from 127\.0\.0\.1\n",
        r"client \S+ joins room 'workflow_123'\n",
        r"'ping' ok in \d+\.\d ms\n",
        r"'unsubscribe' NOT_SUBSCRIBED in \d+\.\d ms\n",
        r"client \S+ disconnected after \d+\.\d s: 1000 by peer\n",
    ):
        assert re.search(pattern, log), pattern
