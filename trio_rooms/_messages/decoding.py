"""Payloads into types: out of JSON and out of MessagePack, with the same bounds and the same errors."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

import msgspec

from .._errors import BadMessage
from .packing import extension, to_json, unpack

T_co = TypeVar("T_co", covariant=True)

# msgspec reports invalid UTF-8 and deep nesting with exceptions that are not its own, and early versions also the keys
# of MessagePack that Python cannot have. What a type of the program's raises is made a ValidationError.
DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError)

# All bytes that do not begin an array or a map in MessagePack.
_BEGIN_NOTHING: Final = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


class Decoder(Protocol[T_co]):
    """A decoder of one type from one format."""

    def decode(self, raw: bytes, /) -> T_co:
        """Decode one value. Raises one of ``DECODE_ERRORS``."""


class Decoders:
    """The decoders of one type, a format each. Raises what msgspec does for a type that it cannot build.

    That for MessagePack is made when it is first asked for, so that who needs JSON only pays for no more.
    """

    __slots__ = ("_msgpack", "_type", "json")

    def __init__(self, type: Any) -> None:
        self.json: Decoder[Any] = msgspec.json.Decoder(type)
        self._msgpack: Decoder[Any] | None = None
        self._type = type

    @property
    def msgpack(self) -> Decoder[Any]:
        """From MessagePack; a type that holds ``msgspec.Raw``, which is JSON, is decoded by way of JSON."""
        if self._msgpack is None:
            if _holds_raw(msgspec.inspect.type_info(self._type), set()):
                self._msgpack = _ByWayOfJson(self.json)
            else:
                self._msgpack = msgspec.msgpack.Decoder(self._type, ext_hook=extension)
        return self._msgpack


class _ByWayOfJson:
    __slots__ = ("_decoder",)

    def __init__(self, decoder: Decoder[Any]) -> None:
        self._decoder = decoder

    def decode(self, raw: bytes, /) -> Any:
        return self._decoder.decode(to_json(raw))


def _holds_raw(info: object, seen: set[int]) -> bool:
    """Whether ``msgspec.Raw`` is anywhere in what msgspec knows of a type, which may hold itself."""
    if isinstance(info, tuple):
        return any(_holds_raw(one, seen) for one in info)
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
        return False
    seen.add(id(info))
    return isinstance(info, msgspec.inspect.RawType) or any(
        _holds_raw(getattr(info, name), seen) for name in info.__struct_fields__
    )


def told(exc: Exception) -> str:
    """What the client is told: msgspec's texts speak of the client's own data and nothing else."""
    if isinstance(exc, RecursionError):
        return "nested too deep"
    if isinstance(exc, msgspec.MsgspecError):
        return str(exc)[:200]
    if isinstance(exc, TypeError):
        return "a key cannot be a map"
    return "not valid UTF-8"


def check_depth_of_json(raw: bytes, max_depth: int) -> None:
    """Refuse nesting beyond the bound, with :exc:`BadMessage` or what decoding it raises."""
    if raw.count(b"[") + raw.count(b"{") > max_depth:
        _check_depth(msgspec.json.decode(raw), max_depth)


def check_depth_of_msgpack(raw: bytes, max_depth: int) -> None:
    """As :func:`check_depth_of_json`."""
    # So many bytes that could begin a container; in text and numbers the same bytes mean nothing.
    if len(raw) > max_depth and len(raw.translate(None, _BEGIN_NOTHING)) > max_depth:
        _check_depth(unpack(raw), max_depth)


def _check_depth(value: Any, max_depth: int) -> None:
    """Refuse nesting beyond the bound. For payloads with more brackets than that; most have fewer."""
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise BadMessage(f"nested deeper than {max_depth}")


def _children(value: object) -> list[Any]:
    """The containers in a container; in MessagePack a key may be one."""
    if isinstance(value, dict):
        return [child for pair in value.items() for child in pair if isinstance(child, (dict, list, tuple))]
    if isinstance(value, (list, tuple)):
        return [child for child in value if isinstance(child, (dict, list, tuple))]
    return []
