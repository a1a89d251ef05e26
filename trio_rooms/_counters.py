"""What has happened on a node: plain integers while it happens, a frozen snapshot for who asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from ._wire.outbox import Outbox
from ._wire.transport import MESSAGE_TOO_SLOW, TOO_MANY_FRAGMENTS, Close

#: Limits that are counted by their names, because no other count tells of each of them alone.
Limited = Literal[
    "handler_timeout",
    "inbox_messages",
    "max_fragments",
    "max_handlers",
    "max_message_bytes",
    "max_pending_asks",
    "max_recovery",
    "max_rooms",
    "max_rooms_per_connection",
    "max_sessions",
    "message_timeout",
    "presence_bytes",
    "presence_entry_bytes",
    "read_ahead_bytes",
    "session_messages",
    "subscription_bytes",
    "subscription_messages",
    "write_timeout",
]


@attrs.frozen(kw_only=True)
class Statistics:
    """A snapshot of one server; counts are since it began to serve."""

    connections: int
    """Open WebSocket connections."""
    pending_handshakes: int
    """Connections whose request is not complete."""
    rooms: int
    """Rooms that exist."""
    draining: bool
    """Whether shutdown has begun."""
    accepted: int
    """Upgrades that were accepted."""
    handshakes_rejected: Mapping[str, int]
    """Upgrades and requests that were refused, and handshakes that failed, by reason."""
    limited: Mapping[str, int]
    """Times that a limit was reached, by its name; of limits that are not among the other counts."""
    accept_errors: int
    """Times that a connection could not be accepted for want of descriptors."""
    messages_received: int
    """Messages from clients."""
    answers_dropped: int
    """Answers of clients that nothing waited for: late, unsolicited, or a second one."""
    errors_told: Mapping[str, int]
    """Errors that clients were told, by code; codes of the program's own are counted as "custom"."""
    handler_errors: int
    """Exceptions of handlers, hooks and tasks that were reported."""
    closes: Mapping[str, int]
    """Ended connections as "by:code", codes of 3000 and above that peers choose by their thousand."""
    dead_peers: int
    """Connections ended because nothing was heard within ``pong_timeout``."""
    enqueued: int
    """Messages that outboxes took in, of open and ended connections."""
    written: int
    """Messages handed to transports."""
    displaced: int
    """Publications removed or replaced by newer ones in an outbox."""
    discarded: int
    """Messages never written because their connection ended first."""
    dropped: int
    """Publications that outboxes refused."""
    presence_entries: int
    """Entries in the presence of rooms, those of users in their grace among them."""
    presence_pushes: int
    """Pushes of changes in the presence of a room, each to all members that can be told."""
    presence_resyncs: int
    """Times that a member was sent the whole presence later on, because its outbox had had no room."""
    repeated: int
    """Deliveries that the broker had made before, or of a stream that has been followed by another."""
    insufficient: int
    """Members whose connection was ended with 4010, because their room's stream had a hole or began anew."""
    sessions_kept: int
    """Sessions that are kept for clients that are away."""
    sessions_restored: int
    """Times that a client came back to its session."""
    sessions_refused: int
    """Times that a session was asked for that there was not, not any more, or not for this user."""
    sessions_expired: int
    """Sessions that have ended: by their time, by ``max_sessions``, by a close for good, or with serve."""


@attrs.define(eq=False)
class Counters:
    """The live numbers."""

    accepted: int = 0
    accept_errors: int = 0
    messages_received: int = 0
    answers_dropped: int = 0
    dead_peers: int = 0
    enqueued: int = 0
    written: int = 0
    displaced: int = 0
    discarded: int = 0
    dropped: int = 0
    presence_entries: int = 0
    presence_pushes: int = 0
    presence_resyncs: int = 0
    told_online: int = 0
    """Users whose ``on_user_online`` has been called, and ``on_user_offline`` not yet; once for each room."""
    repeated: int = 0
    insufficient: int = 0
    sessions_restored: int = 0
    sessions_refused: int = 0
    sessions_expired: int = 0
    rejected: Counter[str] = attrs.field(factory=Counter)
    errors_told: Counter[str] = attrs.field(factory=Counter)
    closes: Counter[str] = attrs.field(factory=Counter)
    limited: Counter[str] = attrs.field(factory=Counter)

    def accept_failed(self) -> None:
        """Count an accept that failed for want of descriptors."""
        self.accept_errors += 1

    def reject(self, reason: str) -> None:
        """Count a handshake that was refused or failed; ``reason`` is from a fixed set."""
        self.rejected[reason] += 1

    def limit(self, name: Limited) -> None:
        """Count that a limit was reached."""
        self.limited[name] += 1

    def closed(self, close: Close) -> None:
        """Count an ended connection; a peer chooses its code, so the set of labels is kept small."""
        chosen = close.by == "peer" and close.code >= 3000
        self.closes[f"{close.by}:{close.code // 1000 * 1000 if chosen else close.code}"] += 1
        if close.by == "server" and close.code in (1008, 1009):
            self._message_refused(close)

    def _message_refused(self, close: Close) -> None:
        if close.code == 1009:
            self.limit("max_fragments" if close.reason == TOO_MANY_FRAGMENTS else "max_message_bytes")
        elif close.reason == MESSAGE_TOO_SLOW:
            self.limit("message_timeout")

    def absorb(self, outbox: Outbox) -> None:
        """Add up what an outbox has seen, when its connection ends."""
        self.enqueued += outbox.enqueued
        self.written += outbox.written
        self.displaced += outbox.displaced
        self.discarded += outbox.discarded
        self.dropped += outbox.dropped


def frozen(counter: Counter[str]) -> Mapping[str, int]:
    """A read-only copy of a counter."""
    return MappingProxyType(dict(counter))
