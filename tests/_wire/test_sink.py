"""The sink: order and timing of what one connection writes, with a transport that does as it is told."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from fakes import NoSocket
from plain_sockets import ToldSocket, native_over
from trio_rooms import OutboxFull, Publication
from trio_rooms._wire.flusher import Flusher
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.outbox import CLOSED, DROPPED, flush_all
from trio_rooms._wire.sink import Sink, WriteTimedOut
from trio_rooms._wire.transport import Close, TransportClosed
from trio_rooms.testing import Opcode, client_frame, close_payload, parse_server_frames


def frame(data: object) -> Frame:
    """A private frame."""
    return make_frame(str(data).encode(), text=True)


class Bare:
    """A format without an envelope."""

    def publication(self, publication: Publication) -> Frame:
        return make_frame(publication.data, text=True)


@attrs.define(eq=False)
class FakeTransport(NoSocket):
    """Writes down what it is given, at most so many frames a write; each write waits while the gate is closed."""

    at_once: int = 100
    log: list[str] = attrs.field(factory=list)
    gate: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None
    last_heard: float = 0.0
    paused: bool = False
    rtt: float | None = None
    control: list[str] = attrs.field(factory=list)
    on_control: Callable[[], None] = lambda: None

    @property
    def control_due(self) -> bool:
        return bool(self.control)

    async def send_control(self) -> None:
        await self._write(self.control.pop(0))

    async def receive(self) -> str | bytes:
        raise NotImplementedError

    async def send(self, frames: Sequence[Frame]) -> int:
        now = frames[: self.at_once]
        await self._write(" ".join(one.payload.decode() for one in now))
        return len(now)

    async def ping(self) -> None:
        await self._write("PING")

    async def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    async def abort(self) -> None:
        raise NotImplementedError

    async def _write(self, what: str) -> None:
        if self.error is not None:
            raise self.error
        await trio.lowlevel.checkpoint()
        await self.gate.wait()
        self.log.append(what)


@pytest.fixture
def transport() -> FakeTransport:
    """An open transport."""
    transport = FakeTransport()
    transport.gate.set()
    return transport


def make_sink(write_buffer_size: int = 1000, write_timeout: float = 10, max_messages: int = 100) -> Sink:
    """A sink with an outbox of 100 messages."""
    return Sink(
        Bare(),
        max_messages=max_messages,
        max_bytes=10_000,
        write_buffer_size=write_buffer_size,
        write_timeout=write_timeout,
    )


async def test_writes_what_is_queued(transport: FakeTransport) -> None:
    """What waits leaves in one batch; then the writer sleeps until there is more."""
    sink = make_sink()
    sink.outbox.send_nowait(frame("a"))
    sink.outbox.put(Publication(("r",), b"b"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        assert transport.log == ["a b"]
        sink.outbox.send_nowait(frame("c"))
        sink.outbox.send_nowait(frame("d"))
        await wait_all_tasks_blocked()
        assert transport.log == ["a b", "c d"]
        sink.finish()
    assert sink.outbox.written == 4


@pytest.mark.parametrize(("size", "batches"), [(1, ["0", "1", "2"]), (6, ["0 1", "2"]), (9, ["0 1 2"])])
async def test_write_buffer_size(transport: FakeTransport, size: int, batches: list[str]) -> None:
    """A batch joins frames up to the write buffer's size; one frame (of 3 bytes here) at least."""
    sink = make_sink(write_buffer_size=size)
    for n in range(3):
        sink.outbox.send_nowait(frame(n))
    sink.finish()
    await sink.run(transport)
    assert transport.log == batches


async def test_finish_writes_everything_first(transport: FakeTransport) -> None:
    """A polite end takes nothing more in, and writes what waits."""
    sink = make_sink(write_buffer_size=1)
    sink.outbox.send_nowait(frame("a"))
    sink.outbox.send_nowait(frame("b"))
    sink.finish()
    assert sink.outbox.put(Publication(("r",), b"late")) < 0
    await sink.run(transport)
    assert transport.log == ["a", "b"]


async def test_finish_wakes_the_writer(transport: FakeTransport) -> None:
    """A writer that sleeps learns of the end."""
    sink = make_sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        sink.finish()
    assert transport.log == []


