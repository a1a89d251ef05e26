"""What each format makes of what goes out: exact bytes, and what cannot be encoded."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from samples import Colour, Named, Point
from trio_rooms import ActionError, EncodingError
from trio_rooms._messages.codec import Codec, Plain, V1Json, encode


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (None, b"null"),
        ("ü\u2028", '"ü\u2028"'.encode()),
        (2**70, b"1180591620717411303424"),
        (float("nan"), b"null"),
        (float("-inf"), b"null"),
        (b"\x00\xff", b'"AP8="'),
        ({1: Point(2)}, b'{"1":{"x":2}}'),
        (Named("a"), b'{"name":"a"}'),
        ((Colour.RED, {3}), b'["red",[3]]'),
        (datetime(2024, 1, 2, tzinfo=timezone.utc), b'"2024-01-02T00:00:00Z"'),  # noqa: UP017 - as programs write it
        (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (msgspec.Raw(b'{"as": "it is"}'), b'{"as": "it is"}'),
    ],
)
def test_what_encodes(obj: object, expected: bytes) -> None:
    """Builtins, attrs, dataclasses, enums, dates, ids and raw JSON have one encoding; NaN and infinities are null."""
    assert encode(obj) == expected


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize("obj", [object(), {(1, 2): 3}, "\ud800", endless(), print, {1, object()}])
def test_what_does_not_encode(obj: object) -> None:
    """Whatever cannot be encoded raises EncodingError, a loop and a lone surrogate included."""
    with pytest.raises(EncodingError, match="cannot encode"):
        encode(obj)


def test_how_they_are_asked_for() -> None:
    """Plain is what a client without a subprotocol gets; only v1 has an envelope."""
    assert (Plain().subprotocol, Plain().v1) == (None, False)
    assert (V1Json().subprotocol, V1Json().v1) == ("trio-rooms.v1.json", True)


@pytest.mark.parametrize("codec", [Plain(), V1Json()])
def test_replies_are_the_same_in_both(codec: Codec) -> None:
    """Replies, items, ends and errors do not depend on the format; a missing id is left out, 0 and "" are ids."""
    error = ActionError("NO", "not now", temporary=True)
    assert codec.reply(1, None) == b'{"id":1,"data":null}'
    assert codec.reply("", [1]) == b'{"id":"","data":[1]}'
    assert codec.item(0, {"a": 1}) == b'{"id":0,"data":{"a":1},"more":true}'
    assert codec.end("x") == b'{"id":"x","more":false}'
    assert codec.error(0, error) == b'{"id":0,"error":{"code":"NO","message":"not now","temporary":true}}'
    assert codec.error(None, ActionError("NO")) == b'{"error":{"code":"NO","message":"","temporary":false}}'


def test_plain_sends_things_as_they_are() -> None:
    """Plain: events and messages are the object itself; an action puts it into {"action", "data"}."""
    plain = Plain()
    assert plain.publication("room", None, b"[1]", None) == b"[1]"
    assert plain.publication(None, None, b"[1]", None) == b"[1]"
    assert plain.publication("room", None, b"[1]", 7) == b"[1]"
    assert plain.publication(None, "act", b"[1]", None) == b'{"action":"act","data":[1]}'
    assert plain.direct([1], None) == b"[1]"
    assert plain.direct(None, "act") == b'{"action":"act","data":null}'


def test_v1_puts_an_envelope_around() -> None:
    """v1: events carry their room, messages to one or to all do not."""
    v1 = V1Json()
    assert v1.publication("r\n", None, b"[1]", None) == b'{"room":"r\\n","data":[1]}'
    assert v1.publication(None, None, b"[1]", None) == b'{"data":[1]}'
    assert v1.publication("r", None, b"[1]", 7) == b'{"room":"r","offset":7,"data":[1]}'
    assert v1.marker("r", 7) == b'{"room":"r","offset":7}'
    assert v1.publication(None, "act", b"[1]", None) == b'{"action":"act","data":[1]}'
    assert v1.direct([1], None) == b'{"data":[1]}'
    assert v1.direct([1], "act") == b'{"action":"act","data":[1]}'
