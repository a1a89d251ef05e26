"""Publications and reports as values."""

from __future__ import annotations

import attrs

from trio_rooms import Publication, Report
from trio_rooms._wire.frames import Frame, make_frame


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
