"""The end of a stream: what was written arrives, and nothing hangs."""

from __future__ import annotations

import ssl

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


async def tls_pair() -> tuple[trio.SSLStream[trio.abc.Stream], trio.SSLStream[trio.abc.Stream]]:
    """Server's and client's end of TLS in memory; anonymous, so that nobody needs a certificate."""
    near, far = trio.testing.memory_stream_pair()
    server, client = (ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    client.check_hostname = False
    for context in (server, client):
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("aNULL:@SECLEVEL=0")
    ours = trio.SSLStream[trio.abc.Stream](near, server, server_side=True)
    theirs = trio.SSLStream[trio.abc.Stream](far, client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.do_handshake)
        nursery.start_soon(theirs.do_handshake)
    return ours, theirs


async def test_see_off_tls(autojump_clock: MockClock) -> None:
    """TLS is ended as TLS ends: the peer sees the end at once, and no truncation; again is told as closed."""
    near, far = await tls_pair()
    await near.send_all(b"last")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_off, near)
        assert await far.receive_some() == b"last"
        assert await far.receive_some() == b""
        await far.aclose()
    assert trio.current_time() == 0
    with pytest.raises(trio.ClosedResourceError):
        await see_off(near)
    await close_now(near)


async def test_see_off_tls_of_a_peer_that_sends_on(autojump_clock: MockClock) -> None:
    """What comes behind our end of TLS is drained as from any stream, so that the last words arrive."""
    near, far = await tls_pair()
    await far.send_all(bytes(50_000))
    await near.send_all(b"last")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_off, near)
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"last"
        await far.transport_stream.aclose()
    assert trio.current_time() == 0
    await close_now(near)


async def test_see_off_tls_of_a_peer_that_goes_without_a_word(autojump_clock: MockClock) -> None:
    """A peer that hangs up without an end of TLS has hung up."""
    near, far = await tls_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_off, near)
        await far.transport_stream.aclose()
    assert trio.current_time() == 0
    await close_now(near)


async def test_see_off_tls_of_a_silent_peer(autojump_clock: MockClock) -> None:
    """A peer that does nothing is left when the caller's time is over, and what is below TLS is closed then."""
    near, far = await tls_pair()
    with trio.move_on_after(1):
        await see_off(near)
    await close_now(near)
    assert trio.current_time() == 1
    assert await far.receive_some() == b""
    assert await far.transport_stream.receive_some() == b""


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
