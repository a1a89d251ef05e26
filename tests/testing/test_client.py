"""TestClient: against trio-websocket where the server behaves, against scripted bytes where it does not."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_websocket
from msgspec import msgpack
from wsproto.utilities import generate_accept_token

from trio_rooms.testing._client import TestClient
from trio_rooms.testing._faults import FaultyStream
from trio_rooms.testing._outcomes import Closed, HandshakeRefused, ProtocolViolation, ReplyError
from trio_rooms.testing._raw import SAMPLE_KEY, Opcode, client_frame, close_payload, split_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

server_frame = partial(client_frame, mask=None)


def text(obj: object) -> bytes:
    """A text frame of a server with ``obj`` in JSON."""
    return server_frame(Opcode.TEXT, json.dumps(obj).encode())


def packed(obj: object) -> bytes:
    """A binary frame of a server with ``obj`` in MessagePack."""
    return server_frame(Opcode.BINARY, msgpack.encode(obj))


def close(code: int | None, reason: str = "") -> bytes:
    """A close frame of a server."""
    return server_frame(Opcode.CLOSE, close_payload(code, reason))


class Script:
    """A server played by the test: raw bytes on the other end of a memory stream."""

    def __init__(self) -> None:
        self.near, self.stream = trio.testing.memory_stream_pair()

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def end(self) -> None:
        """Send EOF, and go on reading."""
        await self.stream.send_eof()

    async def gone(self) -> None:
        await self.stream.aclose()

    async def received(self) -> list[tuple[int, bytes]]:
        """The opcodes and unmasked payloads of the client's frames, all below 126 bytes, since the last call."""
        data = b""
        with trio.move_on_after(1):
            data = bytes(await self.stream.receive_some())
        frames = []
        while data:
            size = data[1] & 0x7F
            mask, payload = data[2:6], data[6 : 6 + size]
            frames.append((data[0] & 0xF, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))))
            data = data[6 + size :]
        return frames


@pytest.fixture
def script() -> Script:
    """A scripted server; its client is ``TestClient(script.near)``."""
    return Script()


async def echo(request: trio_websocket.WebSocketRequest) -> None:
    """Send back every message; end with the client."""
    offered = request.proposed_subprotocols
    ws = await request.accept(
        subprotocol=offered[-1] if offered else None, extra_headers=[(b"X-Path", request.path.encode())]
    )
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except trio_websocket.ConnectionClosed:
        pass


@asynccontextmanager
async def serving(
    handler: Callable[[trio_websocket.WebSocketRequest], Awaitable[None]],
) -> AsyncIterator[trio.abc.Stream]:
    """Serve one connection with trio-websocket; gives the client's end of the stream."""
    client_end, server_end = trio.testing.memory_stream_pair()

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        # trio-websocket's own task needs a nursery that outlives the handshake.
        async with trio.open_nursery() as nursery:
            await handler(await trio_websocket.wrap_server_stream(nursery, server_end))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield client_end
            nursery.cancel_scope.cancel()


# The opening handshake


async def test_connect_and_echo(autojump_clock: MockClock) -> None:
    """After ``connect`` text and binary messages go both ways."""
    async with serving(echo) as stream, await TestClient.connect(stream, path="/ws?room=1") as client:
        await client.send_text("h\N{LATIN SMALL LETTER E WITH ACUTE}llo")
        await client.send_bytes(b"\x00\xff")
        await client.send_json({"a": [1, None]})
        assert await client.receive() == "h\N{LATIN SMALL LETTER E WITH ACUTE}llo"
        assert await client.receive() == b"\x00\xff"
        assert await client.receive_json() == {"a": [1, None]}
        assert client.headers["x-path"] == "/ws?room=1"


@pytest.mark.parametrize(
    ("offered", "selected"), [(None, None), ("trio-rooms.v1.json", "trio-rooms.v1.json"), (["a", "b"], "b")]
)
async def test_subprotocol(autojump_clock: MockClock, offered: str | list[str] | None, selected: str | None) -> None:
    """What the server selects of the offered subprotocols is ``client.subprotocol``."""
    async with serving(echo) as stream:
        client = await TestClient.connect(stream, subprotocol=offered)
        assert client.subprotocol == selected


