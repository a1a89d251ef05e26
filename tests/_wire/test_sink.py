"""The sink: order and timing of what one connection writes, with a transport that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from fakes import NoSocket
from trio_rooms import Publication
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.sink import Sink, WriteTimedOut
from trio_rooms._wire.transport import Close, TransportClosed


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
