"""Inbound messages: the envelope is decoded at once, the payload stays raw until its handler is known."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import msgspec

from .._config import Limits
from .._errors import BadMessage
from .codec import Id

T = TypeVar("T")

_UNSET: Any = object()

# msgspec reports invalid UTF-8 and deep nesting with exceptions that are not its own.
_DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


_RULE_OF_IDS = "an id is a 64-bit integer or a string of at most {} characters, none of them a control character"


class _Envelope(msgspec.Struct, gc=False):  # it lives no longer than a call, and is in no cycle
    action: str | None = None
    type: Any = None
    data: msgspec.Raw = msgspec.Raw()
    id: int | str | None = None
    room: str | None = None
    timeout_ms: float | None = None


class _OnlyId(msgspec.Struct):
    id: int | str | None = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_id_decoder = msgspec.json.Decoder(_OnlyId)


@attrs.define(eq=False)
class Message:
    """One message from a client, its payload not yet decoded."""

    action: str | None
    """What is asked for; None only for messages that a ``session`` reads."""
    id: Id | None
    """Chosen by the client; a request with an id gets a reply."""
    room: str | None
    """The room that the client addressed, as it came; not checked."""
    deadline: float
    """The trio time at which the client stops waiting (``timeout_ms`` after arrival); ``inf`` without."""
    raw: bytes
    """The payload (``data``) in JSON as it came; empty if there was none."""
    text: str
    """The whole message as it came."""
    _max_depth: int = attrs.field(repr=False)
    _data: Any = attrs.field(default=_UNSET, init=False, repr=False)

    @property
    def data(self) -> Any:
        """The payload as builtins, None if there was none. Raises :exc:`BadMessage` if it is nested too deep."""
        if self._data is _UNSET:
            self._data = self.decode(Any)
        return self._data

    def decode(self, type: type[T]) -> T:
        """The payload as ``type``: anything that msgspec can build. Raises :exc:`BadMessage` with the path."""
        return decode_as(msgspec.json.Decoder(type), self.raw, max_depth=self._max_depth)


def parse(text: str, limits: Limits, *, clock: Callable[[], float]) -> Message:
    """Decode the envelope of a message. Raises :exc:`Malformed`. The clock is asked where there is a ``timeout_ms``."""
    try:
        envelope = _envelope_decoder.decode(text)
    except _DECODE_ERRORS as exc:
        raise Malformed(_told(exc), _salvage_id(text, limits)) from exc
    action = envelope.action
    if action is None and isinstance(envelope.type, str):
        action = envelope.type
    ident = envelope.id
    if ident is not None and not _is_id(ident, limits):
        raise Malformed(_RULE_OF_IDS.format(limits.max_id_chars), None)
    timeout = envelope.timeout_ms
    if timeout is not None and not timeout > 0:
        raise Malformed("timeout_ms is a positive number", ident)
    deadline = math.inf if timeout is None else clock() + timeout / 1000
    return Message(action, ident, envelope.room, deadline, bytes(envelope.data), text, limits.max_depth)


class Malformed(BadMessage):
    """A message that could not be parsed, with its id if at least that was readable. Internal."""

    def __init__(self, message: str, ident: Id | None) -> None:
        super().__init__(message)
        self.ident = ident


def decode_as(decoder: msgspec.json.Decoder[T], raw: bytes, *, max_depth: int) -> T:
    """Decode a payload; absent is null. Raises :exc:`BadMessage` with a text fit for the client."""
    try:
        if raw.count(b"[") + raw.count(b"{") > max_depth:
            _check_depth(raw, max_depth)
        return decoder.decode(raw or b"null")
    except _DECODE_ERRORS as exc:
        raise BadMessage(_told(exc)) from exc


def checked(raw: bytes, *, max_depth: int) -> bytes:
    """A payload as JSON, with null for an absent one. Raises :exc:`BadMessage` if it is nested too deep."""
    try:
        if raw.count(b"[") + raw.count(b"{") > max_depth:
            _check_depth(raw, max_depth)
    except _DECODE_ERRORS as exc:
        raise BadMessage(_told(exc)) from exc
    return raw or b"null"


def _told(exc: Exception) -> str:
    """What the client is told: msgspec's texts speak of the client's own data and nothing else."""
    if isinstance(exc, RecursionError):
        return "nested too deep"
    if isinstance(exc, msgspec.MsgspecError):
        return str(exc)[:200]
    return "not valid UTF-8"


def _is_id(ident: Id, limits: Limits) -> bool:
    if isinstance(ident, int):
        return -(2**63) <= ident < 2**63
    # What is printable holds no control character; what is not may be a space of some kind.
    return len(ident) <= limits.max_id_chars and (
        ident.isprintable() or not any(unicodedata.category(char) == "Cc" for char in ident)
    )


def _salvage_id(text: str, limits: Limits) -> Id | None:
    """The id of a message whose other fields are wrong, so that its sender learns which request failed."""
    try:
        ident = _id_decoder.decode(text).id
    except _DECODE_ERRORS:
        return None
    return ident if ident is not None and _is_id(ident, limits) else None


def _check_depth(raw: bytes, max_depth: int) -> None:
    """Refuse nesting beyond the bound. For payloads with more brackets than that; most have fewer."""
    level: list[Any] = [msgspec.json.decode(raw)]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise BadMessage(f"nested deeper than {max_depth}")


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, (dict, list))]
    if isinstance(value, list):
        return [child for child in value if isinstance(child, (dict, list))]
    return []
