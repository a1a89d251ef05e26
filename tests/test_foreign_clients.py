"""One conversation with four clients that are others' work, in all formats: each hears the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from browser import requires_browser
from foreign_clients import (
    Client,
    Ended,
    by_chromium,
    by_node,
    by_trio_websocket,
    by_websockets,
    requires_node,
    serve_pages,
)
from messages import FORMATS, MSGPACK, hang
from trio_rooms import ActionError, Close, Connection, Manager, serve_rooms

pytestmark = [pytest.mark.sockets, pytest.mark.time_limit(120)]

CLIENTS = [
    pytest.param(by_trio_websocket, id="trio-websocket"),
    pytest.param(by_websockets, id="websockets"),
    pytest.param(by_node, id="node", marks=requires_node),
    pytest.param(by_chromium, id="chromium", marks=[requires_browser, pytest.mark.browser]),
]

#: What text, numbers and nesting a message is to come through with.
EVENT = {
    "text": "grün \u2028 𝄞 \x00",
    "numbers": [0, -1, 127, 128, -33, 65_536, 2**53 - 1, -(2**53) + 1, 1.5, -0.25, 1e300],
    "more": {"null": None, "yes": True, "no": False, "empty": [{}, [], ""], "long": "x" * 300},
}
ALL_BYTES = bytes(range(256))


def make_manager(closes: list[Close]) -> Manager:
    """A server that knows all that is said below."""
    manager = Manager()
    serve_pages(manager)
    manager.handle_message("hang", hang, concurrent=True)
    manager.on_disconnect(lambda conn, close: closes.append(close))

    @manager.on("subscribe")
    async def subscribe(conn: Connection, room: str) -> dict[str, str]:
        await conn.join(room)
        return {"room": room}

    @manager.on("publish")
    async def publish(conn: Connection, event: dict[str, Any]) -> int:
        for number in range(3):
            manager.broadcast_to_room("kitchen", {"number": number, "event": event})
        return 3

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NOT_YOU", "somebody else", temporary=True)

    @manager.on("count")
    async def count(conn: Connection, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @manager.on("long")
    def long(conn: Connection, length: int) -> str:
        return "ü" * length

    @manager.on("close")
    def close(conn: Connection) -> None:
        conn.close(4400, "come back")

    @manager.on_binary
    async def on_binary(conn: Connection, data: bytes) -> None:
        await conn.send_bytes(data[::-1])

    return manager


async def converse(client: Client) -> list[Any]:
    """All that is said, until the client closes; what it hears."""
    heard: list[Any] = []

    async def hear(times: int = 1) -> None:
        heard.extend([await client.hear() for _ in range(times)])

    if client.subprotocol is not None:
        await hear()
        heard[0]["data"]["connection"] = type(heard[0]["data"]["connection"])  # new each time
    await client.say({"action": "$join", "data": {"room": "kitchen"}, "id": 1})
    await hear()
    await client.say({"action": "subscribe", "data": "kitchen", "id": "sub"})
    await hear()
    await client.say({"action": "publish", "data": EVENT, "id": 2})
    await hear(4)
    await client.say({"action": "refuse"})
    await hear()
    await client.say({"action": "count", "data": "three", "id": 3})
    await hear()
    await client.say({"action": "count", "data": 2, "id": 4})
    await hear(3)
    for data in (ALL_BYTES, b"", ALL_BYTES * 200):
        await (client.say({"data": data}) if client.subprotocol == MSGPACK else client.say_bytes(data))
        await hear()
    await client.say({"action": "long", "data": 40_000, "id": 5})
    await hear()
    await client.say({"action": "hang", "id": "h"})
    await client.say({"action": "$cancel", "data": {"id": "h"}})
    await hear()
    await client.close(4001, "that was all")
    await hear()
    return heard


def expected(subprotocol: str | None) -> list[Any]:
    """What every client hears."""

    def published(event: object) -> object:
        return event if subprotocol is None else {"room": "kitchen", "data": event}

    def error(code: str, message: str, *, temporary: bool = False, **fields: object) -> object:
        return fields | {"error": {"code": code, "message": message, "temporary": temporary}}

    return [
        *([] if subprotocol is None else [{"action": "$welcome", "data": {"connection": str}}]),
        error("DENIED", "not allowed", id=1),
        {"id": "sub", "data": {"room": "kitchen"}},
        *(published({"number": number, "event": EVENT}) for number in range(3)),
        {"id": 2, "data": 3},
        error("NOT_YOU", "somebody else", temporary=True),
        error("BAD_MESSAGE", "Expected `int`, got `str`", id=3),
        *({"id": 4, "data": number, "more": True} for number in range(2)),
        {"id": 4, "more": False},
        *({"data": data} if subprotocol == MSGPACK else data for data in (ALL_BYTES[::-1], b"", ALL_BYTES[::-1] * 200)),
        {"id": 5, "data": "ü" * 40_000},
        error("CANCELLED", "the request was cancelled", id="h"),
        Ended(4001, "that was all"),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where npm installs once for all tests."""
    return tmp_path_factory.mktemp("node")


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("by", CLIENTS)
async def test_conversation(by: Callable[..., Any], subprotocol: str | None, folder: Path) -> None:
    """Welcome, refusal, reply, events in order, errors, a stream, bytes, a cancel and a close, heard by each alike."""
    closes: list[Close] = []
    async with (
        serve_rooms(make_manager(closes)) as server,
        by(server, folder) as connect,
        connect(subprotocol) as client,
    ):
        assert client.subprotocol == subprotocol
        assert await converse(client) == expected(subprotocol)
    assert [(close.code, close.reason, close.by) for close in closes] == [(4001, "that was all", "peer")]


@pytest.mark.parametrize("by", CLIENTS)
async def test_the_servers_close(by: Callable[..., Any], folder: Path) -> None:
    """A close of the server's reaches each client with its code and its reason, behind what was sent before."""
    async with serve_rooms(make_manager([])) as server, by(server, folder) as connect, connect(None) as client:
        await client.say({"action": "refuse", "id": 1})
        await client.say({"action": "close"})
        assert (await client.hear())["error"]["code"] == "NOT_YOU"
        assert await client.hear() == Ended(4400, "come back")


@pytest.mark.parametrize("by", CLIENTS)
async def test_the_other_kind_of_frame(by: Callable[..., Any], folder: Path) -> None:
    """I2: where the program takes no bytes, a binary frame is answered BAD_MESSAGE, and the connection goes on."""
    manager = Manager()
    serve_pages(manager)
    async with serve_rooms(manager) as server, by(server, folder) as connect, connect(None) as client:
        await client.say_bytes(b"\xff")
        assert (await client.hear())["error"]["code"] == "BAD_MESSAGE"
        await client.say({"action": "nothing"})
        assert (await client.hear())["error"]["code"] == "UNKNOWN_ACTION"
