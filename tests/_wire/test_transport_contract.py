"""What every transport keeps; a new one becomes an entry of ``transports.FACTORIES`` and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from transports import FACTORIES, Factory, Pair, Settings, pong
from trio_rooms import Close
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.transport import Transport, TransportClosed
from trio_rooms.testing import Opcode, ServerFrame, client_frame, close_payload, parse_server_frames

TEXT = client_frame(Opcode.TEXT, b"text")
BYE = client_frame(Opcode.CLOSE, close_payload(1000))
FRAME = make_frame(b"0123456789", text=True)
LOST = Close(1006, "", "network")


@pytest.fixture(params=FACTORIES.values(), ids=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Factory:
    """Makes the transport under test."""
    made: Factory = request.param
    return made


@pytest.fixture
def settings() -> Settings:
    """What the transport is made with."""
    return Settings()


@pytest.fixture
async def pair(factory: Factory, settings: Settings) -> AsyncGenerator[Pair]:
    """An open transport and its peer."""
    async with factory(settings) as pair:
        yield pair


async def send(transport: Transport, *frames: Frame) -> None:
    """Send all of them, in as many writes as it takes."""
    rest = list(frames)
    while rest:
        count = await transport.send(rest)
        assert count >= 1
        del rest[:count]


def ping_for(pair: Pair) -> list[bytes]:
    """A ping to cross our close frame; trio-websocket by itself dies of it, with the caller's server."""
    return [client_frame(Opcode.PING, b"a")] if pair.guarded else []


async def ended(transport: Transport) -> Close:
    """Receive the end."""
    with pytest.raises(TransportClosed) as caught:
        await transport.receive()
    return caught.value.close


# Messages


async def test_receives_messages_in_order(autojump_clock: MockClock, pair: Pair) -> None:
    """Text and binary messages come whole, in order, also in fragments with a ping between them."""
    await pair.send(
        TEXT,
        client_frame(Opcode.BINARY, b"\x00\xff", mask="random"),
        client_frame(Opcode.TEXT, b"zwei h", fin=False),
        client_frame(Opcode.PING, b"now"),
        client_frame(Opcode.CONTINUATION, "älften".encode()),
        client_frame(Opcode.TEXT, b""),
    )
    assert [await pair.transport.receive() for _ in range(4)] == ["text", b"\x00\xff", "zwei hälften", ""]
    assert await pair.next_frame() == ServerFrame(Opcode.PONG, b"now")


async def test_receives_what_comes_byte_by_byte(autojump_clock: MockClock, pair: Pair) -> None:
    """It does not matter how the bytes are cut."""
    pair.faults.one_byte_reads = True
    await pair.send(TEXT, TEXT)
    assert [await pair.transport.receive() for _ in range(2)] == ["text", "text"]


async def test_cancelled_receive_loses_nothing(autojump_clock: MockClock, pair: Pair) -> None:
    """A receive that is cancelled takes no message with it."""
    with trio.move_on_after(1):
        await pair.transport.receive()
    await pair.send(TEXT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.transport.receive()
    assert await pair.transport.receive() == "text"


async def test_sends_frames_in_order(autojump_clock: MockClock, pair: Pair) -> None:
    """Frames leave as they are, text as text and bytes as bytes."""
    frames = [
        make_frame("ü".encode(), text=True),
        make_frame(b"\xff", text=False),
        make_frame(b"x" * 70_000, text=True),
    ]
    await send(pair.transport, *frames)
    await pair.transport.abort()
    assert await pair.sees() == b"".join(frame.data for frame in frames)


@pytest.mark.parametrize("payload", [b"x" * 11, "ü".encode() * 6])
@pytest.mark.parametrize("fragments", [1, 3])
async def test_too_big_a_message(autojump_clock: MockClock, factory: Factory, payload: bytes, fragments: int) -> None:
    """L1: a message of more bytes than the limit ends it with 1009; they are bytes, not characters."""
    async with factory(Settings(max_message_bytes=10)) as pair:
        whole = client_frame(Opcode.TEXT, "ü".encode() * 5)
        size = len(payload) if fragments == 1 else 4
        parts = [payload[n * size : (n + 1) * size] for n in range(fragments)]
        await pair.send(
            whole,
            *(
                client_frame(Opcode.CONTINUATION if n else Opcode.TEXT, part, fin=n == fragments - 1)
                for n, part in enumerate(parts)
            ),
        )
        assert await pair.transport.receive() == "ü" * 5
        close = await ended(pair.transport)
        assert (close.code, close.by) == (1009, "server")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.transport.close, 1009, "")
            frame = await pair.next_frame()
            assert (frame.opcode, frame.payload[:2]) == (Opcode.CLOSE, close_payload(1009))
            await pair.send(client_frame(Opcode.CLOSE, close_payload(1009)))
            assert await pair.sees() == b""
            await pair.peer.aclose()


