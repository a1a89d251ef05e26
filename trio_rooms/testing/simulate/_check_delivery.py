"""Order, ghosts, gaps: what each client saw, held against what it was to see.

The oracle is the list of all deliveries, each with its recipients at that moment. What a client sees must be a part
of its list, in the same order, each at most once; what it lacks must have been counted by its outbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trio_rooms import OutboxStatistics

from ._history import Delivery, History, LinkHistory
from ._record import Sent


def check_views(history: History) -> Iterator[str]:
    """Each client sees what is for it, in order, once; nothing is missing that was not counted."""
    for link in history.links.values():
        if not link.plain:
            publications = [one for one in link.seen if is_publication(one) and "offset" not in one]
            yield from compare(history, link, history.deliveries_to(link), publications)


def compare(
    history: History,
    link: LinkHistory,
    expected: list[tuple[Delivery, str | None]],
    publications: list[dict[str, Any]],
    excused: frozenset[int] = frozenset(),
) -> Iterator[str]:
    """What is wrong in what a client has seen, as to what was to come; these of which need not have come."""
    places, problems = _match(link, expected, publications)
    yield from problems
    if not problems:
        yield from _check_missing(history, link, expected, places, excused)


def is_publication(message: Any) -> bool:
    """Whether it was published: to a room, or to everybody."""
    return isinstance(message, dict) and not message.keys() & {"id", "action", "error"}


def event_in(message: Any) -> Any:
    """What a message says that was published; None if it was not. Who has no subprotocol sees nothing else of it."""
    if not is_publication(message):
        return None
    return message.get("data") if "room" in message else message


def _match(
    link: LinkHistory, expected: list[tuple[Delivery, str | None]], publications: list[dict[str, Any]]
) -> tuple[list[int], list[str]]:
    """Where in the list each publication stands that was seen; and what stands nowhere."""
    places: list[int] = []
    place = 0
    for message in publications:
        wanted = (None, message) if link.plain else (message.get("room"), message.get("data"))
        for index in range(place, len(expected)):
            delivery, room = expected[index]
            if (None if link.plain else room, delivery.event) == wanted:
                places.append(index)
                place = index + 1
                break
        else:
            known = any(delivery.event == wanted[1] for delivery, _ in expected)
            what = "twice, or out of order" if known else "what was not for it"
            return places, [f"{link} has seen {what}: {message!r}"]
    return places, []


def _check_missing(
    history: History,
    link: LinkHistory,
    expected: list[tuple[Delivery, str | None]],
    places: list[int],
    excused: frozenset[int],
) -> Iterator[str]:
    seen = excused.union(places)
    last = max(places, default=-1)
    missing = [index for index in range(len(expected)) if index not in seen]
    holes = [index for index in missing if index < last]
    for index in holes:
        delivery, room = expected[index]
        if room is None or delivery.entry.policies.get(room) == "close":
            yield f"{link} has a hole where its room may leave none: {delivery.event!r} of {room!r}"
    if link.close is None or link.ended is None:
        return
    outbox: OutboxStatistics = link.close.detail[2]
    counted = outbox.dropped + outbox.displaced
    if not outbox.dropped:
        yield from _check_replaced(history, link, [expected[index] for index in holes])
    if len(holes) > counted:
        yield f"{link} misses {len(holes)} in between, but {counted} are counted"
    # What a stream has lost is told by the code.
    knows = link.ended.code not in ((1006, 4010) if link.plain else (1006,))
    if knows and len(missing) > counted + outbox.discarded:
        yield f"{link} misses {len(missing)}, but {counted + outbox.discarded} are counted"


def _check_replaced(history: History, link: LinkHistory, holes: list[tuple[Delivery, str | None]]) -> Iterator[str]:
    """What was displaced has made room for something newer of its own room, which may have a position."""
    if not holes:
        return
    conn = link.conn or ""
    live = [one for one in history.deliveries if conn in one.entry.recipients and conn not in one.entry.closing]
    last = {one.entry.recipients[conn]: one.index for one in live}
    for delivery, room in holes:
        if last[room] == delivery.index:
            yield f"{link} misses {delivery.event!r} of {room!r}, though nothing newer of that has come"


def check_membership(history: History) -> Iterator[str]:
    """A client sees a room's publications between its joins and its leaves, and at no other time."""
    for link in history.links.values():
        if link.plain:
            continue  # it is not told of which room something is
        inside: set[str] = set()
        asked: dict[Any, tuple[str, str]] = {}
        for _, entry in link.talk:
            if isinstance(entry, Sent):
                _note_request(entry.message, asked)
            elif isinstance(entry.message, dict):
                problem = _follow(entry.message, asked, inside)
                if problem is not None:
                    yield f"{link} {problem}"


def _note_request(message: Any, asked: dict[Any, tuple[str, str]]) -> None:
    data = message.get("data")
    if isinstance(data, dict) and "room" in data and "id" in message:
        asked[message["id"]] = message["action"], data["room"]


def _follow(message: dict[str, Any], asked: dict[Any, tuple[str, str]], inside: set[str]) -> str | None:
    """One more message of a connection whose client is ``inside`` these rooms."""
    if message.get("action") == "$welcome":
        inside.update(room for room, reply in message["data"].get("rooms", {}).items() if "error" not in reply)
    elif message.get("action") == "$closed":
        inside.discard(message["data"]["room"])
    elif "id" in message and "action" not in message:
        action, room = asked.pop(message["id"], ("", ""))
        if "error" in message:
            pass
        elif action in ("$join", "enter"):
            inside.add(room)
        elif action == "$leave":
            inside.discard(room)
    elif is_publication(message) and "room" in message:
        room = message["room"]
        # A handler that joins may be overtaken by the room's publications before it replies.
        entering = any(one == ("enter", room) for one in asked.values())
        if room not in inside and not entering:
            return f"sees a publication of a room that it is not in: {message!r}"
    return None


def check_oracle(history: History) -> Iterator[str]:
    """Nothing is delivered to who has left, as far as the hooks tell."""
    if not history.settings.room_hooks:
        return
    gone: set[tuple[str, str]] = set()
    ended: set[str] = set()
    for _, entry in history.record:
        kind = type(entry).__name__
        if kind == "Called" and entry.hook == "on_leave_room":
            gone.add((entry.conn, entry.room))
        elif kind == "Called" and entry.hook == "on_join_room":
            gone.discard((entry.conn, entry.room))
        elif kind == "Called" and entry.hook == "on_disconnect":
            ended.add(entry.conn)
        elif kind == "Delivered":
            for conn, room in entry.recipients.items():
                if conn in ended:
                    yield f"publication {entry.number} is delivered to a connection that has ended"
                elif room is not None and (conn, room) in gone:
                    yield f"publication {entry.number} is delivered to a connection that has left {room!r}"
