"""Clients that send many messages at once and read whatever comes back; handlers that wait to be told to go on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import msgspec
import trio

from trio_rooms.testing import Closed, Opcode, TestClient, client_frame

V1 = "trio-rooms.v1.json"
MSGPACK = "trio-rooms.v1.msgpack"
TEXT_FORMATS = [None, V1]
FORMATS = [*TEXT_FORMATS, MSGPACK]


async def send_together(client: TestClient, *messages: object) -> None:
    """Send messages in one write, so that the server reads them at once.

    Text and bytes go as they are, other things in the client's format.
    """
    await client.send_raw(b"".join(_frame(client, message) for message in messages))


def _frame(client: TestClient, message: object) -> bytes:
    if isinstance(message, str):
        return client_frame(Opcode.TEXT, message.encode())
    if isinstance(message, bytes):
        return client_frame(Opcode.BINARY, message)
    if client.subprotocol == MSGPACK:
        return client_frame(Opcode.BINARY, msgspec.msgpack.encode(message))
    return client_frame(Opcode.TEXT, json.dumps(message).encode())


async def receive_all(client: TestClient, seconds: float = 1.0) -> list[Any]:
    """All that comes until nothing has come for some seconds of a MockClock; a close is the last, as its code."""
    got: list[Any] = []
    while True:  # noqa: ASYNC913 - receive is a checkpoint
        with trio.move_on_after(seconds) as scope:
            try:
                got.append(await client.receive_json())
            except Closed as closed:
                return [*got, closed.code]
        if scope.cancelled_caught:
            return got


async def hang(conn: object, *_: object) -> None:
    """A handler, hook or session that never ends by itself."""
    await trio.sleep_forever()


def pausing(seconds: float) -> Callable[..., Awaitable[None]]:
    """A handler that takes its time."""

    async def pause(conn: object) -> None:
        await trio.sleep(seconds)

    return pause


def code_of(reply: dict[str, Any]) -> str | None:
    """The error code of a reply, None for a result."""
    return reply["error"]["code"] if "error" in reply else None


@attrs.define(eq=False)
class Valve:
    """Something that handlers wait for; counts who waits and notes who was cancelled."""

    opened: trio.Event = attrs.field(factory=trio.Event)
    waiting: int = 0
    passed: int = 0
    cancelled: int = 0

    async def wait(self) -> None:
        """Wait until it is opened."""
        self.waiting += 1
        try:
            await self.opened.wait()
            self.passed += 1
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


async def kept_cancelled() -> trio.Cancelled:
    """A ``Cancelled`` whose scope is over: what nobody may raise again."""
    kept: trio.Cancelled | None = None
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            kept = exc
            raise
    assert kept is not None
    return kept
