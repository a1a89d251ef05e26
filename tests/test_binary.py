"""Binary messages: who handles them, in which order, and how they are sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from messages import FORMATS, MSGPACK, TEXT_FORMATS, Valve, receive_all, send_together
from test_protocol import connect
from trio_rooms import (
    ActionError,
    AlreadyServing,
    Config,
    Connection,
    ConnectionGone,
    Context,
    Limits,
    Manager,
    Message,
    MessageTooLarge,
    OutboxFull,
    UsageError,
)
from trio_rooms.testing import TestClient, serve_in_memory


def binary(client: TestClient, data: bytes, **fields: object) -> Any:
    """A binary message, for ``send_together``."""
    return {"data": data, **fields} if client.subprotocol == MSGPACK else data


async def received(client: TestClient) -> Any:
    """The bytes of the next binary message."""
    if client.subprotocol == MSGPACK:
        message = await client.receive_json()
        assert set(message) == {"data"}
        return message["data"]
    return await client.receive_bytes()


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_handled_and_sent(subprotocol: str | None, autojump_clock: object) -> None:
    """The handler gets the bytes, whatever they are, and what it sends are the same bytes."""
    manager = Manager()

    @manager.on_binary
    async def on_binary(conn: Connection, data: bytes) -> None:
        await conn.send_bytes(data)
        conn.send_bytes_nowait(memoryview(data))

    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        for data in (b"", b"\x00\xff", b'{"action":"no"}', b"\x81\xa6action\xa2no", b"x" * 60_000):
            await send_together(client, binary(client, data))
            assert [await received(client), await received(client)] == [data, data]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_in_turn(subprotocol: str | None, autojump_clock: object) -> None:
    """A binary message has its turn among the others, in the order in which they came."""
    manager = Manager()
    valve = Valve()
    got: list[object] = []

    @manager.on("text")
    async def text(conn: Connection, data: int) -> None:
        await valve.wait()
        got.append(data)

    @manager.on_binary
    def on_binary(conn: Connection, data: bytes) -> None:
        got.append(data)

    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        one, two = ({"action": "text", "data": n} for n in (1, 2))
        await send_together(client, one, binary(client, b"a"), two, binary(client, b"b"))
        assert await receive_all(client) == []
        assert got == []
        valve.opened.set()
        assert await receive_all(client) == []
    assert got == [1, b"a", 2, b"b"]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_behind_hooks_and_middleware(subprotocol: str | None, autojump_clock: object) -> None:
    """on_message and middleware see a binary message as a Message without action, and may refuse it."""
    seen: list[object] = []

    async def only_small(ctx: Context, call_next: Any) -> Any:
        assert ctx.message.binary
        if len(ctx.message.data) > 1:
            raise ActionError("TOO_MUCH")
        return await call_next(ctx)

    manager = Manager(middleware=[only_small])
    manager.on_message(lambda conn, message: seen.append((message.action, message.id, message.format, message.data)))

    @manager.on_binary
    async def on_binary(conn: Connection, message: Message) -> None:
        seen.append(message.data)

    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        await send_together(client, binary(client, b"a"), binary(client, b"bc"))
        assert await receive_all(client) == [
            {"error": {"code": "TOO_MUCH", "message": "", "temporary": False}},
        ]
    form = "msgpack" if subprotocol == MSGPACK else "binary"
    assert seen == [(None, None, form, b"a"), b"a", (None, None, form, b"bc")]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_what_it_raises(
    subprotocol: str | None, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors are told without an id; what is not for the client ends its connection, and the log says where."""
    manager = Manager()

    @manager.on_binary
    def on_binary(conn: Connection, data: bytes) -> None:
        raise ActionError("NO") if data == b"no" else ValueError("secret")

    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        await send_together(client, binary(client, b"no"), binary(client, b"x"))
        no, internal, code = await receive_all(client)
        assert no == {"error": {"code": "NO", "message": "", "temporary": False}}
        assert (internal["error"]["code"], internal.get("id"), code) == ("INTERNAL", None, 1011)
    assert "action (binary) failed: ValueError" in caplog.text


