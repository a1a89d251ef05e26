"""Replies: one for each request, in order, with what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ._history import History, LinkHistory
from ._record import Seen, Sent

#: What has its turn: these are answered in the order in which they were asked.
_IN_TURN: Final = frozenset(
    {"$join", "enter", "say", "shout", "echo", "sleep", "crash", "$history", "$publish", "status", "ask"}
)

#: Virtual seconds that any request is answered in, when it has its turn.
_TIME: Final = 10.0

_JOINS: Final = frozenset({"$join", "enter"})


def check_replies(history: History) -> Iterator[str]:
    """No request is answered twice, or with what it cannot be answered with; none is forgotten."""
    for link in history.links.values():
        asked: dict[Any, dict[str, Any]] = {}
        order: list[Any] = []
        open_streams: set[Any] = set()
        for _, entry in link.talk:
            if isinstance(entry, Sent) and "id" in entry.message:
                asked[entry.message["id"]] = dict(entry.message)
                order.append(entry.message["id"])
            elif isinstance(entry, Seen) and _is_reply(entry.message):
                yield from _check_reply(history, link, entry.message, asked, open_streams)
        yield from _check_order(link, order)
        held_up = _waits_for_what_is_lost(history, asked) or _has_waited_to_the_end(history, link)
        if asked and _must_be_answered(link) and not held_up:
            yield f"{link} was never answered: {list(asked.values())[:3]!r}"


def _waits_for_what_is_lost(history: History, asked: dict[Any, dict[str, Any]]) -> bool:
    """Whether the first of these in turn has published what is lost: it waits as long as the node does.

    So do those behind it. What needs no turn is answered, unless so many wait that nothing more is read.
    """
    waiting = 0
    for request in asked.values():
        if request["action"] in _IN_TURN:
            waiting += 1
            if waiting == 1 and _number_of(request) not in history.lost:
                return False
        elif waiting < history.settings.config.limits.inbox_messages:
            return False
    return True


def _has_waited_to_the_end(history: History, link: LinkHistory) -> bool:
    """Whether it was told so late of what is lost that for what was behind it there was no time."""
    lost = {one["id"] for one in link.sent if "id" in one and _number_of(one) in history.lost}
    told = [
        index
        for index, one in link.talk
        if isinstance(one, Seen) and _is_reply(one.message) and one.message["id"] in lost
    ]
    return bool(told and link.ended) and history.time_of(link.ended) - history.time_at(told[-1]) < _TIME


def _number_of(request: dict[str, Any]) -> str | None:
    """Of what a request publishes and waits for."""
    if request["action"] not in ("say", "$publish"):
        return None
    data = request["data"]
    return str((data if request["action"] == "say" else data["data"])["n"])


def _is_reply(message: Any) -> bool:
    return isinstance(message, dict) and "id" in message and "action" not in message and message["id"] != "bad"


def _check_reply(
    history: History, link: LinkHistory, reply: dict[str, Any], asked: dict[Any, dict[str, Any]], streams: set[Any]
) -> Iterator[str]:
    ident = reply["id"]
    request = asked.get(ident)
    if request is None:
        yield f"{link} sees an answer to nothing, or a second one: {reply!r}"
        return
    if reply.get("more"):
        streams.add(ident)
        return
    del asked[ident]
    if "error" in reply:
        code = reply["error"]["code"]
        if not _may_fail(history, link, request, code):
            yield f"{link} is told {code} for no reason: {request!r}"
    elif not _fits(request, reply):
        yield f"{link} is answered with something else: {reply!r} to {request!r}"


def _fits(request: dict[str, Any], reply: dict[str, Any]) -> bool:
    action, asked, got = request["action"], request.get("data"), reply.get("data")
    if action in ("$join", "$leave", "enter"):
        return isinstance(got, dict) and isinstance(asked, dict) and got.get("room") == asked.get("room")
    if action == "echo":
        return bool(got == asked)
    if action == "ask":
        return got in ("answered", "refused", "late", "gone", "busy")
    if action in ("say", "shout"):
        return isinstance(got, dict) and isinstance(asked, dict) and got.get("n") == asked.get("n")
    return True


def _may_fail(history: History, link: LinkHistory, request: dict[str, Any], code: str) -> bool:
    """Whether a request can be answered with this error after what has happened."""
    action = request["action"]
    crashes = history.faults & {"hook_crash", "leave_hook_crash"}
    causes = {
        "CANCELLED": _was_cancelled(link, request),
        "DEADLINE_EXCEEDED": "timeout_ms" in request,
        "BUSY": action in ("beside", "stream"),
        "VETO": action in _JOINS and "veto" in link.faults,
        "INTERNAL": action == "crash" or (action in _JOINS and bool(crashes)),
        "ROOM_FULL": action in _JOINS and history.settings.capacity is not None,
        "TOO_MANY_ROOMS": action in _JOINS,
        "ROOM_FAILED": action in _JOINS,
        "CLOSED": action in _JOINS,
        "NEEDS_V1": link.plain and action == "$history",
        "DENIED": action in (*_JOINS, "$history", "$publish", "status"),
    }
    known = request["action"] in _IN_TURN | {"$leave", "beside", "stream"}
    return causes.get(code, False) or not known


def _was_cancelled(link: LinkHistory, request: dict[str, Any]) -> bool:
    room = request["data"].get("room") if isinstance(request.get("data"), dict) else None
    for message in link.sent:
        if message["action"] == "$cancel" and message["data"]["id"] == request.get("id"):
            return True
        if message["action"] == "$leave" and message["data"]["room"] == room:
            return True
    return False


def _check_order(link: LinkHistory, order: list[Any]) -> Iterator[str]:
    """What has its turn is answered in turn, but for what was cancelled, which is answered at once."""
    in_turn = {message["id"] for message in link.sent if "id" in message and message["action"] in _IN_TURN}
    place = {ident: index for index, ident in enumerate(order)}
    last = -1
    for reply in link.seen:
        if not _is_reply(reply) or reply["id"] not in in_turn:
            continue
        if "error" in reply and reply["error"]["code"] == "CANCELLED":
            continue
        if place[reply["id"]] < last:
            yield f"{link} is answered out of turn: {reply!r}"
        last = max(last, place[reply["id"]])


def _must_be_answered(link: LinkHistory) -> bool:
    """Whether its client had the time to hear everything: it has come to rest, and left by itself much later."""
    return link.settled and link.left and not link.faults
