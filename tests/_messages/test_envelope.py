"""Decoding what a client sends: the envelope at once, the payload when it is asked for, and every attack on both."""

from __future__ import annotations

import json
import math
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import BadMessage, Limits, Message
from trio_rooms._messages.envelope import JSON, Malformed

LIMITS = Limits()


def read(text: str, limits: Limits = LIMITS) -> Message:
    return JSON.parse(text, limits, clock=lambda: 100.0)


def refused(text: str, limits: Limits = LIMITS) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read(text, limits)
    return caught.value


def nested(depth: int, open_: str = "[", close: str = "]") -> str:
    return open_ * depth + close * depth


def test_every_field() -> None:
    """All fields of an envelope arrive, the payload raw; unknown ones are ignored."""
    text = '{"action":"a","type":"t","data": {"x": 1} ,"id":7,"room":"r","timeout_ms":1500,"else":[]}'
    message = read(text)
    assert (message.action, message.id, message.room, message.deadline) == ("a", 7, "r", 101.5)
    assert json.loads(message.raw) == {"x": 1}
    assert message.whole == text
    assert message.data == {"x": 1}
    assert message.decode(dict[str, int]) == {"x": 1}


def test_nothing_is_required() -> None:
    """An empty object is a message: no action, no id, no deadline, no data."""
    message = read("{}")
    assert (message.action, message.id, message.room, message.deadline) == (None, None, None, math.inf)
    assert (message.raw, message.data) == (b"", None)


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"type":"t"}', "t"),
        ('{"action":"a","type":"t"}', "a"),
        ('{"type":"t","action":"a"}', "a"),
        ('{"action":null,"type":"t"}', "t"),
        ('{"action":"","type":"t"}', ""),
        ('{"action":"a","type":{"not":"text"}}', "a"),
        ('{"type":5}', None),
    ],
)
def test_action_wins_over_type(text: str, action: str | None) -> None:
    """`action` counts if it is there, else `type` if it is text."""
    assert read(text).action == action


def test_data_is_decoded_once() -> None:
    """`message.data` is the same object each time."""
    message = read('{"data":[1]}')
    assert message.data is message.data


def test_the_last_of_repeated_keys_counts() -> None:
    """I2: of a repeated key the last one counts, for the envelope and for the payload."""
    message = read('{"action":"a","action":"b","data":{"x":1,"x":2}}')
    assert (message.action, message.data) == ("b", {"x": 2})


@pytest.mark.parametrize("ident", [0, -1, 2**63 - 1, -(2**63), "", "x" * 64, "ü" * 64, "1"])
def test_ids(ident: int | str) -> None:
    """Ids are 64-bit integers and strings of at most 64 characters."""
    assert read(json.dumps({"id": ident})).id == ident


@pytest.mark.parametrize("ident", [2**63, -(2**63) - 1, 10**4000, "x" * 65, "a\0", "a\nb", "\x7f", "\x85"])
def test_ids_out_of_bounds(ident: int | str) -> None:
    """I2: an id that is too large, too long, or holds a control character is refused, and not repeated."""
    error = refused(json.dumps({"id": ident}) if isinstance(ident, str) else f'{{"id":{_digits(ident)}}}')
    assert error.code == "BAD_MESSAGE"
    assert "64" in error.message
    assert error.ident is None


def _digits(number: int) -> str:
    """As str(), which refuses more than 4,300 digits."""
    return ("-" if number < 0 else "") + (f"1{'0' * 4000}" if number == 10**4000 else str(abs(number)))


@pytest.mark.parametrize("limit", [1, 5])
def test_max_id_chars(limit: int) -> None:
    """L1: `limits.max_id_chars` bounds the characters of an id."""
    limits = Limits(max_id_chars=limit)
    assert read(json.dumps({"id": "ü" * limit}), limits).id == "ü" * limit
    assert str(limit) in refused(json.dumps({"id": "ü" * (limit + 1)}), limits).message


@pytest.mark.parametrize("ident", ["true", "1.5", "{}", "[1]", "1e3", "false"])
def test_ids_of_other_types(ident: str) -> None:
    """I2: an id of another type is refused with the path of the field."""
    error = refused(f'{{"id":{ident}}}')
    assert "$.id" in error.message
    assert error.ident is None


@pytest.mark.parametrize(
    "fields", ['"action":5', '"room":5', '"timeout_ms":"1"', '"timeout_ms":0', '"timeout_ms":-1', '"timeout_ms":true']
)
def test_the_id_is_saved(fields: str) -> None:
    """A message with a wrong field is refused under its own id, so that its sender knows which request failed."""
    error = refused(f'{{"id":7,{fields}}}')
    assert error.code == "BAD_MESSAGE"
    assert error.ident == 7


def test_an_id_out_of_bounds_is_not_saved() -> None:
    """I2: with another field wrong, too, an id out of bounds is not repeated to the client either."""
    assert refused(f'{{"id":"{"x" * 65}","action":5}}').ident is None


