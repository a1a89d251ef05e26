"""Plain clients: they see what is published as it is, without room and position, and still in order and without a gap.

They cannot tell what they have missed while they were away, and nobody promises them that. What they see is held
against the deliveries of which they were recipients, those with a position too. Two things are told to others
and not to them: where a membership begins in a room's stream, and what a handler's join was given of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ._check_delivery import compare, is_publication
from ._history import History, LinkHistory
from ._record import Kept, Seen, Sent


def check_plain(history: History) -> Iterator[str]:
    """What is for it, in order, once; nothing is missing that was not counted, and nothing comes behind a leave."""
    for link in history.links.values():
        if link.plain:
            expected = history.deliveries_to(link)
            events = [delivery.event for delivery, _ in expected]
            found = _publications(history, link, events)
            yield from compare(history, link, expected, found, _passed_over(history, link))
            yield from _check_leaves(history, link)


def _publications(history: History, link: LinkHistory, expected: list[Any]) -> list[dict[str, Any]]:
    """What it has seen that was delivered to it: without the latest of a cache, which a handler's join gives."""
    found: list[dict[str, Any]] = []
    entering: dict[Any, str] = {}
    for _, entry in link.talk:
        message: Any = entry.message
        if isinstance(entry, Sent):
            if message["action"] == "enter":
                entering[message["id"]] = message["data"]["room"]
        elif is_publication(message):
            is_due = message in expected and message not in found
            if is_due or not any(_is_kept(history, room, message) for room in entering.values()):
                found.append(message)
        elif isinstance(message, dict):
            entering.pop(message.get("id"), None)
    return found


def _is_kept(history: History, room: str, event: Any) -> bool:
    """Whether it stands in the stream of a room that keeps the latest."""
    if not room.startswith(("cache-", "fresh-")):
        return False
    return any(msgspec.json.decode(one.data) == event for _, one in history.record.of(Kept) if one.room == room)


def _passed_over(history: History, link: LinkHistory) -> frozenset[int]:
    """What was kept before a plain client began to be in the room: by a position of which it knows nothing.

    A join begins at a position, and what stands before it does not come, though it may be delivered later.
    """
    kept = {(one.room, one.epoch, one.offset): index for index, one in history.record.of(Kept)}
    asked = {one.message["id"]: index for index, one in link.talk if isinstance(one, Sent) and "id" in one.message}
    joins: dict[Any, list[tuple[int, int]]] = {}
    for index, one in link.talk:
        data = one.message.get("data") if isinstance(one, Seen) and isinstance(one.message, dict) else None
        if isinstance(data, dict) and "room" in data and one.message.get("id") in asked:
            joins.setdefault(data["room"], []).append((asked[one.message["id"]], index))
    found = set()
    for place, (delivery, room) in enumerate(history.deliveries_to(link)):
        at = kept.get((room or "", delivery.entry.epoch or "", delivery.entry.offset or 0))
        if at is not None and any(begun < delivery.index and at < done for begun, done in joins.get(room, ())):
            found.add(place)
    return frozenset(found)


def _check_leaves(history: History, link: LinkHistory) -> Iterator[str]:
    """Behind the answer to a leave nothing of the room comes, until it is joined again."""
    rooms = {str(one.n): one.entry.rooms for one in history.deliveries if len(one.entry.rooms) == 1}
    leaving: dict[Any, str] = {}
    left: set[str] = set()
    for _, entry in link.talk:
        message: Any = entry.message
        data: Any = message.get("data") if isinstance(message, dict) else None
        if isinstance(entry, Sent):
            if message["action"] == "$leave":
                leaving[message["id"]] = data["room"]
            elif message["action"] in ("$join", "enter"):
                left.discard(data["room"])
                leaving = {ident: room for ident, room in leaving.items() if room != data["room"]}
        elif is_publication(message):
            (room,) = rooms.get(str(message.get("n")), ("",))
            if room in left:
                yield f"{link} has left {room!r}, and sees {message!r}"
        elif message.get("id") in leaving:
            left.add(leaving.pop(message["id"]))
