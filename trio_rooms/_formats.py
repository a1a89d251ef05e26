"""Formats joined with frames: one object per wire format, shared by all connections."""

from __future__ import annotations

from typing import Final

import attrs

from ._errors import ActionError
from ._messages.codec import Codec, Id, Plain, V1Json
from ._rooms.publication import Publication
from ._wire.frames import Frame, make_frame


@attrs.frozen(eq=False)
class Format:
    """Makes the frames of one wire format."""

    codec: Codec

    @property
    def v1(self) -> bool:
        """Whether the format has an envelope around what goes out."""
        return self.codec.v1

    def publication(self, publication: Publication) -> Frame:
        """The frame of an event."""
        return _text(self.codec.publication(publication.room, publication.action, publication.data))

    def direct(self, obj: object, action: str | None = None) -> Frame:
        """The frame of a message to one connection."""
        return _text(self.codec.direct(obj, action))

    def reply(self, ident: Id, data: object) -> Frame:
        """The frame of a result."""
        return _text(self.codec.reply(ident, data))

    def item(self, ident: Id, data: object) -> Frame:
        """The frame of one of several results."""
        return _text(self.codec.item(ident, data))

    def end(self, ident: Id) -> Frame:
        """The frame that ends several results."""
        return _text(self.codec.end(ident))

    def error(self, ident: Id | None, error: ActionError) -> Frame:
        """The frame of a failure."""
        return _text(self.codec.error(ident, error))


def _text(payload: bytes) -> Frame:
    return make_frame(payload, text=True)


PLAIN: Final = Format(Plain())
V1_JSON: Final = Format(V1Json())

#: By subprotocol; None is what a client gets that offers none of ours.
FORMATS: Final[dict[str | None, Format]] = {None: PLAIN, V1_JSON.codec.subprotocol: V1_JSON}

#: The subprotocols that are offered.
SUBPROTOCOLS: Final = tuple(name for name in FORMATS if name is not None)
