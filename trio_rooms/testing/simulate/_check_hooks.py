"""Balance: what begins ends, once each, and in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ._history import History
from ._record import Called, Fault


def check_connections(history: History) -> Iterator[str]:
    """Each connection that was greeted is said goodbye to, once, at the end of all its hooks."""
    hooks: dict[str, list[str]] = {}
    for call in history.calls:
        if call.conn:
            hooks.setdefault(call.conn, []).append(call.hook)
    for conn, names in hooks.items():
        if names[0] != "on_connect" or names.count("on_connect") != 1:
            yield f"the hooks of connection {conn} do not begin with one on_connect: {names}"
        if names[-1] != "on_disconnect" or names.count("on_disconnect") != 1:
            yield f"the hooks of connection {conn} do not end with one on_disconnect: {names}"


def check_memberships(history: History) -> Iterator[str]:
    """Each join whose hook was called is followed by one leave, before the next join of the same room."""
    inside: set[tuple[str, str]] = set()
    for call in history.calls:
        place = call.conn, call.room
        if call.hook == "on_join_room":
            if place in inside:
                yield f"on_join_room of {place} is called twice without a leave"
            inside.add(place)
        elif call.hook == "on_leave_room":
            if place not in inside:
                yield f"on_leave_room of {place} is called without a join"
            inside.discard(place)
    for place in inside:
        yield f"on_leave_room of {place} was never called"


def check_rooms(history: History) -> Iterator[str]:
    """Each room that has opened closes, before the next one of its name opens."""
    opened: Counter[str] = Counter()
    for _, entry in history.record:
        if isinstance(entry, Called) and entry.hook == "on_room_open":
            opened[entry.room] += 1
            if opened[entry.room] > 1:
                yield f"room {entry.room!r} opens before the one before it has closed"
        elif isinstance(entry, Called) and entry.hook == "on_room_close":
            opened[entry.room] -= 1
            if opened[entry.room] < 0:
                yield f"room {entry.room!r} closes without having opened"
        elif isinstance(entry, Fault) and entry.kind.startswith("opening "):
            opened[entry.kind.removeprefix("opening ")] -= 1
    for room, count in opened.items():
        if count:
            yield f"room {room!r} has opened and never closed"
