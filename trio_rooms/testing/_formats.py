"""The wire formats as a client sees them: objects into messages, and back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec
from wsproto.events import BytesMessage, Event, TextMessage

T = TypeVar("T")


class Json:
    """Text, of the standard library's making: another one than the server's."""

    kind = str

    def event(self, obj: object) -> Event:
        """One message to send."""
        return TextMessage(data=json.dumps(obj, separators=(",", ":"), ensure_ascii=False))

    def decode(self, message: Any) -> Any:
        """What a message holds. Raises ValueError."""
        return json.loads(message)


class Msgpack:
    """Bytes."""

    kind = bytes

    def event(self, obj: object) -> Event:
        """One message to send."""
        return BytesMessage(data=msgspec.msgpack.encode(obj))

    def decode(self, message: Any) -> Any:
        """What a message holds. Raises ValueError."""
        try:
            return msgspec.msgpack.decode(message)
        except msgspec.MsgspecError as exc:  # which not every version of it makes a ValueError
            raise ValueError(f"no MessagePack: {exc}") from exc


Format = Json | Msgpack


def format_of(subprotocol: str | None) -> Format:
    """The format that the server has selected: JSON unless it is MessagePack by name."""
    return Msgpack() if subprotocol == "trio-rooms.v1.msgpack" else Json()


def expect(kind: type[T], message: object) -> T:
    """The message, if it is of the kind; else AssertionError."""
    if not isinstance(message, kind):
        raise AssertionError(f"expected a {'text' if kind is str else 'binary'} message, got {message!r}")
    return message
