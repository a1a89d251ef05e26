"""Decoding what a MessagePack client sends: as test_envelope.py, with the attacks that this format invites."""

from __future__ import annotations

import contextlib
import math
import struct
import tracemalloc
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import BadMessage, Limits, Message
from trio_rooms._messages.envelope import JSON, MSGPACK, Malformed
from trio_rooms._messages.router import Router

pack = msgspec.msgpack.encode
LIMITS = Limits()


def read(whole: bytes | str, limits: Limits = LIMITS) -> Message:
    return MSGPACK.parse(whole, limits, clock=lambda: 100.0)


def refused(whole: bytes | str, limits: Limits = LIMITS) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read(whole, limits)
    return caught.value


def with_data(data: bytes) -> bytes:
    """A message whose payload is these bytes."""
    return b"\x82\xa6action\xa1a\xa4data" + data


def taking(annotation: Any, data: bytes, max_depth: int = 32) -> Any:
    """What a handler with this annotation gets of a payload."""

    async def handler(conn: object, data: object) -> None:
        pass

    handler.__annotations__["data"] = annotation
    (argument,) = Router().add("a", handler).arguments(read(with_data(data)), max_depth=max_depth)
    return argument


def test_every_field() -> None:
    """All fields of an envelope arrive, the payload raw; unknown ones are ignored."""
    data = {"x": b"\xff"}
    fields = {"action": "a", "type": "t", "data": data, "id": 7, "room": "r", "timeout_ms": 1500, "else": []}
    message = read(pack(fields))
    assert (message.action, message.id, message.room, message.deadline) == ("a", 7, "r", 101.5)
    assert (message.format, message.raw, message.whole) == ("msgpack", pack(data), pack(fields))
    assert message.data == data
    assert message.data is message.data
    assert message.decode(dict[str, bytes]) == data
    assert message.decode_whole(dict[str, Any]) == fields


def test_nothing_is_required() -> None:
    """An empty map is a message: no action, no id, no deadline, no data."""
    message = read(b"\x80")
    assert (message.action, message.id, message.room, message.deadline) == (None, None, None, math.inf)
    assert (message.raw, message.data, message.binary) == (b"", None, False)


def test_the_last_of_repeated_keys_counts() -> None:
    """I2: of a repeated key the last one counts, for the envelope and for the payload."""
    message = read(b"\x83\xa6action\xa1a\xa6action\xa1b\xa4data\x82\x01\x02\x01\x03")
    assert (message.action, message.data) == ("b", {1: 3})


@pytest.mark.parametrize(
    "ident", [2**63, 2**64 - 1, "x" * 65, "a\0", True, 1.0, 1.5, b"1", {}, [1], datetime(2024, 1, 1, tzinfo=UTC)]
)
def test_ids_that_are_none(ident: object) -> None:
    """I2: an id of another type, or out of bounds, is refused and not repeated; a float is none, whatever its value."""
    error = refused(pack({"id": ident}))
    assert error.code == "BAD_MESSAGE"
    assert error.ident is None


@pytest.mark.parametrize("fields", [{"action": 5}, {"room": b"r"}, {"timeout_ms": "1"}, {"timeout_ms": 0}])
def test_the_id_is_saved(fields: dict[str, object]) -> None:
    """A message with a wrong field is refused under its own id."""
    assert refused(pack({"id": 7} | fields)).ident == 7


@pytest.mark.parametrize("timeout", [math.nan, math.inf, -1.0, 0.0])
def test_timeouts_that_are_none(timeout: float) -> None:
    """`timeout_ms` is a positive number; neither NaN nor infinity is, which only this format can hold."""
    assert refused(pack({"timeout_ms": timeout})).message == "timeout_ms is a positive number"


def test_text_frames() -> None:
    """I2: a text frame is no part of the format, whatever it holds."""
    assert refused('{"action":"a"}').message == "text messages are not part of this format"