# Signs of life


async def test_ping(autojump_clock: MockClock, pair: Pair) -> None:
    """A ping leaves without waiting for its pong, which then tells the round trip, and that the peer lives."""
    assert pair.transport.rtt is None
    await pair.transport.ping()
    frame = await pair.next_frame()
    assert frame.opcode == Opcode.PING
    await trio.sleep(3)
    assert pair.transport.rtt is None
    await pair.send(pong(frame.payload))
    await wait_all_tasks_blocked()
    assert pair.transport.rtt == 3
    assert pair.transport.last_heard == 3
    await trio.sleep(1)
    await pair.transport.ping()
    assert (await pair.next_frame()).opcode == Opcode.PING


async def test_pings_are_answered(autojump_clock: MockClock, pair: Pair) -> None:
    """Invariant 4: a ping is answered though nobody receives."""
    await pair.send(client_frame(Opcode.PING, b"a"))
    assert await pair.next_frame() == ServerFrame(Opcode.PONG, b"a")


async def test_pongs_that_nobody_asked_for(autojump_clock: MockClock, pair: Pair) -> None:
    """K3: unsolicited and wrong pongs change nothing."""
    await pair.transport.ping()
    await pair.send(pong(b""), pong(b"wrong"), TEXT)
    assert await pair.transport.receive() == "text"
    assert pair.transport.rtt is None


async def test_messages_are_signs_of_life(autojump_clock: MockClock, pair: Pair) -> None:
    """K3: data counts as life."""
    await trio.sleep(2)
    await pair.send(TEXT)
    await pair.transport.receive()
    await trio.sleep(2)
    assert pair.transport.last_heard == 2


async def test_reading_is_held_back(autojump_clock: MockClock, settings: Settings, pair: Pair) -> None:
    """While the gate is closed nothing more is received, and silence says nothing about the peer."""
    settings.close_gate()
    async with trio.open_nursery() as nursery:
        got: list[str | bytes] = []

        async def receive() -> None:
            # What was asked of the stream before the gate was closed may still come.
            got.append(await pair.transport.receive())
            got.append(await pair.transport.receive())

        nursery.start_soon(receive)
        await pair.send(TEXT)
        await wait_all_tasks_blocked()
        await pair.send(TEXT)
        await trio.sleep(10)
        assert len(got) < 2
        assert pair.transport.paused
        settings.gate.set()
    assert got == ["text", "text"]
    await wait_all_tasks_blocked()
    assert not pair.transport.paused


# The end, by the peer


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4444, "bye"), (None, "")])
async def test_closed_by_the_peer(autojump_clock: MockClock, pair: Pair, code: int | None, reason: str) -> None:
    """The peer's close is told with its code after what stood before it, and answered; then the stream ends."""
    await pair.send(TEXT, client_frame(Opcode.CLOSE, close_payload(code, reason)))
    assert await pair.transport.receive() == "text"
    assert await ended(pair.transport) == Close(1005 if code is None else code, reason, "peer")
    (frame,) = await pair.sees_frames()
    assert frame.opcode == Opcode.CLOSE
    assert frame.payload[:2] == close_payload(code) or code is None
    with pytest.raises(TransportClosed) as caught:
        await send(pair.transport, FRAME)
    assert caught.value.close.by == "peer"
    await pair.transport.close(1000, "")


async def test_end_of_file(autojump_clock: MockClock, pair: Pair) -> None:
    """An end of file without a close frame is 1006 by the network."""
    await pair.send(TEXT)
    await pair.peer.send_eof()
    assert await pair.transport.receive() == "text"
    assert await ended(pair.transport) == LOST
    await pair.transport.close(1000, "")
    await pair.transport.abort()


async def test_reset(autojump_clock: MockClock, pair: Pair) -> None:
    """A connection that breaks is 1006 by the network, for the one who receives and the one who sends."""
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await ended(pair.transport) == LOST

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await pair.faults.cut()
    with pytest.raises(TransportClosed) as caught:
        await send(pair.transport, FRAME)
    assert caught.value.close == LOST
    await pair.transport.close(1000, "")


