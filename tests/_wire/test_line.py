"""The stream below trio-websocket: what it lets through in either direction, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms._wire.frames import close_frame, make_frame
from trio_rooms._wire.line import Line
from trio_rooms.testing import FaultyStream

HEAD = b"GET / HTTP/1.1\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
FRAME = make_frame(b"0123456789", text=True).data


async def always() -> None:
    """A gate that stands open."""
    await trio.lowlevel.checkpoint()


class Ends:
    """A line over one end of a memory stream, whose other end is the peer's."""

    def __init__(
        self,
        *,
        trailing: bytes = b"",
        read_buffer_size: int = 1000,
        before_read: Callable[[], Awaitable[None]] = always,
    ) -> None:
        near, self.peer = trio.testing.memory_stream_pair()
        self.faults = FaultyStream(near)
        self.line = Line(
            self.faults,
            head=HEAD,
            trailing=trailing,
            read_buffer_size=read_buffer_size,
            before_read=before_read,
        )

    async def open(self) -> Line:
        """Read the head and write the 101."""
        assert await self.line.receive_some() == HEAD
        await self.line.send_all(SWITCH)
        assert await self.peer.receive_some() == SWITCH
        return self.line

    async def received(self) -> bytes:
        """What the peer gets up to the end."""
        data = b""
        while chunk := await self.peer.receive_some():
            data += chunk
        return data


# In


async def test_our_head_comes_first() -> None:
    """What is read first is our own head, whole, whatever has come from the peer."""
    ends = Ends()
    await ends.peer.send_all(b"frame")
    with trio.testing.assert_checkpoints():
        assert await ends.line.receive_some(1) == HEAD


async def test_nothing_is_read_before_the_101(autojump_clock: MockClock) -> None:
    """H7: what stands behind the head is given out only when the 101 has left, then what came after it."""
    ends = Ends(trailing=b"first frame")
    await ends.peer.send_all(b"second frame")
    assert await ends.line.receive_some() == HEAD
    with trio.move_on_after(60) as scope:
        await ends.line.receive_some()
    assert scope.cancelled_caught
    await ends.line.send_all(SWITCH)
    assert await ends.line.receive_some() == b"first frame"
    assert await ends.line.receive_some() == b"second frame"


@pytest.mark.parametrize(("size", "reads"), [(1, [1, 1]), (7, [7, 7]), (30, [30, 20]), (10_000, [50])])
async def test_read_buffer_size(size: int, reads: list[int]) -> None:
    """One read asks for so many bytes, whatever trio-websocket would like to have."""
    ends = Ends(read_buffer_size=size)
    line = await ends.open()
    await ends.peer.send_all(bytes(50))
    assert [len(await line.receive_some(4096)) for _ in reads] == reads


async def test_the_gate_is_in_front_of_each_read(autojump_clock: MockClock) -> None:
    """The socket is read only when there is room; until then silence says nothing about the peer."""
    gate = trio.Event()
    ends = Ends(before_read=gate.wait)
    line = await ends.open()
    await ends.peer.send_all(b"data")
    assert not line.paused
    async with trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await line.receive_some())

        nursery.start_soon(read)
        await trio.sleep(5)
        assert got == []
        assert line.paused
        assert ends.faults.bytes_received == 0
        gate.set()
    assert got == [b"data"]
    assert not line.paused
    assert line.last_heard == 5


async def test_last_heard_is_the_time_of_the_last_bytes(autojump_clock: MockClock) -> None:
    """Any bytes are a sign of life."""
    ends = Ends()
    line = await ends.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.receive_some)
        await trio.sleep(3)
        await ends.peer.send_all(b"x")
    await trio.sleep(4)
    assert line.last_heard == 3


async def test_end_of_file_passes() -> None:
    """The peer's end of file is told as such."""
    ends = Ends()
    line = await ends.open()
    await ends.peer.send_eof()
    assert await line.receive_some() == b""


# Out


async def test_frames_pass() -> None:
    """What is written arrives as it is."""
    ends = Ends()
    line = await ends.open()
    await line.wait_send_all_might_not_block()
    await line.send_all(FRAME)
    assert await ends.peer.receive_some() == FRAME
    assert not line.close_written