async def test_discard_writes_nothing_more() -> None:
    """Invariant 6: an end in a hurry throws away what waits, and counts it."""
    transport, sink = FakeTransport(), make_sink(write_buffer_size=1)
    for n in range(3):
        sink.outbox.send_nowait(frame(n))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        sink.discard()
        transport.gate.set()
    assert transport.log == ["0"]
    assert (sink.outbox.written, sink.outbox.discarded) == (1, 2)


async def test_ping_goes_ahead_of_data(autojump_clock: MockClock) -> None:
    """A ping waits for one batch at most, not for the queue; its time is that of its write."""
    transport, sink = FakeTransport(), make_sink(write_buffer_size=1, write_timeout=100)
    for n in range(3):
        sink.outbox.send_nowait(frame(n))
    times: list[float] = []

    async def ping() -> None:
        times.append(await sink.ping())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        nursery.start_soon(ping)
        await trio.sleep(7)
        assert times == []
        opened = trio.current_time()
        transport.gate.set()
        await wait_all_tasks_blocked()
        assert transport.log == ["0", "PING", "1", "2"]
        assert times == [opened]
        sink.finish()


async def test_a_ping_is_dated_from_before_its_write(autojump_clock: MockClock) -> None:
    """K1: a pong that is heard before the pinger runs again is younger than its ping."""
    sink = make_sink()
    transport = FakeTransport()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()

        async def answer() -> None:
            await trio.sleep(3)
            transport.gate.set()

        nursery.start_soon(answer)
        begun = trio.current_time()
        assert await sink.ping() == begun
        sink.finish()


async def test_ping_wakes_the_writer(transport: FakeTransport) -> None:
    """A writer that sleeps writes a ping at once."""
    sink = make_sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        await sink.ping()
        assert transport.log == ["PING"]
        sink.finish()


async def test_cancelled_ping(transport: FakeTransport) -> None:
    """Who gives up waiting for a ping disturbs nobody."""
    sink = make_sink()
    with trio.CancelScope() as scope:
        scope.cancel()
        await sink.ping()
    sink.outbox.send_nowait(frame("a"))
    sink.finish()
    await sink.run(transport)
    assert transport.log == ["PING", "a"]


@pytest.mark.parametrize("what", ["data", "ping"])
async def test_write_timeout(autojump_clock: MockClock, what: str) -> None:
    """A write that takes longer than the timeout ends the writer at that moment; nothing is tried after it."""
    transport, sink = FakeTransport(), make_sink(write_timeout=10)
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        if what == "data":
            sink.outbox.send_nowait(frame("a"))
        else:
            nursery.start_soon(sink.ping)
            await wait_all_tasks_blocked()
        with pytest.raises(WriteTimedOut):
            await sink.run(transport)
        assert trio.current_time() - began == 10
        nursery.cancel_scope.cancel()
    transport.gate.set()
    assert transport.log == []


async def test_timeout_is_for_each_write(autojump_clock: MockClock) -> None:
    """A peer that takes each batch in time may take as many of them as it likes."""

    class Slow(FakeTransport):
        async def _write(self, what: str) -> None:
            await trio.sleep(9)
            self.log.append(what)

    transport, sink = Slow(), make_sink(write_buffer_size=1, write_timeout=10)
    for n in range(5):
        sink.outbox.send_nowait(frame(n))
    sink.finish()
    await sink.run(transport)
    assert transport.log == list("01234")
    assert trio.current_time() == 45


async def test_timeout_is_for_each_write_of_a_batch(autojump_clock: MockClock) -> None:
    """Where a transport makes several writes of a batch, each has the whole time; what has left counts as written."""

    class Slowing(FakeTransport):
        async def _write(self, what: str) -> None:
            await trio.sleep(9 if len(self.log) < 3 else 11)
            self.log.append(what)

    transport, sink = Slowing(at_once=1), make_sink(write_timeout=10)
    for n in range(5):
        sink.outbox.send_nowait(frame(n))
    with pytest.raises(WriteTimedOut):
        await sink.run(transport)
    assert transport.log == list("012")
    assert trio.current_time() == 3 * 9 + 10
    assert (sink.outbox.written, sink.outbox.discarded) == (3, 2)


