"""FaultyStream: each fault as the two ends of a stream see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from trio_rooms.testing._faults import FaultyStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock


@pytest.fixture
def pair() -> tuple[FaultyStream, trio.abc.HalfCloseableStream]:
    """A faulty end and the other end."""
    near, far = trio.testing.memory_stream_pair()
    return FaultyStream(near), far


Pair = tuple[FaultyStream, trio.abc.HalfCloseableStream]


async def receive_all(stream: trio.abc.Stream, seconds: float = 1) -> tuple[bytes, bool]:
    """What comes within some virtual seconds, and whether it ended with EOF."""
    data = b""
    with trio.move_on_after(seconds):
        while chunk := await stream.receive_some():
            data += chunk
        return data, True
    return data, False


async def test_without_a_fault(autojump_clock: MockClock, pair: Pair) -> None:
    """Without a fault bytes and EOF pass both ways, and are counted."""
    near, far = pair
    with trio.fail_after(5):
        await near.send_all(b"abc")
        await near.wait_send_all_might_not_block()
        await far.send_all(memoryview(b"12345"))
        assert await near.receive_some(2) == b"12"
        assert await near.receive_some() == b"345"
        assert (near.bytes_sent, near.bytes_received) == (3, 5)
        await near.send_eof()
        assert await receive_all(far) == (b"abc", True)
        await far.send_eof()
        assert await near.receive_some() == b""


async def test_it_is_a_stream(autojump_clock: MockClock) -> None:
    """Without a fault it keeps every promise that trio's own stream test asks for."""

    async def make() -> tuple[FaultyStream, FaultyStream]:
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        return FaultyStream(near), FaultyStream(far)

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, None)


async def test_one_byte_reads_and_writes(autojump_clock: MockClock) -> None:
    """Reads and writes of one byte each, for whoever must not depend on the cuts."""
    inner, far = trio.testing.memory_stream_pair()
    near = FaultyStream(inner, one_byte_reads=True, one_byte_writes=True)
    pieces: list[bytes] = []

    async def note() -> None:
        await trio.lowlevel.checkpoint()
        pieces.append(bytes(inner.send_stream.get_data_nowait()))

    with trio.fail_after(5):
        await far.send_all(b"ab")
        assert [await near.receive_some(10), await near.receive_some()] == [b"a", b"b"]
        inner.send_stream.send_all_hook = note
        await near.send_all(b"xyz")
        assert pieces == [b"x", b"y", b"z"]


async def test_stall_sending(autojump_clock: MockClock, pair: Pair) -> None:
    """A stalled send lets some bytes pass, then blocks until it is resumed."""
    near, far = pair
    near.stall_sending(after=2)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"abcde")
            assert await receive_all(far) == (b"ab", False)
            near.resume_sending()
            assert await receive_all(far) == (b"cde", False)
    assert near.bytes_sent == 5


async def test_a_stalled_send_that_is_cancelled(autojump_clock: MockClock, pair: Pair) -> None:
    """A cancelled send has sent a part, and the other direction still works."""
    near, far = pair
    near.stall_sending(after=2)
    with trio.fail_after(5):
        with trio.move_on_after(1) as scope:
            await near.send_all(b"abcde")
        assert scope.cancelled_caught
        near.resume_sending()
        await near.send_all(b"f")
        assert await receive_all(far) == (b"abf", False)
        await far.send_all(b"1")
        assert await near.receive_some() == b"1"


@pytest.mark.parametrize("verb", ["send_eof", "wait_send_all_might_not_block"])
async def test_a_stall_holds_back_the_rest(autojump_clock: MockClock, pair: Pair, verb: str) -> None:
    """While sending is stalled nothing says that it might not block, and no EOF overtakes."""
    near, _ = pair
    near.stall_sending()
    call: Callable[[], Awaitable[None]] = getattr(near, verb)
    with trio.fail_after(5):
        with trio.move_on_after(1) as scope:
            await call()
        assert scope.cancelled_caught
        near.resume_sending()
        await call()


async def test_stalls_do_not_add_up(autojump_clock: MockClock, pair: Pair) -> None:
    """A new stall replaces the old one, and counts from now."""
    near, far = pair
    near.stall_sending()
    near.stall_sending(after=1)
    with trio.fail_after(5):
        with trio.move_on_after(1):
            await near.send_all(b"ab")
        near.stall_sending(after=1)
        with trio.move_on_after(1):
            await near.send_all(b"cd")
        assert await receive_all(far) == (b"ac", False)


async def test_stall_receiving(autojump_clock: MockClock, pair: Pair) -> None:
    """A stalled receive gets neither data nor EOF, even if it was already waiting; nothing is lost."""
    near, far = pair
    got: list[tuple[bytes, bool]] = []

    async def receive() -> None:
        got.append(await receive_all(near, seconds=20))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.stall_receiving()
            await far.send_all(b"abc")
            await far.send_eof()
            await trio.sleep(5)
            assert near.bytes_received == 0
            near.resume_receiving()
    assert got == [(b"abc", True)]


@pytest.mark.parametrize("n", [0, 1, 4])
async def test_cut_sending(autojump_clock: MockClock, pair: Pair, n: int) -> None:
    """The first n bytes pass; then this end is broken both ways and the other sees EOF."""
    near, far = pair
    await near.send_all(b"..")
    near.cut_sending_at(n)
    with trio.fail_after(5):
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"abcde")
        assert await receive_all(far) == (b".." + b"abcde"[:n], True)
        for call in (near.receive_some, near.send_eof, near.wait_send_all_might_not_block):
            with pytest.raises(trio.BrokenResourceError):
                await call()
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"")
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"x")
    assert near.bytes_sent == n + 2