async def test_request_headers(autojump_clock: MockClock) -> None:
    """Host, path and added headers, text or bytes, reach the server."""
    seen: list[tuple[bytes, bytes]] = []

    async def look(request: trio_websocket.WebSocketRequest) -> None:
        seen.extend(request.headers)
        await request.accept()

    async with serving(look) as stream:
        await TestClient.connect(stream, host="example.com:81", headers=[("Origin", "https://a"), (b"X-B", b"\xff")])
    assert (b"origin", b"https://a") in seen
    assert (b"x-b", b"\xff") in seen


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "BANNED", "message": ""}}', "BANNED"),
        (b'{"code": "BANNED"}', "BANNED"),
        (b'{"error": "BANNED"}', None),
        (b'{"code": 7}', None),
        (b"[]", None),
        (b"no json", None),
        (b"", None),
    ],
)
async def test_refused(autojump_clock: MockClock, body: bytes, code: str | None) -> None:
    """A refusal carries status, headers and body, and the code if the body has one; the stream is closed."""

    async def refuse(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(403, extra_headers=[(b"X-A", b"1"), (b"X-A", b"2")], body=body)

    async with serving(refuse) as stream:
        with pytest.raises(HandshakeRefused) as caught:
            await TestClient.connect(stream)
        assert (caught.value.status, caught.value.body, caught.value.code) == (403, body, code)
        assert caught.value.headers["x-a"] == "1, 2"
        assert str(caught.value).startswith("403 ")
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", 503, b"no"),
        (b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\nup to the end", 400, b"up to the end"),
        (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n", 400, b"no!"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 100, b""),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", 204, b""),
    ],
)
async def test_refused_by_a_server_that_is_gone(
    autojump_clock: MockClock, script: Script, answer: bytes, status: int, body: bytes
) -> None:
    """An answer that was sent before the request was read is still read, however its body ends."""
    await script.send(answer)
    await script.gone()
    with trio.fail_after(5), pytest.raises(HandshakeRefused) as caught:
        await TestClient.connect(script.near)
    assert (caught.value.status, caught.value.body) == (status, body)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swi"])
async def test_no_answer(autojump_clock: MockClock, script: Script, answer: bytes) -> None:
    """A stream that ends before the answer is complete is code 1006."""
    await script.send(answer)
    await script.gone()
    with trio.fail_after(5), pytest.raises(Closed) as caught:
        await TestClient.connect(script.near)
    assert caught.value.code == 1006


@pytest.mark.parametrize(
    "answer",
    [
        b"\x81\x00 no HTTP\r\n\r\n",
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        b"HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nshort",
    ],
)
async def test_wrong_answer(autojump_clock: MockClock, script: Script, answer: bytes) -> None:
    """An answer that no server may give fails the test, and the stream is closed."""
    await script.send(answer)
    await script.end()
    with trio.fail_after(5), pytest.raises(ProtocolViolation, match="answer to the upgrade"):
        await TestClient.connect(script.near)
    with pytest.raises(trio.ClosedResourceError):
        await script.near.send_all(b"x")


async def test_broken_before_the_answer(autojump_clock: MockClock, script: Script) -> None:
    """A connection that breaks before the answer is code 1006, like one that ends."""
    near = FaultyStream(script.near)
    near.cut_receiving_at(0)
    with trio.fail_after(5), pytest.raises(Closed) as caught:
        await TestClient.connect(near)
    assert caught.value.code == 1006


async def test_cancelled_connect(autojump_clock: MockClock, script: Script) -> None:
    """A connect that is cancelled closes the stream."""
    with trio.move_on_after(3) as scope:
        await TestClient.connect(script.near)
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await script.near.send_all(b"x")


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
async def test_frames_behind_the_101(autojump_clock: MockClock, script: Script, cut: int) -> None:
    """Frames that come in one segment with the 101 are delivered, also when the segment ends within one."""

    async def answer() -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await script.stream.receive_some()
        parts = split_response(b"HTTP/1.1 101 x" + request[request.index(b"\r\n") :])
        assert parts is not None
        accept = generate_accept_token(parts[1]["sec-websocket-key"].encode())
        head = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept
        frames = text("first") + text("second")
        await script.send(head, b"\r\n\r\n", frames[: len(frames) - cut])
        await trio.sleep(1)
        await script.send(frames[len(frames) - cut :])

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            client = await TestClient.connect(script.near)
            assert await client.receive_json() == "first"
            assert await client.receive_json() == "second"


def test_the_sample_key_is_a_key() -> None:
    """The accept token of the RFC belongs to the sample key (RFC 6455 section 1.3)."""
    assert generate_accept_token(SAMPLE_KEY.encode()) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


