"""The broker of one process: delivers in the call that submits."""

from __future__ import annotations

import math

import attrs
import trio

from .._errors import AlreadyServing, NotServing
from .._rooms.history import Position, Slice
from .._rooms.publication import Publication
from .._rooms.results import Results
from .._rooms.streams import Streams
from .base import Confirmation, Deliver, Keep, Submission

#: Seconds for which the key of a publication is remembered.
IDEMPOTENCY_TTL = 300.0

_MIB = 1024 * 1024


@attrs.frozen
class _Done(Submission):
    """In process, submitted is confirmed."""

    confirmation: Confirmation = attrs.field(factory=Confirmation)

    async def wait(self) -> Confirmation:
        await trio.lowlevel.checkpoint()
        return self.confirmation


_DONE = _Done()


@attrs.frozen
class MemoryBrokerStatistics:
    """What a broker in memory holds."""

    streams: int
    """Rooms with a stream: with publications that are kept, or only an epoch and an offset."""
    history_bytes: int
    """What the kept publications take, about."""
    evicted: int
    """Windows and streams that went before their time, because of a bound. Their rooms' clients are told
    ``recovered: false``."""
    results: int
    """Idempotency keys that are remembered."""
    results_forgotten: int
    """Keys that went before their time, because of the bound: a repeat would be published again."""


class MemoryBroker:
    """The default. When ``submit`` returns, every member's outbox has been asked.

    Its history lasts until the end of serve. Rooms that nobody is subscribed to lose theirs first.

    Args:
      max_streams: Rooms whose streams are kept. Beyond it the one used the longest ago is forgotten.
      max_history_bytes: What the history of all rooms may take together. Beyond it the rooms used the longest ago
        lose theirs.
      max_results: Idempotency keys that are remembered, each for five minutes. Beyond it the oldest is forgotten.
    """

    supports: frozenset[str] = frozenset({"history"})
    """Carrying, and history."""

    def __init__(
        self, *, max_streams: int = 100_000, max_history_bytes: int = 256 * _MIB, max_results: int = 100_000
    ) -> None:
        self._deliver: Deliver | None = None
        self._streams = Streams(max_streams, max_history_bytes)
        self._results: Results[Confirmation] = Results(IDEMPOTENCY_TTL, max_results)
        self._subscribed: set[str] = set()
        self._sooner = trio.lowlevel.ParkingLot()
        self._wakes_at = math.inf

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled. Raises :exc:`AlreadyServing` if it does so for another manager."""
        if self._deliver is not None:
            raise AlreadyServing("this broker serves another manager")
        self._deliver = deliver
        try:
            task_status.started()
            while True:
                self._wakes_at = self._due
                with trio.CancelScope(deadline=self._wakes_at):
                    await self._sooner.park()
                now = trio.current_time()
                self._streams.expire(now, self._subscribed)
                self._results.expire(now)
        finally:
            self._deliver = None
            self._streams.clear()
            self._results.clear()
            self._subscribed.clear()

    @property
    def _due(self) -> float:
        """When something is to be let go of."""
        return min(self._streams.due, self._results.due)

    def _grown(self) -> None:
        due = self._due
        if due < self._wakes_at:
            self._wakes_at = due  # said once
            self._sooner.unpark()

    def submit(self, publication: Publication) -> Submission:
        """Deliver at once. Raises :exc:`NotServing` unless it runs."""
        if self._deliver is None:
            raise NotServing("the broker is not running")
        if publication.keep is None and publication.idempotency_key is None:
            self._deliver(publication, None)
            return _DONE
        return self._submit_once(publication, self._deliver)

    def _submit_once(self, publication: Publication, deliver: Deliver) -> Submission:
        now = trio.current_time()
        key = publication.idempotency_key
        if key is not None:
            first = self._results.get((publication.rooms, key), now)
            if first is not None:
                return _Done(attrs.evolve(first, duplicate=True))
        position = None
        if publication.keep is not None:
            room = publication.rooms[0]
            position = self._streams.append(room, publication.kept, publication.keep, now, self._subscribed)
        done = _Done(Confirmation(position))
        if key is not None:
            self._results.put((publication.rooms, key), done.confirmation, now)
        self._grown()
        deliver(publication, position)
        return done

    async def wait_ready(self) -> None:
        """Nothing to wait for, as there is no queue; a checkpoint."""
        await trio.lowlevel.checkpoint()

    async def subscribe(self, room: str) -> None:
        """Nothing to do but to remember it, as everything is local; a checkpoint."""
        await trio.lowlevel.checkpoint()
        self._subscribed.add(room)

    def unsubscribe(self, room: str) -> None:
        """Its stream is among the first to go if there are too many."""
        self._subscribed.discard(room)

    async def history(
        self,
        room: str,
        *,
        keep: Keep,
        since: Position | None,
        limit: int | None,
        reverse: bool,
    ) -> Slice:
        """Read what is kept; a checkpoint."""
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        part = self._streams.read(
            room, keep, now, since=since, limit=limit, reverse=reverse, subscribed=self._subscribed
        )
        self._grown()
        return part

    def forget(self, room: str) -> None:
        """Lose a room's history; its stream begins anew, with another epoch, and members are asked to come back."""
        self._streams.forget(room)

    def statistics(self) -> MemoryBrokerStatistics:
        """What it holds."""
        return MemoryBrokerStatistics(
            streams=len(self._streams),
            history_bytes=self._streams.bytes,
            evicted=self._streams.evicted,
            results=len(self._results),
            results_forgotten=self._results.forgotten,
        )