async def test_what_it_returns(autojump_clock: object) -> None:
    """What the handler returns goes nowhere, unless it answers an id, which only MessagePack has place for."""
    manager = Manager()
    manager.on_binary(lambda conn, data: len(data))
    async with serve_in_memory(manager) as memory:
        for subprotocol in FORMATS:
            client, _ = await connect(memory, subprotocol)
            await send_together(client, binary(client, b"abc"))
            assert await receive_all(client) == []
        await send_together(client, binary(client, b"abc", id=1))
        assert await receive_all(client) == [{"id": 1, "data": 3}]


async def test_without_a_handler(autojump_clock: object) -> None:
    """I2: without a handler each is answered BAD_MESSAGE, also where a session reads what no handler takes."""
    manager = Manager()
    whole: list[object] = []

    @manager.session
    async def session(conn: Connection) -> None:
        while True:
            whole.append(await conn.read_json())

    async with serve_in_memory(manager) as memory:
        for subprotocol in TEXT_FORMATS:
            client, _ = await connect(memory, subprotocol)
            await client.send_bytes(b"{}")
            (answer,) = await receive_all(client)
            assert answer["error"]["message"] == "binary messages are not part of this format"
        assert whole == []
        client, _ = await connect(memory, MSGPACK)
        await client.send_json({"data": b"x"})
        assert await receive_all(client) == []
    assert whole == [{"data": b"x"}]


async def streams(conn: Connection, data: bytes) -> AsyncIterator[bytes]:
    yield data


def takes_text(conn: Connection, data: str) -> None: ...


def takes_nothing(conn: Connection) -> None: ...


def with_default(conn: Connection, data: bytes = b"") -> None: ...


@pytest.mark.parametrize("function", [streams, takes_text, takes_nothing, with_default, 5])
def test_what_can_never_work(function: Any) -> None:
    """A handler that takes no bytes, or that would stream without an id, is a UsageError when it is registered."""
    manager = Manager()
    with pytest.raises(UsageError):
        manager.on_binary(function)
    manager.on_binary(lambda conn, data: None)


async def test_one_and_before_serving(autojump_clock: object) -> None:
    """There is one handler, and it is registered before the manager is served."""
    manager = Manager()
    manager.on_binary(lambda conn, data: None)
    with pytest.raises(UsageError, match="already"):
        manager.on_binary(lambda conn, data: None)
    async with serve_in_memory(manager):
        with pytest.raises(AlreadyServing):
            manager.on_binary(lambda conn, data: None)


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_sending_what_cannot_be_sent(subprotocol: str | None, autojump_clock: object) -> None:
    """What is not bytes is a UsageError, what no outbox could hold MessageTooLarge; nothing is sent of either."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=1000)))
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, subprotocol)
        for data in ("text", 5, None, [1]):
            with pytest.raises(UsageError, match="bytes"):
                await conn.send_bytes(data)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="bytes"):
                conn.send_bytes_nowait(data)  # type: ignore[arg-type]
        with pytest.raises(MessageTooLarge):
            await conn.send_bytes(b"x" * 1000)
        with pytest.raises(MessageTooLarge):
            conn.send_bytes_nowait(b"x" * 1000)
        assert await receive_all(client) == []
        conn.close()
        with pytest.raises(ConnectionGone):
            await conn.send_bytes(b"")


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_the_outbox_bounds_it(subprotocol: str | None, autojump_clock: object) -> None:
    """L1: binary messages are bounded by the outbox as all are: nowait raises OutboxFull, and what was taken comes."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=2)))
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, subprotocol)
        conn.send_bytes_nowait(b"1")
        conn.send_bytes_nowait(b"2")
        with pytest.raises(OutboxFull):
            conn.send_bytes_nowait(b"3")
        assert [await received(client), await received(client)] == [b"1", b"2"]


async def test_the_bytes_are_copied(autojump_clock: object) -> None:
    """A buffer that is changed after the call was sent as it was."""
    manager = Manager()
    async with serve_in_memory(manager) as memory:
        for subprotocol in FORMATS:
            client, conn = await connect(memory, subprotocol)
            buffer = bytearray(b"before")
            conn.send_bytes_nowait(buffer)
            buffer[:] = b"after!"
            assert await received(client) == b"before"
