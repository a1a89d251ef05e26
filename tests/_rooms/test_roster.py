"""Members, reserved places and the fan-out, with outboxes that answer as they are told."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._rooms.roster import Roster, union


@attrs.define(eq=False)
class FakeMember:
    """A member; it is its own outbox."""

    id: str
    apart_from: list[object] = attrs.field(factory=list)

    def stand_apart(self, owner: object) -> None:
        self.apart_from.append(owner)


def begin(roster: Roster[FakeMember, FakeMember], name: str) -> bool:
    """Begin a membership."""
    member = FakeMember(name)
    return roster.begin(member, member)


def roster_of(*names: str, capacity: int | None = None) -> Roster[FakeMember, FakeMember]:
    roster: Roster[FakeMember, FakeMember] = Roster(capacity)
    for name in names:
        assert roster.reserve(name)
        assert begin(roster, name)
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
    assert not begin(roster, "a")
    assert roster.empty


def test_who_has_a_place_reserved() -> None:
    """Those whose joins are under way, in the order in which they came; nobody who is in, was refused or gave it up."""
    roster = roster_of("member", capacity=6)
    names = ["e", "a", "d", "b", "c"]
    assert [roster.reserve(name) for name in [*names, "late"]] == [True] * 5 + [False]
    assert list(roster.reserved) == names
    assert begin(roster, "a")
    assert roster.remove("d")
    assert not roster.remove("d")
    assert not begin(roster, "d")
    assert list(roster.reserved) == ["e", "b", "c"]
    assert roster.remove("a")
    assert roster.reserve("a")
    assert list(roster.reserved) == ["e", "b", "c", "a"]
    assert list(roster.members) == ["member"]


def test_remove() -> None:
    """Removing says whether there was something to remove, and does so once."""
    roster = roster_of("a")
    assert roster.remove("a")
    assert not roster.remove("a")
    assert roster.empty


def test_who_leaves_shares_nothing_more() -> None:
    """A member that is removed is parted from the others' backlog, and its outbox is no longer served."""
    roster = roster_of("a", "b")
    member = roster.members["a"]
    roster.remove("a")
    assert member.apart_from == [roster.outboxes]
    assert list(roster.outboxes) == ["b"]
    assert roster.outboxes["b"].apart_from == []


def test_not_empty_with_a_reserved_place() -> None:
    """A room with a join under way is not empty."""
    roster = roster_of()
    roster.reserve("a")
    assert not roster.empty
    assert begin(roster, "a")
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
    roster: Roster[FakeMember, FakeMember] = Roster(capacity)
    for step, name in steps:
        if step == "reserve" and name not in roster.members and name not in roster.reserved:
            roster.reserve(name)
        elif step == "begin":
            begin(roster, name)
        elif step == "remove":
            roster.remove(name)
        assert len(roster.members) + len(roster.reserved) <= capacity
        assert not roster.members.keys() & roster.reserved
        assert roster.empty is (not roster.members and not roster.reserved)


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
    rosters: list[tuple[str, Roster[FakeMember, FakeMember]]] = []
    for room, members in (("x", [a, b]), ("y", [b, c]), ("z", [a, b, c])):
        rosters.append((room, Roster(outboxes={member.id: member for member in members})))
    found = [(room, list(members)) for room, members in union(rosters, exclude)]
    assert found == expected
