"""MessagePack in the place of JSON: what goes out, and what comes in where only JSON will do.

Whatever JSON can hold, MessagePack can, so that an event that could be published can be brought to every member: an
integer that does not fit into 64 bits becomes its digits as text. ``msgspec.Raw`` is JSON in every format. A client
chooses its format, and bytes of its making must not stand where others are sent JSON, nor the other way round.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from .._errors import EncodingError

#: MessagePack of nothing.
NIL = b"\xc0"

# What the encoder does not make builtins of first. Everything else is walked through, or it would copy raw JSON.
_AS_IT_IS = (bytes, bytearray, memoryview, datetime)

_encoder = msgspec.msgpack.Encoder()
_FAILURES = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def pack(obj: object) -> bytes:
    """MessagePack of anything that msgspec encodes. Raises :exc:`EncodingError`.

    As ``encode`` for JSON, but NaN, infinities, bytes and keys that are no text stay what they are, and a datetime
    with a time zone is a timestamp.
    """
    try:
        builtins = msgspec.to_builtins(obj, builtin_types=_AS_IT_IS, enc_hook=_raw_json)
        try:
            return _encoder.encode(builtins)
        except OverflowError:
            return _encoder.encode(_fitting(builtins))
    except _FAILURES as exc:
        raise EncodingError(f"cannot encode {type(obj).__name__} as MessagePack: {exc}") from exc


def pack_event(event: object, data: bytes) -> bytes:
    """MessagePack of an event whose JSON is ``data``. Never raises, because nothing may in a fan-out.

    What is left to fail is raw JSON of the program's that is none, which JSON clients are sent unseen: the text then.
    """
    try:
        return pack(event)
    except EncodingError:
        return _encoder.encode(data.decode(errors="replace"))


def wrap(envelope: dict[str, Any]) -> bytes:
    """An envelope around what is packed already, which stands in it as ``msgspec.Raw``."""
    return _encoder.encode(envelope)


def extension(code: int, _: memoryview) -> Any:
    """Refuse types that only those know who made them: a handler could not even send them back."""
    raise msgspec.ValidationError(f"extension type {code} is not supported")


_decoder = msgspec.msgpack.Decoder(ext_hook=extension)


def unpack(raw: bytes) -> Any:
    """Builtins out of MessagePack. Raises the ``DECODE_ERRORS`` of ``decoding``."""
    return _decoder.decode(raw or NIL)


def to_json(raw: bytes) -> bytes:
    """The JSON of what is packed; the exceptions are those of :func:`unpack`."""
    value = unpack(raw)
    try:
        return msgspec.json.encode(value)
    except TypeError as exc:
        raise msgspec.ValidationError("keys are text or numbers") from exc


class Packed:
    """What is MessagePack already, to be a part of what is packed."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _raw_json(obj: object) -> Any:
    if isinstance(obj, Packed):
        return unpack(obj.data)
    if isinstance(obj, msgspec.Raw):
        return msgspec.json.decode(obj)
    raise TypeError(f"objects of type {type(obj).__name__} are unsupported")


def _fitting(value: Any) -> Any:
    """The same builtins with text where an integer does not fit."""
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, dict):
        return {_fitting(key): _fitting(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_fitting, value))
    return value
