"""The handshake of TLS, which comes before the request and shares its deadline."""

from __future__ import annotations

import ssl

import trio

from .ending import GONE
from .head import Hangup


async def secure(stream: trio.abc.Stream, *, deadline: float) -> None:
    """Complete the handshake of TLS, where the stream has one; else nothing, and no checkpoint.

    Raises Hangup where that fails: nothing can be answered to a peer with which there is no TLS. After a cancel the
    stream can only be closed.
    """
    if not isinstance(stream, trio.SSLStream):
        return
    try:
        with trio.move_on_at(deadline) as scope:
            await stream.do_handshake()
    except GONE as exc:
        raise Hangup("tls_failed" if _is_of_tls(exc.__cause__) else "eof") from exc
    if scope.cancelled_caught:
        raise Hangup("timeout")


def _is_of_tls(cause: BaseException | None) -> bool:
    """Whether the peer said something that is not TLS, or not to our taste, and did not just go away."""
    # Not each version of Python has a type of its own for the end of the stream.
    return (
        isinstance(cause, ssl.SSLError)
        and not isinstance(cause, ssl.SSLEOFError)
        and "UNEXPECTED_EOF" not in (cause.reason or "")
    )
