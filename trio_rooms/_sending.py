"""The verbs of a connection that send to its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from ._asks import asks_of
from ._formats import Format
from ._wire.outbox import Outbox

if TYPE_CHECKING:
    from ._connection import Connection

T = TypeVar("T")


class Sending:
    """The half of :class:`Connection` that sends. All of it goes by way of the outbox."""

    __slots__ = ()

    outbox: Outbox
    _format: Format

    async def send(self, obj: object, *, action: str | None = None) -> None:
        """Send a message to this client, waiting for room in its outbox; first come, first served.

        Plain clients get the object as it is (with an action: ``{"action", "data"}``), v1 clients
        ``{"data": obj}``, in JSON or MessagePack. Returns when the message is queued, not when it was received. A peer
        that does not read ends the wait after ``write_timeout`` with :exc:`ConnectionGone`. When it is cancelled,
        nothing was sent. Raises :exc:`EncodingError` and :exc:`MessageTooLarge`. Always a checkpoint.
        """
        await self.outbox.send(self._format.direct(obj, action))

    def send_nowait(self, obj: object, *, action: str | None = None) -> None:
        """As :meth:`send`, but raises :exc:`OutboxFull` (a ``trio.WouldBlock``) where that would wait."""
        self.outbox.send_nowait(self._format.direct(obj, action))

    async def write_json(self, obj: object) -> None:
        """:meth:`send` by the name that readers of the Go package look for."""
        await self.send(obj)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message: to plain and JSON clients a binary frame of these bytes and nothing else.

        MessagePack clients, whose every message is a binary frame, get ``{"data": data}``, as by :meth:`send`, which
        to the others would send base64. Raises :exc:`UsageError` for what is not bytes; else as :meth:`send`.
        """
        await self.outbox.send(self._format.binary(data))

    def send_bytes_nowait(self, data: bytes) -> None:
        """As :meth:`send_bytes`, but raises :exc:`OutboxFull` (a ``trio.WouldBlock``) where that would wait."""
        self.outbox.send_nowait(self._format.binary(data))

    async def request(self, action: str, data: object = None, *, type: type[T] | Any = Any) -> Any:
        """Ask this client, and wait for the data of its answer, decoded as ``type``. Always a checkpoint.

        The client is sent ``{"action", "data", "id"}`` in every format, and answers ``{"id", "data"}`` or
        ``{"id", "error"}``. For how long it may take its time is for the caller to say, with ``trio.fail_after``: there
        is no bound but the end of the connection. It may be asked from anywhere, from a handler of the same connection,
        too: the answer does not wait for that.

        Raises :exc:`AskRefused` if the client answers with an error, :exc:`BadAnswer` if the answer is not a
        ``type``, :exc:`TooManyAsks`, :exc:`ConnectionGone` as soon as the connection ends or is closed, and what
        :meth:`send` raises. In a handler of another connection catch them, and your timeout: they are errors of that
        handler. When it is cancelled, the request is forgotten, a v1 client is told so with ``$cancel``, and a late
        answer is dropped and counted.
        """
        return await asks_of(cast("Connection", self)).ask(action, data, type)
