"""Sessions: each ends once, at its time; who comes back before that gets it, and its rooms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from ._history import History, LinkHistory
from ._record import Called, Fault, Seen, Sent, Served

# Virtual seconds that hooks may take, and that the end of a server does.
_SLACK = 10.0
# For so long a server waits for the first message of a client; and what holds that up.
_FIRST_WAIT = 1.0
_DELAYS = frozenset({"stall", "clog", "slow", "trickle"})


@attrs.define(eq=False)
class _Session:
    id: str
    opened: list[tuple[int, Called]] = attrs.field(factory=list)
    closed: list[tuple[int, Called]] = attrs.field(factory=list)
    expired: list[tuple[int, Called]] = attrs.field(factory=list)


def _sessions(history: History) -> dict[str, _Session]:
    found: dict[str, _Session] = {}
    of_conn: dict[str, _Session] = {}
    for index, call in history.record.of(Called):
        if call.hook == "on_connect" and call.detail[0] is not None:
            session = of_conn[call.conn] = found.setdefault(call.detail[0], _Session(call.detail[0]))
            session.opened.append((index, call))
        elif call.hook == "on_disconnect" and call.conn in of_conn:
            of_conn[call.conn].closed.append((index, call))
        elif call.hook == "on_session_expired":
            found.setdefault(call.detail[0], _Session(call.detail[0])).expired.append((index, call))
    return found


def check_expiry(history: History) -> Iterator[str]:
    """Each session the program knows of expires once, behind its last connection, not sooner and not later.

    Later is: more than the window, and what its hooks may take, after the end of the last connection that had it.
    """
    ends = {served.serve: history.time_of(served) for _, served in history.record.of(Served)}
    for session in _sessions(history).values():
        if len(session.expired) != 1 or not session.opened:
            yield f"session {session.id} of {len(session.opened)} connections has expired {len(session.expired)} times"
            continue
        index, call = session.expired[0]
        if session.closed and session.closed[-1][0] > index:
            yield f"session {session.id} has expired before its connection was over"
        visits = [one.detail[2] for _, one in session.opened]
        if visits != list(range(1, len(visits) + 1)) or call.detail[1] != len(visits):
            yield f"session {session.id} has kept {call.detail[1]} of its visits, which were counted as {visits}"
        if [one.detail[1] for _, one in session.opened] != [False] + [True] * (len(visits) - 1):
            yield f"session {session.id} was not restored to each connection but the first"
        if len({one.serve for _, one in (*session.opened, *session.expired)}) > 1:
            yield f"session {session.id} has outlived its server"
        yield from _check_time(history, session, ends.get(call.serve))


def _check_time(history: History, session: _Session, end: float | None) -> Iterator[str]:
    window = history.settings.config.session_window
    if not session.closed or window is None or end is None:
        return
    index, last = session.closed[-1]
    code, by, _ = last.detail
    kept = history.time_at(session.expired[0][0]) - history.time_at(index)
    for_good = code == 1000 or (by == "server" and (code == 1008 or code >= 4500))
    ending = end - history.time_at(session.expired[0][0]) <= history.settings.config.shutdown_timeout + _SLACK
    if kept < window - 0.001 and not for_good and not ending:
        yield f"session {session.id} was kept {kept} s"
    unheard = [history.time_of(link.ended) for link in _unheard(history, session) if link.ended is not None]
    if unheard:
        # The end of a connection that the program has never heard of begins the time anew, as soon as it is noticed.
        config = history.settings.config
        noticed = max(unheard) + config.ping_interval + config.pong_timeout
        kept -= max(0.0, noticed - history.time_at(index))
    if kept > (window if unheard or not for_good else 0) + _SLACK:
        yield f"session {session.id} was kept {kept} s after {code}"


def _unheard(history: History, session: _Session) -> Iterator[LinkHistory]:
    """Connections that may have had a session, and have ended before the program heard of them."""
    tokens = {
        message["data"].get("session")
        for link in history.links.values()
        if link.session == session.id
        for message in link.seen
        if message.get("action") == "$welcome"
    }
    for link in history.links.values():
        if link.session is None and any(
            message.get("action") == "$session" and message["data"].get("session") in tokens for message in link.sent
        ):
            yield link


def check_returns(history: History) -> Iterator[str]:
    """Who comes back with a token that is good has its session and its rooms again."""
    sessions = _sessions(history)
    given: dict[str, LinkHistory] = {}
    for link in history.links.values():
        presented = None
        for index, entry in link.talk:
            if isinstance(entry, Sent) and entry.message.get("action") == "$session":
                presented = entry.message["data"].get("session")
            elif isinstance(entry, Seen) and entry.message.get("action") == "$welcome":
                data: Any = entry.message["data"]
                if "session" in data:
                    given[data["session"]] = link
                before = given.get(presented or "")
                if before is None:
                    continue
                session = sessions.get(before.session or "")
                if data["restored"] and session is not None and _place(session, link) == _place(session, before) + 1:
                    yield from _check_rooms(history, before, link, data, ending=_is_ending(link, index))
                elif not data["restored"] and not _may_be_refused(history, sessions, before, link, index):
                    yield f"{link} gets another session than {before}"


def _may_be_refused(
    history: History, sessions: dict[str, _Session], before: LinkHistory, link: LinkHistory, index: int
) -> bool:
    session = sessions.get(before.session or "")
    if session is None or before.serve != link.serve or _may_be_too_late(history, link, index):
        return True  # or the program never knew of it
    expired = min((history.time_at(place) for place, _ in session.expired), default=math.inf)
    # Another connection may have used a newer token.
    used = _place(session, before) < len(session.opened) - 1
    return used or expired <= history.time_at(index) + 1


def _may_be_too_late(history: History, link: LinkHistory, welcome: int) -> bool:
    """Whether ``$session`` may have come so late that the server waited for it no more, or took no more messages."""
    if link.close is not None and link.close.detail[0] == 1012:  # which it said in the midst of a drain
        return any(one.kind == "restart" and index < welcome for index, one in history.record.of(Fault))
    held_up = any(kind in _DELAYS and index < welcome for index, kind in link.struck)
    return held_up and history.time_at(welcome) - history.time_at(link.begun) >= _FIRST_WAIT


def _place(session: _Session, link: LinkHistory) -> int:
    return next((place for place, (_, call) in enumerate(session.opened) if call.conn == link.conn), 0)


def _check_rooms(history: History, before: LinkHistory, link: LinkHistory, data: Any, *, ending: bool) -> Iterator[str]:
    """The rooms that were lost with the connection before are there again, or it is said why not."""
    if link.session is not None and before.session is not None and link.session != before.session:
        yield f"{link} has another session than {before}"
    # A join that failed in between would have been told in a welcome that the client has not seen.
    lost = Counter(call.room for call in before.hooks if call.hook == "on_leave_room" and call.detail == "disconnected")
    known: set[str] = set()
    for _, entry in before.talk:
        if isinstance(entry, Seen):
            _note_room(entry.message, known)
    # By a connection in between, too, which the program has never heard of.
    numbers = range(before.number, link.number + 1)
    own = [one for one in history.links.values() if one.client == link.client and one.number in numbers]
    left = {message["data"]["room"] for one in own for message in one.sent if message.get("action") == "$leave"}
    for room in lost:
        if room in known - left and room not in data["rooms"] and not ending:
            yield f"{link} is restored, and not in {room!r}"


def _is_ending(link: LinkHistory, welcome: int) -> bool:
    """Whether the server had closed the connection before it said this: then it has not come to all rooms."""
    if link.close is None or link.close.detail[1] != "server":
        return False
    if any(kind == "close" and index < welcome for index, kind in link.struck):
        return True
    later = (entry.message for index, entry in link.talk if index > welcome and isinstance(entry, Seen))
    return all("id" in message for message in later)


def _note_room(message: Any, known: set[str]) -> None:
    """One more message of a connection whose client knows to be in these rooms."""
    data = message.get("data")
    if not isinstance(data, dict) or "room" not in data:
        return
    if "id" in message:
        known.add(data["room"])
    elif message.get("action") == "$closed":
        known.discard(data["room"])  # it may be joining that again when the connection ends
