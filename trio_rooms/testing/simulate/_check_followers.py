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
    offset: int | None
    got: int = 0


def check_followers(history: History) -> Iterator[str]:
    """Each event in its turn, once; nothing is missing before what it has got."""
    following: dict[int, _Follower] = {}
    for _, entry in history.record:
        if isinstance(entry, Followed):
            offset = None if entry.at is None else entry.at[0]
            following[entry.number] = _Follower(entry, [], offset)
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
    stream = history.kept.get((one.begun.room, epoch), [])
    due = [kept for kept in stream if (-1 if one.offset is None else one.offset) < kept.offset <= offset]
    one.offset, before = offset, one.offset
    if not due or due[-1].offset != offset or msgspec.json.decode(due[-1].data) != entry.data:
        yield f"{name} gets {entry.data!r} at {offset}, behind {before}"
    elif len(due) > 1 and not one.begun.room.startswith(("cache-", "fresh-")):
        yield f"{name} gets {entry.data!r} at {offset}, and misses {len(due) - 1} before it"
