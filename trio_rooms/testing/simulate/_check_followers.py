"""Tasks of the program that follow a room: they see its stream, without a hole, or are told.

Who is told that the server has ended has got all that was delivered before. Who leaves by itself has got all for which
there was time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from ._check_ends import stream_was_lost
from ._history import History
from ._record import Delivered, Followed, Received, Served, Unfollowed


@attrs.define
class _Due:
    """An event that was delivered to it, and that it has not got."""

    time: float
    what: Any
    """Its position, or where it has none its data."""
    waits: bool
    """Whether it counts towards what may wait: what is recovered does not."""


@attrs.define
class _Follower:
    begun: Followed
    at: tuple[int, str] | None
    """How far it has come."""
    free_at: float
    """When it takes the next event."""
    due: list[_Due] = attrs.field(factory=list)
    over: bool = False
    """Whether its server has ended; another one is not for it."""
    full: bool = False
    """Whether something was delivered for which there was no room; from there on nothing is for it."""

    @property
    def name(self) -> str:
        return f"follower {self.begun.number} of {self.begun.room!r}"


def check_followers(history: History) -> Iterator[str]:
    """Each event in its turn, once; nothing is missing before what it has got, or at the end."""
    following: dict[int, _Follower] = {}
    positions: dict[str, list[tuple[int, str]]] = {}
    for time, entry in history.record:
        if isinstance(entry, Followed):
            one = following[entry.number] = _Follower(entry, entry.at, time)
            one.due = [_Due(time, at, False) for at in positions.get(entry.room, []) if _is_behind(entry.at, at)]
            if entry.recovered and entry.at != entry.since:
                yield f"follower {entry.number} is recovered since {entry.since}, and is at {entry.at}"
        elif isinstance(entry, Delivered):
            if entry.offset is not None and entry.epoch is not None:
                positions.setdefault(entry.rooms[0], []).append((entry.offset, entry.epoch))
            for one in following.values():
                if one.begun.room in entry.rooms and not one.over:
                    _deliver(one, time, entry)
        elif isinstance(entry, Served):
            for one in following.values():
                one.over = True
        elif isinstance(entry, Received):
            one = following[entry.number]
            yield from _receive(history, one, entry)
            one.free_at = time + one.begun.pause
        elif isinstance(entry, Unfollowed) and entry.number in following:
            yield from _leave(history, following.pop(entry.number), time, entry)


def _is_behind(at: tuple[int, str] | None, other: tuple[int, str]) -> bool:
    """Whether the other one stands behind, in the same stream."""
    return at is not None and at[1] == other[1] and at[0] < other[0]


def _deliver(one: _Follower, time: float, entry: Delivered) -> None:
    what: Any
    if entry.offset is None or entry.epoch is None:
        what = msgspec.json.decode(entry.data)
    else:
        what = entry.offset, entry.epoch
        if one.at is not None and one.at[1] == entry.epoch and entry.offset <= one.at[0]:
            return
    one.full = one.full or sum(due.waits for due in one.due) >= one.begun.most
    if not one.full:
        one.due.append(_Due(time, what, True))


def _leave(history: History, one: _Follower, time: float, entry: Unfollowed) -> Iterator[str]:
    left = [due.what for due in one.due]
    lost = stream_was_lost(history, one.begun.room)
    if entry.why == "ended" and (left or one.full):
        yield f"{one.name} has ended with the server, and has not got {left or 'all'}"
    elif entry.why == "lost" and not lost and (left or not one.full):
        yield f"{one.name} has lost something, and has not got {left}; full: {one.full}"
    in_time = [due.what for due in one.due if max(due.time, one.free_at) < time]
    if entry.why == "left" and in_time:
        yield f"{one.name} has left at {time}, and has not got {in_time}"


def _receive(history: History, one: _Follower, entry: Received) -> Iterator[str]:
    name = one.name
    if entry.at is None:
        if not one.due or one.due[0].what != entry.data:
            yield f"{name} gets {entry.data!r}, and not {one.due[:1]!r}"
        del one.due[:1]
        return
    offset, epoch = entry.at
    latest_only = one.begun.room.startswith(("cache-", "fresh-"))
    before = one.at
    one.at = entry.at
    one.due = [due for due in one.due if not isinstance(due.what, tuple) or _is_behind(entry.at, due.what)]
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
