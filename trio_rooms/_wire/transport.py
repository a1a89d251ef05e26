"""What a connection asks of a transport, and how it learns that there is nothing more to ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import attrs

from .frames import Frame


@attrs.frozen
class Close:
    """How a connection ended; given to ``on_disconnect``."""

    code: int
    """The close code: the peer's, ours, or 1006 where no close frame came."""

    reason: str = ""
    """The text of the close frame that ended it, or ours for the log."""

    by: Literal["peer", "server", "network"] = "server"
    """Who ended it: the peer with a close frame, this server, or neither (end of file, reset, silence)."""

    @property
    def reconnect(self) -> bool:
        """Whether the code invites the client to connect again (Centrifugo's rule for 4000-4999)."""
        return self.code in (1001, 1006, 1012, 1013) or 4000 <= self.code < 4500


#: Reasons of a close by which the limit can be told that was reached.
TOO_BIG: Final = "message too big"
TOO_MANY_FRAGMENTS: Final = "too many fragments"
MESSAGE_TOO_SLOW: Final = "a message took too long"


class TransportClosed(Exception):
    """Nothing more will come from the transport, or can be written to it. Internal."""

    def __init__(self, close: Close) -> None:
        super().__init__(close)
        self.close = close


class Transport(Protocol):
    """One open WebSocket, whatever carries it.

    One task receives, one task writes. A write that was cancelled or failed may have torn a frame: the calls that
    make sense afterwards are :meth:`close`, which completes the frame if that is possible and else only closes the
    stream, and :meth:`abort`.
    """

    on_control: Callable[[], None]
    """Called when ``control_due`` has become true; set by whoever writes."""

    @property
    def direct(self) -> Callable[[bytes], int] | None:
        """The send of its plain socket, which never waits; None if there is none.

        For whole frames, while nothing else is being written. What it takes a part of must be completed: tell
        ``keep_rest``, and await ``send_rest``.
        """

    @property
    def control_due(self) -> bool:
        """Whether the receiving side owes the peer a control frame that ``send_control`` would write."""

    @property
    def peer_closed(self) -> bool:
        """Whether the peer's close frame has come and ``send_control`` answers it; ``close`` does so, too."""

    @property
    def last_heard(self) -> float:
        """``trio.current_time()`` of the last sign of life: any bytes, not only pongs."""

    @property
    def paused(self) -> bool:
        """Whether reading is held back by us, so that silence says nothing about the peer."""

    @property
    def rtt(self) -> float | None:
        """Seconds from the last answered ping to its pong."""

    async def receive(self) -> str | bytes:
        """The next message. Always a checkpoint, unless more than one message was read at once.

        Raises :exc:`TransportClosed`, and does so again each time. A cancel loses no message, and another task may
        receive next.
        """

    async def send(self, frames: Sequence[Frame]) -> int:
        """Write as many of the frames, in order, as make one write; how many, at least one.

        The caller comes back with the rest, so that it can give each write its own time: where every frame is a
        write, a long batch on a busy server takes long without anybody being slow. Raises :exc:`TransportClosed`.
        """

    def keep_rest(self, data: bytes, taken: int) -> None:
        """``direct`` has taken so many bytes of ``data``, at least one and not all; the rest goes before all else."""

    async def send_rest(self) -> None:
        """Complete what ``direct`` has begun; a cancel leaves the rest. Raises :exc:`TransportClosed`."""

    async def send_control(self) -> None:
        """Write a control frame that is due. Raises :exc:`TransportClosed`."""

    async def ping(self) -> None:
        """Write a ping, without waiting for the pong. Raises :exc:`TransportClosed`."""

    def offer_control(self) -> bool:
        """As ``send_control``, where there is ``direct``, for which the same holds; never waits.

        Whether all was written. If not, the rest goes before all else: await ``send_rest``. Raises
        :exc:`TransportClosed`; then it is still due.
        """

    def offer_ping(self) -> bool:
        """The same for a ping."""

    async def close(self, code: int, reason: str) -> None:
        """The closing handshake, then the end of the stream. The caller bounds it in time.

        However it ends, cancelled included, the stream is closed. Never raises for a peer that is gone.
        """

    async def abort(self) -> None:
        """Close the stream at once, without a close frame. Idempotent."""


class Offer(Protocol):
    """An upgrade that was judged valid and may be accepted."""

    async def accept(self) -> Transport:
        """Send the 101. Raises :exc:`TransportClosed` if the peer has gone before it was out."""
