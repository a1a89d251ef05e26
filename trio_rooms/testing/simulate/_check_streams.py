"""Rooms with history: exactly once and in order, or the client knows.

The oracle is what the broker has kept, each with its position. A membership begins at the position of the join's
reply; from there on every publication that is kept must come, each once, in order, or a marker in its place; until the
connection ends. A join that has recovered brings exactly what stands between both positions. One that has not must
have a reason, and brings nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

from ._history import History, LinkHistory
from ._record import Kept, Sent

#: Beside its data, what an item counts towards what one join may recover; more than the library takes.
_ENVELOPE = 400


@attrs.define
class _Place:
    """Where a client is in a room's stream."""

    epoch: str
    offset: int


def check_streams(history: History) -> Iterator[str]:
    """Nothing twice, nothing out of order, no hole in any membership; recovered means recovered."""
    for link in history.links.values():
        if link.conn is not None and not link.plain:
            yield from _Follower(history, link).follow()


@attrs.define(eq=False)
class _Follower:
    """Follows one connection."""

    history: History
    link: LinkHistory
    places: dict[str, _Place] = attrs.field(factory=dict)
    asked: dict[Any, dict[str, Any]] = attrs.field(factory=dict)
    positions: dict[str, Any] = attrs.field(factory=dict)
    """What its client has said of its rooms when it asked for its session."""
    spent: tuple[int, int] = (0, 0)
    """What the rooms of a session have recovered: how many, and how much. They share what one join may."""

    def follow(self) -> Iterator[str]:
        """What is wrong in what its client saw."""
        for index, entry in self.link.talk:
            message: Any = entry.message
            if isinstance(entry, Sent):
                if message.get("action") == "$session":
                    self.positions = message["data"].get("positions", {})
                if message.get("action") in ("$join", "$leave", "$history", "enter") and "id" in message:
                    self.asked[message["id"]] = message
                if message.get("action") == "enter":
                    self.places.pop(message["data"]["room"], None)  # where it begins is not told
            elif isinstance(message, dict):
                if message.get("action") == "$welcome":
                    yield from self._welcome(index, message["data"].get("rooms", {}))
                elif message.get("action") == "$closed":
                    self.places.pop(message["data"]["room"], None)
                elif "id" in message and "action" not in message and "data" in message:
                    yield from self._answer(index, self.asked.pop(message["id"], {}), message["data"])
                elif "action" not in message and "offset" in message:
                    yield from self._live(message)

    def _answer(self, index: int, request: dict[str, Any], answer: Any) -> Iterator[str]:
        action = request.get("action")
        if action == "$leave":
            self.places.pop(answer["room"], None)
        elif action == "$history":
            yield from self._page(request["data"], answer)
        elif action == "$join" and "offset" in answer:
            place = _Place(answer["epoch"], answer["offset"])
            yield from self._recovery(index, request["data"], answer, place)
            self.places[answer["room"]] = place

    def _welcome(self, index: int, rooms: dict[str, Any]) -> Iterator[str]:
        for room, answer in rooms.items():
            if "offset" in answer:
                place = _Place(answer["epoch"], answer["offset"])
                request = {"room": room}
                if room in self.positions:
                    request["since"] = self.positions[room]
                yield from self._recovery(index, request, answer, place)
                self.places[room] = place
            items = answer.get("publications", [])
            size = sum(len(msgspec.json.encode(item["data"])) + _ENVELOPE for item in items)
            self.spent = self.spent[0] + len(items), self.spent[1] + size
        self.spent = 0, 0

    def _live(self, message: dict[str, Any]) -> Iterator[str]:
        room, offset = message["room"], message["offset"]
        place = self.places.get(room)
        if place is None:
            if self._entered(room):
                return
            yield f"{self.link} sees {message!r}, and was told no position"
            return
        stream = self.history.kept.get((room, place.epoch), [])
        due = [kept for kept in stream if place.offset < kept.offset <= offset]
        if not due or due[-1].offset != offset:
            yield f"{self.link} sees {message!r}, and is at {place}"
            return
        place.offset = offset
        if len(due) > 1 and not _may_skip(room):
            yield f"{self.link} sees {message!r}, and misses {len(due) - 1} before it"
        elif "data" in message and not _is(due[-1], message["data"]):
            yield f"{self.link} sees {message!r}, which is another one"
        elif ("data" not in message) != self.link.is_excluded(due[-1].exclude):
            yield f"{self.link} sees {message!r}, excluded is {sorted(due[-1].exclude)}"

    def _entered(self, room: str) -> bool:
        return any(one["action"] == "enter" and one["data"]["room"] == room for one in self.link.sent)

    def _recovery(self, index: int, request: Any, answer: Any, place: _Place) -> Iterator[str]:
        room, since, items = answer["room"], request.get("since"), answer.get("publications", [])
        if _is_cache(room):
            yield from self._latest(room, place, items)
            return
        stream = self.history.kept.get((room, place.epoch), [])
        if not answer.get("recovered"):
            if items:
                yield f"{self.link} is not recovered, and gets {items!r}"
            # A member already: nothing is sent to it, and it is told where it is.
            is_member = self.places.get(room) == place or self._entered(room)
            if since is not None and not is_member and not self._may_be_lost(index, room, since, place):
                yield f"{self.link} is not recovered for no reason: {request!r}, {answer!r}"
            return
        if since is None or since["epoch"] != place.epoch:
            yield f"{self.link} is recovered from another stream: {request!r}, {answer!r}"
            return
        due = [one for one in stream if since["offset"] < one.offset <= place.offset]
        yield from self._compare([one for one in due if not self.link.is_excluded(one.exclude)], items)

    def _compare(self, due: list[Kept], items: list[dict[str, Any]]) -> Iterator[str]:
        if [one.offset for one in due] != [item["offset"] for item in items]:
            yield f"{self.link} gets {[i['offset'] for i in items]}, and misses {[one.offset for one in due]}"
            return
        for one, item in zip(due, items, strict=True):
            if ("data" not in item) != self.link.is_excluded(one.exclude):
                yield f"{self.link} gets {item!r}, excluded is {sorted(one.exclude)}"
            elif "data" in item and not _is(one, item["data"]):
                yield f"{self.link} gets what is not in the stream: {item!r}"

    def _latest(self, room: str, place: _Place, items: list[dict[str, Any]]) -> Iterator[str]:
        stream = {one.offset: one for one in self.history.kept.get((room, place.epoch), [])}
        if len(items) > 1:
            yield f"{self.link} gets more than the latest: {items!r}"
        for item in items:
            one = stream.get(item["offset"])
            if one is None or not _is(one, item["data"]) or item["offset"] != place.offset:
                yield f"{self.link} gets {item!r} as the latest at {place}"

    def _page(self, request: Any, answer: Any) -> Iterator[str]:
        stream = self.history.kept.get((request["room"], answer["epoch"]), [])
        items = answer["publications"][::-1] if request.get("reverse") else answer["publications"]
        if items:
            first, last = items[0]["offset"], items[-1]["offset"]
            run = [one for one in stream if first <= one.offset <= last]
            yield from self._compare(run, items)
        if request.get("limit") is not None and len(items) > request["limit"]:
            yield f"{self.link} asks for {request['limit']} and gets {len(items)}"

    def _may_be_lost(self, index: int, room: str, since: Any, place: _Place) -> bool:
        """Whether a join may not be recovered: another epoch, trimmed, expired, or too much."""
        stream = self.history.kept.get((room, place.epoch), [])
        # What was kept while the join was on its way counts, too.
        later = [one for one in stream if one.offset > since["offset"]]
        if since["epoch"] != place.epoch or not 0 <= since["offset"] <= place.offset:
            return True
        if not later:
            return False
        limits = self.history.settings.config.limits
        items, size = self.spent
        size += sum(len(one.data) + _ENVELOPE for one in later)
        if len(later) > min(later[0].size, limits.max_recovery - items) or size > limits.outbox_bytes // 4:
            return True
        return self.history.time_of(later[0]) + later[0].ttl <= self.history.time_at(index)


def _is(kept: Kept, data: Any) -> bool:
    return bool(msgspec.json.decode(kept.data) == data)


def _is_cache(room: str) -> bool:
    return room.startswith(("cache-", "fresh-"))


def _may_skip(room: str) -> bool:
    """Whether the room conflates."""
    return room.startswith("cache-")