async def test_a_cut_behind_the_last_byte(autojump_clock: MockClock, pair: Pair) -> None:
    """A send that ends where the cut is succeeds, and a receive that was waiting is broken off."""
    near, far = pair
    near.cut_sending_at(3)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, near)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"abc")
        assert await receive_all(far) == (b"abc", True)


async def expect_broken(stream: trio.abc.Stream) -> None:
    """Receive, and be told that the connection broke."""
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


@pytest.mark.parametrize("n", [0, 1, 4])
async def test_cut_receiving(autojump_clock: MockClock, pair: Pair, n: int) -> None:
    """The first n bytes are returned; then this end is broken both ways and the other sees EOF."""
    near, far = pair
    await far.send_all(b"..")
    with trio.fail_after(5):
        assert await near.receive_some() == b".."
        near.cut_receiving_at(n)
        await far.send_all(b"abcde")
        if n:
            assert await near.receive_some() == b"abcde"[:n]
            assert await receive_all(far) == (b"", True)
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")
        assert await receive_all(far) == (b"", True)


async def test_a_waiting_receive_learns_of_the_cut(autojump_clock: MockClock, pair: Pair) -> None:
    """A receive that was waiting when the cut was set returns no more than the cut allows."""
    near, far = pair
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await near.receive_some() == b"ab"

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.cut_receiving_at(2)
            await far.send_all(b"abcde")


async def test_cut_now(autojump_clock: MockClock, pair: Pair) -> None:
    """``cut`` breaks off calls that wait in either direction, stalled or not."""
    near, far = pair
    near.stall_sending()
    broken: list[str] = []

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"abc")
        broken.append("send")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(expect_broken, near)
            await trio.testing.wait_all_tasks_blocked()
            await near.cut()
        assert broken == ["send"]
        assert await receive_all(far) == (b"", True)


async def test_silence(autojump_clock: MockClock, pair: Pair) -> None:
    """A silent peer takes everything, gives nothing, and closes nothing."""
    near, far = pair
    got: list[tuple[bytes, bool]] = []

    async def receive() -> None:
        got.append(await receive_all(near, seconds=30))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.silence()
            await far.send_all(b"abc")
            await far.send_eof()
            await near.send_all(b"x" * 1000)
            await near.wait_send_all_might_not_block()
            await near.send_eof()
            assert await receive_all(far, seconds=20) == (b"", False)
        assert got == [(b"", False)]
        assert (near.bytes_sent, near.bytes_received) == (0, 0)
        await near.aclose()
        assert await receive_all(far) == (b"", True)


async def test_silence_ends_a_stall(autojump_clock: MockClock, pair: Pair) -> None:
    """A send that is stalled when silence falls succeeds, and its rest is lost."""
    near, far = pair
    near.stall_sending(after=1)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"abc")
            await trio.testing.wait_all_tasks_blocked()
            near.silence()
        assert await receive_all(far) == (b"a", False)


async def test_closing_ends_the_wait(autojump_clock: MockClock, pair: Pair) -> None:
    """Calls that are stalled when the stream is closed are told that it was closed."""
    near, far = pair
    near.stall_sending()
    near.stall_receiving()
    closed: list[str] = []

    async def wait(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call()
        closed.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "send", lambda: near.send_all(b"x"))
            nursery.start_soon(wait, "receive", near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        await near.aclose()
        assert sorted(closed) == ["receive", "send"]
        assert await receive_all(far) == (b"", True)


async def test_one_task_a_direction(autojump_clock: MockClock, pair: Pair) -> None:
    """Two tasks in one direction are an error, stalled or not."""
    near, _ = pair
    near.stall_sending()
    near.stall_receiving()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"x")
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            for call in (near.receive_some, near.send_eof, near.wait_send_all_might_not_block):
                with pytest.raises(trio.BusyResourceError):
                    await call()
            nursery.cancel_scope.cancel()


class Whole(trio.abc.Stream):
    """A stream that cannot be closed in one direction, like TLS; for the rest it is another stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.send_all = stream.send_all  # type: ignore[method-assign]
        self.receive_some = stream.receive_some  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


async def test_a_stream_without_half_close(autojump_clock: MockClock) -> None:
    """It wraps any stream; only ``send_eof`` then says that there is none."""
    inner, far = trio.testing.memory_stream_pair()
    near = FaultyStream(Whole(inner))
    with trio.fail_after(5):
        await near.send_all(b"abc")
        with pytest.raises(TypeError, match="Whole cannot be closed in one direction"):
            await near.send_eof()
        await near.aclose()
        assert await receive_all(far) == (b"abc", True)


async def over_tcp() -> tuple[FaultyStream, trio.SocketStream]:
    """A faulty end and the other end of a TCP connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = FaultyStream(await trio.testing.open_stream_to_socket_listener(listener))
        return near, await listener.accept()


async def test_a_cut_over_sockets() -> None:
    """Over real sockets, too, the bytes before the cut pass and EOF follows them."""
    with trio.fail_after(5):
        near, far = await over_tcp()
        async with near, far:
            near.cut_sending_at(3)
            await near.send_all(b"abc")
            with pytest.raises(trio.BrokenResourceError):
                await near.receive_some()
            assert await receive_all(far, seconds=5) == (b"abc", True)


async def test_a_cut_of_a_send_that_blocks() -> None:
    """A send that waits in the wrapped stream is told that the connection broke, not that it was closed."""
    with trio.fail_after(5):
        near, far = await over_tcp()
        async with near, far, trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError, match="the connection was cut"):
                    await near.send_all(bytes(2**25))

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await near.cut()
