"""Which names rooms may have."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._rooms.names import why_not_a_room

GOOD = [
    "lobby",
    "a",
    "chat:42",
    "orders/eu-west/1",
    "a.b.c",
    "Größe",
    "部屋",
    "🚀",
    "a$b",
    "{room}",
    "e\u0301",  # decomposed: a name of its own, not é
    "x" * 255,
    "é" * 127,
]

BAD = [
    "",
    "x" * 256,
    "é" * 128,
    "$join",
    "$",
    *(f"a{character}b" for character in "*>?[]\\ \0\t\n\r\x1b\x7f\x80\x85\x9f"),
    *(f"a{character}b" for character in "\u2028\u2029\u061c\u200e\u200f"),
    *(f"a{chr(code)}b" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    ".",
    ".a",
    "a.",
    "a..b",
    "\ud800",
    "a\udfff",
    None,
    7,
    b"lobby",
    ["lobby"],
]


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name: str) -> None:
    """M5: names of 1 to 255 bytes of ordinary text, in any script, are allowed."""
    assert why_not_a_room(name, max_bytes=255) is None


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad_names(name: object) -> None:
    """M5: names that a log, a shell, Redis or NATS would misread are refused, with a text of one line."""
    problem = why_not_a_room(name, max_bytes=255)
    assert problem
    assert problem.isprintable()


def test_the_bound_is_in_bytes() -> None:
    """The size of a name is that of its UTF-8."""
    assert why_not_a_room("é" * 5, max_bytes=10) is None
    assert "at most 9 bytes" in (why_not_a_room("é" * 5, max_bytes=9) or "")


def test_names_are_not_normalised() -> None:
    """Both forms of é are allowed, and stay two names."""
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    assert composed != decomposed
    assert why_not_a_room(composed, max_bytes=255) is None
    assert why_not_a_room(decomposed, max_bytes=255) is None


@given(st.text())
def test_what_is_allowed_is_one_line(name: str) -> None:
    """M5: no allowed name can start a line of its own in a log, or be taken for a pattern."""
    if why_not_a_room(name, max_bytes=255) is None:
        assert len(name.splitlines()) == 1
        assert not set(name) & set("*?[]>\\")
        assert 1 <= len(name.encode()) <= 255
