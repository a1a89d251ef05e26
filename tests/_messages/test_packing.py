"""MessagePack: what it is made of, what comes out where only JSON will do, and that an event can always be packed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samples import Colour, Named, Point
from trio_rooms import EncodingError
from trio_rooms._messages.codec import encode
from trio_rooms._messages.packing import pack, pack_event, to_json, unpack


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (None, b"\xc0"),
        ("ü", b"\xa2\xc3\xbc"),
        (1.0, b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
        (b"\x00\xff", b"\xc4\x02\x00\xff"),
        ({1: Point(2)}, b"\x81\x01\x81\xa1x\x02"),
        (Named("a"), b"\x81\xa4name\xa1a"),
        ((Colour.RED, {3}), b"\x92\xa3red\x91\x03"),
        (2**64 - 1, b"\xcf" + b"\xff" * 8),
        (datetime(2024, 1, 2, tzinfo=UTC), b"\xd6\xff\x65\x93\x52\x00"),
        (msgspec.Raw(b'{"as": "it is"}'), b"\x81\xa2as\xa5it is"),
        ([{"deep": msgspec.Raw(b"[1]")}], b"\x91\x81\xa4deep\x91\x01"),
    ],
)
def test_what_packs(obj: object, expected: bytes) -> None:
    """Builtins, attrs, dataclasses, enums and timestamps have one encoding; raw JSON is converted, also within them."""
    assert pack(obj) == expected


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**4000])
def test_integers_that_do_not_fit(number: int) -> None:
    """An integer beyond 64 bits becomes its digits, at any depth, as a value and as a key; others stay numbers."""
    digits = str(number)
    assert unpack(pack({"n": [number, {number: 1}], "ok": -5})) == {"n": [digits, {digits: 1}], "ok": -5}


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize("obj", [object(), "\ud800", endless(), print, msgspec.Raw(b"{"), msgspec.Raw(b"[" * 5000)])
def test_what_does_not_pack(obj: object) -> None:
    """Whatever cannot be encoded raises EncodingError, raw JSON that is none included."""
    with pytest.raises(EncodingError, match=r"cannot encode .* as MessagePack"):
        pack(obj)


@pytest.mark.parametrize("raw", [b'{"half":', b"[" * 100_000 + b"]" * 100_000, b"\xff"])
def test_an_event_always_packs(raw: bytes) -> None:
    """What JSON clients are sent unseen, MessagePack clients get as text if it is no JSON; a fan-out must not raise."""
    event = {"x": msgspec.Raw(raw)}
    data = encode(event)
    assert unpack(pack_event(event, data)) == data.decode(errors="replace")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abü"), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_whatever_json_holds_packs(value: Any, raw: bool) -> None:
    """What can be published can be packed, and holds the same but for large integers; 3 times as long at most."""
    data = encode(value)
    packed = pack_event(msgspec.Raw(data) if raw else value, data)
    assert len(packed) <= 3 * len(data)
    assert json.loads(to_json(packed)) == _as_text(json.loads(data))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xff", b'"/w=="'),
        (float("nan"), b"null"),
        ({1: 2, 1.5: 3}, b'{"1":2,"1.5":3}'),
        (datetime(2024, 1, 2, tzinfo=UTC), b'"2024-01-02T00:00:00Z"'),
    ],
)
def test_to_json(value: object, expected: bytes) -> None:
    """What JSON lacks becomes what it becomes in every message that leaves in JSON."""
    assert to_json(msgspec.msgpack.encode(value)) == expected


@pytest.mark.parametrize("value", [{None: 1}, {(1, 2): 3}, msgspec.msgpack.Ext(5, b"x")])
def test_what_cannot_be_json(value: object) -> None:
    """Keys that are neither text nor numbers, and extension types, are refused as invalid data."""
    with pytest.raises(msgspec.ValidationError):
        to_json(msgspec.msgpack.encode(value))
