"""Presence: what clients know of a room's members is so, as soon as all has come to rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._history import History, LinkHistory
from ._record import Beacon, Called, Ended, Healed, Seen

# Virtual seconds after which a change has been told, and a grace is over.
_SETTLED = 4.0

Picture = dict[str, dict[str, Any]]


def check_presence(history: History) -> Iterator[str]:
    """First the state, then changes of what is known; and in the end all know who is there."""
    for link in history.links.values():
        pictures: dict[str, Picture] = {}
        for message in link.seen:
            if message.get("action") == "$presence":
                yield from _apply(link, message["room"], message["data"], pictures)
    yield from _check_rest(history)


def _apply(link: LinkHistory, room: str, data: Mapping[str, Any], pictures: dict[str, Picture]) -> Iterator[str]:
    """Put one more push into the pictures of a client."""
    if "users" in data:
        pictures[room] = {user: {one["id"]: one for one in entries} for user, entries in data["users"].items()}
        return
    picture = pictures.get(room)
    if picture is None:
        yield f"{link} sees changes of {room!r} before its state: {data!r}"
        return
    for user, entries in data["leaves"].items():
        for entry in entries:
            if picture.get(user, {}).pop(entry["id"], None) is None:
                yield f"{link} is told that {user!r} has left {room!r} who was not there: {entry!r}"
        if not picture.get(user):
            picture.pop(user, None)
    for user, entries in data["joins"].items():
        for entry in entries:
            picture.setdefault(user, {})[entry["id"]] = entry


def _check_rest(history: History) -> Iterator[str]:
    last = max((index for index, _ in history.record.of(Healed)), default=None)
    if last is None or not any(room.startswith("people-") for room in history.settings.rooms):
        return
    pictures: dict[int, dict[str, Picture]] = {}
    ended = 0.0
    for index, (time, entry) in enumerate(history.record):
        if isinstance(entry, Seen) and isinstance(entry.message, dict) and entry.message.get("action") == "$presence":
            known = pictures.setdefault(entry.link, {})
            list(_apply(history.links[entry.link], entry.message["room"], entry.message["data"], known))
        elif isinstance(entry, Ended) or (isinstance(entry, Called) and entry.hook == "on_disconnect"):
            ended = time
        elif isinstance(entry, Beacon) and index > last and time - ended > _SETTLED:
            yield from _check_beacon(history, entry, pictures)


def _check_beacon(history: History, beacon: Beacon, pictures: Mapping[int, Mapping[str, Picture]]) -> Iterator[str]:
    present: dict[str, set[int | None]] = {}
    if not beacon.room.startswith("people-"):
        return
    for user, link in beacon.present:
        present.setdefault(user, set()).add(link)
    for number in beacon.links:
        if number not in {link for links in present.values() for link in links}:
            continue
        if history.links[number].plain:
            continue  # it is not told
        picture = pictures.get(number, {}).get(beacon.room, {})
        known = {user: {entry.get("link") for entry in entries.values()} for user, entries in picture.items()}
        if known != present:
            yield f"{history.links[number]} takes for present in {beacon.room!r}: {known}; present are {present}"


def check_online(history: History) -> Iterator[str]:
    """Each user who has come online in a room goes offline, before coming again, and before the room closes."""
    online: dict[tuple[str, str], int] = {}
    for call in history.calls:
        place = call.room, str(call.detail)
        if call.hook == "on_user_online":
            if place in online:
                yield f"{place} comes online twice"
            online[place] = call.serve
        elif call.hook == "on_user_offline":
            if online.pop(place, None) is None:
                yield f"{place} goes offline without having come online"
        elif call.hook == "on_room_close":
            for room, user in online:
                if room == call.room:
                    yield f"{user!r} is online in {room!r}, which closes"
    for place in online:
        yield f"{place} never goes offline"
