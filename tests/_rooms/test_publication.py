"""Publications and reports as values."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Position, Publication, Report
from trio_rooms._wire.frames import Frame, make_frame

reports = st.builds(
    Report,
    st.booleans(),
    st.integers(0, 2),
    position=st.none() | st.builds(Position, st.integers(1, 2), st.just("e")),
    duplicate=st.booleans(),
    written=st.none() | st.integers(0, 2),
)


@attrs.define(eq=False)
class CountingFormat:
    """Frames the data as it is, and counts how often."""

    calls: int = 0

    def publication(self, publication: Publication) -> Frame:
        self.calls += 1
        return make_frame(publication.data, text=True)


def test_framed_once_for_each_format() -> None:
    """However many members share a format, the frame is made once; another format has its own."""
    publication = Publication(("r",), b"1")
    one, other = CountingFormat(), CountingFormat()
    frames = {id(publication.frame(one)) for _ in range(5)}
    publication.frame(other)
    assert len(frames) == 1
    assert (one.calls, other.calls) == (1, 1)


def test_its_room() -> None:
    """The room of a publication is its first target; one to everybody has none."""
    assert Publication(("a", "b"), b"1").room == "a"
    assert Publication((), b"1").room is None


def test_for_one_of_its_rooms() -> None:
    """The copy for one room keeps everything but the targets and the frames, which name the room."""
    publication = Publication(("a", "b"), b"1", exclude=frozenset({"x"}), key="k")
    form = CountingFormat()
    publication.frame(form)
    part = publication.to("b")
    assert (part.room, part.rooms, part.data, part.exclude, part.key) == ("b", ("b",), b"1", frozenset({"x"}), "k")
    assert part.frame(form) is not publication.frame(form)


def test_reports_add_up() -> None:
    """Numbers are added; the sum is final if both are."""
    total = Report(True, 1, 2, 3, 4) + Report(True, 10, 20, 30, 40)
    assert total == Report(True, 11, 22, 33, 44)
    assert not (Report(True, 1) + Report()).final


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("written", [1, 2], 3),
        ("written", [None, 2], None),
        ("written", [2, None], None),
        ("written", [None, None], None),
        ("duplicate", [False, True], True),
        ("duplicate", [True, False], True),
        ("duplicate", [False, False], False),
        ("position", [Position(1, "e"), Position(2, "e")], None),
        ("position", [Position(1, "e"), None], None),
        ("position", [Position(1, "e"), Position(1, "e")], Position(1, "e")),
    ],
)
def test_what_reports_say_beyond_numbers(field: str, values: list[Any], expected: object) -> None:
    """A sum says what is true of all; ``written`` as far as it is known of whatever was enqueued."""
    one, other = (Report(True, 3, **{field: value}) for value in values)
    assert one + other == msgspec.structs.replace(Report(True, 6), **{field: expected})


@pytest.mark.parametrize("written", [None, 0, 2])
def test_reports_are_added_to_an_empty_one(written: int | None) -> None:
    """Where nothing was enqueued, nothing is to be written."""
    one = Report(True, 2, written=written)
    assert Report(final=True) + one == one + Report(final=True) == one
    assert (one + Report(True, dropped=1)).written == written


@given(st.lists(reports, min_size=3, max_size=3))
def test_in_whatever_order_they_are_added(three: list[Report]) -> None:
    """It does not matter which are added first."""
    one, two, three_ = three
    assert (one + two) + three_ == one + (two + three_)
    assert one + two == two + one