# Messages


async def test_fragments(autojump_clock: MockClock, script: Script) -> None:
    """A fragmented message is one message; control frames between its fragments are acted on."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(
            server_frame(Opcode.TEXT, "a\N{SNAIL}".encode()[:2], fin=False),
            server_frame(Opcode.PING, b"p"),
            server_frame(Opcode.CONTINUATION, "a\N{SNAIL}".encode()[2:], fin=False),
            server_frame(Opcode.CONTINUATION, b""),
            server_frame(Opcode.BINARY, b"1", fin=False),
            server_frame(Opcode.CONTINUATION, b"2"),
        )
        assert await client.receive() == "a\N{SNAIL}"
        assert await client.receive() == b"12"
    assert await script.received() == [(Opcode.PONG, b"p")]


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 300_000])
async def test_byte_by_byte(autojump_clock: MockClock, script: Script, size: int) -> None:
    """However the bytes are cut, messages come out whole."""
    client = TestClient(FaultyStream(script.near, one_byte_reads=size < 1000))
    with trio.fail_after(5):
        await script.send(server_frame(Opcode.BINARY, bytes(size)), text("next"))
        assert await client.receive() == bytes(size)
        assert await client.receive_json() == "next"


async def test_receive_bytes(autojump_clock: MockClock, script: Script) -> None:
    """A binary message is given as it is; a text one fails the test, and is used up."""
    client = TestClient(script.near)
    await script.send(server_frame(Opcode.BINARY, b"\xff"), text("no"), server_frame(Opcode.BINARY, b""))
    with trio.fail_after(5):
        assert await client.receive_bytes() == b"\xff"
        with pytest.raises(AssertionError, match="expected a binary message, got '\"no\"'"):
            await client.receive_bytes()
        assert await client.receive_bytes() == b""


async def test_msgpack(autojump_clock: MockClock, script: Script) -> None:
    """With the subprotocol of MessagePack, what is sent and received as JSON elsewhere is packed, replies included."""
    client = TestClient(script.near, subprotocol="trio-rooms.v1.msgpack")
    await script.send(packed({"event": b"\xff"}), text("no"), packed({"id": 2}), packed({"id": 1, "data": b"x"}))
    with trio.fail_after(5):
        await client.send_json({"data": b"\xff"})
        assert await script.received() == [(Opcode.BINARY, b"\x81\xa4data\xc4\x01\xff")]
        assert await client.request("do", b"y") == b"x"
        assert await script.received() == [(Opcode.BINARY, msgpack.encode({"action": "do", "data": b"y", "id": 1}))]
        assert await client.receive_json() == {"event": b"\xff"}
        with pytest.raises(AssertionError, match="expected a binary message"):
            await client.receive_json()
        assert await client.receive_json() == {"id": 2}
        await script.send(server_frame(Opcode.BINARY, b"\xc1"))
        with pytest.raises(ValueError, match="MessagePack"):
            await client.receive_json()


async def test_receive_json_wants_text(autojump_clock: MockClock, script: Script) -> None:
    """JSON comes in text messages; a binary one fails the test."""
    client = TestClient(script.near)
    await script.send(server_frame(Opcode.BINARY, b"1"))
    with trio.fail_after(5), pytest.raises(AssertionError, match="expected a text message"):
        await client.receive_json()


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock, script: Script) -> None:
    """Half of a frame that was read before a cancel is there for the next receive."""
    client = TestClient(script.near)
    frame = text({"n": 1})
    with trio.fail_after(5):
        await script.send(frame[:4])
        with trio.move_on_after(1) as scope:
            await client.receive()
        assert scope.cancelled_caught
        await script.send(frame[4:])
        assert await client.receive_json() == {"n": 1}


async def test_a_message_at_hand_is_not_lost_to_a_cancel(autojump_clock: MockClock, script: Script) -> None:
    """A receive that is cancelled while a message is pending leaves it pending."""
    client = TestClient(script.near)
    await script.send(text(1), text(2))
    with trio.fail_after(5):
        assert await client.receive_json() == 1
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.receive()
        assert client.pending == ("2",)
        assert await client.receive_json() == 2


async def test_two_receivers(autojump_clock: MockClock, script: Script) -> None:
    """A second task that receives is an error; the first goes on. A request receives, too."""
    client = TestClient(script.near)
    calls: list[Callable[[], Awaitable[object]]] = [
        client.receive,
        client.receive_json,
        client.receive_pong,
        client.receive_raw,
        client.expect_close,
        client.expect_eof,
        client.close,
        partial(client.receive_nothing, 1),
        partial(client.request, "a"),
        partial(client.stream, "a"),
    ]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            await trio.testing.wait_all_tasks_blocked()
            for call in calls:
                with pytest.raises(trio.BusyResourceError):
                    await call()
            await script.send(text(1))
    assert await script.received() == []


async def test_two_senders(autojump_clock: MockClock, script: Script) -> None:
    """Tasks may send at the same time; their frames do not mix."""
    near = FaultyStream(script.near, one_byte_writes=True)
    client = TestClient(near)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for letter in "abc":
                nursery.start_soon(client.send_text, letter * 20)
    assert sorted(payload for _, payload in await script.received()) == [b"a" * 20, b"b" * 20, b"c" * 20]


async def test_every_call_checkpoints(autojump_clock: MockClock, script: Script) -> None:
    """A receive with a message at hand is a checkpoint like any other."""
    client = TestClient(script.near)
    await script.send(text(1), text(2), server_frame(Opcode.PONG))
    with trio.fail_after(5):
        await client.receive()
        with trio.testing.assert_checkpoints():
            await client.receive()
        with trio.testing.assert_checkpoints():
            await client.receive_pong()
        with trio.testing.assert_checkpoints():
            await client.send_text("x")


async def test_receive_nothing(autojump_clock: MockClock, script: Script) -> None:
    """Silence, pings and pongs are nothing; the pings are answered."""
    client = TestClient(script.near)
    await script.send(server_frame(Opcode.PING, b"1"), server_frame(Opcode.PONG, b"2"))
    start = trio.current_time()
    with trio.fail_after(60):
        await client.receive_nothing(20)
        assert trio.current_time() - start == 20
        assert await client.receive_pong() == b"2"
    assert await script.received() == [(Opcode.PONG, b"1")]


@pytest.mark.parametrize("what", [text("x"), close(1000), b""])
async def test_receive_nothing_but_something_comes(autojump_clock: MockClock, script: Script, what: bytes) -> None:
    """A message, a close frame or EOF is something; a message is kept."""
    client = TestClient(script.near)

    async def later() -> None:
        await trio.sleep(5)
        await script.send(what)
        await script.end()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            with pytest.raises(AssertionError, match="expected nothing"):
                await client.receive_nothing(20)
    assert client.pending == (('"x"',) if what == text("x") else ())


async def test_receive_nothing_with_a_message_kept(autojump_clock: MockClock, script: Script) -> None:
    """A message that was read earlier and kept is something."""
    client = TestClient(script.near)
    await script.send(text(1), text(2))
    with trio.fail_after(5):
        await client.receive()
        with pytest.raises(AssertionError, match="expected nothing, got '2'"):
            await client.receive_nothing(1)


# Pings and pongs


async def test_pings_are_answered_only_while_receiving(autojump_clock: MockClock, script: Script) -> None:
    """There is no task behind the client's back: a ping waits until a method receives."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(server_frame(Opcode.PING, b"hi"))
        assert await script.received() == []
        await script.send(text(1))
        await client.receive()
    assert await script.received() == [(Opcode.PONG, b"hi")]