async def test_a_write_that_breaks(autojump_clock: MockClock, pair: Pair) -> None:
    """A connection that breaks in a write is told there, too."""
    pair.faults.cut_sending_at(5)
    with pytest.raises(TransportClosed) as caught:
        await send(pair.transport, FRAME)
    assert caught.value.close == LOST
    await pair.transport.abort()
    assert await pair.sees() == FRAME.data[:5]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (client_frame(Opcode.TEXT, b"x", mask=None), 1002),
        (client_frame(Opcode.TEXT, b"x", rsv=4), 1002),
        (client_frame(3, b"x"), 1002),
        (client_frame(11, b"x"), 1002),
        (client_frame(Opcode.PING, b"x" * 126), 1002),
        (client_frame(Opcode.PING, b"x", fin=False), 1002),
        (client_frame(Opcode.CONTINUATION, b"x"), 1002),
        (client_frame(Opcode.TEXT, b"a", fin=False) + client_frame(Opcode.TEXT, b"b"), 1002),
        (client_frame(Opcode.TEXT, b"", length=2**63, length_bits=64), 1002),
        (client_frame(Opcode.TEXT, b"x", length_bits=16), 1002),
        (client_frame(Opcode.CLOSE, b"x"), 1002),
        (client_frame(Opcode.CLOSE, close_payload(999)), 1002),
        (client_frame(Opcode.CLOSE, close_payload(1005)), 1002),
        (client_frame(Opcode.CLOSE, close_payload(1006)), 1002),
        (client_frame(Opcode.CLOSE, close_payload(1000, b"\xff")), 1007),
        (client_frame(Opcode.TEXT, b"\xff"), 1007),
        (client_frame(Opcode.TEXT, b"\xed\xa0\x80"), 1007),
        (client_frame(Opcode.TEXT, b"fine", fin=False) + client_frame(Opcode.CONTINUATION, b"\xc3"), 1007),
    ],
)
async def test_violations(autojump_clock: MockClock, pair: Pair, what: bytes, code: int) -> None:
    """P3: a violation is the server's end with its code, sent before the stream ends, and nothing behind it."""
    await pair.send(TEXT, what, client_frame(Opcode.PING, b"behind"))
    assert await pair.transport.receive() == "text"
    close = await ended(pair.transport)
    assert (close.code, close.by) == (code, "server")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, close.code, close.reason)
        frames = await pair.sees_frames()
        await pair.peer.aclose()
    if pair.guarded:
        (frame,) = frames
        assert (frame.opcode, frame.payload[:2]) == (Opcode.CLOSE, close_payload(code))


# The end, by us


async def test_close(autojump_clock: MockClock, pair: Pair) -> None:
    """A close frame with code and reason, the peer's answer, and then we end the stream first."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, 4008, "slow consumer")
        assert await pair.next_frame() == ServerFrame(Opcode.CLOSE, close_payload(4008, "slow consumer"))
        await pair.send(client_frame(Opcode.CLOSE, close_payload(4008)))
        assert await pair.sees() == b""
        await pair.peer.aclose()
    assert trio.current_time() == 0


async def test_close_with_a_long_reason(autojump_clock: MockClock, pair: Pair) -> None:
    """A reason that does not fit is cut between two characters."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, 1000, "ü" * 100)
        assert (await pair.next_frame()).payload == close_payload(1000, "ü" * 61)
        await pair.send(BYE)
        await pair.peer.aclose()


async def test_close_of_a_silent_peer(autojump_clock: MockClock, pair: Pair) -> None:
    """The caller bounds the handshake; when the time is over, the stream is closed."""
    with trio.move_on_after(5) as scope:
        await pair.transport.close(1000, "")
    assert scope.cancelled_caught
    assert await pair.sees_frames() == [ServerFrame(Opcode.CLOSE, close_payload(1000))]


async def test_close_of_a_peer_that_takes_nothing(autojump_clock: MockClock, pair: Pair) -> None:
    """A close frame that does not leave is not waited for longer than the caller has time."""
    pair.faults.stall_sending(1)
    with trio.move_on_after(5) as scope:
        await pair.transport.close(1000, "")
    assert scope.cancelled_caught
    assert await pair.sees() == b"\x88"


async def test_close_of_a_peer_that_has_gone(autojump_clock: MockClock, pair: Pair) -> None:
    """Nobody is there to be polite to, and nothing is raised."""
    await pair.peer.aclose()
    await pair.transport.close(1000, "")
    await pair.transport.abort()


async def test_both_close(autojump_clock: MockClock, pair: Pair) -> None:
    """Two close frames that cross end it like one and its answer."""
    await pair.send(BYE)
    await pair.transport.close(4000, "")
    frames = await pair.sees_frames()
    # Left alone, trio-websocket may end the stream under its own close frame.
    assert [frame.opcode for frame in frames] == [Opcode.CLOSE] or (not frames and not pair.guarded)
    assert trio.current_time() <= 1


