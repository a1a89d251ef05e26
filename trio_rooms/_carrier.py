"""From the program to the broker: submitting, waiting for room, and waiting until a publication is delivered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import msgspec
import trio

from ._awaited import Awaited, Waiting
from ._context import current_connection
from ._errors import BrokerBusy, NotServing, UsageError
from ._formats import packed
from ._rooms.history import Position
from ._rooms.publication import Publication, Report, Until
from ._rooms.results import Results
from ._wire.departures import Delivery
from .brokers.base import Broker, Confirmation, Submission
from .brokers.memory import IDEMPOTENCY_TTL

#: The longest idempotency key.
MAX_KEY_CHARS = 128

# Of how many publications with a key this node knows what it did; of others the position is known, by the broker.
_MAX_REPORTS = 10_000


@attrs.define(eq=False)
class Carrier:
    """The way of one node's publications to its broker."""

    _broker: Broker
    _publishing: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock)
    """Held by the task that waits for room in the broker; those that came later wait behind it."""
    _awaited: dict[tuple[str, ...], Awaited] = attrs.field(factory=dict)
    _reports: Results[Report] = attrs.field(factory=lambda: Results(IDEMPOTENCY_TTL, _MAX_REPORTS))
    """Of publications with an ``idempotency_key``, for who repeats them."""
    _ended: bool = False

    def publish_nowait(self, publication: Publication) -> Report:
        """Submit; what is known of the delivery so far. Raises BrokerBusy."""
        submission = self._submit(publication)
        if publication.idempotency_key is not None:
            confirmation = submission.confirmation
            if confirmation is not None and confirmation.duplicate:
                return self._first_report(publication, confirmation)
        return publication.report or _UNKNOWN

    async def publish(self, publication: Publication, until: Until) -> Report:
        """Submit when the broker has room, wait for its confirmation and for the delivery on this node.

        "written": wait also until no outbox of this node has it any more. A cancel while waiting for room: nothing
        was published. Before it was delivered: the outcome is unknown. Later: it stays queued for all.
        """
        if until not in ("queued", "written"):
            raise UsageError(f'until is "queued" or "written", not {until!r}')
        if until == "written":
            conn = current_connection()
            if conn is not None and conn._opening is not None:
                conn._opening.check_task()
            publication.delivery = Delivery()
        submission = await self._submit_when_ready(publication)
        if publication.report is not None:
            confirmation = await submission.wait()
        else:
            confirmation = await self._wait_delivered(publication, submission)
        if confirmation.duplicate:
            return self._first_report(publication, confirmation)
        if publication.report is not None:
            return await self._written(publication, publication.report)
        if self._ended:
            raise NotServing("the server ended before the publication was delivered")
        return Report(position=confirmation.position)

    async def _wait_delivered(self, publication: Publication, submission: Submission) -> Confirmation:
        """Wait for the confirmation and, unless it is a duplicate, until it was delivered or never will be."""
        waiting = Waiting()
        publication.on_delivered = waiting.over.set
        with self._awaiting(publication.rooms, waiting) as awaited:
            confirmation = await submission.wait()
            if not confirmation.duplicate and awaited.confirm(waiting, confirmation.position, trio.current_time()):
                await waiting.over.wait()
            return confirmation

    @contextmanager
    def _awaiting(self, rooms: tuple[str, ...], waiting: Waiting) -> Iterator[Awaited]:
        awaited = self._awaited.setdefault(rooms, Awaited())
        awaited.waiting[waiting] = None
        try:
            yield awaited
        finally:
            awaited.leave(waiting)
            if not awaited.waiting:
                del self._awaited[rooms]

    async def _written(self, publication: Publication, report: Report) -> Report:
        delivery = publication.delivery
        if delivery is None:
            return report
        await delivery.wait()
        report = msgspec.structs.replace(report, written=delivery.written)
        if publication.idempotency_key is not None:
            self.remember(publication, report)
        return report

    def passed(self, publication: Publication, position: Position) -> None:
        """What stands before ``position`` in its room, and has not been delivered here, never will be."""
        awaited = self._awaited.get(publication.rooms)
        if awaited is not None:
            awaited.advance(position)

    def give_up(self, *, confirmed_before: float) -> None:
        """What was confirmed so long ago, and has not been delivered here, never will be."""
        for awaited in self._awaited.values():
            for waiting in awaited.waiting:
                if waiting.confirmed_at < confirmed_before:
                    waiting.over.set()

    def remember(self, publication: Publication, report: Report) -> None:
        """Keep the report of a publication with a key."""
        self._reports.put((publication.rooms, publication.idempotency_key), report, trio.current_time())

    def end(self) -> None:
        """Nothing is delivered any more: who waits for it is told."""
        self._ended = True
        for awaited in self._awaited.values():
            for waiting in awaited.waiting:
                waiting.over.set()

    def _submit(self, publication: Publication) -> Submission:
        if self._publishing.locked():
            raise BrokerBusy("others wait to publish")  # and were first
        submission = self._broker.submit(publication)
        publication.event = msgspec.UNSET
        return submission

    async def _submit_when_ready(self, publication: Publication) -> Submission:
        await trio.lowlevel.checkpoint_if_cancelled()  # who waits for the confirmation makes it a whole one
        try:
            return self._submit(publication)
        except trio.WouldBlock:
            packed(publication)  # while we wait, the event may change
        async with self._publishing:
            while True:  # noqa: ASYNC913 - taking the lock is a checkpoint
                try:
                    return self._broker.submit(publication)
                except trio.WouldBlock:
                    await self._broker.wait_ready()

    def _first_report(self, publication: Publication, confirmation: Confirmation) -> Report:
        """What is known here of the publication that another one repeats."""
        known = self._reports.get((publication.rooms, publication.idempotency_key), trio.current_time())
        if known is None:
            return Report(position=confirmation.position, duplicate=True)
        return msgspec.structs.replace(known, duplicate=True)


def checked_key(key: object) -> str:
    """An idempotency key. Raises :exc:`UsageError` for what is none."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS:
        raise UsageError(f"an idempotency_key is a text of 1 to {MAX_KEY_CHARS} characters")
    return key


_UNKNOWN = Report()
