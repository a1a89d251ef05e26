"""Which kinds of trouble a run has met. What many runs have never met, they have proved nothing about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from ._history import History
from ._record import Asked, Called, Delivered, Fault, Followed, Given, Published, Record, Seen, Served, Unfollowed
from ._settings import Settings

_FAULTS: Final = {
    "cut": "network: cut",
    "stall": "network: stalled",
    "silence": "network: half-open",
    "trickle": "network: byte by byte",
    "slow": "network: slow",
    "busy": "broker: refuses",
    "forget": "broker: history lost",
    "veto": "program: hook vetoes",
    "hook_crash": "program: hook fails",
    "leave_hook_crash": "program: hook fails at the end",
    "opening_crash": "program: hook fails at the opening",
    "restart": "server: restart",
    "kill": "server: cancelled",
}
_CODES: Final = (
    *(f"close: {code}" for code in (1000, 1001, 1006, 1011, 1012, 4001, 4008, 4010, 4501)),
    *(
        f"error: {code}"
        for code in (
            "BAD_MESSAGE BUSY CANCELLED CLOSED DEADLINE_EXCEEDED DENIED INTERNAL NEEDS_V1 ROOM_FAILED ROOM_FULL "
            "TOO_MANY_ROOMS UNKNOWN_ACTION VETO"
        ).split()
    ),
    *(f"membership ended: {code}" for code in ("CLOSED", "KICKED", "ROOM_FAILED")),
)
_LIMITS: Final = (
    "inbox_messages max_handlers max_recovery max_rooms_per_connection subscription_messages write_timeout"
).split()

#: All that the library's own program can meet. Each is met in the seeds that are a part of the tests.
TROUBLES: Final = (
    *_FAULTS.values(),
    "broker: takes its time",
    "broker: loses a delivery",
    "broker: told a key twice",
    *(f"outbox full: {policy}" for policy in ("close", "drop_newest", "drop_oldest", "conflate")),
    *(f"limit: {name}" for name in _LIMITS),
    "program: handler fails",
    "program: task of a room fails",
    "server: drains",
    "server: finds a peer dead",
    "server: handshake not finished, or refused",
    *(f"session: {what}" for what in ("expired", "restored", "refused")),
    *(f"recovery: {what}" for what in ("all", "nothing")),
    *(f"request to a client: {what}" for what in ("answered", "refused", "late", "gone", "answer dropped")),
    *(f"subscription: {what}" for what in ("recovered", "not recovered", "lost", "ended")),
    *(f"gap: {what}" for what in ("no history", "not recovered")),
    *_CODES,
)


def met(record: Record, settings: Settings) -> frozenset[str]:
    """Those of a run. A program of one's own may have codes that are not among :data:`TROUBLES`."""
    history = History(record, settings)
    found = set(_of_history(history))
    for _, entry in record:
        look = _LOOKS.get(type(entry))
        if look is not None:
            found.update(look(entry))
    return frozenset(found)


def _of_history(history: History) -> Iterator[str]:
    if history.settings.lag:
        yield "broker: takes its time"
    if history.lost and "lose" in history.faults:
        yield "broker: loses a delivery"


def _of_fault(entry: Fault) -> Iterator[str]:
    name = _FAULTS.get(entry.kind.partition(" ")[0])
    if name is not None:
        yield name


def _of_delivery(entry: Delivered) -> Iterator[str]:
    report = entry.report
    if len(entry.policies) == 1 and report.dropped + report.displaced + report.closed:
        (policy,) = entry.policies.values()
        if policy == "close" or report.dropped + report.displaced:
            yield f"outbox full: {policy}"


def _of_call(entry: Called) -> Iterator[str]:
    if entry.hook == "on_disconnect":
        yield f"close: {int(entry.detail[0])}"


def _of_server(entry: Served) -> Iterator[str]:
    numbers = entry.statistics
    yield from (f"limit: {name}" for name in numbers.limited)
    for name, count in (
        ("server: finds a peer dead", numbers.dead_peers),
        ("server: handshake not finished, or refused", sum(numbers.handshakes_rejected.values())),
        ("session: expired", numbers.sessions_expired),
        ("session: restored", numbers.sessions_restored),
        ("session: refused", numbers.sessions_refused),
        ("request to a client: answer dropped", numbers.answers_dropped),
    ):
        if count:
            yield name


def _of_message(entry: Seen) -> Iterator[str]:
    message: Any = entry.message
    if not isinstance(message, dict):
        return
    data = message.get("data")
    error = message.get("error")
    if isinstance(error, dict):
        yield f"error: {error.get('code')}"
        if error.get("code") == "INTERNAL":
            yield "program: handler fails"
    if message.get("action") == "$drain":
        yield "server: drains"
    elif message.get("action") == "$closed":
        yield f"membership ended: {message['data']['code']}"
        if message["data"]["code"] == "ROOM_FAILED":
            yield "program: task of a room fails"
    elif "id" in message and isinstance(data, dict) and "recovered" in data:
        yield "recovery: all" if data["recovered"] else "recovery: nothing"


def _of_follower(entry: Followed) -> Iterator[str]:
    if entry.recovered is not None:
        yield "subscription: recovered" if entry.recovered else "subscription: not recovered"


_LOOKS: Final[dict[type, Callable[[Any], Iterator[str]]]] = {
    Fault: _of_fault,
    Delivered: _of_delivery,
    Called: _of_call,
    Served: _of_server,
    Seen: _of_message,
    Published: lambda entry: iter(["broker: told a key twice"] if entry.outcome == "duplicate" else []),
    Asked: lambda entry: iter([f"request to a client: {entry.outcome}"]),
    Unfollowed: lambda entry: iter([f"subscription: {entry.why}"]),
    Followed: _of_follower,
    Given: lambda entry: iter([] if entry.gap is None else [f"gap: {entry.gap}"]),
}
