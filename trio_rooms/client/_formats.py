"""The two formats: objects into messages, and messages into objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from .._errors import EncodingError
from ._errors import ServerViolation

Message = str | bytes


@attrs.frozen
class Format:
    """One format, by its subprotocol."""

    subprotocol: str
    _encode: Callable[[object], Message]
    _decode: Callable[[Any], Any]
    _text: bool

    def encode(self, obj: object) -> Message:
        """One message. Raises EncodingError."""
        try:
            return self._encode(obj)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
            raise EncodingError(f"cannot be encoded: {exc}") from exc

    def freeze(self, obj: object) -> msgspec.Raw:
        """What can be part of messages later, as it is now. Raises EncodingError."""
        return msgspec.Raw(self.encode(obj))

    def decode(self, message: Message) -> dict[str, Any]:
        """The envelope in a message. A binary message of JSON is a direct one. Raises ServerViolation."""
        if self._text and isinstance(message, bytes):
            return {"data": message}
        if self._text is not isinstance(message, str):
            raise ServerViolation("a text message in a binary format")
        try:
            found = self._decode(message)
        except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
            raise ServerViolation(f"a message cannot be decoded: {exc}") from exc
        if not isinstance(found, dict):
            raise ServerViolation("a message is no object")
        return found


FORMATS: Final = {
    "json": Format("trio-rooms.v1.json", lambda obj: msgspec.json.encode(obj).decode(), msgspec.json.decode, True),
    "msgpack": Format("trio-rooms.v1.msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode, False),
}