@pytest.mark.parametrize("how", ["times out", "is cancelled", "fails"])
async def test_an_unfinished_batch_is_counted(autojump_clock: MockClock, how: str) -> None:
    """Invariant 6: what may not have left because its write did not end well counts as discarded, not as written."""
    transport, sink = FakeTransport(), make_sink()
    if how == "fails":
        transport.error = TransportClosed(Close(1006, "", "network"))
    sink.outbox.send_nowait(frame("a"))
    sink.outbox.send_nowait(frame("b"))
    with trio.move_on_after(5 if how == "is cancelled" else 100):
        with pytest.raises((WriteTimedOut, TransportClosed, trio.Cancelled)):  # noqa: PT012
            await sink.run(transport)
            raise AssertionError
        await trio.lowlevel.checkpoint()
    stats = sink.outbox.statistics()
    assert (stats.enqueued, stats.written, stats.discarded) == (2, 0, 2)


async def test_cancelled_while_asleep(transport: FakeTransport) -> None:
    """A writer that was cancelled in its sleep is not called for any more."""
    sink = make_sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    sink.outbox.send_nowait(frame("a"))
    assert sink.outbox.statistics().messages == 1


async def test_room_for_those_who_wait(transport: FakeTransport) -> None:
    """Taking a batch makes room, and what a waiting sender then queues is written, too."""
    sink = make_sink(max_messages=1)
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(sink.outbox.send, frame(n))
        await wait_all_tasks_blocked()
        nursery.start_soon(sink.run, transport)
        await wait_all_tasks_blocked()
        assert sorted(transport.log) == list("01234")
        sink.finish()


# Over a plain socket, with a flusher


@attrs.define(eq=False)
class Line:
    """A sink with a native transport over a socket that does as it is told."""

    sink: Sink
    plain: ToldSocket
    transport: NativeTransport
    flusher: Flusher
    nursery: trio.Nursery
    writing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: Exception | None = None

    async def write(self) -> None:
        with self.writing:
            try:
                await self.sink.run(self.transport)
            except (TransportClosed, WriteTimedOut) as exc:
                self.ended = exc

    def send(self, *data: object) -> None:
        """Queue private frames."""
        for one in data:
            self.sink.outbox.send_nowait(frame(one))

    @property
    def seen(self) -> list[str]:
        """What the peer got: messages as they are, control frames by name and payload."""
        return [
            one.payload.decode() if one.opcode == Opcode.TEXT else f"{Opcode(one.opcode).name}({one.payload[:2].hex()})"
            for one in parse_server_frames(self.plain.data)
        ]

    def check(self, *, in_hand: int = 0) -> None:
        """Invariant 6, with so many frames that the socket has taken a part of."""
        stats = self.sink.outbox.statistics()
        found = stats.written + stats.displaced + stats.discarded + stats.messages + in_hand
        assert stats.enqueued == found


@asynccontextmanager
async def line(
    *,
    allowance: float = math.inf,
    flush: bool = True,
    max_messages: int = 100,
    write_buffer_size: int = 1000,
    write_timeout: float = 10,
) -> AsyncIterator[Line]:
    """A line whose writer sleeps. ``flush``: whether the flusher has its task."""
    flusher = Flusher(flush_all)
    sink = Sink(
        Bare(),
        max_messages=max_messages,
        max_bytes=10_000,
        write_buffer_size=write_buffer_size,
        write_timeout=write_timeout,
        flusher=flusher,
    )
    plain = ToldSocket(allowance=allowance)
    with contextlib.closing(plain):
        async with trio.open_nursery() as nursery:
            if flush:
                nursery.start_soon(flusher.run)
            one = Line(sink, plain, native_over(plain.stream), flusher, nursery)
            nursery.start_soon(one.write)
            await wait_all_tasks_blocked()
            yield one
            nursery.cancel_scope.cancel()