async def test_what_comes_behind_our_close_frame(autojump_clock: MockClock, pair: Pair) -> None:
    """Invariant 3: messages and pings that cross our close frame are read and dropped, and hold nothing up."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, 1000, "")
        assert (await pair.next_frame()).opcode == Opcode.CLOSE
        await pair.send(TEXT, *ping_for(pair), TEXT)
        await pair.send(BYE)
        assert await pair.sees() == b""
        await pair.peer.aclose()
    assert trio.current_time() <= 1


async def test_a_ping_across_and_a_slow_answer(autojump_clock: MockClock, pair: Pair) -> None:
    """A peer whose ping crosses our close frame, and who then takes its time, is not left waiting for the end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, 1000, "")
        assert (await pair.next_frame()).opcode == Opcode.CLOSE
        await pair.send(*ping_for(pair) or [BYE])
        if pair.patient:
            await trio.sleep(4)
            await pair.send(BYE)
        assert await pair.sees() == b""
    assert trio.current_time() <= 1 or pair.patient


async def test_abort(autojump_clock: MockClock, pair: Pair) -> None:
    """Abort ends the stream at once, without a close frame; again is fine, and nothing can be sent."""
    await pair.transport.abort()
    await pair.transport.abort()
    assert await pair.sees() == b""
    with pytest.raises(TransportClosed):
        await send(pair.transport, FRAME)


async def test_abort_of_a_stalled_write(autojump_clock: MockClock, pair: Pair) -> None:
    """A write that waits is broken off."""
    pair.faults.stall_sending(3)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(TransportClosed):
                await send(pair.transport, FRAME)

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await pair.transport.abort()
    assert await pair.sees() == FRAME.data[:3]


@pytest.mark.parametrize("end", ["abort", "close"])
@pytest.mark.parametrize("k", range(len(FRAME.data)))
async def test_nothing_after_a_torn_frame(autojump_clock: MockClock, pair: Pair, k: int, end: str) -> None:
    """P7: after a write that was cancelled when k bytes had left, nothing follows: no frame, no close frame."""
    pair.faults.stall_sending(k)
    with trio.move_on_after(1) as scope:
        await send(pair.transport, FRAME)
    assert scope.cancelled_caught
    pair.faults.resume_sending()
    if end == "abort":
        await pair.transport.abort()
    else:
        await pair.transport.close(1000, "")
    assert await pair.sees() == FRAME.data[:k]


# Both at once


@pytest.mark.parametrize("k", [0, 1, 2, 5, len(FRAME.data) - 1])
async def test_control_frames_in_the_middle_of_a_write(autojump_clock: MockClock, pair: Pair, k: int) -> None:
    """P5: a ping and a close that come while a frame is half written are answered behind it, and nothing after that."""
    pair.faults.stall_sending(k)
    closes: list[Close] = []

    async def write() -> None:
        try:
            for _ in range(3):  # one by one: a transport may make one write of all that it is given
                await send(pair.transport, FRAME)
        except TransportClosed as exc:
            closes.append(exc.close)

    async def receive() -> None:
        assert await pair.transport.receive() == "text"
        closes.append(await ended(pair.transport))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await pair.send(client_frame(Opcode.PING, b"p"), TEXT, BYE)
        await wait_all_tasks_blocked()
        pair.faults.resume_sending()
        frames = await pair.sees_frames()
        await pair.peer.aclose()
    assert frames[0].opcode == Opcode.TEXT
    assert frames[-1].opcode == Opcode.CLOSE
    assert [frame.opcode for frame in frames].count(Opcode.CLOSE) == 1
    assert [frame.opcode for frame in frames].count(Opcode.PONG) == 1
    assert [(close.code, close.by) for close in closes] == [(1000, "peer")] * 2


async def test_frames_never_interleave(autojump_clock: MockClock, pair: Pair) -> None:
    """Invariant 3: data, pings and pongs leave whole, however slowly the socket takes them."""
    pair.faults.one_byte_writes = True

    async def write() -> None:
        for n in range(10):
            await send(pair.transport, make_frame(b"%d" % n * 10, text=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(pair.transport.ping)
        await pair.send(*(client_frame(Opcode.PING, b"%d" % n) for n in range(10)))
    await wait_all_tasks_blocked()
    await pair.transport.abort()
    frames = parse_server_frames(await pair.sees())
    assert [frame.payload for frame in frames if frame.opcode == Opcode.TEXT] == [b"%d" % n * 10 for n in range(10)]
    pongs = [frame.payload for frame in frames if frame.opcode == Opcode.PONG]
    assert pongs == sorted(pongs)
    assert pongs[-1] == b"9"  # the latest must be answered, earlier ones may be passed over (RFC 6455 section 5.5.3)
    assert sum(frame.opcode == Opcode.PING for frame in frames) == 1
