"""The data of a built-in action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._messages.decoding import Decoders
from .._messages.requests import Request

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


def decode(dispatcher: Dispatcher, decoders: Decoders, request: Request) -> Any:
    """Of the type that ``decoders`` are for. Raises :exc:`BadMessage`."""
    message = request.message
    assert message is not None
    return message._build(decoders, message.raw, dispatcher._limits.max_depth)