async def test_flushed_in_one_write() -> None:
    """What is queued between two checkpoints leaves in one write, and not before the next checkpoint."""
    async with line() as one:
        one.send("a", "b")
        one.sink.outbox.put(Publication(("r",), b"c"))
        assert one.plain.calls == 0
        await wait_all_tasks_blocked()
        assert one.seen == ["a", "b", "c"]
        assert one.plain.calls == 1
        assert one.sink.outbox.written == 3


async def test_flushed_in_batches() -> None:
    """A flush, too, writes at most the write buffer's size at once, and goes on while the socket takes it."""
    async with line(write_buffer_size=6) as one:
        one.send(*range(5))
        await wait_all_tasks_blocked()
        assert one.seen == list("01234")
        assert one.plain.calls == 3
        one.check()


@pytest.mark.parametrize("taken", range(1 + 5 * 3))
@pytest.mark.parametrize("write_buffer_size", [1, 7, 1000])
async def test_flushed_in_part(taken: int, write_buffer_size: int) -> None:
    """Invariants 3 and 6: what a socket has taken a part of, at any byte, is completed before all else, and counted."""
    async with line(allowance=taken, write_buffer_size=write_buffer_size) as one:
        one.send(*range(5))
        await wait_all_tasks_blocked()
        assert len(one.plain.data) == taken
        stats = one.sink.outbox.statistics()
        in_hand = stats.enqueued - stats.written - stats.messages
        assert stats.written <= taken // 3
        assert taken - 3 * stats.written <= 3 * in_hand
        one.send("later")
        one.plain.allow(math.inf)
        await wait_all_tasks_blocked()
        assert one.seen == [*"01234", "later"]
        one.check()
        calls = one.plain.calls
        one.send("again")
        await wait_all_tasks_blocked()
        assert one.seen[-1] == "again"
        assert one.plain.calls == calls + 1
        assert one.sink.outbox.statistics().written == 7


async def test_nobody_else_writes_while_the_writer_is_at_work() -> None:
    """Invariant 3: as long as the writer waits for the socket, neither a flush nor the bound writes past it."""
    async with line(allowance=4, max_messages=3) as one:
        one.send("a", "b")
        await wait_all_tasks_blocked()
        calls = one.plain.calls
        one.plain.allowance = 100
        one.send("c", "d", "e")
        with pytest.raises(OutboxFull):
            one.send("f")
        assert one.sink.outbox.put(Publication(("r",), b"g", overflow="drop_newest")) == DROPPED
        one.sink.outbox.flush()
        assert one.plain.calls == calls
        one.plain.allow(0)
        await wait_all_tasks_blocked()
        assert one.seen == list("abcde")
        one.check()


async def test_offered_before_the_policy() -> None:
    """S1: a burst between two checkpoints, ten times the bound, hurts nobody whose socket takes it."""
    async with line(max_messages=4) as one:
        for n in range(20):
            one.send(n)
            for room, overflow in enumerate(("close", "drop_newest", "drop_oldest")):
                assert one.sink.outbox.put(Publication((str(room),), b"%d" % n, overflow=overflow)) == 0
        await wait_all_tasks_blocked()
        assert one.seen == [str(n) for n in range(20) for _ in range(4)]


@pytest.mark.parametrize("overflow", ["close", "drop_newest", "drop_oldest", "conflate"])
@pytest.mark.parametrize("senders", [1, 4, 9])
async def test_offered_also_what_waits_for_room(overflow: str, senders: int) -> None:
    """S1: tasks that wait for room do not use up the offer: a policy applies to what the socket refuses."""
    async with line(max_messages=4) as one:
        one.send(*range(4))
        held, one.sink.outbox.send_now = one.sink.outbox.send_now, None  # as if the writer were at work
        for n in range(senders):
            one.nursery.start_soon(one.sink.outbox.send, frame(f"waits {n}"))
            await trio.lowlevel.checkpoint()
        while one.sink.outbox.statistics().waiting < senders:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        one.sink.outbox.send_now = held
        assert one.sink.outbox.put(Publication(("r",), b"event", overflow=overflow)) == 0  # type: ignore[arg-type]
        await wait_all_tasks_blocked()
        assert len(one.seen) == 4 + senders + 1
        assert one.seen[:4] == list("0123")
        assert "event" in one.seen
        one.check()


