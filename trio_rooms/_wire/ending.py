"""The end of a stream, so that what was written last arrives and nothing hangs."""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from .plain import PlainStream

#: What a stream raises when its peer, or we, have closed it.
GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

_MAX_DRAIN_BYTES = 64 * 1024
_CLOSE_TIMEOUT = 1.0


async def see_off(stream: trio.abc.Stream) -> None:
    """Say that we are done and read on, a bounded amount, until the peer is done too. The caller bounds the time.

    Closing a socket with unread bytes in it sends a reset, which may overtake what was written and destroy it.
    """
    if isinstance(stream, trio.SSLStream):
        await _see_off_tls(stream)
        return
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    remaining = _MAX_DRAIN_BYTES
    while remaining > 0:
        data = await stream.receive_some(remaining)
        if not data:
            return
        remaining -= len(data)


async def _see_off_tls(stream: trio.SSLStream[trio.abc.Stream]) -> None:
    """The same below TLS, which has an end of its own, and cannot be ended in one direction.

    Without its close_notify a proper end looks like a truncation to the peer, or like none, and it goes on waiting.
    """
    below = stream.transport_stream
    with contextlib.suppress(trio.BrokenResourceError):  # the peer may go without a close_notify, or send on
        await stream.unwrap()
    try:
        await see_off(below)
    finally:
        await close_now(below)  # noqa: ASYNC102 - it shields itself; a stream that was unwrapped does not close it


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close without being polite, from a cancelled task too.

    Shielded, because otherwise the Cancelled of a cancelled task would take the place of what is propagating.
    A socket is closed at once, without a checkpoint.
    """
    if isinstance(stream, PlainStream):
        with contextlib.suppress(OSError):
            stream.close()
        return
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            stream.socket.close()
        return
    with trio.move_on_after(_CLOSE_TIMEOUT, shield=True), contextlib.suppress(*GONE):
        await trio.aclose_forcefully(stream)
