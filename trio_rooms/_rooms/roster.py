"""Who is in a room and who is about to be. Nothing in here can wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import attrs


class Outbox(Protocol):
    """The part of an outbox that a room knows."""

    def stand_apart(self, owner: object) -> None:
        """Share nothing any more with the members that ``owner`` stands for."""


class Member(Protocol):
    """A room's view of a connection."""

    id: str


M = TypeVar("M", bound=Member)
OutboxT = TypeVar("OutboxT", bound=Outbox)


@attrs.define(eq=False)
class Roster(Generic[M, OutboxT]):
    """The members of one room, and the places that are reserved by joins under way.

    A place is taken (checked against the capacity) before anything of a join can wait, so that two joins
    can never both see the last free place.
    """

    capacity: int | None = None
    members: dict[str, M] = attrs.field(factory=dict)
    outboxes: dict[str, OutboxT] = attrs.field(factory=dict)
    """Of the members, for a fan-out: it has no other business with them, and passes by thousands."""
    reserved: dict[str, None] = attrs.field(factory=dict)
    """Of the joins under way, by the ids of their connections, in order."""

    @property
    def empty(self) -> bool:
        """Neither members nor reserved places."""
        return not self.members and not self.reserved

    def reserve(self, member_id: str) -> bool:
        """Take a place; False if there is none."""
        if self.capacity is not None and len(self.members) + len(self.reserved) >= self.capacity:
            return False
        self.reserved[member_id] = None
        return True

    def begin(self, member: M, outbox: OutboxT) -> bool:
        """Turn a reserved place into membership; False if the place has been released meanwhile."""
        if member.id not in self.reserved:
            return False
        del self.reserved[member.id]
        self.members[member.id] = member
        self.outboxes[member.id] = outbox
        return True

    def remove(self, member_id: str) -> bool:
        """Give up a membership or a reserved place; whether there was one."""
        was_reserved = member_id in self.reserved
        self.reserved.pop(member_id, None)
        if self.members.pop(member_id, None) is None:
            return was_reserved
        self.outboxes.pop(member_id).stand_apart(self.outboxes)
        return True


def union(
    rosters: Iterable[tuple[str, Roster[M, OutboxT]]], exclude: Collection[str]
) -> Iterator[tuple[str, dict[str, OutboxT]]]:
    """For each room the members that no earlier room has had: one copy each, however many rooms they share."""
    seen = set(exclude)
    for room, roster in rosters:
        fresh = {ident: outbox for ident, outbox in roster.outboxes.items() if ident not in seen}
        seen.update(fresh)
        yield room, fresh