async def test_pings_not_answered(autojump_clock: MockClock, script: Script) -> None:
    """Without ``auto_pong`` pings stay unanswered; it can be switched."""
    client = TestClient(script.near, auto_pong=False)
    with trio.fail_after(5):
        await script.send(server_frame(Opcode.PING, b"1"), text(1))
        await client.receive()
        client.auto_pong = True
        await script.send(server_frame(Opcode.PING, b"2"), text(1))
        await client.receive()
    assert client.auto_pong
    assert await script.received() == [(Opcode.PONG, b"2")]


@pytest.mark.parametrize("answering", [True, False])
async def test_pings_not_answered_from_the_start(autojump_clock: MockClock, answering: bool) -> None:
    """``connect`` makes a client with or without ``auto_pong``."""
    async with serving(echo) as stream, await TestClient.connect(stream, auto_pong=answering) as client:
        assert client.auto_pong is answering


async def test_ping(autojump_clock: MockClock) -> None:
    """A ping is answered with its payload; messages before the pong are kept."""
    async with serving(echo) as stream, await TestClient.connect(stream) as client:
        await client.send_text("before")
        await trio.testing.wait_all_tasks_blocked()
        await client.ping(b"payload")
        assert await client.receive_pong() == b"payload"
        assert await client.receive() == "before"


