"""Tasks of the program that follow a room: they see its stream, without a hole, or are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from ._history import History
from ._record import Delivered, Followed, Received, Unfollowed


@attrs.define
class _Follower:
    begun: Followed
    due: list[Any]
    """What it is to get, as far as it was delivered."""
    at: tuple[int, str] | None
    """How far it has come."""
    got: int = 0


def check_followers(history: History) -> Iterator[str]:
    """Each event in its turn, once; nothing is missing before what it has got."""
    following: dict[int, _Follower] = {}
    for _, entry in history.record:
        if isinstance(entry, Followed):
            following[entry.number] = _Follower(entry, [], entry.at)
            if entry.recovered and entry.at != entry.since:
                yield f"follower {entry.number} is recovered since {entry.since}, and is at {entry.at}"
        elif isinstance(entry, Delivered) and entry.offset is None:
            for one in following.values():
                if one.begun.room in entry.rooms:
                    one.due.append(msgspec.json.decode(entry.data))
        elif isinstance(entry, Received):
            one = following[entry.number]
            yield from _receive(history, one, entry)
        elif isinstance(entry, Unfollowed):
            following.pop(entry.number, None)


def _receive(history: History, one: _Follower, entry: Received) -> Iterator[str]:
    name = f"follower {entry.number} of {one.begun.room!r}"
    if entry.at is None:
        if one.due[one.got : one.got + 1] != [entry.data]:
            yield f"{name} gets {entry.data!r}, and not {one.due[one.got : one.got + 1]!r}"
        one.got += 1
        return
    offset, epoch = entry.at
    latest_only = one.begun.room.startswith(("cache-", "fresh-"))
    before = one.at
    one.at = entry.at
    if before is not None and before[1] != epoch:
        if not latest_only:
            yield f"{name} gets {entry.data!r} at {entry.at}, behind {before}, and is not told"
        before = None
    stream = history.kept.get((one.begun.room, epoch), [])
    due = [kept for kept in stream if (-1 if before is None else before[0]) < kept.offset <= offset]
    if not due or due[-1].offset != offset or msgspec.json.decode(due[-1].data) != entry.data:
        yield f"{name} gets {entry.data!r} at {entry.at}, behind {before}"
    elif len(due) > 1 and before is not None and not latest_only:
        yield f"{name} gets {entry.data!r} at {entry.at}, and misses {len(due) - 1} before it"
