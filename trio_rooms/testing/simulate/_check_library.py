"""Clients of the library: each room's stream in order and without a hole, or a gap that says so."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import msgspec

from ._history import Delivery, History
from ._record import Given


@attrs.define
class _Place:
    """How far a client has come in a room; nothing is known behind a gap."""

    at: tuple[int, str] | None = None
    gap: bool = False
    """Whether something may be missing between the last one and the next."""
    index: int | None = None
    """Among the room's deliveries, of those without a position."""


def check_library(history: History) -> Iterator[str]:
    """Nothing twice, nothing out of order, and between two gaps nothing missing."""
    places: dict[tuple[int, str], _Place] = {}
    streams: dict[str, list[Delivery]] = {}
    for one in history.deliveries:
        for room in one.entry.rooms or history.settings.rooms:
            if one.entry.offset is None:
                streams.setdefault(room, []).append(one)
    for _, given in history.record.of(Given):
        place = places.setdefault((given.client, given.room), _Place())
        name = f"library client {given.client} in {given.room!r}"
        if given.gap is not None:
            place.at = None
        if given.gap == "over":
            place.index = None
        elif given.gap is not None:
            place.gap = True
        elif given.at is not None:
            yield from _numbered(history, name, place, given)
        else:
            yield from _plain(name, place, given, streams.get(given.room, []))


def _numbered(history: History, name: str, place: _Place, given: Given) -> Iterator[str]:
    assert given.at is not None
    offset, epoch = given.at
    stream = history.kept.get((given.room, epoch), [])
    before, place.at = place.at, given.at
    latest_only = given.room.startswith(("cache-", "fresh-"))
    if not any(one.offset == offset and msgspec.json.decode(one.data) == given.data for one in stream):
        yield f"{name} is given {given.data!r} at {given.at}, which stands elsewhere"
    elif before is not None and before[1] != epoch and not latest_only:
        yield f"{name} is given {given.at} behind {before}, and no gap in between"
    elif before is not None and before[1] == epoch:
        missed = [one for one in stream if before[0] < one.offset < offset]
        if offset <= before[0]:
            yield f"{name} is given {given.at} behind {before}"
        elif missed and not latest_only:
            yield f"{name} is given {given.at} behind {before}, and misses {len(missed)}"


def _plain(name: str, place: _Place, given: Given, stream: list[Delivery]) -> Iterator[str]:
    last = place.index
    start = 0 if last is None else last + 1  # what came before does not come again
    found = next((index for index in range(start, len(stream)) if stream[index].event == given.data), None)
    if found is None:
        yield f"{name} is given {given.data!r}, which is not to come"
        return
    if last is not None and not place.gap and given.room.startswith(("close-", "people-")):
        missed = [one for one in stream[start:found] if one.entry.rooms == (given.room,)]
        if missed:
            yield f"{name} is given {given.data!r}, and misses {missed[0].event!r} before it"
    place.index, place.gap = found, False
