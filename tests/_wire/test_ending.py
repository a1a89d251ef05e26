"""The end of a stream: what was written arrives, and nothing hangs."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_rooms._wire.ending import close_now, see_off
from trio_rooms.testing import FaultyStream


async def test_see_off_reads_until_the_peer_is_done() -> None:
    """Our side ends first, then the peer's bytes are read up to its end."""
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(b"unread")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_off, near)
        assert await far.receive_some() == b""
        await far.send_all(b"still more")
        await far.aclose()


async def test_see_off_is_bounded() -> None:
    """A peer that sends without end is read for 64 KiB, no more."""
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(bytes(70_000))
    await see_off(near)
    assert len(await near.receive_some()) == 70_000 - 64 * 1024


async def test_see_off_a_stream_of_one_piece(autojump_clock: MockClock) -> None:
    """A stream that cannot be closed in one direction (TLS) is only read."""
    near, far = trio.testing.memory_stream_one_way_pair()

    class Whole(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise NotImplementedError

        async def wait_send_all_might_not_block(self) -> None:
            raise NotImplementedError

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await far.receive_some(max_bytes)

        async def aclose(self) -> None:
            await far.aclose()

    await near.aclose()
    await see_off(Whole())


@pytest.mark.parametrize("cancelled", [False, True])
async def test_close_now(cancelled: bool) -> None:
    """The stream is closed, from a cancelled task, too, and without a Cancelled that would hide another exception."""
    near, far = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        if cancelled:
            scope.cancel()
        await close_now(near)
    assert not scope.cancelled_caught
    assert await far.receive_some() == b""
    await close_now(near)


@pytest.mark.parametrize("error", [OSError(9, "bad"), trio.BrokenResourceError(), trio.ClosedResourceError()])
async def test_close_now_of_what_is_gone(error: Exception) -> None:
    """A stream whose close fails is closed all the same."""
    near, _ = trio.testing.memory_stream_pair()

    class Failing(FaultyStream):
        async def aclose(self) -> None:
            await super().aclose()
            raise error

    await close_now(Failing(near))


async def test_close_now_is_not_nice(autojump_clock: MockClock) -> None:
    """A stream that would like to take its time is not waited for."""

    class Polite(trio.abc.AsyncResource):
        async def aclose(self) -> None:
            await trio.sleep_forever()

    began = trio.current_time()
    await close_now(Polite())
    assert trio.current_time() == began
