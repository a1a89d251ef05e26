"""Frames of a server: headers as RFC 6455 section 5.2 wants them, close reasons that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._wire.frames import close_frame, fit_reason, make_frame
from trio_rooms.testing import Opcode, ServerFrame, close_payload, parse_server_frames


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65535, b"\x7e\xff\xff"),
        (65536, b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
@pytest.mark.parametrize(("text", "first"), [(True, b"\x81"), (False, b"\x82")])
def test_header(size: int, header: bytes, text: bool, first: bytes) -> None:
    """The length is encoded in the shortest way, the frame is final, not masked, and of the right type."""
    frame = make_frame(b"x" * size, text=text)
    assert frame.data == first + header + b"x" * size
    assert frame.header == 1 + len(header)
    assert frame.text is text


@given(payload=st.binary(max_size=300), text=st.booleans())
def test_payload_comes_back(payload: bytes, text: bool) -> None:
    """A message-level transport finds the payload, and any parser the one frame."""
    frame = make_frame(payload, text=text)
    assert frame.payload == payload
    assert parse_server_frames(frame.data) == [ServerFrame(Opcode.TEXT if text else Opcode.BINARY, payload)]


def test_a_frame_is_a_private_message() -> None:
    """In an outbox a frame stands for itself: of no room, never replaced, never dropped, the same in every format."""
    frame = make_frame(b"x", text=True)
    assert (frame.room, frame.key, frame.overflow) == (None, None, "close")
    assert frame.frame("any format") is frame


def test_frames_compare_by_identity() -> None:
    """Two frames of equal bytes are two messages."""
    assert make_frame(b"x", text=True) != make_frame(b"x", text=True)


@pytest.mark.parametrize("reason", ["", "bye", "ü" * 61, "x" * 123])
def test_close_frame(reason: str) -> None:
    """A close frame carries its code and its reason, whole as long as it fits."""
    assert parse_server_frames(close_frame(4008, reason)) == [ServerFrame(Opcode.CLOSE, close_payload(4008, reason))]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_reason_fits(reason: str) -> None:
    """A reason is cut to 123 bytes between two characters, no earlier than it must be."""
    fitted = fit_reason(reason)
    assert reason.startswith(fitted)
    assert len(fitted.encode()) <= 123
    if fitted != reason:
        assert len(reason[: len(fitted) + 1].encode()) > 123
    (frame,) = parse_server_frames(close_frame(1000, reason))
    assert len(frame.payload) <= 125


def test_reason_that_is_no_utf8() -> None:
    """A reason with a lone surrogate, which cannot be encoded, must not keep a connection from closing."""
    assert fit_reason("a\ud800b") == "a?b"
