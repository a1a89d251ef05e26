"""Who is in a room, kept up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import trio

from ._errors import ServerViolation

Entry = Mapping[str, Any]


class Presence(Mapping[str, tuple[Entry, ...]]):
    """The users of a room, each with one entry for each of its connections (tabs).

    A mapping that changes by itself whenever a change has come from the server: empty before the first and after the
    end, and as it was while the connection is lost. An entry has ``"id"``, which stands for one membership of one
    connection, and what the program added.
    """

    def __init__(self) -> None:
        self._users: dict[str, tuple[Entry, ...]] = {}
        self._changed = trio.Event()

    def __getitem__(self, user: str) -> tuple[Entry, ...]:
        """The entries of a user, at least one; KeyError if it is not there."""
        return self._users[user]

    def __iter__(self) -> Iterator[str]:
        """The users."""
        return iter(self._users)

    def __len__(self) -> int:
        """How many users there are, whatever the number of their connections."""
        return len(self._users)

    async def wait_change(self) -> None:
        """Wait for the next change; several at once may be one. What happened before is in the mapping already.

        The end of the membership, which empties the mapping, is the last one.
        """
        await self._changed.wait()

    def _take(self, data: object) -> None:
        """The state, or a difference."""
        if not isinstance(data, dict):
            raise ServerViolation("a presence message without data")
        if "users" in data:
            self._users = {user: tuple(entries) for user, entries in _by_user(data["users"])}
        else:
            # An update of an entry is both; the new one stays.
            for user, entries in _by_user(data.get("leaves") or {}):
                self._set(user, _without(self._users.get(user, ()), entries))
            for user, entries in _by_user(data.get("joins") or {}):
                self._set(user, (*_without(self._users.get(user, ()), entries), *entries))
        self._changed.set()
        self._changed = trio.Event()

    def _clear(self) -> None:
        """The membership is over, and nothing is known any more."""
        self._take({"users": {}})

    def _set(self, user: str, entries: tuple[Entry, ...]) -> None:
        if entries:
            self._users[user] = entries
        else:
            self._users.pop(user, None)


def _by_user(found: object) -> list[tuple[str, list[Entry]]]:
    if not isinstance(found, dict):
        raise ServerViolation("presence is no object")
    for entries in found.values():
        if not isinstance(entries, list) or not all(map(_has_id, entries)):
            raise ServerViolation("presence has an entry without an id")
    return list(found.items())


def _has_id(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def _without(entries: tuple[Entry, ...], others: list[Entry]) -> tuple[Entry, ...]:
    gone = {other["id"] for other in others}
    return tuple(entry for entry in entries if entry["id"] not in gone)