async def test_a_pong_that_waits_is_sent_later(autojump_clock: MockClock, script: Script) -> None:
    """A pong that was due when a receive was cancelled is sent by the next receive."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_text, "first")
            await trio.testing.wait_all_tasks_blocked()
            await script.send(server_frame(Opcode.PING, b"1"))
            with trio.move_on_after(1):
                await client.receive()
            near.resume_sending()
        with trio.move_on_after(1):
            await client.receive()
    assert await script.received() == [(Opcode.TEXT, b"first"), (Opcode.PONG, b"1")]


# Requests


async def test_request(autojump_clock: MockClock, script: Script) -> None:
    """A request carries its fields and returns the data of its reply, whatever comes before."""
    client = TestClient(script.near)
    others = [{"room": "r", "data": {"id": 1}}, {"id": 2, "data": 0}, {"action": "ask", "id": 1}, [1]]
    with trio.fail_after(5):
        await script.send(*map(text, others), server_frame(Opcode.TEXT, b"{no json"), server_frame(Opcode.BINARY, b"1"))
        await script.send(text({"id": 1, "data": {"ok": True}}), text("after"))
        assert await client.request("go", {"x": 1}, room="r", timeout_ms=50) == {"ok": True}
        assert [await client.receive_json() for _ in others] == others
        assert await client.receive() == "{no json"
        assert await client.receive() == b"1"
        assert await client.receive_json() == "after"
    [(opcode, sent)] = await script.received()
    assert opcode == Opcode.TEXT
    assert json.loads(sent) == {"action": "go", "data": {"x": 1}, "id": 1, "room": "r", "timeout_ms": 50}


async def test_request_ids(autojump_clock: MockClock, script: Script) -> None:
    """Ids count up, or are given; data that is not given is left out, None is sent."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(text({"id": 1}))
        assert await client.request("a") is None
        await script.send(text({"id": "mine"}))
        assert await client.request("b", None, id="mine") is None
        await script.send(text({"id": 2}))
        assert await client.request("c", 0) is None
    assert [json.loads(sent) for _, sent in await script.received()] == [
        {"action": "a", "id": 1},
        {"action": "b", "data": None, "id": "mine"},
        {"action": "c", "data": 0, "id": 2},
    ]


async def test_an_old_reply_is_not_taken_for_a_new_one(autojump_clock: MockClock, script: Script) -> None:
    """What was read before a request was sent does not answer it."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(text(0), text({"id": 7, "data": "old"}))
        await client.receive()
        await script.send(text({"id": 7, "data": "new"}))
        assert await client.request("a", id=7) == "new"
        assert await client.receive_json() == {"id": 7, "data": "old"}


async def test_error_reply(autojump_clock: MockClock, script: Script) -> None:
    """An error reply raises, with the fields of the error object."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(text({"id": 1, "error": {"code": "BUSY", "message": "later", "temporary": True}}))
        with pytest.raises(ReplyError) as caught:
            await client.request("a")
        assert (caught.value.code, caught.value.message, caught.value.temporary) == ("BUSY", "later", True)
        await script.send(text({"id": 2, "error": {"code": "DENIED"}}))
        with pytest.raises(ReplyError) as caught:
            await client.request("a")
        assert (caught.value.code, caught.value.message, caught.value.temporary) == ("DENIED", "", False)


@pytest.mark.parametrize("error", ["text", {}, {"code": 1}, None])
async def test_malformed_error_reply(autojump_clock: MockClock, script: Script, error: object) -> None:
    """An error without a code fails the test rather than pass for an error."""
    client = TestClient(script.near)
    await script.send(text({"id": 1, "error": error}))
    with trio.fail_after(5), pytest.raises(ProtocolViolation, match="error without a code"):
        await client.request("a")


async def test_stream(autojump_clock: MockClock, script: Script) -> None:
    """A streamed reply is collected up to its end; what comes between is kept."""
    client = TestClient(script.near)
    await script.send(text({"id": 1, "data": "a", "more": True}), text("other"))
    await script.send(text({"id": 1, "data": "b", "more": True}), text({"id": 1, "more": False}))
    with trio.fail_after(5):
        assert await client.stream("list", {"n": 2}) == ["a", "b"]
        assert await client.receive_json() == "other"


