"""Formats joined with frames."""

from __future__ import annotations

import json

import msgspec
import pytest

from trio_rooms import ActionError, Publication, UsageError
from trio_rooms._formats import FORMATS, PLAIN, SUBPROTOCOLS, V1_JSON, V1_MSGPACK, Format, packed
from trio_rooms._wire.frames import Frame

ERROR = ActionError("CODE", "text", temporary=True)
TOLD = {"code": "CODE", "message": "text", "temporary": True}


def decoded(frame: Frame) -> object:
    """The message of a frame: text is JSON, and what is not is MessagePack."""
    return json.loads(frame.payload) if frame.text else msgspec.msgpack.decode(frame.payload)


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
        (
            V1_MSGPACK,
            {"room": "r", "data": {"n": 1}},
            {"action": "a", "data": {"n": 1}},
            {"data": {"n": 2}},
            {"action": "a", "data": {"n": 2}},
        ),
    ],
    ids=["plain", "v1", "msgpack"],
)
def test_publications_and_direct_messages(
    form: Format, publication: object, to_all: object, direct: object, action: object
) -> None:
    """Plain clients get the object as it is, v1 clients an envelope."""
    assert decoded(form.publication(Publication(("r",), b'{"n":1}'))) == publication
    assert decoded(form.publication(Publication((), b'{"n":1}', action="a"))) == to_all
    assert decoded(form.direct({"n": 2})) == direct
    assert decoded(form.direct({"n": 2}, "a")) == action


@pytest.mark.parametrize("form", [PLAIN, V1_JSON, V1_MSGPACK], ids=["plain", "v1", "msgpack"])
def test_replies(form: Format) -> None:
    """Replies look the same in all formats."""
    assert decoded(form.reply(1, {"n": 1})) == {"id": 1, "data": {"n": 1}}
    assert decoded(form.item("x", 1)) == {"id": "x", "data": 1, "more": True}
    assert decoded(form.end("x")) == {"id": "x", "more": False}
    assert decoded(form.error(1, ERROR)) == {"id": 1, "error": TOLD}
    assert decoded(form.error(None, ERROR)) == {"error": TOLD}


def test_kinds_of_frames() -> None:
    """JSON is text, MessagePack is not; bytes alone are a binary frame where that means nothing else."""
    assert [form.direct(1).text for form in (PLAIN, V1_JSON, V1_MSGPACK)] == [True, True, False]
    for form in (PLAIN, V1_JSON):
        frame = form.binary(bytearray(b"\xff"))
        assert (frame.text, frame.payload) == (False, b"\xff")
    assert decoded(V1_MSGPACK.binary(b"\xff")) == {"data": b"\xff"}
    with pytest.raises(UsageError):
        PLAIN.binary("text")  # type: ignore[arg-type]


def test_what_a_publication_is_packed_from() -> None:
    """From the event, if it is there; from what a broker carried; from the JSON, if it carried nothing else."""
    assert packed(Publication(("r",), b'"/w=="', event=b"\xff")) == b"\xc4\x01\xff"
    assert packed(Publication(("r",), b'"/w=="', packed=b"\xc4\x01\xff")) == b"\xc4\x01\xff"
    assert packed(Publication(("r",), b'"/w=="')) == b"\xa4/w=="


def test_parts_are_packed_once() -> None:
    """A publication to several rooms is packed for all its parts at once; their frames name their rooms."""
    whole = Publication(("a", "b"), b"[1]", event=[1])
    parts = [whole.to(room) for room in whole.rooms]
    frames = [decoded(part.frame(V1_MSGPACK)) for part in parts]
    assert frames == [{"room": "a", "data": [1]}, {"room": "b", "data": [1]}]
    assert whole.packed == b"\x91\x01"
    assert [part.packed for part in parts] == [None, None]


def test_choice_of_the_format() -> None:
    """The subprotocol selects the format; no subprotocol is plain, which is not offered by name."""
    assert FORMATS == {None: PLAIN, "trio-rooms.v1.json": V1_JSON, "trio-rooms.v1.msgpack": V1_MSGPACK}
    assert SUBPROTOCOLS == ("trio-rooms.v1.json", "trio-rooms.v1.msgpack")
    assert [form.v1 for form in (PLAIN, V1_JSON, V1_MSGPACK)] == [False, True, True]
    assert [form.text for form in (PLAIN, V1_JSON, V1_MSGPACK)] == [True, True, False]
