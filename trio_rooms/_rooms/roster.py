"""Who is in a room and who is about to be; the synchronous fan-out. Nothing in here can wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import attrs

from .publication import Publication, Report


class Outbox(Protocol):
    """The part of an outbox that a room uses."""

    def put(self, item: Publication, /) -> int:
        """Number of displaced frames, -1 for dropped, -2 for closed."""


class Member(Protocol):
    """A room's view of a connection: an id and an outbox."""

    id: str

    @property
    def outbox(self) -> Outbox: ...


M = TypeVar("M", bound=Member)

_DROPPED = -1


@attrs.define(eq=False)
class Roster(Generic[M]):
    """The members of one room, and the places that are reserved by joins under way.

    A place is taken (checked against the capacity) before anything of a join can wait, so that two joins
    can never both see the last free place.
    """

    capacity: int | None = None
    members: dict[str, M] = attrs.field(factory=dict)
    reserved: set[str] = attrs.field(factory=set)

    @property
    def empty(self) -> bool:
        """Neither members nor reserved places."""
        return not self.members and not self.reserved

    def reserve(self, member_id: str) -> bool:
        """Take a place; False if there is none."""
        if self.capacity is not None and len(self.members) + len(self.reserved) >= self.capacity:
            return False
        self.reserved.add(member_id)
        return True

    def begin(self, member: M) -> bool:
        """Turn a reserved place into membership; False if the place has been released meanwhile."""
        if member.id not in self.reserved:
            return False
        self.reserved.discard(member.id)
        self.members[member.id] = member
        return True

    def remove(self, member_id: str) -> bool:
        """Give up a membership or a reserved place; whether there was one."""
        was_reserved = member_id in self.reserved
        self.reserved.discard(member_id)
        return self.members.pop(member_id, None) is not None or was_reserved


def fan_out(publication: Publication, members: Iterable[M], exclude: Collection[str], closed: list[M]) -> Report:
    """Put a publication into the outbox of each member; whole, however many there are.

    Members whose outbox answered "closed" are collected in ``closed``: they leave the room after the pass,
    because this runs over the room's own dict.
    """
    enqueued = dropped = displaced = 0
    closed_before = len(closed)
    for member in members:
        if exclude and member.id in exclude:
            continue
        result = member.outbox.put(publication)
        if result >= 0:
            enqueued += 1
            displaced += result
        elif result == _DROPPED:
            dropped += 1
        else:
            closed.append(member)
    return Report(True, enqueued, dropped, len(closed) - closed_before, displaced)


def union(rosters: Iterable[tuple[str, Roster[M]]], exclude: Collection[str]) -> Iterator[tuple[str, list[M]]]:
    """For each room the members that no earlier room has had: one copy each, however many rooms they share."""
    seen = set(exclude)
    for room, roster in rosters:
        fresh = [member for member in roster.members.values() if member.id not in seen]
        seen.update(member.id for member in fresh)
        yield room, fresh
