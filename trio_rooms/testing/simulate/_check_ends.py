"""Isolation and liveness: who was not touched notices nothing, and in the end everybody is where it wants to be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ._check_delivery import event_in
from ._history import History, LinkHistory
from ._record import Beacon, Given, Healed, Rested, Seen, Settled, Unsettled


def check_closes(history: History) -> Iterator[str]:
    """Each connection has ended for a reason that is its own, or the server's end."""
    for link in history.links.values():
        if link.close is not None:
            code, by, _ = link.close.detail
            if not _explained(history, link, code, by):
                yield f"{link} was closed with {code} by the {by} for no reason"
        ended = link.ended
        if ended is None:
            yield f"{link} has never ended"
        elif ended.code == 1006 and link.welcomed and not (link.left or link.faults or _may_be_cut_off(link)):
            yield f"{link} has ended without a close frame, and nothing was done to it"


def _explained(history: History, link: LinkHistory, code: int, by: str) -> bool:
    if by in ("peer", "network"):
        return link.left or bool(link.faults)
    if code in (1001, 1012):
        return True  # the server has ended, at the latest with the run
    if code == 4008:
        return any(
            (one.entry.report.closed and link.conn in one.entry.recipients)
            or (one.entry.offset is not None and link.conn in one.entry.exclude)  # it gets a marker
            for one in history.deliveries
        )
    if code == 4001:
        return "close" in link.faults
    if code == 4501:
        return any(other.client == link.client and other is not link for other in history.links.values())
    if code == 4010:
        return stream_was_lost(history)
    if code == 1008:
        return _was_cut_short(history, link)
    if code == 1011:
        crashed = any(message["action"] == "crash" for message in link.sent)
        return crashed or bool(history.faults & {"hook_crash", "leave_hook_crash"})
    return False


def _was_cut_short(history: History, link: LinkHistory) -> bool:
    """Whether nothing more was heard of it for so long that a message it had begun was waited for no more."""
    patience = history.settings.config.limits.message_timeout
    silent = [history.time_at(index) for index, kind in link.struck if kind == "silence"]
    return link.close is not None and any(history.time_of(link.close) - since >= patience for since in silent)


def stream_was_lost(history: History, room: str | None = None) -> bool:
    """Whether the stream of a room, or of any, may have begun anew, or has a hole."""
    if history.settings.history_meta_ttl < 100 or _is_impatient(history):
        return True
    if room is None:
        return bool(history.holes) or any(kind.startswith("forget") for kind in history.faults)
    return room in history.holes or f"forget {room}" in history.faults


def _is_impatient(history: History) -> bool:
    """Whether what is read at once has to come sooner than the broker brings it: half a lag after it was kept."""
    settings = history.settings
    return settings.quick_reads and (settings.lag or 0) / 2 >= (settings.config.position_check_interval or math.inf)


def _is_given_up_too_soon(history: History, link: LinkHistory) -> bool:
    """Whether it was sent away to recover what only was on its way: by each beacon anew, as all rounds are alike."""
    return _is_impatient(history) and link.close is not None and link.close.detail[0] == 4010


def _may_be_cut_off(link: LinkHistory) -> bool:
    """Whether the server has ended it at once, perhaps in the middle of a frame."""
    return link.close is not None and link.close.detail[0] in (4008, 1001, 1012, 4501)


def check_liveness(history: History) -> Iterator[str]:
    """In the last round every client comes to rest, and sees the beacon of each of its rooms."""
    last = max((index for index, _ in history.record.of(Healed)), default=None)
    if last is None:
        return
    for index, entry in history.record.of(Unsettled):
        if index > last:
            yield f"client {entry.client} does not come to rest: {entry.why}"
    settled = {entry.client for index, entry in history.record.of(Settled) if index > last}
    if len(settled) != history.settings.clients:
        yield f"only clients {sorted(settled)} come to rest"
    seen = {
        (entry.link, event.get("n"))
        for index, entry in history.record.of(Seen)
        if index > last and isinstance(event := event_in(entry.message), dict)
    }
    for index, beacon in history.record.of(Beacon):
        for link in beacon.links if index > last else ():
            if (link, beacon.n) not in seen and not _is_given_up_too_soon(history, history.links[link]):
                yield f"link {link} does not see the beacon of {beacon.room!r}"
        for client in beacon.library if index > last else ():
            if not _is_told(history, client, index, beacon):
                yield f"library client {client} does not see the beacon of {beacon.room!r}"
    for index, rested in history.record.of(Rested):
        if index > last and rested.missing and not _may_be_left_out(history):
            yield f"library client {rested.client} does not get into {rested.missing}"


def _is_told(history: History, client: int, index: int, beacon: Beacon) -> bool:
    """Whether a client of the library has seen a beacon, or a gap in its place."""
    told = (
        one
        for place, one in history.record.of(Given)
        if place > index and (one.client, one.room) == (client, beacon.room)
    )
    return any(one.gap is not None or (isinstance(one.data, dict) and one.data.get("n") == beacon.n) for one in told)


def _may_be_left_out(history: History) -> bool:
    """Whether there may be no place for a client in a room, or for a room at a client."""
    limits = history.settings.config.limits
    return history.settings.capacity is not None or limits.max_rooms_per_connection < len(history.settings.rooms)