async def test_stream_with_fields(autojump_clock: MockClock, script: Script) -> None:
    """A request for a streamed reply carries the same fields as any other."""
    client = TestClient(script.near)
    await script.send(text({"id": "mine", "more": False}))
    with trio.fail_after(5):
        assert await client.stream("list", {"n": 2}, id="mine", room="r", timeout_ms=50) == []
    [(_, sent)] = await script.received()
    assert json.loads(sent) == {"action": "list", "data": {"n": 2}, "id": "mine", "room": "r", "timeout_ms": 50}


async def test_stream_that_fails(autojump_clock: MockClock, script: Script) -> None:
    """An error ends a streamed reply."""
    client = TestClient(script.near)
    await script.send(text({"id": 1, "data": "a", "more": True}), text({"id": 1, "error": {"code": "INTERNAL"}}))
    with trio.fail_after(5), pytest.raises(ReplyError):
        await client.stream("list")


async def test_one_reply_or_a_stream(autojump_clock: MockClock, script: Script) -> None:
    """A streamed reply to ``request``, and a single one to ``stream``, fail the test."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(text({"id": 1, "data": "a", "more": True}))
        with pytest.raises(AssertionError, match="got a streamed one"):
            await client.request("a")
        await script.send(text({"id": 2, "data": "b"}))
        with pytest.raises(AssertionError, match="expected a streamed reply"):
            await client.stream("a")


async def test_send_action(autojump_clock: MockClock, script: Script) -> None:
    """An action without an id waits for nothing."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await client.send_action("move", {"x": 1}, room="r")
        await client.send_action("stop")
    assert [json.loads(sent) for _, sent in await script.received()] == [
        {"action": "move", "data": {"x": 1}, "room": "r"},
        {"action": "stop"},
    ]


async def test_request_to_a_server_that_has_closed(autojump_clock: MockClock, script: Script) -> None:
    """The close frame that is unread, not the broken send, tells why a request got no reply."""
    client = TestClient(script.near)
    await script.send(close(4008, "slow"))
    await script.gone()
    with trio.fail_after(5), pytest.raises(Closed) as caught:
        await client.request("a")
    assert (caught.value.code, caught.value.reason) == (4008, "slow")


# The end


async def test_close(autojump_clock: MockClock) -> None:
    """``close`` does the closing handshake and returns the server's answer; then the server closes the stream."""
    async with serving(echo) as stream:
        client = await TestClient.connect(stream)
        closed = await client.close(4000, "bye")
        assert (closed.code, closed.reason) == (4000, "bye")
        await client.expect_eof()
        assert (await client.close()).code == 4000
        with pytest.raises(Closed):
            await client.send_text("x")


async def test_close_keeps_messages_and_sends_no_pong(autojump_clock: MockClock, script: Script) -> None:
    """What comes before the server's close frame is kept; nothing is sent behind ours."""
    client = TestClient(script.near)
    await script.send(text(1), server_frame(Opcode.PING), close(1000))
    with trio.fail_after(5):
        assert (await client.close(None)).code == 1000
        assert await client.receive_json() == 1
    assert await script.received() == [(Opcode.CLOSE, b"")]


async def test_no_pong_behind_our_close(autojump_clock: MockClock, script: Script) -> None:
    """A pong that was still due when our close frame is made is not sent."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_text, "first")
            await trio.testing.wait_all_tasks_blocked()
            await script.send(server_frame(Opcode.PING, b"1"))
            with trio.move_on_after(1):
                await client.receive()
            near.resume_sending()
        await script.send(close(1000))
        await client.close()
    assert await script.received() == [(Opcode.TEXT, b"first"), (Opcode.CLOSE, close_payload(1000))]


async def test_close_against_a_server_that_has_gone(autojump_clock: MockClock, script: Script) -> None:
    """A close that cannot be sent returns how the connection ended."""
    client = TestClient(script.near)
    await script.send(close(1012))
    await script.gone()
    with trio.fail_after(5):
        assert (await client.close()).code == 1012


async def test_the_servers_close_is_answered_once(autojump_clock: MockClock, script: Script) -> None:
    """A close frame is answered with its code, once; every receive then raises it."""
    client = TestClient(script.near)
    await script.send(server_frame(Opcode.PING, b"p"), close(4008, "slow"))
    with trio.fail_after(5):
        for _ in range(2):
            with pytest.raises(Closed) as caught:
                await client.receive()
            assert (caught.value.code, caught.value.reason) == (4008, "slow")
    assert await script.received() == [(Opcode.PONG, b"p"), (Opcode.CLOSE, close_payload(4008, "slow"))]


async def test_messages_before_the_close_come_first(autojump_clock: MockClock, script: Script) -> None:
    """Messages that stood before the close frame are handed out before it is raised."""
    client = TestClient(script.near)
    await script.send(text(1), text(2), close(None))
    with trio.fail_after(5):
        assert [await client.receive_json(), await client.receive_json()] == [1, 2]
        with pytest.raises(Closed) as caught:
            await client.receive()
    assert caught.value.code == 1005
    assert await script.received() == [(Opcode.CLOSE, b"")]


async def test_eof_is_1006(autojump_clock: MockClock, script: Script) -> None:
    """A stream that ends without a close frame, even within a frame, is 1006."""
    client = TestClient(script.near)
    await script.send(text("whole"), text("half")[:3])
    await script.end()
    with trio.fail_after(5):
        assert await client.receive_json() == "whole"
        assert (await client.expect_close(1006)).reason == ""


async def test_reset_is_1006_and_no_eof(autojump_clock: MockClock, script: Script) -> None:
    """A stream that breaks is 1006, too, but not the orderly end that ``expect_eof`` asks for."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    await near.cut()
    with trio.fail_after(5):
        await client.expect_close(1006)
        with pytest.raises(AssertionError, match="got a reset"):
            await client.expect_eof()


