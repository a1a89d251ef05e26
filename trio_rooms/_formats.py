"""Formats joined with frames: one object per wire format, shared by all connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from ._errors import ActionError, UsageError
from ._messages import envelope
from ._messages.codec import Codec, Id, Plain, V1Json, V1Msgpack
from ._messages.envelope import Message
from ._messages.packing import Packed, pack_event
from ._rooms.history import HistoryItem
from ._rooms.publication import Publication
from ._wire.frames import Frame, make_frame


@attrs.frozen(eq=False)
class Format:
    """Makes the frames of one wire format, and messages of what comes in them."""

    codec: Codec
    parse: Callable[..., Message] = envelope.JSON.parse
    """See :class:`~trio_rooms._messages.envelope.Parser`."""
    text: bool = True
    """Whether messages are text frames; else they are binary ones."""

    @property
    def v1(self) -> bool:
        """Whether the format has an envelope around what goes out."""
        return self.codec.v1

    def publication(self, publication: Publication) -> Frame:
        """The frame of an event."""
        data = publication.data if self.text else packed(publication)
        payload = self.codec.publication(publication.room, publication.action, data, publication.offset)
        return make_frame(payload, text=self.text)

    def marker(self, publication: Publication) -> Frame:
        """The frame for a member that an event of a room with history is not for."""
        return self._frame(self.codec.marker(publication.room, publication.offset))

    def size_of(self, item: HistoryItem) -> int:
        """The bytes of an event that was kept."""
        return len(item.raw if self.text else item.packed)

    def kept(self, item: HistoryItem) -> dict[str, Any]:
        """An event that was kept, to be sent in a reply."""
        return {"offset": item.offset, "data": msgspec.Raw(item.raw) if self.text else Packed(item.packed)}

    def direct(self, obj: object, action: str | None = None) -> Frame:
        """The frame of a message to one connection."""
        return self._frame(self.codec.direct(obj, action))

    def binary(self, data: bytes) -> Frame:
        """The frame of bytes to one connection: they alone, unless messages are binary frames themselves."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise UsageError(f"a binary message is bytes, not {type(data).__name__}")
        return make_frame(bytes(data), text=False) if self.text else self.direct(data)

    def ask(self, ident: str, action: str, data: object) -> Frame:
        """The frame of a request to the client."""
        return self._frame(self.codec.ask(ident, action, data))

    def reply(self, ident: Id, data: object) -> Frame:
        """The frame of a result."""
        return make_frame(self.codec.reply(ident, data), text=self.text)  # without a call between: one for each request

    def item(self, ident: Id, data: object) -> Frame:
        """The frame of one of several results."""
        return self._frame(self.codec.item(ident, data))

    def end(self, ident: Id) -> Frame:
        """The frame that ends several results."""
        return self._frame(self.codec.end(ident))

    def error(self, ident: Id | None, error: ActionError) -> Frame:
        """The frame of a failure."""
        return self._frame(self.codec.error(ident, error))

    def _frame(self, payload: bytes) -> Frame:
        return make_frame(payload, text=self.text)


def packed(publication: Publication) -> bytes:
    """An event in MessagePack, encoded at the first call. Never raises."""
    whole = publication.whole or publication
    if whole.packed is None:
        event = msgspec.Raw(whole.data) if whole.event is msgspec.UNSET else whole.event
        whole.packed = pack_event(event, whole.data)
    return whole.packed


PLAIN: Final = Format(Plain())
V1_JSON: Final = Format(V1Json())
V1_MSGPACK: Final = Format(V1Msgpack(), envelope.MSGPACK.parse, text=False)

#: By subprotocol; None is what a client gets that offers none of ours.
FORMATS: Final[dict[str | None, Format]] = {form.codec.subprotocol: form for form in (PLAIN, V1_JSON, V1_MSGPACK)}

#: The subprotocols that are offered.
SUBPROTOCOLS: Final = tuple(name for name in FORMATS if name is not None)
