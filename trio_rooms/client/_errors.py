"""The errors of the client.

::

    RoomsError
    └── ClientError
        ├── RequestFailed     the server's answer is an error: code, message, temporary
        ├── NotConfirmed      the connection was lost before the answer: done or not, nobody knows
        ├── RoomEnded         no longer a member, and not to be again by itself: code, message
        ├── ClientEnded       the client will not connect again: code or status, reason
        └── StreamOverflow    the items of a streamed reply were not taken fast enough

They are no ``ActionError``: a server that is a client of another one would tell its own clients what that one said.
"""

from __future__ import annotations

from .._errors import RoomsError


class ClientError(RoomsError):
    """Base class of what :mod:`trio_rooms.client` raises beside usage errors."""


class RequestFailed(ClientError):
    """The server answered with an error.

    ``code`` is for programs and ``message`` for people; with ``temporary`` the same request may succeed later.
    """

    def __init__(self, code: str, message: str = "", *, temporary: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.temporary = temporary


class NotConfirmed(ClientError):
    """The connection was lost between a request and its answer: it may or may not have been done."""


class RoomEnded(ClientError):
    """The client is no longer a member of the room, by decision of the server; ``code`` and ``message`` say why."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class ClientEnded(ClientError):
    """The client has no connection and makes no other.

    ``code`` is the close code that forbids to come back, or 1000 when the block was left, and ``reason`` its text.
    ``status`` is the HTTP status if the upgrade was refused for good; then ``code`` is 1006, and ``reason`` the code in
    the body of the refusal, if there was one.
    """

    def __init__(self, code: int, reason: str = "", *, status: int | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.status = status


class StreamOverflow(ClientError):
    """More items of a streamed reply wait than ``buffer_messages`` or ``buffer_bytes`` admit; it was cancelled."""


class LinkLost(Exception):
    """This connection takes nothing any more. Internal."""


class ServerViolation(Exception):
    """The server broke the protocol; the text says how. Internal."""


class Refused(Exception):
    """The answer to the upgrade is another status than 101. Internal."""

    def __init__(self, status: int, code: str, retry_after: float | None) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.retry_after = retry_after