ATTACKS = {
    "100,000 arrays": b"\x91" * 100_000 + b"\xc0",
    "100,000 arrays in data": with_data(b"\x91" * 100_000 + b"\xc0"),
    "100,000 maps in data": with_data(b"\x81\xa1a" * 100_000 + b"\xc0"),
    "100,000 arrays in an unknown field": b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
    "array of 2^32-1": with_data(b"\xdd" + b"\xff" * 4),
    "map of 2^32-1": with_data(b"\xdf" + b"\xff" * 4),
    "bytes of 2^32-1": with_data(b"\xc6" + b"\xff" * 4),
    "text of 2^32-1": with_data(b"\xdb" + b"\xff" * 4),
    "extension of 2^32-1": with_data(b"\xc9" + b"\xff" * 4 + b"\x05"),
    "map of 2^32-1 fields": b"\xdf" + b"\xff" * 4,
    "keys that are numbers": b"\x81\x01\x02",
    "keys that are bytes": b"\x81\xc4\x06action\xa1a",
    "text that is no UTF-8": b"\x81\xa6action\xa1\xff",
    "a map as a key": b"\x81\xa4type\x81\x80\x01",
    "the byte that means nothing": with_data(b"\xc1"),
    "trailing data": b"\x80\x80",
    "nothing": b"",
    "no map": b"\x90",
    "nil": b"\xc0",
    "half": b"\x82\xa6action",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_the_envelope(attack: bytes) -> None:
    """I2: whatever bytes can hold is BAD_MESSAGE or a message, never another exception; the text is short."""
    error = refused(attack)
    assert error.code == "BAD_MESSAGE"
    assert 0 < len(error.message) <= 200


@given(st.binary(max_size=200) | st.binary(max_size=200).map(with_data))
def test_any_bytes(whole: bytes) -> None:
    """I2: any bytes are a message or Malformed, and any payload is decoded or BAD_MESSAGE, as JSON, too."""
    try:
        message = read(whole)
    except Malformed:
        return
    for use in (lambda: message.data, lambda: message.decode(int), lambda: message._json(32)):
        with contextlib.suppress(BadMessage):
            use()


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + b"\xff" * 4,
        b"\xc6" + b"\xff" * 4 + b"x",
        b"\xdc\xff\x00" * 900 + b"\xc0" * 65_000,
        b"\xde\x7f\x00\xa1a" * 300 + b"\xc0" * 64_000,
        b"\xdd\x00\x00\xfd\x00" * 300 + b"\xc0" * 64_000,
    ],
    ids=["array", "bytes", "arrays in arrays", "maps in maps", "large arrays in arrays"],
)
@pytest.mark.parametrize("annotation", [Any, list[Any], msgspec.Raw])
def test_promised_lengths_are_not_allocated(data: bytes, annotation: Any) -> None:
    """I2: a header that promises more than comes costs no memory beyond what has come, a few words for a byte."""
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            taking(annotation, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 32 * len(data)


@pytest.mark.parametrize(
    "data",
    [b"\xa1\xff", b"\xd4\x05a", b"\xd7\xff" + b"\xff" * 8, b"\x81\x80\x01", b"\x91" * 900 + b"\xc0", b"\xc1"],
    ids=["no UTF-8", "extension", "timestamp", "unhashable key", "900 arrays", "nothing"],
)
@pytest.mark.parametrize("annotation", [Any, dict[Any, Any], list[Any], msgspec.Raw])
def test_attacks_on_the_payload(data: bytes, annotation: Any) -> None:
    """I2: what passes as a raw payload, because it is skipped there, is BAD_MESSAGE when it is decoded."""
    with pytest.raises(BadMessage) as caught:
        taking(annotation, with_data(data)[-len(data) :])
    assert 0 < len(caught.value.message) <= 200


@pytest.mark.parametrize("limit", [1, 2, 32])
@pytest.mark.parametrize(
    "level", [b"\x91", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\x81\xa1a", b"\xde\x00\x01\x01"]
)
@pytest.mark.parametrize("annotation", [Any, msgspec.Raw, Any | None])
def test_max_depth(annotation: Any, level: bytes, limit: int) -> None:
    """L1: `limits.max_depth` is the deepest nesting of a payload, to the level, in each of its encodings."""
    assert taking(annotation, level * limit + b"\xc0", limit) is not None
    with pytest.raises(BadMessage, match=f"deeper than {limit}"):
        taking(annotation, level * (limit + 1) + b"\xc0", limit)


def test_keys_have_depth() -> None:
    """L1: arrays in keys count as much as others."""
    assert taking(Any, b"\x81\x91\x91\x01\x02", 3) == {((1,),): 2}
    with pytest.raises(BadMessage, match="deeper than 2"):
        taking(Any, b"\x81\x91\x91\x01\x02", 2)


@pytest.mark.parametrize("value", ["ü" * 100, bytes(range(256)) * 4, [-1] * 100, ["é", {}] * 100, 1.5])
def test_bytes_that_only_look_deep(value: Any) -> None:
    """Text, bytes and numbers may hold the bytes that begin arrays, and breadth is no depth."""
    assert taking(Any, pack(value), 2) == value


def test_typed_decoding_tells_the_path() -> None:
    """A payload of the wrong type is BAD_MESSAGE with the path of the wrong field; absent data is nil."""
    with pytest.raises(BadMessage) as caught:
        taking(dict[str, list[int]], pack({"a": [1, "x"]}))
    assert caught.value.message == "Expected `int`, got `str` - at `$[...][1]`"
    message = read(b"\x80")
    with pytest.raises(BadMessage, match="Expected `int`, got `None`"):
        message.decode(int)
    assert message.decode(int | None) is None


class Holder(msgspec.Struct):
    name: str
    held: msgspec.Raw
    more: list[Holder] = []


class Tree(msgspec.Struct):
    leaves: list[Tree] = []
    extra: dict[str, Tree] | None = None


def test_a_type_that_holds_itself() -> None:
    """A type that holds itself and no raw data is decoded as any other."""
    got = taking(Tree, pack({"leaves": [{"leaves": []}], "extra": {"x": {}}}))
    assert got == Tree([Tree()], {"x": Tree()})


@pytest.mark.parametrize("annotation", [msgspec.Raw, Any])
def test_raw_is_json(annotation: Any) -> None:
    """I10: `msgspec.Raw` is JSON in every format, so that what a client has made cannot break what others are sent."""
    value = {"b": b"\xff", "n": [float("nan"), 1], 5: None}
    got = taking(annotation, pack(value))
    if annotation is msgspec.Raw:
        assert bytes(got) == b'{"b":"/w==","n":[null,1],"5":null}'
    else:
        assert got.keys() == value.keys()


def test_raw_within_a_type_is_json() -> None:
    """I10: so it is wherever it stands in a type, one that holds itself included; the rest is decoded as ever."""
    value = {"name": "a", "held": {"x": b"\xff"}, "more": [{"name": "b", "held": [1]}]}
    got = taking(Holder, pack(value))
    assert (got.name, bytes(got.held)) == ("a", b'{"x":"/w=="}')
    assert bytes(got.more[0].held) == b"[1]"
    with pytest.raises(BadMessage, match="Expected `str`, got `int`"):
        taking(Holder, pack({"name": 1, "held": 1}))


def test_raw_is_checked() -> None:
    """Raw data whose keys JSON cannot have, or that is nested too deep, is BAD_MESSAGE; absent data is null."""
    with pytest.raises(BadMessage, match="keys are text or numbers"):
        taking(msgspec.Raw, pack({None: 1}))
    with pytest.raises(BadMessage, match="deeper than 1"):
        taking(msgspec.Raw, pack([[1]]), 1)

    def raw(conn: object, data: msgspec.Raw) -> None: ...

    (absent,) = Router().add("a", raw).arguments(read(b"\x80"), max_depth=1)
    assert bytes(absent) == b"null"


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 300, b"x" * 70_000])
def test_binary_messages(value: bytes) -> None:
    """A message without action whose data is bytes is a binary one, of any length."""
    message = read(pack({"data": value}))
    assert message.binary
    assert message.data == value
    assert not read(pack({"action": "a", "data": value})).binary
    assert not read(pack({"type": "t", "data": value})).binary
    assert not read(pack({"data": value.decode()})).binary


def test_binary_frames_of_text_formats() -> None:
    """In JSON a binary frame is a message of bytes and nothing else."""
    message = JSON.parse(b"\xff", LIMITS, clock=lambda: 0.0)
    assert message.binary
    assert message.format == "binary"
    assert (message.raw, message.whole, message.data, message.decode(bytes)) == (b"\xff",) * 4
    assert (message.action, message.id, message.room, message.deadline) == (None, None, None, math.inf)
    with pytest.raises(BadMessage):
        message.decode(int)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bytes, b"\xff", b"\xff"),
        (datetime, datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)),
        (uuid.UUID, b"\0" * 15 + b"\1", uuid.UUID(int=1)),
        (Decimal, "1.50", Decimal("1.50")),
        (dict[int, str], {1: "a"}, {1: "a"}),
        (set[int], [3, 3], {3}),
        (float, 1, 1.0),
    ],
)
def test_what_payloads_become(annotation: Any, value: object, expected: object) -> None:
    """A payload becomes what the annotation says."""
    assert taking(annotation, pack(value)) == expected


def test_small_floats() -> None:
    """Numbers of 32 bits, which some encoders prefer, are numbers."""
    assert taking(float, b"\xca" + struct.pack(">f", 1.5)) == 1.5
