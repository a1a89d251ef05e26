"""The check of a simulation, alone: records that are right, until something is changed in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import pytest

from trio_rooms.testing.simulate import Outcome, simulate
from trio_rooms.testing.simulate._check import check
from trio_rooms.testing.simulate._check_delivery import is_publication
from trio_rooms.testing.simulate._record import (
    Called,
    Delivered,
    Ended,
    Finished,
    Given,
    Measured,
    Received,
    Record,
    Seen,
    Served,
    Wrote,
)

Entries = list[tuple[float, Any]]


@cache
def outcomes() -> tuple[Outcome, ...]:
    """Runs in which nothing is wrong."""
    return tuple(simulate(seed) for seed in (*range(12), 17, 20, 23))  # in the last there are plain clients


def problems_after(change: Callable[[Entries], bool]) -> set[str]:
    """The checks that complain when each record is changed; a change says whether it has found its place."""
    found: set[str] = set()
    for outcome in outcomes():
        entries = list(outcome.record)
        if change(entries):
            record = Record()
            for time, entry in entries:
                record.add_at(time, entry)
            found |= {line.partition(":")[0] for line in check(record, outcome.plan.settings)}
    return found


def places(entries: Entries, suits: Callable[[Any], bool]) -> list[int]:
    """Where the entries stand that suit."""
    return [index for index, (_, entry) in enumerate(entries) if suits(entry)]


def is_live(entry: Any) -> bool:
    return isinstance(entry, Seen) and is_publication(entry.message) and "room" in entry.message


def is_reply(entry: Any) -> bool:
    return isinstance(entry, Seen) and "id" in entry.message


def is_beacon(entry: Any) -> bool:
    return is_live(entry) and isinstance(entry.message.get("data"), dict) and entry.message["data"]["n"] == -1


def is_given_beacon(entry: Any) -> bool:
    return isinstance(entry, Given) and isinstance(entry.data, dict) and entry.data["n"] == -1


def is_plain(entry: Any) -> bool:
    return isinstance(entry, Seen) and entry.message.keys() == {"n", "pad"}


def called(hook: str) -> Callable[[Any], bool]:
    return lambda entry: isinstance(entry, Called) and entry.hook == hook


def drop(suits: Callable[[Any], bool]) -> Callable[[Entries], bool]:
    """Take the first that suits away."""

    def change(entries: Entries) -> bool:
        for index in places(entries, suits)[:1]:
            del entries[index]
            return True
        return False

    return change


def repeat(suits: Callable[[Any], bool]) -> Callable[[Entries], bool]:
    """Have the first that suits twice."""

    def change(entries: Entries) -> bool:
        for index in places(entries, suits)[:1]:
            entries.insert(index, entries[index])
            return True
        return False

    return change


def swap_live(entries: Entries) -> bool:
    """Swap two publications that a client has seen."""
    by_link: dict[int, list[int]] = {}
    for index in places(entries, is_live):
        by_link.setdefault(entries[index][1].link, []).append(index)
    for first, second, *_ in (one for one in by_link.values() if len(one) > 1):
        entries[first], entries[second] = entries[second], entries[first]
        return True
    return False


def evolve(kind: type, **changed: Any) -> Callable[[Entries], bool]:
    """Change a field of the first entry of a kind."""

    def change(entries: Entries) -> bool:
        for index in places(entries, lambda entry: isinstance(entry, kind))[:1]:
            time, entry = entries[index]
            entries[index] = time, attrs.evolve(entry, **changed)
            return True
        return False

    return change


def evolve_statistics(entries: Entries) -> bool:
    """One message more was enqueued than became of any."""
    for index in places(entries, lambda entry: isinstance(entry, Served))[:1]:
        time, entry = entries[index]
        numbers = attrs.evolve(entry.statistics, enqueued=entry.statistics.enqueued + 1)
        entries[index] = time, attrs.evolve(entry, statistics=numbers)
        return True
    return False


def test_nothing_is_wrong() -> None:
    """The records as they are pass."""
    assert problems_after(lambda entries: True) == set()


CHANGES: dict[str, tuple[Callable[[Entries], bool], str]] = {
    "a publication twice": (repeat(is_live), "views"),
    "two publications swapped": (swap_live, "views"),
    "a publication missing": (drop(is_live), "written"),
    "a reply twice": (repeat(is_reply), "replies"),
    "a reply missing": (drop(is_reply), "written"),
    "a delivery twice": (repeat(lambda entry: isinstance(entry, Delivered)), "fifo"),
    "on_disconnect missing": (drop(called("on_disconnect")), "connections"),
    "on_connect twice": (repeat(called("on_connect")), "connections"),
    "on_leave_room missing": (drop(called("on_leave_room")), "memberships"),
    "on_join_room twice": (repeat(called("on_join_room")), "memberships"),
    "on_room_close missing": (drop(called("on_room_close")), "rooms"),
    "an end missing": (drop(lambda entry: isinstance(entry, Ended)), "closes"),
    "something left": (evolve(Served, problem="task"), "end"),
    "a task left": (evolve(Finished, tasks=99), "end"),
    "a bound passed": (evolve(Measured, value=10**9), "bounds"),
    "a beacon missing": (drop(is_beacon), "liveness"),
    "a beacon that a client of the library is not given": (drop(is_given_beacon), "liveness"),
    "an event that a plain client sees twice": (repeat(is_plain), "plain"),
    "an event that a plain client misses": (drop(is_plain), "written"),
    "more written than has left": (evolve(Wrote, taken=99), "written"),
    "sums that do not add up": (evolve_statistics, "statistics"),
    "an event that a task misses": (drop(lambda entry: isinstance(entry, Received)), "followers"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_noticed(name: str) -> None:
    """Each check sees what it is for."""
    change, check_name = CHANGES[name]
    assert check_name in problems_after(change)
