"""The data of a built-in action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .._messages.decoding import Decoders
from .._messages.requests import Request
from .._rooms.history import Position

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


class Since(msgspec.Struct):
    """A position, as a client gives it."""

    epoch: str
    offset: int

    @property
    def position(self) -> Position:
        """As the library has it."""
        return Position(self.offset, self.epoch)


def decode(dispatcher: Dispatcher, decoders: Decoders, request: Request) -> Any:
    """Of the type that ``decoders`` are for. Raises :exc:`BadMessage`."""
    message = request.message
    assert message is not None
    return message._build(decoders, message.raw, dispatcher._limits.max_depth)