async def test_expect_close(autojump_clock: MockClock, script: Script) -> None:
    """``expect_close`` fails on another code, and on a message unless told to skip messages."""
    client = TestClient(script.near)
    await script.send(text(1), text(2), text(3), close(1012, "restart"))
    with trio.fail_after(5):
        with pytest.raises(AssertionError, match="expected the connection to close, got '1'"):
            await client.expect_close()
        assert (await client.expect_close(skip_messages=True)).reason == "restart"
        with pytest.raises(AssertionError, match="expected close code 1001"):
            await client.expect_close(1001)


@pytest.mark.parametrize("behind", [text("late"), close(1001), b"\x88"])
@pytest.mark.parametrize("pause", [False, True])
async def test_nothing_follows_a_close_frame(
    autojump_clock: MockClock, script: Script, behind: bytes, pause: bool
) -> None:
    """Whatever a server sends behind its close frame, ``expect_eof`` reports."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(close(1000), b"" if pause else behind)
        await client.expect_close(1000)
        await script.send(behind if pause else b"")
        await script.end()
        with pytest.raises(AssertionError, match="expected the end of the stream"):
            await client.expect_eof()


async def test_expect_eof_reads_on_to_the_end(autojump_clock: MockClock, script: Script) -> None:
    """``expect_eof`` waits for the end of the stream, and a message before it is a failure."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await script.send(server_frame(Opcode.PING), text(1))
        with pytest.raises(AssertionError, match="got '1'"):
            await client.expect_eof()
        await client.receive()
        await script.end()
        await client.expect_eof()


@pytest.mark.parametrize(
    "data",
    [
        client_frame(Opcode.TEXT, b"masked"),
        server_frame(Opcode.TEXT, b"\xff"),
        server_frame(Opcode.TEXT, b"", rsv=4),
        server_frame(Opcode.CONTINUATION, b""),
        server_frame(3),
        server_frame(Opcode.PING, fin=False),
        server_frame(Opcode.CLOSE, b"\x03"),
        server_frame(Opcode.CLOSE, close_payload(1005)),
    ],
)
async def test_a_server_that_breaks_the_rules(autojump_clock: MockClock, script: Script, data: bytes) -> None:
    """A violation fails the test, behind the messages that came before it, in whatever verb."""
    client = TestClient(script.near)
    await script.send(text(1), data)
    with trio.fail_after(5):
        assert await client.receive_json() == 1
        with pytest.raises(ProtocolViolation):
            await client.receive()
        with pytest.raises(ProtocolViolation):
            await client.expect_close()
        with pytest.raises(ProtocolViolation):
            await client.close()


