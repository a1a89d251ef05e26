"""The errors of the library, and the codes that go over the wire.

::

    RoomsError
    ├── UsageError                the program called us wrongly (a bug to fix, not an event to handle)
    │   ├── NotServing            the manager is not being served
    │   ├── AlreadyServing        it is, and must not be for this call
    │   └── EncodingError         an object cannot be encoded in a wire format
    ├── Refuse                    raised by ``authenticate``: answer the handshake with this status
    ├── ConnectionGone            the connection has ended, or never existed
    ├── MessageTooLarge           larger than an outbox could ever hold
    ├── OutboxFull                (also trio.WouldBlock) no room in the outbox now
    ├── BrokerBusy                (also trio.WouldBlock) no room in the broker's queue now
    ├── HookTimeout               (also TimeoutError) a hook ran longer than ``hook_timeout``
    ├── SubscriptionLost          a task that follows a room has missed events
    ├── AskFailed                 ``conn.request`` has no answer to return
    │   └── AskRefused, BadAnswer, TooManyAsks
    └── ActionError               told to the client as ``{"code", "message", "temporary"}``
        ├── BadMessage, UnknownAction, DuplicateId, NeedsV1
        ├── JoinError             a join did not happen
        │   └── BadRoom, RoomNotFound, RoomFull, RoomFailed, RoomClosed, TooManyRooms, Denied
        ├── UnrecoverablePosition a position that is not in the room's stream
        └── EntryTooLarge, RequestCancelled, DeadlineExceeded, Busy, InternalError

What a client is told is a code and a fixed text. The text of any other exception
stays in the log (invariant 9), unless the manager was made with ``debug=True``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import trio


class CloseCode(IntEnum):
    """WebSocket close codes that the library sends.

    1000-1015 are RFC 6455 section 7.4.1 and the IANA registry. Ours follow Centrifugo's rule:
    4000-4499 ask the client to reconnect, 4500-4999 ask it not to.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    SLOW_CONSUMER = 4008
    INSUFFICIENT_STATE = 4010
    REJECTED = 4500
    REPLACED = 4501


class RoomsError(Exception):
    """Base class of every error that the library raises."""


class UsageError(RoomsError):
    """The library was called in a way that can never work; fix the program."""


class NotServing(UsageError):
    """The call needs a manager that is being served (``serve_rooms`` or ``manager.serve``)."""


class AlreadyServing(UsageError):
    """The call is only possible while the manager is not being served.

    Handlers, hooks, middleware, pages and room options are fixed when ``serve`` begins; and
    one manager cannot be served twice at the same time.
    """


class EncodingError(UsageError):
    """An object that was sent or published cannot be encoded in a wire format."""


class Refuse(RoomsError):
    """Raise it in ``authenticate`` to answer the handshake with ``status`` and ``code``.

    ``status`` is an HTTP status of 400 to 599; ``code`` is sent to the client in a short JSON body.
    """

    def __init__(self, status: int, code: str = "REFUSED") -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"status must be 400..599, not {status}")
        super().__init__(status, code)
        self.status = status
        self.code = code


class ConnectionGone(RoomsError):
    """The connection has ended, is ending, or never existed."""


class MessageTooLarge(RoomsError):
    """One message is larger than ``limits.outbox_bytes``; no outbox could ever hold it."""


class OutboxFull(RoomsError, trio.WouldBlock):
    """The connection's outbox has no room for the message; nothing was sent."""


class BrokerBusy(RoomsError, trio.WouldBlock):
    """The broker's queue is at its bound; nothing was published."""


class HookTimeout(RoomsError, TimeoutError):
    """A hook was cancelled because it ran longer than ``config.hook_timeout``."""


class SubscriptionLost(RoomsError):
    """Events of the room were missed; raised where a subscription is iterated, behind those that were not.

    Its task was too slow and the policy is "close", or the room's stream has a hole or has begun anew. Subscribe again,
    ``since`` the position that it has come to, to get what was missed or to learn that it is gone.
    """


class AskFailed(RoomsError):
    """A request to a client (``conn.request``) has no result; the subclass says why.

    No ActionError: what one client answers is not for another one, whose handler may have asked.
    """


