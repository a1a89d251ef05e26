"""Accounting, bounds, and that nothing is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from trio_rooms import OutboxStatistics

from ._history import History
from ._record import Broken, Crashed, Delivered, Finished, Measured, Published, Served, Submitted, Wrote


def check_end(history: History) -> Iterator[str]:
    """The run has ended by itself; each server has left nothing, and no task is left."""
    for _, crash in history.record.of(Crashed):
        yield f"the run has failed: {crash.error}"
    for _, broken in history.record.of(Broken):
        yield f"link {broken.link} has received what no server may send: {broken.what}"
    for _, wrote in history.record.of(Wrote):
        if wrote.behind_half:
            yield f"link {wrote.link} was written {wrote.behind_half!r} behind half a frame"
    for _, served in history.record.of(Served):
        if served.problem is not None:
            yield f"server {served.serve}: {served.problem}"
    for _, finished in history.record.of(Finished):
        if finished.tasks != finished.before:
            yield f"{finished.tasks - finished.before} tasks are left"


def check_bounds(history: History) -> Iterator[str]:
    """Nothing has grown beyond its limit."""
    for _, measured in history.record.of(Measured):
        if measured.value > measured.bound:
            yield f"{measured.name} is {measured.value}, and may be {measured.bound}"


def check_reports(history: History) -> Iterator[str]:
    """Each report accounts for each recipient."""
    for _, entry in history.record.of(Delivered):
        report = entry.report
        accounted = report.enqueued + report.dropped + report.closed
        # In a room with history, who has read it already is passed over.
        if accounted > len(entry.recipients) or (entry.offset is None and accounted < len(entry.recipients)):
            yield f"publication {entry.number} has {len(entry.recipients)} recipients, and reports {report!r}"


def check_fifo(history: History) -> Iterator[str]:
    """What was submitted is delivered in the same order, once; what is said of each publication is so."""
    submitted = [entry.number for _, entry in history.record.of(Submitted)]
    delivered = [entry.number for _, entry in history.record.of(Delivered)]
    for number, count in Counter(delivered).items():
        if count > 1:
            yield f"publication {number} is delivered {count} times"
    order = {number: place for place, number in enumerate(submitted)}
    places = [order[number] for number in delivered if number in order]
    if places != sorted(places):
        yield "publications are delivered in another order than they were submitted in"
    times = Counter(str(one.n) for one in history.deliveries)
    for _, entry in history.record.of(Published):
        count = times[str(entry.n)]
        least, most = _TIMES.get(entry.outcome, (0, 1))
        if not least <= count <= most:
            yield f"publication {entry.n} is said to be {entry.outcome}, and was delivered {count} times"


def check_keys(history: History) -> Iterator[str]:
    """Of publications with the same idempotency key a server's broker delivers one to each room."""
    keys = {str(entry.n): entry.once for _, entry in history.record.of(Published) if entry.once is not None}
    keys.update((n, key) for n, key in _client_keys(history) if key is not None)
    ends = [index for index, _ in history.record.of(Served)]
    times: Counter[tuple[int, tuple[str, ...], str]] = Counter()
    for one in history.deliveries:
        key = keys.get(str(one.n))
        if key is not None:
            serve = sum(end < one.index for end in ends)
            times[serve, one.entry.rooms, key] += 1
    for (_, rooms, key), count in times.items():
        if count > 1:
            yield f"key {key!r} is delivered {count} times to {rooms}"


def _client_keys(history: History) -> Iterator[tuple[str, str | None]]:
    """What clients have asked to be published, and its key: that of a user, a session, or a connection."""
    for link in history.links.values():
        if history.settings.named:
            owner = f"user {link.client // 2}"
        else:
            owner = f"link {link.number}" if link.session is None else f"session {link.session}"
        for message in link.sent:
            if message["action"] == "$publish":
                key = message["data"].get("idempotency_key")
                yield str(message["data"]["data"]["n"]), None if key is None else f"{owner} {key}"


def check_posts(history: History) -> Iterator[str]:
    """What a client is told to be published is delivered, or another one of the same key was."""
    if history.faults & {"lose", "kill"}:
        return
    keys = dict(_client_keys(history))
    delivered = {str(one.n) for one in history.deliveries}
    known = {keys.get(n) for n in delivered}
    for link in history.links.values():
        posts = {one["id"]: str(one["data"]["data"]["n"]) for one in link.sent if one["action"] == "$publish"}
        for message in link.seen:
            n = posts.get(message.get("id", ""))
            if n is None or "data" not in message or n in delivered:
                continue
            if keys[n] is None or keys[n] not in known:
                yield f"{link} is told that {n} is published, which was never delivered"


#: How often a publication is delivered, by what was said of it; of anything else: at most once.
_TIMES: Final = {"final": (1, 1), "busy": (0, 0), "refused": (0, 0), "duplicate": (0, 0)}


def check_statistics(history: History) -> Iterator[str]:
    """The counters of each server are the sums of what its connections and reports say.

    Where there are sessions, a connection may end before the program has heard of it: while its first message is waited
    for, or those before it in its session end. It was in no room, and what was sent to it alone is counted only in the
    sums. So these may be more, but they are consistent; and in memory the wires tell what was written.
    """
    written = 0
    for _, served in history.record.of(Served):
        ends = [call for call in history.calls if call.hook == "on_disconnect" and call.serve == served.serve]
        numbers = served.statistics
        written += numbers.written
        outboxes: list[OutboxStatistics] = [call.detail[2] for call in ends]
        closes = Counter(f"{call.detail[1]}:{call.detail[0]}" for call in ends)
        unheard = numbers.accepted - len(ends)
        known = Counter(numbers.closes)
        if not closes <= known or known.total() != numbers.accepted or (unheard and not _has_sessions(history)):
            yield f"server {served.serve} counts {dict(numbers.closes)} closes; there were {dict(closes)}"
        for name in ("enqueued", "written", "displaced", "discarded"):
            total = sum(getattr(outbox, name) for outbox in outboxes)
            may_be_more = unheard and name != "displaced"
            if getattr(numbers, name) < total or (getattr(numbers, name) > total and not may_be_more):
                yield f"server {served.serve} counts {getattr(numbers, name)} {name}; its outboxes {total}"
        if numbers.enqueued != numbers.written + numbers.displaced + numbers.discarded:
            yield f"server {served.serve} has not accounted for all that was enqueued: {numbers!r}"
        yield from _check_totals(history, served)
    wires = [entry.taken for _, entry in history.record.of(Wrote)]
    if history.settings.carrier == "memory" and wires and written != sum(wires):
        yield f"{written} messages are counted as written, and {sum(wires)} were"


def _has_sessions(history: History) -> bool:
    return history.settings.config.session_window is not None


def _check_totals(history: History, served: Served) -> Iterator[str]:
    reports = [entry.report for entry in _of_server(history, served)]
    numbers = served.statistics
    displaced = sum(report.displaced for report in reports)
    if displaced != numbers.displaced:
        yield f"server {served.serve} counts {numbers.displaced} displaced; its reports {displaced}"
    refused = sum(report.dropped + report.closed for report in reports)
    if refused > numbers.dropped:
        yield f"server {served.serve} counts {numbers.dropped} dropped; its reports {refused}"


def _of_server(history: History, served: Served) -> Iterator[Delivered]:
    """What was delivered while a server ran: up to its end, since the end of the one before."""
    found: list[Delivered] = []
    for _, entry in history.record:
        if isinstance(entry, Delivered):
            found.append(entry)
        elif isinstance(entry, Served):
            if entry is served:
                break
            found = []
    return iter(found)
