"""The client's half of the upgrade, against answers of all kinds."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trio_rooms.client._errors import Refused, ServerViolation
from trio_rooms.client._handshake import upgrade


async def answered(answer: bytes) -> bytes:
    """What comes of this answer."""
    client, server = memory_stream_pair()
    async with server:
        await server.send_all(answer)
        await server.send_eof()
        return await upgrade(client, host="test", target="/", headers=(), subprotocol="trio-rooms.v1.json")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "BANNED", "message": ""}}', "BANNED"),
        (b'{"error": []}', ""),
        (b"<html>", ""),
        (b"[", ""),
        (b"x" * 100_000, ""),
    ],
)
async def test_refusals(autojump_clock: MockClock, body: bytes, code: str) -> None:
    """The status, the code in the body if there is one, and the seconds of Retry-After."""
    for whole in (body, body[: len(body) // 2]):
        head = b"HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
        with pytest.raises(Refused) as raised:
            await answered(head + whole)
        assert (raised.value.status, raised.value.retry_after) == (503, 7.0)
        assert raised.value.code == (code if whole == body else "")


@pytest.mark.parametrize("value", [b"Fri, 31 Dec 1999 23:59:59 GMT", b"-1", b"1.5"])
async def test_retry_after_of_another_kind(autojump_clock: MockClock, value: bytes) -> None:
    """A date, and what is no number, are ignored."""
    with pytest.raises(Refused) as raised:
        await answered(b"HTTP/1.1 503 x\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % value)
    assert raised.value.retry_after is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"HTTP/1.1 200 x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_wrong_answers(autojump_clock: MockClock, answer: bytes) -> None:
    """What is no answer, or a wrong one, is a violation, and never another error."""
    with pytest.raises(ServerViolation):
        await answered(answer)


async def test_a_reset(autojump_clock: MockClock) -> None:
    """A stream that breaks is no answer."""
    client, server = memory_stream_pair()
    await trio.aclose_forcefully(server)
    with pytest.raises(ServerViolation):
        await upgrade(client, host="test", target="/", headers=(), subprotocol="trio-rooms.v1.json")