async def test_policy_for_what_the_socket_refuses() -> None:
    """S1: what the socket does not take stays queued, and the policy applies to it."""
    async with line(allowance=0, max_messages=3) as one:
        one.send(*range(3))
        assert one.sink.outbox.put(Publication(("n",), b"x", overflow="drop_newest")) == DROPPED
        assert one.plain.calls == 1
        assert one.sink.outbox.put(Publication(("r",), b"x")) == CLOSED
        assert one.plain.calls == 1
        assert one.sink.outbox.statistics().messages == 3
        one.check()


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("first", ["ping", "pong", "data"])
async def test_order_of_what_is_due(taken: int, first: str) -> None:
    """Sink: whatever came first, a rest goes out, then the pong, the ping, the data, and the close last."""
    async with line(allowance=taken) as one:
        one.send("a", "b")
        await wait_all_tasks_blocked()  # the writer has taken both, or has a rest of them

        reading = trio.CancelScope()

        async def receive() -> None:
            with reading:
                await one.transport.receive()

        one.nursery.start_soon(receive)
        for what in (first, *({"ping", "pong", "data"} - {first})):
            if what == "ping":
                one.nursery.start_soon(one.sink.ping)
            elif what == "pong":
                one.plain.peer.send(client_frame(Opcode.PING, b"??"))
            else:
                one.send("c")
            await wait_all_tasks_blocked()
        one.sink.finish()
        one.plain.allow(math.inf)
        await wait_all_tasks_blocked()
        assert one.seen == ["a", "b", "PONG(3f3f)", "PING(0000)", "c"]
        reading.cancel()
        one.nursery.start_soon(one.transport.close, 1000, "")
        await wait_all_tasks_blocked()
        assert one.seen[5:] == ["CLOSE(03e8)"]
        one.check()


async def test_control_frames_while_data_is_marked() -> None:
    """A pong or a ping that comes due between the mark and the flush goes ahead of the data that was marked."""
    async with line() as one:
        one.send("data")
        one.sink._ping_due = True
        one.sink.wake_writer()
        await wait_all_tasks_blocked()
        assert one.seen == ["PING(0000)", "data"]


@pytest.mark.parametrize("taken", range(9))
@pytest.mark.parametrize("end", ["discard", "finish", "cancel"])
async def test_ended_with_a_rest(taken: int, end: str) -> None:
    """Invariants 3 and 6: frames of which the socket has a part are whole on the wire and in the books, at any end."""
    async with line(allowance=taken) as one:
        one.send("a", "b", "c")
        await wait_all_tasks_blocked()
        one.send("d")
        if end == "cancel":
            one.writing.cancel()
            await wait_all_tasks_blocked()
        if end == "finish":
            one.sink.finish()
        else:
            one.sink.discard()
        await wait_all_tasks_blocked()
        if end == "cancel":
            one.check()
            one.nursery.start_soon(one.transport.close, 1000, "")
            await wait_all_tasks_blocked()
        one.plain.allow(math.inf)
        await wait_all_tasks_blocked()
        one.check()
        stats = one.sink.outbox.statistics()
        if end == "finish":
            assert one.seen == list("abcd")
            assert (stats.written, stats.discarded) == (4, 0)
        else:
            if end == "discard":
                one.nursery.start_soon(one.transport.close, 1000, "")
                await wait_all_tasks_blocked()
            assert one.seen == [*"abc", "CLOSE(03e8)"]
            # The writer has taken all that a flush could write none of, and is told how its own write has ended.
            whole = taken // 3 if taken or end == "cancel" else 3
            assert (stats.written, stats.discarded) == (whole, 4 - whole)


