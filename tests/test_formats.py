"""Formats joined with frames."""

from __future__ import annotations

import json

import pytest

from trio_rooms import ActionError, Publication
from trio_rooms._formats import FORMATS, PLAIN, SUBPROTOCOLS, V1_JSON, V1_MSGPACK, Format
from trio_rooms._wire.frames import Frame

ERROR = ActionError("CODE", "text", temporary=True)
TOLD = {"code": "CODE", "message": "text", "temporary": True}


def decoded(frame: Frame) -> object:
    """The message of a frame, which is text in every JSON format."""
    assert frame.text
    return json.loads(frame.payload)


@pytest.mark.parametrize(
    ("form", "publication", "to_all", "direct", "action"),
    [
        (PLAIN, {"n": 1}, {"action": "a", "data": {"n": 1}}, {"n": 2}, {"action": "a", "data": {"n": 2}}),
        (
            V1_JSON,
            {"room": "r", "data": {"n": 1}},
            {"action": "a", "data": {"n": 1}},
            {"data": {"n": 2}},
            {"action": "a", "data": {"n": 2}},
        ),
    ],
    ids=["plain", "v1"],
)
def test_publications_and_direct_messages(
    form: Format, publication: object, to_all: object, direct: object, action: object
) -> None:
    """Plain clients get the object as it is, v1 clients an envelope."""
    assert decoded(form.publication(Publication(("r",), b'{"n":1}'))) == publication
    assert decoded(form.publication(Publication((), b'{"n":1}', action="a"))) == to_all
    assert decoded(form.direct({"n": 2})) == direct
    assert decoded(form.direct({"n": 2}, "a")) == action


@pytest.mark.parametrize("form", [PLAIN, V1_JSON], ids=["plain", "v1"])
def test_replies(form: Format) -> None:
    """Replies look the same in both formats."""
    assert decoded(form.reply(1, {"n": 1})) == {"id": 1, "data": {"n": 1}}
    assert decoded(form.item("x", 1)) == {"id": "x", "data": 1, "more": True}
    assert decoded(form.end("x")) == {"id": "x", "more": False}
    assert decoded(form.error(1, ERROR)) == {"id": 1, "error": TOLD}
    assert decoded(form.error(None, ERROR)) == {"error": TOLD}


def test_choice_of_the_format() -> None:
    """The subprotocol selects the format; no subprotocol is plain, which is not offered by name."""
    assert FORMATS == {None: PLAIN, "trio-rooms.v1.json": V1_JSON, "trio-rooms.v1.msgpack": V1_MSGPACK}
    assert SUBPROTOCOLS == ("trio-rooms.v1.json", "trio-rooms.v1.msgpack")
    assert [form.v1 for form in (PLAIN, V1_JSON, V1_MSGPACK)] == [False, True, True]
    assert [form.text for form in (PLAIN, V1_JSON, V1_MSGPACK)] == [True, True, False]
