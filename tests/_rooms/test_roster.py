"""Members, reserved places and the fan-out, with outboxes that answer as they are told."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Publication, Report
from trio_rooms._rooms.roster import Roster, fan_out, union


@attrs.define(eq=False)
class FakeMember:
    """A member whose outbox gives a fixed answer; it is its own outbox."""

    id: str
    answer: int = 0
    got: list[Publication] = attrs.field(factory=list)

    @property
    def outbox(self) -> FakeMember:
        return self

    def put(self, item: Publication, /) -> int:
        self.got.append(item)
        return self.answer


def roster_of(*names: str, capacity: int | None = None) -> Roster[FakeMember]:
    roster: Roster[FakeMember] = Roster(capacity)
    for name in names:
        assert roster.reserve(name)
        assert roster.begin(FakeMember(name))
    return roster


def test_capacity_counts_reserved_places() -> None:
    """M1: a place that is reserved is as good as taken."""
    roster = roster_of("a", capacity=2)
    assert roster.reserve("b")
    assert not roster.reserve("c")
    assert list(roster.members) == ["a"]


def test_a_released_place_is_free() -> None:
    """A place that was given up before membership began can be had by the next."""
    roster = roster_of(capacity=1)
    assert roster.reserve("a")
    assert roster.remove("a")
    assert roster.empty
    assert roster.reserve("b")


def test_membership_begins_only_on_a_reserved_place() -> None:
    """A join whose place was released meanwhile finds that out."""
    roster = roster_of()
    roster.reserve("a")
    roster.remove("a")
    assert not roster.begin(FakeMember("a"))
    assert roster.empty


def test_remove() -> None:
    """Removing says whether there was something to remove, and does so once."""
    roster = roster_of("a")
    assert roster.remove("a")
    assert not roster.remove("a")
    assert roster.empty


def test_not_empty_with_a_reserved_place() -> None:
    """A room with a join under way is not empty."""
    roster = roster_of()
    roster.reserve("a")
    assert not roster.empty
    assert roster.begin(FakeMember("a"))
    assert not roster.empty


def test_unbounded_capacity() -> None:
    """None is no bound."""
    roster = roster_of(capacity=None)
    assert all(roster.reserve(str(number)) for number in range(1000))


@given(
    capacity=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from(["reserve", "begin", "remove"]), st.sampled_from("abcdef"))),
)
def test_never_over_capacity(capacity: int, steps: list[tuple[str, str]]) -> None:
    """M1: members and reserved places together never pass the capacity, and nobody is both."""
    roster: Roster[FakeMember] = Roster(capacity)
    for step, name in steps:
        if step == "reserve" and name not in roster.members and name not in roster.reserved:
            roster.reserve(name)
        elif step == "begin":
            roster.begin(FakeMember(name))
        elif step == "remove":
            roster.remove(name)
        assert len(roster.members) + len(roster.reserved) <= capacity
        assert not roster.members.keys() & roster.reserved
        assert roster.empty is (not roster.members and not roster.reserved)


@given(answers=st.lists(st.integers(-2, 3)), excluded=st.sets(st.integers(0, 20)))
def test_report_of_a_fan_out(answers: list[int], excluded: set[int]) -> None:
    """Invariant 6: enqueued, dropped and closed make up the members less the excluded."""
    members = [FakeMember(str(number), answer) for number, answer in enumerate(answers)]
    exclude = frozenset(str(number) for number in excluded)
    publication = Publication(("r",), b"1")
    closed: list[FakeMember] = []
    report = fan_out(publication, members, exclude, closed)
    asked = [member for member in members if member.id not in exclude]
    assert [member for member in members if member.got] == asked
    assert report.final
    assert report.enqueued + report.dropped + report.closed == len(asked)
    assert report.displaced == sum(member.answer for member in asked if member.answer > 0)
    assert closed == [member for member in asked if member.answer == -2]
    assert report.closed == len(closed)


def test_several_fan_outs_collect_the_closed() -> None:
    """What an earlier pass has collected is not counted again."""
    first, second = FakeMember("a", -2), FakeMember("b", -2)
    closed: list[FakeMember] = []
    fan_out(Publication(("r",), b"1"), [first], (), closed)
    assert fan_out(Publication(("r",), b"1"), [second], (), closed) == Report(True, 0, 0, 1, 0)
    assert closed == [first, second]


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ((), [("x", ["a", "b"]), ("y", ["c"]), ("z", [])]),
        (("a", "c"), [("x", ["b"]), ("y", []), ("z", [])]),
    ],
)
def test_union(exclude: tuple[str, ...], expected: list[tuple[str, list[str]]]) -> None:
    """A member of several rooms is found in the first of them only, and an excluded one in none."""
    a, b, c = (FakeMember(name) for name in "abc")
    rosters: list[tuple[str, Roster[FakeMember]]] = []
    for room, members in (("x", [a, b]), ("y", [b, c]), ("z", [a, b, c])):
        rosters.append((room, Roster(members={member.id: member for member in members})))
    found = [(room, [member.id for member in members]) for room, members in union(rosters, exclude)]
    assert found == expected
