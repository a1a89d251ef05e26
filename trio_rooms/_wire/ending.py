"""The end of a stream, so that what was written last arrives and nothing hangs."""

from __future__ import annotations

import contextlib
from typing import Final

import trio

#: What a stream raises when its peer, or we, have closed it.
GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

_MAX_DRAIN_BYTES = 64 * 1024
_CLOSE_TIMEOUT = 1.0


async def see_off(stream: trio.abc.Stream) -> None:
    """Say that we are done and read on, a bounded amount, until the peer is done too. The caller bounds the time.

    Closing a socket with unread bytes in it sends a reset, which may overtake what was written and destroy it.
    """
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    remaining = _MAX_DRAIN_BYTES
    while remaining > 0:
        data = await stream.receive_some(remaining)
        if not data:
            return
        remaining -= len(data)


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close without being polite, from a cancelled task too.

    Shielded, because otherwise the Cancelled of a cancelled task would take the place of what is propagating.
    """
    with trio.move_on_after(_CLOSE_TIMEOUT, shield=True), contextlib.suppress(*GONE):
        await trio.aclose_forcefully(stream)