@pytest.mark.parametrize("taken", range(1, 9))
async def test_write_timeout_of_a_rest(taken: int, autojump_clock: MockClock) -> None:
    """A rest that the peer does not take in time ends the writer; what was in hand counts as discarded."""
    async with line(allowance=taken, write_timeout=7) as one:
        one.send("a", "b", "c")
        began = trio.current_time()
        await trio.sleep(6.9)
        assert one.ended is None
        await trio.sleep(0.2)
        assert isinstance(one.ended, WriteTimedOut)
        assert trio.current_time() - began < 8
        one.sink.discard()
        stats = one.sink.outbox.statistics()
        assert (stats.written, stats.discarded) == (taken // 3, 3 - taken // 3)
        one.check()


@pytest.mark.parametrize("fails_at", range(1, 5))
async def test_a_flush_meets_a_lost_connection(fails_at: int) -> None:
    """A flush that fails raises to nobody; the writer meets the same, and says so."""
    async with line(write_buffer_size=3, max_messages=8) as one:
        one.plain.fails_at = fails_at
        for n in range(8):
            one.send(n)
        assert one.sink.outbox.put(Publication(("r",), b"x", overflow="drop_newest")) in (0, DROPPED)
        one.sink.outbox.flush()
        assert one.ended is None
        await wait_all_tasks_blocked()
        assert isinstance(one.ended, TransportClosed)
        assert one.sink.outbox.written == fails_at - 1
        one.sink.discard()
        one.check()
        calls = one.plain.calls
        one.sink.outbox.flush()
        assert one.plain.calls == calls


async def test_a_closed_stream_is_not_flushed_into(autojump_clock: MockClock) -> None:
    """Invariant 3: what was marked when the connection is aborted goes nowhere."""
    async with line() as one:
        one.send("a")
        await one.transport.abort()
        await wait_all_tasks_blocked()
        assert one.plain.data == b""
        assert isinstance(one.ended, TransportClosed)


async def test_nothing_is_flushed_after_a_cancel() -> None:
    """A writer that was cancelled in its sleep is the last: nobody writes in its place."""
    async with line() as one:
        one.send("a")
        one.writing.cancel()
        await trio.lowlevel.checkpoint()
        calls = one.plain.calls
        one.send("b")
        one.sink.outbox.flush()
        await wait_all_tasks_blocked()
        assert one.plain.calls == calls


async def test_an_empty_outbox_is_not_written() -> None:
    """A mark that has become void, because all was written at the bound or thrown away, costs no call of the socket."""
    async with line(max_messages=2) as one:
        one.send("a", "b", "c")
        assert one.plain.calls == 1
        one.sink.outbox.flush()
        one.sink.outbox.close()
        one.sink.outbox.flush()
        await wait_all_tasks_blocked()
        assert one.plain.calls == 2
        assert one.seen == list("abc")


@pytest.mark.parametrize("write_buffer_size", [3, 7, 1000])
@pytest.mark.parametrize("flush", [False, True])
async def test_senders_that_wait_while_others_are_flushed(write_buffer_size: int, flush: bool) -> None:
    """Invariant 6: whoever gets room by a flush is written and counted once, also where a flush follows at once."""
    async with line(max_messages=3, allowance=0, write_buffer_size=write_buffer_size, flush=flush) as one:
        for n in range(12):
            one.nursery.start_soon(one.sink.outbox.send, frame(n))
        await wait_all_tasks_blocked()
        one.plain.allow(20)
        await wait_all_tasks_blocked()
        one.plain.allow(math.inf)
        await wait_all_tasks_blocked()
        one.send("end")
        await wait_all_tasks_blocked()
        assert sorted(one.seen) == sorted([*map(str, range(12)), "end"])
        stats = one.sink.outbox.statistics()
        assert (stats.enqueued, stats.written) == (13, 13)


async def test_waiting_senders_are_counted_in_a_flush_within_a_flush() -> None:
    """Invariant 6: without a flusher's task, room made by a flush is filled and flushed within it, and counted once."""
    async with line(max_messages=3, write_buffer_size=3, flush=False) as one:
        held, one.sink.outbox.send_now = one.sink.outbox.send_now, None
        for n in range(9):
            one.nursery.start_soon(one.sink.outbox.send, frame(n))
        await wait_all_tasks_blocked()
        assert one.sink.outbox.statistics().waiting == 6
        one.sink.outbox.send_now = held
        one.sink.outbox.flush()
        await wait_all_tasks_blocked()
        assert sorted(one.seen) == [str(n) for n in range(9)]
        assert one.sink.outbox.statistics().written == 9
        one.check()


async def test_finish_with_what_is_marked() -> None:
    """A polite end writes what was marked, once, before the close frame."""
    async with line() as one:
        one.send("a", "b")
        one.sink.finish()
        await wait_all_tasks_blocked()
        one.nursery.start_soon(one.transport.close, 1001, "")
        await wait_all_tasks_blocked()
        assert one.seen == ["a", "b", "CLOSE(03e9)"]


async def test_discard_with_what_is_marked() -> None:
    """An end in a hurry writes nothing of what was marked."""
    async with line() as one:
        one.send("a", "b")
        one.sink.discard()
        await wait_all_tasks_blocked()
        assert one.plain.data == b""
        assert one.sink.outbox.discarded == 2
        one.check()


@pytest.mark.parametrize("taken", range(8))
async def test_the_answer_to_a_close_goes_behind_a_rest(taken: int) -> None:
    """P7, Invariant 3: the peer's close frame is answered behind the frames that were begun, and nothing follows."""
    async with line(allowance=taken) as one:
        one.send("a", "b", "c")
        await wait_all_tasks_blocked()
        one.plain.peer.send(client_frame(Opcode.CLOSE, close_payload(1000)))
        with pytest.raises(TransportClosed):
            await one.transport.receive()
        one.sink.discard()
        one.plain.allow(math.inf)
        one.plain.peer.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        one.nursery.start_soon(one.transport.close, 1012, "")
        await wait_all_tasks_blocked()
        assert one.seen == [*"abc", "CLOSE(03e8)"]
        one.check()


# A writer that is started when it is needed


@attrs.define(eq=False)
class Starts:
    """Starts the writer of a sink, and counts how often."""

    sink: Sink
    transport: NativeTransport | FakeTransport
    nursery: trio.Nursery
    count: int = 0

    def __call__(self) -> None:
        self.count += 1
        self.nursery.start_soon(self.sink.run, self.transport)


async def test_the_writer_is_started_by_data(transport: FakeTransport) -> None:
    """Where there is no plain socket, the first frame starts the writer, and later ones wake it."""
    sink = make_sink()
    async with trio.open_nursery() as nursery:
        start = Starts(sink, transport, nursery)
        sink.begin(transport, start)
        await wait_all_tasks_blocked()
        assert start.count == 0
        for name in "ab":
            sink.outbox.send_nowait(frame(name))
            await wait_all_tasks_blocked()
        assert transport.log == ["a", "b"]
        sink.finish()
    assert start.count == 1


async def test_the_writer_is_started_for_what_was_queued_before(transport: FakeTransport) -> None:
    """What is in the outbox when the sink begins is written."""
    sink = make_sink()
    sink.outbox.send_nowait(frame("a"))
    async with trio.open_nursery() as nursery:
        sink.begin(transport, Starts(sink, transport, nursery))
        await wait_all_tasks_blocked()
        sink.finish()
    assert transport.log == ["a"]


@pytest.mark.parametrize("end", ["finish", "discard"])
async def test_a_writer_that_is_not_needed(transport: FakeTransport, end: str) -> None:
    """Neither end starts a writer that has nothing to write."""
    sink = make_sink()
    async with trio.open_nursery() as nursery:
        start = Starts(sink, transport, nursery)
        sink.begin(transport, start)
        getattr(sink, end)()
        await wait_all_tasks_blocked()
    assert start.count == 0


async def test_the_writer_is_started_by_a_ping_and_by_a_pong_that_is_due(transport: FakeTransport) -> None:
    """A ping, and what the receiving side owes, are the writer's."""
    for cause in ("ping", "control"):
        sink = make_sink()
        async with trio.open_nursery() as nursery:
            sink.begin(transport, Starts(sink, transport, nursery))
            if cause == "ping":
                await sink.ping()
            else:
                transport.control.append("pong")
                transport.on_control()
            await wait_all_tasks_blocked()
            sink.finish()
    assert transport.log == ["PING", "pong"]


@attrs.define
class Begun:
    """A sink that has begun over a plain socket."""

    sink: Sink
    plain: ToldSocket
    transport: NativeTransport
    start: Starts

    async def receive(self, *frames: bytes) -> None:
        """Have the transport read frames of the peer's, which came together."""
        with trio.CancelScope() as reading:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.transport.receive)
                await wait_all_tasks_blocked()
                self.plain.peer.send(b"".join(frames))
                await wait_all_tasks_blocked()
                reading.cancel()

    @property
    def seen(self) -> list[str]:
        """What the peer got, by name and payload."""
        return [f"{Opcode(one.opcode).name}({one.payload.hex()})" for one in parse_server_frames(self.plain.data)]