@pytest.mark.parametrize("k", range(len(FRAME)))
async def test_nothing_after_a_torn_frame(autojump_clock: MockClock, k: int) -> None:
    """P7: after a write that was cancelled when k bytes had left, not a byte follows, nor does a close frame."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    ends.faults.stall_sending(k)
    with trio.move_on_after(1) as scope:
        await line.send_all(FRAME)
    assert scope.cancelled_caught
    ends.faults.resume_sending()
    for data in (FRAME, close_frame(1000)):
        with pytest.raises(trio.BrokenResourceError):
            await line.send_all(data)
    await line.aclose()
    assert await ends.received() == FRAME[:k]


async def test_nothing_after_a_failed_write() -> None:
    """P7: a write that failed ends all writing, too."""
    ends = Ends()
    line = await ends.open()
    await ends.peer.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await line.send_all(FRAME)
    with pytest.raises(trio.BrokenResourceError):
        await line.send_all(FRAME)
    await line.aclose()


async def test_cancelled_before_it_wrote(autojump_clock: MockClock) -> None:
    """A write that was cancelled while it waited for another has torn nothing."""
    ends = Ends()
    line = await ends.open()
    ends.faults.stall_sending(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send_all, FRAME)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await line.send_all(b"never")
        assert scope.cancelled_caught
        ends.faults.resume_sending()
    await line.send_all(FRAME)
    assert await ends.peer.receive_some() == FRAME + FRAME


async def test_frames_do_not_interleave(autojump_clock: MockClock) -> None:
    """Invariant 3: writes of several tasks leave one after the other, however slowly the socket takes them."""
    ends = Ends()
    line = await ends.open()
    ends.faults.one_byte_writes = True
    frames = [make_frame(bytes([65 + n]) * 20, text=True).data for n in range(5)]
    async with trio.open_nursery() as nursery:
        for frame in frames:
            nursery.start_soon(line.send_all, frame)
    await line.abort()
    data = await ends.received()
    assert sorted(data[n : n + 22] for n in range(0, len(data), 22)) == frames


async def test_nothing_after_a_close_frame() -> None:
    """Invariant 3: a close frame is the last that leaves."""
    ends = Ends()
    line = await ends.open()
    await line.send_all(close_frame(1000))
    assert line.close_written
    for data in (FRAME, close_frame(1000)):
        with pytest.raises(trio.BrokenResourceError):
            await line.send_all(data)
    assert await ends.peer.receive_some() == close_frame(1000)


async def test_the_101_is_no_close_frame() -> None:
    """The first byte of the 101 has the bits of a close frame, and is none."""
    assert SWITCH[0] & 0x0F == 0x08
    ends = Ends()
    line = await ends.open()
    assert not line.close_written


# The end


async def test_the_due_close_frame_goes_out(autojump_clock: MockClock) -> None:
    """P3: trio-websocket closes its stream without a word; the code that is due is written before the end."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1007
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.aclose)
        assert await ends.received() == close_frame(1007)
        await ends.peer.aclose()


async def test_no_code_no_close_frame() -> None:
    """Without a code that is due the stream is only closed."""
    ends = Ends()
    line = await ends.open()
    await line.aclose()
    assert await ends.received() == b""


async def test_a_close_frame_from_above_is_not_repeated(autojump_clock: MockClock) -> None:
    """Invariant 3: there is one close frame, whoever thinks that one is due."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    await line.send_all(close_frame(1009))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.aclose)
        assert await ends.received() == close_frame(1009)
        await ends.peer.aclose()


async def test_unread_bytes_are_drained(autojump_clock: MockClock) -> None:
    """Behind a close frame our side ends, and the peer is read, so that a reset does not destroy what was written."""
    ends = Ends()
    line = await ends.open()
    await ends.peer.send_all(bytes(50_000))
    line.close_due = lambda: 1009
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.aclose)
        assert await ends.received() == close_frame(1009)
        await wait_all_tasks_blocked()
        assert ends.faults.bytes_received == 50_000
        await ends.peer.send_all(b"still here")
        await ends.peer.aclose()
    assert ends.faults.bytes_received == 50_010


async def test_the_drain_takes_a_second(autojump_clock: MockClock) -> None:
    """A peer that does not end is left after a second."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    began = trio.current_time()
    await line.aclose()
    assert trio.current_time() - began == 1


async def test_a_peer_that_takes_nothing(autojump_clock: MockClock) -> None:
    """A close frame that does not leave holds the end up for a second, no longer."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    ends.faults.stall_sending(1)
    began = trio.current_time()
    await line.aclose()
    assert trio.current_time() - began == 1
    assert await ends.received() == close_frame(1002)[:1]


async def test_a_peer_that_is_gone() -> None:
    """There is nobody to be polite to, and nothing is raised."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    await ends.peer.aclose()
    await line.aclose()


async def test_aclose_twice(autojump_clock: MockClock) -> None:
    """A second caller waits for the first, and nothing is done twice."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    ended: list[float] = []

    async def end() -> None:
        await line.aclose()
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        nursery.start_soon(end)
        assert await ends.received() == close_frame(1002)
    assert ended == [1, 1]
    await line.aclose()
    assert trio.current_time() == 1


async def test_cancelled_end(autojump_clock: MockClock) -> None:
    """The stream is closed even when this is cancelled, and then without politeness."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    with trio.CancelScope() as scope:
        scope.cancel()
        await line.aclose()
    assert await ends.received() == b""
    with pytest.raises(trio.BrokenResourceError):
        await line.send_all(FRAME)


async def test_the_end_takes_the_reading_over(autojump_clock: MockClock) -> None:
    """A read that is under way when the line is ended is called back: two at once would be an error."""
    ends = Ends()
    line = await ends.open()
    await line.send_all(close_frame(1009))
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await line.receive_some()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        nursery.start_soon(line.aclose)
        await wait_all_tasks_blocked()
        await ends.peer.send_all(b"for the drain")
        await ends.peer.aclose()
    assert ends.faults.bytes_received == len(b"for the drain")
    with pytest.raises(trio.ClosedResourceError):
        await line.receive_some()


async def test_abort(autojump_clock: MockClock) -> None:
    """Abort closes at once, without a close frame; a write under way fails; again is fine."""
    ends = Ends()
    line = await ends.open()
    line.close_due = lambda: 1002
    ends.faults.stall_sending(4)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await line.send_all(FRAME)

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await line.abort()
    assert await ends.received() == FRAME[:4]
    await line.abort()
    await line.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await line.send_all(FRAME)
    assert trio.current_time() == 0


async def test_end_before_the_101() -> None:
    """A line that never was open ends without a frame."""
    ends = Ends()
    await ends.line.aclose()
    assert await ends.received() == b""
