"""Who is present in a room: users with an entry for each of their connections, and what members were told of that.

Theory of operation. There are two pictures of the same thing. One is how it is: it changes with each join and leave.
The other is what the members have been told, all of them the same: it changes only when what has changed is
taken to be sent. The difference is not kept but found, from the ids of entries that may differ; so what came and went
in between is in none of the pictures, and an entry that changed ten times is told once.

A user whose last connection was lost keeps its entry until its grace ends or another entry takes its place. An entry
has an id of its own, given anew with each join, and nothing in here depends on where its connection is: entries of
other nodes could be entered likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

#: An entry as clients see it: what was fetched for the user, the entry's data, the id. Never changed once made.
Shown = Mapping[str, Any]


@attrs.define(eq=False)
class Entry:
    """One connection of a user in a room."""

    id: str
    user: str
    data: Mapping[str, Any]
    cost: int
    """What its data, its user and its id are charged."""


@attrs.define(eq=False)
class Person:
    """One user in a room: there is one as long as the user has entries."""

    name: str
    fetched: bool
    """Whether there is nothing more to wait for before its entries are told."""
    entries: dict[str, Entry] = attrs.field(factory=dict)
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    """What was fetched for the user."""
    extra_cost: int = 0
    grace_ends: float = math.inf
    """When the one entry that is left goes; infinite while a connection stands behind it."""

    def shown(self, entry: Entry) -> Shown:
        """One of its entries as clients see it."""
        return {**self.extra, **entry.data, "id": entry.id}


@attrs.define(eq=False)
class Attendance:
    """The presence of one room; see the module's theory. ``on_moved`` is called with users that come or go."""

    max_bytes: int
    on_moved: Callable[[str], None]
    fetches: bool = False
    """Whether what is fetched for users is to be waited for."""
    people: dict[str, Person] = attrs.field(factory=dict)
    told: dict[str, dict[str, Shown]] = attrs.field(factory=dict)
    """What members know: entries by user and id."""
    cost: int = 0
    size: int = 0
    """The number of entries."""
    _changed: dict[str, str] = attrs.field(factory=dict)
    """The user by the id of each entry that may not be as it was told."""
    _in_grace: dict[str, Person] = attrs.field(factory=dict)
    """In the order in which their grace ends."""

    @property
    def has_news(self) -> bool:
        """Whether something may have changed since it was told."""
        return bool(self._changed)

    @property
    def next_end(self) -> float:
        """When the next grace ends; infinite if there is none."""
        return next((person.grace_ends for person in self._in_grace.values()), math.inf)

    def makes_room(self, entry: Entry) -> bool:
        """Whether an entry can be entered, after those in their grace, but its own user, have gone as far as needed."""
        person = self.people.get(entry.user)
        cost = entry.cost + (0 if person is None else person.extra_cost)
        if entry.user in self._in_grace:
            cost -= self._cost_of(self._in_grace[entry.user])
        if self.cost + cost <= self.max_bytes:
            return True
        others = [one for one in self._in_grace.values() if one.name != entry.user]
        if self.cost + cost - sum(map(self._cost_of, others)) > self.max_bytes:
            return False
        for one in others:
            if self.cost + cost <= self.max_bytes:
                break
            self._end_grace(one)
        return True

    def enter(self, entry: Entry) -> None:
        """Add an entry that there is room for; it takes the place of one in its grace."""
        person = self.people.get(entry.user)
        if person is None:
            person = self.people[entry.user] = Person(entry.user, fetched=not self.fetches)
        elif self._in_grace.pop(entry.user, None) is not None:
            person.grace_ends = math.inf
            for old in tuple(person.entries.values()):
                self._remove(person, old)
        person.entries[entry.id] = entry
        self.cost += entry.cost + person.extra_cost
        self.size += 1
        self._changed[entry.id] = entry.user
        self.on_moved(entry.user)

    def leave(self, entry: Entry, *, grace_ends: float | None = None) -> None:
        """Remove an entry; with a time, the last one of its user only then."""
        person = self.people[entry.user]
        if grace_ends is not None and len(person.entries) == 1:
            person.grace_ends = grace_ends
            self._in_grace[entry.user] = person
        else:
            self._remove(person, entry)
            self._forget_if_gone(person)

    def update(self, entry: Entry, data: Mapping[str, Any], cost: int) -> bool:
        """Replace the data of an entry; False if there is no room for it."""
        if cost > entry.cost and self.cost - entry.cost + cost > self.max_bytes:
            return False
        self.cost += cost - entry.cost
        entry.data, entry.cost = data, cost
        self._changed[entry.id] = entry.user
        return True

    def end_graces(self, now: float) -> None:
        """Let those go whose grace has ended by now."""
        for person in tuple(self._in_grace.values()):
            if person.grace_ends > now:
                break
            self._end_grace(person)

    def clear(self) -> None:
        """Everybody goes, and nobody is left to be told."""
        gone = tuple(self.people)
        for pool in (self.people, self.told, self._changed, self._in_grace):
            pool.clear()
        self.cost = self.size = 0
        for user in gone:
            self.on_moved(user)

    def to_fetch(self) -> list[Person]:
        """Those that are not told of because nothing has been fetched for them."""
        users = dict.fromkeys(self._changed.values())
        people = [self.people[user] for user in users if user in self.people]
        return [person for person in people if not person.fetched]

    def show(self, person: Person, extra: Mapping[str, Any], cost: int) -> bool:
        """Show this in each entry of a user; False if there is no room for it."""
        added = (cost - person.extra_cost) * len(person.entries)
        if self.cost + added > self.max_bytes:
            return False
        if self.people.get(person.name) is person:
            self.cost += added
        person.extra, person.extra_cost = extra, cost
        return True

    def take_news(self) -> tuple[dict[str, list[Shown]], dict[str, list[Shown]]]:
        """What has changed, as (joins, leaves), which from now on counts as told."""
        joins: dict[str, list[Shown]] = {}
        leaves: dict[str, list[Shown]] = {}
        waiting: dict[str, str] = {}
        for ident, user in self._changed.items():
            person = self.people.get(user)
            entry = None if person is None else person.entries.get(ident)
            known = self.told.get(user, {}).get(ident)
            if person is None or entry is None:
                if known is not None:
                    leaves.setdefault(user, []).append({"id": ident})
                    self._untell(user, ident)
            elif not person.fetched:
                waiting[ident] = user
            elif (shown := person.shown(entry)) != known:
                joins.setdefault(user, []).append(shown)
                self.told.setdefault(user, {})[ident] = shown
        self._changed = waiting
        return joins, leaves

    def _untell(self, user: str, ident: str) -> None:
        del self.told[user][ident]
        if not self.told[user]:
            del self.told[user]

    def _cost_of(self, person: Person) -> int:
        return sum(entry.cost + person.extra_cost for entry in person.entries.values())

    def _end_grace(self, person: Person) -> None:
        del self._in_grace[person.name]
        for entry in tuple(person.entries.values()):
            self._remove(person, entry)
        self._forget_if_gone(person)

    def _remove(self, person: Person, entry: Entry) -> None:
        del person.entries[entry.id]
        self.cost -= entry.cost + person.extra_cost
        self.size -= 1
        if entry.id in self.told.get(entry.user, ()):
            self._changed[entry.id] = entry.user
        else:
            self._changed.pop(entry.id, None)

    def _forget_if_gone(self, person: Person) -> None:
        if not person.entries:
            del self.people[person.name]
            self.on_moved(person.name)