@asynccontextmanager
async def begun(allowance: float = math.inf) -> AsyncIterator[Begun]:
    """One whose socket takes so many bytes at first."""
    with ToldSocket(allowance=allowance) as plain:
        transport = native_over(plain.stream)
        sink = Sink(
            Bare(), max_messages=10, max_bytes=10_000, write_buffer_size=1000, write_timeout=10, flusher=Flusher()
        )
        async with trio.open_nursery() as nursery:
            start = Starts(sink, transport, nursery)
            sink.begin(transport, start)
            yield Begun(sink, plain, transport, start)
            sink.discard()


async def test_control_frames_over_a_socket_need_no_writer() -> None:
    """A ping and a pong that the socket takes are on the wire at once, and no task was started for them."""
    async with begun() as one:
        before = trio.current_time()
        assert before <= await one.sink.ping() <= trio.current_time()
        assert one.seen == ["PING(00000001)"]
        await one.receive(client_frame(Opcode.PING, b"?"))
        assert one.seen == ["PING(00000001)", "PONG(3f)"]
        assert one.start.count == 0


async def test_pings_that_come_together_are_answered_in_one_write() -> None:
    """A flood of pings does not become a flood of writes; only the latest are answered, in order."""
    async with begun() as one:
        await one.receive(*(client_frame(Opcode.PING, bytes([n])) for n in range(40)))
        assert one.seen == [f"PONG({n:02x})" for n in range(24, 40)]
        assert one.plain.calls == 1