class AskRefused(AskFailed):
    """The client answered a request with an error.

    ``code``, ``message`` and ``temporary`` are what it says: made up by the client, and as long as its messages may be.
    """

    def __init__(self, code: str, message: str = "", *, temporary: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.temporary = temporary

    def __str__(self) -> str:
        return f"the client answered {self.code[:200]!r}: {self.message[:200]!r}"


class BadAnswer(AskFailed):
    """The client's answer to a request could not be decoded, or is not of the type that was asked for."""


class TooManyAsks(AskFailed):
    """``limits.max_pending_asks`` requests wait for answers of this client; nothing was sent."""


class ActionError(RoomsError):
    """An error that the client is told: raise it in a handler, a hook or middleware.

    ``code`` is a short constant for programs, ``message`` a text for people, and
    ``temporary=True`` tells the client that the same request may succeed later
    (Centrifugo's meaning of the flag).
    """

    def __init__(self, code: str, message: str = "", *, temporary: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.temporary = temporary


class _CodedError(ActionError):
    """An ActionError whose class fixes its code."""

    _CODE: ClassVar[str]
    _MESSAGE: ClassVar[str]
    _TEMPORARY: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(self._CODE, self._MESSAGE if message is None else message, temporary=self._TEMPORARY)


def is_ours(error: ActionError) -> bool:
    """Whether the code is one of the library's, of which there are few; a program may make them up as it goes."""
    return isinstance(error, _CodedError)


class BadMessage(_CodedError):
    """A message could not be decoded; the text names the field that is wrong."""

    _CODE = "BAD_MESSAGE"
    _MESSAGE = "the message is malformed"


class UnknownAction(_CodedError):
    """No handler is registered for the message's action."""

    _CODE = "UNKNOWN_ACTION"
    _MESSAGE = "no such action"


class DuplicateId(_CodedError):
    """A request used the id of a request that is still in flight."""

    _CODE = "DUPLICATE_ID"
    _MESSAGE = "a request with this id is in flight"


class NeedsV1(_CodedError):
    """The action exists only in the ``trio-rooms.v1`` formats."""

    _CODE = "NEEDS_V1"
    _MESSAGE = "this needs a trio-rooms.v1 subprotocol"


class Busy(_CodedError):
    """Too many requests of this connection are in flight."""

    _CODE = "BUSY"
    _MESSAGE = "too many requests in flight"
    _TEMPORARY = True


class EntryTooLarge(_CodedError):
    """An entry of a room's presence is larger than ``max_entry_bytes``, or does not fit into ``max_bytes``."""

    _CODE = "ENTRY_TOO_LARGE"
    _MESSAGE = "the entry is too large"


class RequestCancelled(_CodedError):
    """The client cancelled the request with ``$cancel``."""

    _CODE = "CANCELLED"
    _MESSAGE = "the request was cancelled"


class DeadlineExceeded(_CodedError):
    """The request's ``timeout_ms``, or ``limits.handler_timeout``, has passed."""

    _CODE = "DEADLINE_EXCEEDED"
    _MESSAGE = "the deadline has passed"
    _TEMPORARY = True


class UnrecoverablePosition(_CodedError):
    """The history was asked for from a position of another epoch, or above the top (Centrifugo's error 112)."""

    _CODE = "UNRECOVERABLE_POSITION"
    _MESSAGE = "the position is not in the room's stream"


class InternalError(_CodedError):
    """What a client is told when a handler failed with an exception that is not an ActionError."""

    _CODE = "INTERNAL"
    _MESSAGE = "internal error"

    fatal: bool = False
    """Whether the connection is closed with 1011 once the client has been told."""


class JoinError(_CodedError):
    """A join did not happen; the subclass and its code say why."""

    _CODE = "JOIN_FAILED"
    _MESSAGE = "the join failed"


class BadRoom(JoinError):
    """The room's name is not allowed (see the rules in ``docs/security.md``); also for what is published to one."""

    _CODE = "BAD_ROOM"
    _MESSAGE = "not a valid room name"


class RoomNotFound(JoinError):
    """``config.rooms`` is "declared" and no registered pattern matches the name."""

    _CODE = "ROOM_NOT_FOUND"
    _MESSAGE = "no such room"


class RoomFull(JoinError):
    """The room has reached its capacity, counting joins that are under way."""

    _CODE = "ROOM_FULL"
    _MESSAGE = "the room is full"
    _TEMPORARY = True


class RoomFailed(JoinError):
    """``on_room_open`` raised, so the room did not open; members of a room whose task raised see the code, too."""

    _CODE = "ROOM_FAILED"
    _MESSAGE = "the room has failed"
    _TEMPORARY = True


class RoomClosed(JoinError):
    """The room was closed, or the member left or was removed, while the join was under way."""

    _CODE = "CLOSED"
    _MESSAGE = "the room was closed"
    _TEMPORARY = True


class TooManyRooms(JoinError):
    """The connection, or this node, has reached its limit of rooms."""

    _CODE = "TOO_MANY_ROOMS"
    _MESSAGE = "too many rooms"


class Denied(JoinError):
    """The room's ``authorize`` or ``allow_publish`` said no, or there is none; or who publishes is no member."""

    _CODE = "DENIED"
    _MESSAGE = "not allowed"