async def test_sending_after_our_close(autojump_clock: MockClock, script: Script) -> None:
    """Nothing is sent behind our close frame, except on purpose and raw."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        with trio.move_on_after(1):
            await client.close()
        with pytest.raises(trio.ClosedResourceError, match="sent a close frame"):
            await client.send_text("x")
        await client.send_raw(client_frame(Opcode.TEXT, b"raw"))
    assert await script.received() == [(Opcode.CLOSE, close_payload(1000)), (Opcode.TEXT, b"raw")]


async def test_leaving_the_client_drops_the_stream(autojump_clock: MockClock, script: Script) -> None:
    """The end of ``async with`` closes the stream without a close frame; again does nothing."""
    with trio.fail_after(5):
        async with TestClient(script.near) as client:
            await client.send_text("x")
        await client.aclose()
        assert await script.received() == [(Opcode.TEXT, b"x")]
        assert await script.stream.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await client.receive()


async def test_send_eof(autojump_clock: MockClock, script: Script) -> None:
    """After ``send_eof`` the server sees EOF, and its messages and close frame still come."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await client.send_eof()
        assert await script.stream.receive_some() == b""
        await script.send(text(1), server_frame(Opcode.PING), close(1000))
        assert await client.receive_json() == 1
        await client.expect_close(1000)


class Whole(trio.abc.Stream):
    """A stream that cannot be closed in one direction, like TLS."""

    send_all = wait_send_all_might_not_block = receive_some = None  # type: ignore[assignment]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_send_eof_where_there_is_none(autojump_clock: MockClock) -> None:
    """Over a stream without half-close ``send_eof`` says so."""
    with trio.fail_after(5), pytest.raises(TypeError, match="Whole cannot be closed in one direction"):
        await TestClient(Whole()).send_eof()


# Below the protocol


async def test_raw(autojump_clock: MockClock, script: Script) -> None:
    """Raw bytes go out as they are, and come in as they are, beginning with a half frame that was read."""
    client = TestClient(script.near)
    with trio.fail_after(5):
        await client.send_raw(b"\x81")
        assert await script.stream.receive_some() == b"\x81"
        await script.send(text(1), b"\x81\x7e")
        await client.receive()
        await script.send(b"\x01")
        assert await client.receive_raw() == b"\x81\x7e"
        assert await client.receive_raw() == b"\x01"
        await script.end()
        assert await client.receive_raw() == b""


async def test_a_torn_send_is_the_last(autojump_clock: MockClock, script: Script) -> None:
    """A send that was cancelled within a frame poisons the connection; receiving goes on."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending(after=3)
    calls: list[Callable[[], Awaitable[Any]]] = [
        partial(client.send_text, "x"),
        partial(client.send_raw, b"x"),
        partial(client.request, "a"),
        client.close,
    ]
    with trio.fail_after(5):
        with trio.move_on_after(1):
            await client.send_text("torn")
        near.resume_sending()
        for call in calls:
            with pytest.raises(trio.BrokenResourceError, match="cut short"):
                await call()
        assert near.bytes_sent == 3
        await script.send(server_frame(Opcode.PING), text(1), close(1008))
        assert await client.receive_json() == 1
        await client.expect_close(1008)
    assert near.bytes_sent == 3


async def test_a_pong_is_not_torn_by_the_end_of_a_receive(autojump_clock: MockClock, script: Script) -> None:
    """A receive that is cancelled in the middle of a pong sends it whole before it ends."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending(after=3)
    await script.send(server_frame(Opcode.PING, b"1"))

    async def go_on() -> None:
        await trio.sleep(0.7)
        near.resume_sending()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            with trio.move_on_after(0.5) as scope:
                await client.receive()
        assert scope.cancelled_caught
        await client.send_text("next")
    assert await script.received() == [(Opcode.PONG, b"1"), (Opcode.TEXT, b"next")]


async def test_a_pong_that_does_not_leave_holds_nobody(autojump_clock: MockClock, script: Script) -> None:
    """A cancelled receive waits for its pong no longer than a second, and then the connection is torn."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending(after=3)
    await script.send(server_frame(Opcode.PING, b"1"))
    with trio.move_on_after(0.5) as scope:
        await client.receive()
    assert scope.cancelled_caught
    assert trio.current_time() <= 1
    with pytest.raises(trio.BrokenResourceError, match="cut short"):
        await client.send_text("x")


async def test_a_send_that_never_began_tears_nothing(autojump_clock: MockClock, script: Script) -> None:
    """A send that is cancelled while it waits for another leaves the client whole."""
    near = FaultyStream(script.near)
    client = TestClient(near)
    near.stall_sending()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_text, "first")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await client.send_text("second")
            near.resume_sending()
        await client.send_text("third")
    assert await script.received() == [(Opcode.TEXT, b"first"), (Opcode.TEXT, b"third")]


def test_pytest_leaves_it_alone() -> None:
    """The name begins with Test, and pytest must not collect it."""
    assert TestClient.__test__ is False