@pytest.mark.parametrize("what", ["ping", "pong"])
@pytest.mark.parametrize("taken", range(7))
async def test_the_writer_over_a_socket_ends_and_is_started_anew(what: str, taken: int) -> None:
    """What the socket does not take of a control frame is the writer's, ahead of all else; then it ends. Twice."""
    async with begun() as one:
        for n in (1, 2):
            one.plain.allowance = taken
            if what == "ping":
                await one.sink.ping()
            else:
                await one.receive(client_frame(Opcode.PING, bytes([0, 0, 0, n])))
            one.sink.outbox.send_nowait(frame("a"))
            await wait_all_tasks_blocked()
            assert one.start.count == n
            one.plain.allow(math.inf)
            await wait_all_tasks_blocked()
            assert one.seen[-2:] == [f"{what.upper()}(0000000{n})", "TEXT(61)"]
            assert not one.start.nursery.child_tasks


@pytest.mark.parametrize("what", ["ping", "pong"])
async def test_a_control_frame_meets_a_lost_connection(what: str) -> None:
    """Who offers it is told nothing: the writer meets the same, and says so."""
    with pytest.RaisesGroup(TransportClosed, flatten_subgroups=True):
        async with begun() as one:
            one.plain.fails_at = 1
            if what == "ping":
                one.start.nursery.start_soon(one.sink.ping)
            else:
                await one.receive(client_frame(Opcode.PING, b"?"))
            await wait_all_tasks_blocked()
    assert one.start.count == 1


@pytest.mark.parametrize("taken", range(6))
async def test_a_control_frame_that_was_begun_is_whole_before_the_close(taken: int) -> None:
    """Invariant 3: thrown away is only what no part of was written."""
    async with begun(allowance=taken) as one:
        await one.sink.ping()
        one.sink.discard()
        await wait_all_tasks_blocked()
        assert not one.start.nursery.child_tasks  # the writer leaves it to the close
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.transport.close, 1000, "")
            await wait_all_tasks_blocked()
            one.plain.allow(math.inf)
            await wait_all_tasks_blocked()
            assert one.seen == ["PING(00000001)", "CLOSE(03e8)"]
            nursery.cancel_scope.cancel()
