"""The two pictures of who is present: whatever happens, what was told adds up to what is, within the bound."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._rooms.attendance import Attendance, Entry

MAX_BYTES = 50
GRACE = 3.0

USERS = ("a", "b", "c", "d")


@attrs.define(eq=False)
class Told:
    """A member: what it knows by having been told."""

    known: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    entries_joined: Counter[str] = attrs.field(factory=Counter)

    def take(self, attendance: Attendance) -> None:
        """Be told what is new."""
        joins, leaves = attendance.take_news()
        for user, entries in leaves.items():
            for entry in entries:
                assert entry.keys() == {"id"}
                del self.known[user][entry["id"]]
        for user, entries in joins.items():
            for entry in entries:
                self.entries_joined[entry["id"]] += entry["id"] not in self.known.get(user, {})
                self.known.setdefault(user, {})[entry["id"]] = entry
        self.known = {user: entries for user, entries in self.known.items() if entries}


def actual(attendance: Attendance, *, fetched: bool = True) -> dict[str, dict[str, Any]]:
    """How it is, of those for whom everything was fetched."""
    return {
        person.name: {entry.id: person.shown(entry) for entry in person.entries.values()}
        for person in attendance.people.values()
        if person.fetched or not fetched
    }


@attrs.define(eq=False)
class World:
    """An attendance, the connections behind its entries, and who is online by what it has called."""

    fetches: bool
    online: set[str] = attrs.field(factory=set)
    live: list[Entry] = attrs.field(factory=list)
    told: Told = attrs.field(factory=Told)
    now: float = 0.0
    made: int = 0
    attendance: Attendance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.attendance = Attendance(MAX_BYTES, self.moved, fetches=self.fetches)

    def moved(self, user: str) -> None:
        (self.online.add if user in self.attendance.people else self.online.discard)(user)

    def join(self, number: int) -> None:
        self.made += 1
        entry = Entry(f"e{self.made}", USERS[number % len(USERS)], {"n": 0}, 5 + number % 7)
        if self.attendance.makes_room(entry):
            self.attendance.enter(entry)
            self.live.append(entry)
        else:
            assert len(self.live) > 1

    def leave(self, number: int) -> None:
        if self.live:
            self.attendance.leave(self.live.pop(number % len(self.live)))

    def lose(self, number: int) -> None:
        if self.live:
            self.attendance.leave(self.live.pop(number % len(self.live)), grace_ends=self.now + GRACE)

    def update(self, number: int) -> None:
        if self.live:
            entry = self.live[number % len(self.live)]
            before = entry.data
            done = self.attendance.update(entry, {"n": number}, 5 + number % 9)
            assert entry.data == ({"n": number} if done else before)

    def wait(self, number: int) -> None:
        self.now += number % 4
        self.attendance.end_graces(self.now)
        assert self.attendance.next_end > self.now

    def fetch(self, number: int) -> None:
        for person in self.attendance.to_fetch():
            self.attendance.show(person, {"name": person.name}, number % 5)
            person.fetched = True

    def tell(self, number: int) -> None:
        self.told.take(self.attendance)
        assert self.told.known == self.attendance.told == actual(self.attendance)
        assert self.attendance.has_news == (self.told.known != actual(self.attendance, fetched=False))

    def check(self) -> None:
        """What holds after each step."""
        attendance = self.attendance
        entries = [entry for person in attendance.people.values() for entry in person.entries.values()]
        assert attendance.cost <= MAX_BYTES
        assert attendance.cost == sum(entry.cost + attendance.people[entry.user].extra_cost for entry in entries)
        assert attendance.size == len(entries)
        assert {entry.id for entry in self.live} <= {entry.id for entry in entries}
        assert self.online == set(attendance.people)
        for person in attendance.people.values():
            behind = [entry for entry in self.live if entry.user == person.name]
            assert len(person.entries) == (len(behind) or 1), "one entry without a connection at most, and none beside"
        assert set(self.told.entries_joined.values()) <= {1}, "no entry joins twice"


STEPS = ("join", "join", "leave", "lose", "lose", "update", "wait", "fetch", "tell")


@given(st.booleans(), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), max_size=60))
def test_what_was_told_adds_up(fetches: bool, steps: list[tuple[str, int]]) -> None:
    """After any steps, what a member was told is how it is, and at the end nothing is left."""
    world = World(fetches)
    for name, number in steps:
        getattr(world, name)(number)
        world.check()
    for name in ("fetch", "tell"):
        getattr(world, name)(1)
    assert world.told.known == actual(world.attendance, fetched=False)
    world.attendance.clear()
    world.live.clear()
    world.check()
    assert not world.attendance.has_news
    assert world.attendance.told == {}


@pytest.mark.parametrize("come_back", [True, False])
def test_who_leaves_before_it_was_told(come_back: bool) -> None:
    """What came and went in between is in no news; who came back is told as who it is now."""
    world = World(fetches=False)
    world.join(0)
    world.leave(0)
    if come_back:
        world.join(0)
    joins, leaves = world.attendance.take_news()
    assert leaves == {}
    assert [[entry["id"] for entry in entries] for entries in joins.values()] == ([["e2"]] if come_back else [])


def test_graces_go_in_their_order() -> None:
    """For who comes, those in their grace go, the oldest first, and no more than have to."""
    world = World(fetches=False)
    for number in (7, 15, 23):  # a, d, d
        world.join(number)
    world.join(9)  # b
    for _ in range(4):
        world.lose(0)
        world.now += 1
    before = list(world.attendance.people)
    assert before == ["d", "b"]
    big = Entry("big", "c", {}, MAX_BYTES - world.attendance.people["b"].entries["e4"].cost)
    assert world.attendance.makes_room(big)
    assert list(world.attendance.people) == ["b"]
    assert not world.attendance.makes_room(Entry("huge", "c", {}, MAX_BYTES + 1))
    assert list(world.attendance.people) == ["b"]
