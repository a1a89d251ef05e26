"""What is counted as written: it has left, and who reads to the end has read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trio_rooms import OutboxStatistics

from ._check_delivery import event_in
from ._history import History, LinkHistory
from ._record import Called, Published


def check_until_written(history: History) -> Iterator[str]:
    """What was waited for until it was written has left for as many as is said."""
    links = {link.conn: link for link in history.links.values()}
    awaited = {str(entry.n): entry for _, entry in history.record.of(Published) if entry.written is not None}
    for one in history.deliveries:
        entry = awaited.get(str(one.n))
        if entry is None or entry.written is None or entry.outcome != "final":
            continue
        least = most = 0
        for conn in one.entry.recipients:
            certain, possible = _written_to(links.get(conn), entry)
            least, most = least + certain, most + possible
        if not least <= entry.written <= most:
            yield f"publication {entry.n} is written to {entry.written}, and not to {least} to {most}"


def _written_to(link: LinkHistory | None, entry: Published) -> tuple[bool, bool]:
    """Whether a publication was certainly, and whether it was possibly, written to a connection."""
    if link is None:  # a client of the library, or one that was never heard of
        return False, True
    if link.wrote is not None:
        taken = any(_is_live(message, entry) for message in link.wrote.messages[: link.wrote.taken])
        return taken, taken
    place = next((place for place, message in enumerate(link.seen) if _is_live(message, entry)), None)
    seen = place is not None
    # Over sockets: of what a broken connection has carried the last may have arrived, and only its client knows. And
    # what was given up in the midst of a write may have left before the close frame, which completes what was begun.
    given_up = place is not None and link.close is not None and place >= link.close.detail[2].written
    certain = seen and "cut" not in link.faults and not given_up
    return certain, seen or bool(link.faults) or link.left or _is_cut_short(link)


def _is_cut_short(link: LinkHistory) -> bool:
    """Whether its client has not read all there was."""
    return link.ended is None or link.ended.code == 1006


def _is_live(message: Any, entry: Published) -> bool:
    event = event_in(message)
    return isinstance(event, dict) and event.get("n") == entry.n


def check_written(history: History) -> Iterator[str]:
    """What is counted as written has left, and who has read to the close frame has read all of it."""
    for link in history.links.values():
        call: Called | None = link.close
        if call is None:
            continue
        outbox: OutboxStatistics = call.detail[2]
        if link.wrote is not None and outbox.written != link.wrote.taken:
            yield f"{link} was written {link.wrote.taken} messages, and {outbox.written} are counted"
        if link.ended is None or link.ended.code == 1006:
            continue
        seen = sum(1 for _ in link.seen)
        if not outbox.written <= seen <= outbox.written + outbox.discarded:
            yield f"{link} has read {seen} messages; {outbox.written} are counted as written"


def check_politeness(history: History) -> Iterator[str]:
    """Who is closed politely, and reads, gets all that was queued before the close frame."""
    for link in history.links.values():
        call = link.close
        if call is None or link.faults or link.left or link.ended is None:
            continue
        code, by, outbox = call.detail
        if by == "server" and code == link.ended.code == 1012 and outbox.discarded and not _was_hasty(history):
            yield f"{link} was closed with {code}, and {outbox.discarded} messages were thrown away"


def _was_hasty(history: History) -> bool:
    """Whether a drain may have had no time left."""
    return "kill" in history.faults or history.settings.config.shutdown_timeout < 10
