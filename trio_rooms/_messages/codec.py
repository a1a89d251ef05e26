"""Formats: what goes over the wire for each kind of message. Bytes in, bytes out; frames are made elsewhere.

``plain`` is what the Go package spoke: outbound is exactly the object that was sent. ``trio-rooms.v1.json``
takes the same inbound fields and puts an envelope around what goes out, so that a client can tell replies,
publications and direct messages apart. ``trio-rooms.v1.msgpack`` is the same in MessagePack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from .._errors import ActionError, EncodingError
from .packing import pack, wrap

#: What a client calls a request: a 64-bit integer or a short string.
Id = int | str

_encoder = msgspec.json.Encoder()


def encode(obj: object) -> bytes:
    """JSON of anything that msgspec encodes. Raises :exc:`EncodingError`.

    That is builtins, attrs and dataclasses, datetimes, UUIDs, enums, and bytes as base64. NaN and infinities
    become null.
    """
    try:
        return _encoder.encode(obj)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise EncodingError(f"cannot encode {type(obj).__name__} as JSON: {exc}") from exc


class Codec(Protocol):
    """One wire format."""

    @property
    def subprotocol(self) -> str | None:
        """How a client asks for it; None for what a client gets that asks for nothing."""
        ...

    @property
    def v1(self) -> bool:
        """Whether there is an envelope around what goes out."""
        ...

    def publication(self, room: str | None, action: str | None, data: bytes, offset: int | None) -> bytes:
        """An event of a room (None: for everybody), already encoded in JSON, or in MessagePack for that format."""

    def marker(self, room: str | None, offset: int | None) -> bytes:
        """That an event of the room has been, which this member does not get."""

    def direct(self, obj: object, action: str | None) -> bytes:
        """A message to one connection."""

    def ask(self, ident: str, action: str, data: object) -> bytes:
        """A request to the client."""

    def reply(self, ident: Id, data: object) -> bytes:
        """The result of a request."""

    def item(self, ident: Id, data: object) -> bytes:
        """One of the results of a streaming request."""

    def end(self, ident: Id) -> bytes:
        """The end of a streaming request."""

    def error(self, ident: Id | None, error: ActionError) -> bytes:
        """The failure of a request, or of a message without an id."""


class _Replies:
    """Replies, and requests to the client, are the same in all formats: an ``id`` is honoured in plain, too."""

    def __init__(self, encode: Callable[[object], bytes] = encode) -> None:
        self._encode = encode

    def ask(self, ident: str, action: str, data: object) -> bytes:
        return self._encode({"action": action, "data": data, "id": ident})

    def reply(self, ident: Id, data: object) -> bytes:
        encode = self._encode  # quicker so than called as an attribute
        return encode({"id": ident, "data": data})

    def item(self, ident: Id, data: object) -> bytes:
        return self._encode({"id": ident, "data": data, "more": True})

    def end(self, ident: Id) -> bytes:
        return self._encode({"id": ident, "more": False})

    def error(self, ident: Id | None, error: ActionError) -> bytes:
        told = {"code": error.code, "message": error.message, "temporary": error.temporary}
        return self._encode({"error": told} if ident is None else {"id": ident, "error": told})


class Plain(_Replies):
    """No subprotocol: what was sent, as it is."""

    subprotocol: str | None = None
    v1 = False

    def publication(self, room: str | None, action: str | None, data: bytes, offset: int | None) -> bytes:
        return data if action is None else encode({"action": action, "data": msgspec.Raw(data)})

    def marker(self, room: str | None, offset: int | None) -> bytes:
        raise NotImplementedError("a plain client knows no positions")

    def direct(self, obj: object, action: str | None) -> bytes:
        return encode(obj if action is None else {"action": action, "data": obj})


class V1Json(_Replies):
    """``trio-rooms.v1.json``: an envelope around everything."""

    subprotocol: str | None = "trio-rooms.v1.json"
    v1 = True

    def __init__(
        self, encode: Callable[[object], bytes] = encode, wrap: Callable[[dict[str, Any]], bytes] = encode
    ) -> None:
        super().__init__(encode)
        self._wrap = wrap  # around what is encoded already

    def publication(self, room: str | None, action: str | None, data: bytes, offset: int | None) -> bytes:
        envelope: dict[str, Any] = {}
        if room is not None:
            envelope["room"] = room
        if action is not None:
            envelope["action"] = action
        if offset is not None:
            envelope["offset"] = offset
        envelope["data"] = msgspec.Raw(data)
        wrap = self._wrap
        return wrap(envelope)

    def marker(self, room: str | None, offset: int | None) -> bytes:
        return self._encode({"room": room, "offset": offset})

    def direct(self, obj: object, action: str | None) -> bytes:
        return self._encode({"data": obj} if action is None else {"action": action, "data": obj})


class V1Msgpack(V1Json):
    """``trio-rooms.v1.msgpack``: the same envelope in MessagePack."""

    subprotocol: str | None = "trio-rooms.v1.msgpack"

    def __init__(self) -> None:
        super().__init__(pack, wrap)