@pytest.mark.parametrize("timeout", ["0.5", "1", "1e300"])
def test_timeouts(timeout: str) -> None:
    """`timeout_ms` is any positive number, counted from arrival."""
    assert read(f'{{"timeout_ms":{timeout}}}').deadline == 100.0 + float(timeout) / 1000


ATTACKS = {
    "100,000 arrays": nested(100_000),
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "100,000 arrays in data": f'{{"action":"a","data":{nested(100_000)}}}',
    "100,000 arrays in an unknown field": f'{{"action":"a","x":{nested(100_000)}}}',
    "100,000 arrays in type": f'{{"type":{nested(100_000)}}}',
    "4,301 digits": f'{{"id":{"9" * 4301}}}',
    "NaN": '{"action":NaN}',
    "Infinity": '{"data":Infinity}',
    "1e999": '{"timeout_ms":1e999}',
    "a lone surrogate": '{"action":"\\ud800"}',
    "trailing data": '{"action":"a"} {}',
    "a BOM": '\ufeff{"action":"a"}',
    "nothing": "",
    "a space": " ",
    "no object": "[]",
    "text": '"text"',
    "null": "null",
    "half": '{"action":',
    "single quotes": "{'action':'a'}",
    "a raw control character": '{"action":"\n"}',
    "1 MiB of arrays": "[" + "[]," * 349_525 + "[]]",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_the_envelope(attack: str) -> None:
    """I2: whatever JSON can hold is BAD_MESSAGE or a message, never another exception; the text is short."""
    error = refused(attack)
    assert error.code == "BAD_MESSAGE"
    assert 0 < len(error.message) <= 200


@pytest.mark.parametrize(
    "data", ['"\\ud800"', "1e999", "9" * 4301, nested(900), '{"a":' * 900 + "1" + "}" * 900], ids=lambda data: data[:9]
)
def test_attacks_on_the_payload(data: str) -> None:
    """I2: what passes as a raw payload, because it is skipped there, is BAD_MESSAGE when it is decoded."""
    with pytest.raises(BadMessage):
        _ = read(f'{{"data":{data}}}').data


@pytest.mark.parametrize("limit", [1, 2, 32])
@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
def test_max_depth(limit: int, open_: str, close: str) -> None:
    """L1: `limits.max_depth` is the deepest nesting of a payload, to the level."""
    limits = Limits(max_depth=limit)
    inner = "1" if close == "}" else ""

    def at(depth: int) -> Message:
        return read(f'{{"data":{open_ * depth}{inner}{close * depth}}}', limits)

    assert json.dumps(at(limit).data, separators=(",", ":")) == f"{open_ * limit}{inner}{close * limit}"
    with pytest.raises(BadMessage, match=f"deeper than {limit}"):
        _ = at(limit + 1).data


def test_many_brackets_are_not_deep() -> None:
    """Breadth is no depth, and brackets in text are neither."""
    assert len(read(f'{{"data":[{"[],{}," * 100}"{"[" * 100}"]}}').data) == 201
    assert read(f'{{"data":"{"{" * 100}"}}').data == "{" * 100


def test_typed_decoding_tells_the_path() -> None:
    """A payload of the wrong type is BAD_MESSAGE with the path of the wrong field."""
    with pytest.raises(BadMessage) as caught:
        read('{"data":{"a":[1,"x"]}}').decode(dict[str, list[int]])
    assert caught.value.message == "Expected `int`, got `str` - at `$[...][1]`"


def test_a_long_explanation_is_cut() -> None:
    """What the client is told is bounded, even if its own data is long."""

    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        pass

    with pytest.raises(BadMessage) as caught:
        read(json.dumps({"data": {"x" * 10_000: 1}})).decode(Strict)
    assert len(caught.value.message) == 200


def test_bytes_that_are_not_utf8() -> None:
    """I2: a payload that is not UTF-8 is BAD_MESSAGE; the text does not show it."""
    with pytest.raises(BadMessage) as caught:
        attrs.evolve(read("{}"), raw=b'"\xff"').decode(str)
    assert caught.value.message == "not valid UTF-8"


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
fields = st.sampled_from(["action", "type", "data", "id", "room", "timeout_ms", "x"])
objects = st.dictionaries(fields, json_values).map(json.dumps)


@given(st.text() | json_values.map(json.dumps) | objects | st.tuples(objects, st.text()).map("".join))
def test_any_text_is_a_message_or_malformed(text: str) -> None:
    """I2: for any text there is a message whose data can be asked for, or BAD_MESSAGE, and no third outcome."""
    try:
        message = read(text)
        _ = message.data
    except BadMessage as error:
        assert len(error.message) <= 200  # noqa: PT017 - either outcome is fine
    else:
        assert message.id is None or isinstance(message.id, (int, str))
        assert message.deadline >= 100.0
