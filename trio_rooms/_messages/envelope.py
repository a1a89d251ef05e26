"""Inbound messages: the envelope is decoded at once, the payload stays raw until its handler is known."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import attrs
import msgspec

from .._config import Limits
from .._errors import BadMessage
from .codec import Id
from .decoding import DECODE_ERRORS, Decoders, check_depth_of_json, check_depth_of_msgpack, told
from .packing import NIL, to_json

T = TypeVar("T")

_UNSET: Any = object()

_ANYTHING: Final = Decoders(Any)

# The first bytes of bytes in MessagePack.
_BIN: Final = (b"\xc4", b"\xc5", b"\xc6")

# What we call our own requests; short enough to be told from most of what others have an id of.
_ID_OF_OURS: Final = re.compile(r"\$[1-9][0-9]{0,18}")

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


@attrs.define(eq=False)
class Message:
    """One message from a client, its payload not yet decoded."""

    action: str | None
    """What is asked for; None only for binary messages, and for messages that a ``session`` reads."""
    id: Id | None
    """Chosen by the client; a request with an id gets a reply."""
    room: str | None
    """The room that the client addressed, as it came; not checked."""
    deadline: float
    """The trio time at which the client stops waiting (``timeout_ms`` after arrival); ``inf`` without."""
    raw: bytes
    """The payload (``data``) as it came, in the format of the message; empty if there was none. A binary frame whole.
    Not to be passed on to other clients, whose format may be another: ``msgspec.Raw`` is, see the guide."""
    whole: str | bytes
    """The whole message as it came: text if it is JSON, else bytes."""
    _max_depth: int = attrs.field(repr=False)
    _data: Any = attrs.field(default=_UNSET, init=False, repr=False)

    @property
    def format(self) -> Literal["json", "msgpack", "binary"]:
        """How it came: "json", "msgpack" (from clients of ``trio-rooms.v1.msgpack``), "binary" (a frame of another)."""
        return "json"

    @property
    def binary(self) -> bool:
        """Whether it is bytes and nothing else, which is what ``manager.on_binary`` handles."""
        return False

    @property
    def data(self) -> Any:
        """The payload as builtins, None if there was none. Raises :exc:`BadMessage` if it is nested too deep."""
        if self._data is _UNSET:
            self._data = self._build(_ANYTHING, self.raw, self._max_depth)
        return self._data

    def decode(self, type: type[T]) -> T:
        """The payload as ``type``: anything that msgspec can build. Raises :exc:`BadMessage` with the path."""
        built: T = self._build(Decoders(type), self.raw, self._max_depth)
        return built

    def _build(self, decoders: Decoders, raw: bytes, max_depth: int) -> Any:
        """Decode a payload, or a message; absent is null. Raises :exc:`BadMessage` with a text fit for the client."""
        try:
            # As check_depth_of_json, which most payloads need not be given to.
            if raw.count(b"[") + raw.count(b"{") > max_depth:
                check_depth_of_json(raw, max_depth)
            return decoders.json.decode(raw or b"null")
        except DECODE_ERRORS as exc:
            raise BadMessage(told(exc)) from exc

    def _json(self, max_depth: int) -> bytes:
        """The payload in JSON; absent is null. Raises :exc:`BadMessage` if it is nested too deep."""
        try:
            check_depth_of_json(self.raw, max_depth)
        except DECODE_ERRORS as exc:
            raise BadMessage(told(exc)) from exc
        return self.raw or b"null"

    def decode_whole(self, type: type[T]) -> T:
        """The whole message as ``type``, as :meth:`decode` does it with the payload."""
        whole = self.whole
        built: T = self._build(Decoders(type), whole.encode() if isinstance(whole, str) else whole, self._max_depth)
        return built


@attrs.define(eq=False)
class PackedMessage(Message):
    """A message in MessagePack."""

    @property
    def format(self) -> Literal["json", "msgpack", "binary"]:
        """MessagePack."""
        return "msgpack"

    @property
    def binary(self) -> bool:
        """Whether it has neither action nor type, and its data is bytes."""
        return self.action is None and self.raw.startswith(_BIN)

    def _build(self, decoders: Decoders, raw: bytes, max_depth: int) -> Any:
        try:
            check_depth_of_msgpack(raw, max_depth)
            return decoders.msgpack.decode(raw or NIL)
        except DECODE_ERRORS as exc:
            raise BadMessage(told(exc)) from exc

    def _json(self, max_depth: int) -> bytes:
        try:
            check_depth_of_msgpack(self.raw, max_depth)
            return to_json(self.raw)
        except DECODE_ERRORS as exc:
            raise BadMessage(told(exc)) from exc


@attrs.define(eq=False)
class BinaryMessage(Message):
    """A binary frame of a client whose format is text: bytes and nothing else."""

    @property
    def format(self) -> Literal["json", "msgpack", "binary"]:
        """A binary frame."""
        return "binary"

    @property
    def binary(self) -> bool:
        """It is."""
        return True

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.raw

    def decode(self, type: type[T]) -> T:
        """The bytes, if that is the type. Raises :exc:`BadMessage`."""
        if type not in (bytes, Any):
            raise BadMessage("a binary message is nothing but bytes")
        return self.raw  # type: ignore[return-value]

    decode_whole = decode


@attrs.frozen(eq=False)
class Parser:
    """Decodes the envelopes of one format."""

    _frames: type[str] | type[bytes]
    """What a message of the format comes as."""
    _message: type[Message]
    _decode: Callable[[Any], _Envelope]
    _decode_id: Callable[[Any], _OnlyId]

    def parse(self, whole: str | bytes, limits: Limits, *, clock: Callable[[], float]) -> Message:
        """Decode the envelope of a message. Raises :exc:`Malformed`.

        The clock is asked where there is a ``timeout_ms``.
        """
        if type(whole) is not self._frames:
            return _of_the_other_kind(whole, limits)
        decode = self._decode
        try:
            envelope = decode(whole)
        except DECODE_ERRORS as exc:
            raise Malformed(told(exc), self._salvage_id(whole, limits)) from exc
        action = envelope.action
        if action is None and isinstance(envelope.type, str):
            action = envelope.type
        ident = envelope.id
        if ident is not None and not (_is_id(ident, limits) or (action is None and is_of_ours(ident))):
            raise Malformed(_RULE_OF_IDS.format(limits.max_id_chars), None)
        timeout = envelope.timeout_ms
        if timeout is not None and not 0 < timeout < math.inf:
            raise Malformed("timeout_ms is a positive number", ident)
        deadline = math.inf if timeout is None else clock() + timeout / 1000
        made = self._message
        return made(action, ident, envelope.room, deadline, bytes(envelope.data), whole, limits.max_depth)

    def _salvage_id(self, whole: str | bytes, limits: Limits) -> Id | None:
        """The id of a message whose other fields are wrong, so that its sender learns which request failed."""
        try:
            ident = self._decode_id(whole).id
        except DECODE_ERRORS:
            return None
        return ident if ident is not None and _is_id(ident, limits) else None


JSON: Final = Parser(str, Message, msgspec.json.Decoder(_Envelope).decode, msgspec.json.Decoder(_OnlyId).decode)
MSGPACK: Final = Parser(
    bytes, PackedMessage, msgspec.msgpack.Decoder(_Envelope).decode, msgspec.msgpack.Decoder(_OnlyId).decode
)


class Malformed(BadMessage):
    """A message that could not be parsed, with its id if at least that was readable. Internal."""

    def __init__(self, message: str, ident: Id | None) -> None:
        super().__init__(message)
        self.ident = ident


def _of_the_other_kind(whole: str | bytes, limits: Limits) -> Message:
    if isinstance(whole, str):
        raise Malformed("text messages are not part of this format", None)
    return BinaryMessage(None, None, None, math.inf, whole, whole, limits.max_depth)


def is_of_ours(ident: Id | None) -> bool:
    """Whether it is the id of a request to a client, so that a message with it and no action is an answer."""
    return isinstance(ident, str) and _ID_OF_OURS.fullmatch(ident) is not None


def _is_id(ident: Id, limits: Limits) -> bool:
    if isinstance(ident, int):
        return -(2**63) <= ident < 2**63
    # What is printable holds no control character; what is not may be a space of some kind.
    return len(ident) <= limits.max_id_chars and (
        ident.isprintable() or not any(unicodedata.category(char) == "Cc" for char in ident)
    )
