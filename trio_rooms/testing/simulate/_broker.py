"""The broker of a simulation: carries by way of another one, refuses when told to, and writes the oracle's list.

Theory of operation. Every publication passes here twice: when it is submitted, and when it is delivered. At the
delivery the members of its rooms are who is to get it, so this is where the record learns what each client should
see. It knows them by the manager's public names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import trio

from trio_rooms import BrokerBusy, Connection, Manager, Position, Publication, Report, Slice
from trio_rooms.brokers import Broker, Deliver, Keep, MemoryBroker, Submission

from .._broker import LaggingBroker
from ._record import Delivered, Kept, Measured, Record, Submitted
from ._settings import Settings


@attrs.define(eq=False)
class Watch:
    """Looks at a manager from outside."""

    record: Record
    manager: Manager | None = None
    _largest: dict[str, float] = attrs.field(factory=dict)

    def members(self, publication: Publication) -> dict[Connection, str | None]:
        """Who is to get a publication now, and as a member of which room."""
        found: dict[Connection, str | None] = {}
        if self.manager is None:
            return found
        if not publication.rooms:
            return {conn: None for conn in self.manager.connections.values() if not _is_excluded(conn, publication)}
        for name in publication.rooms:
            room = self.manager.get_room(name)
            for conn in () if room is None else room.members:
                if not _is_excluded(conn, publication):
                    found.setdefault(conn, name)
        return found

    def policies(self, rooms: Iterable[str | None]) -> dict[str, str]:
        """What these rooms do at the bound."""
        found: dict[str, str] = {}
        for name in rooms:
            room = None if self.manager is None or name is None else self.manager.get_room(name)
            if room is not None:
                found[room.name] = room.options.overflow
        return found

    def measure(self) -> None:
        """Note what has grown of what is bounded."""
        if self.manager is None:
            return
        limits = self.manager.config.limits
        for conn in self.manager.connections.values():
            outbox = conn.statistics()
            self._note("outbox_messages", outbox.messages, limits.outbox_messages)
            self._note("outbox_bytes", outbox.bytes, limits.outbox_bytes)
            self._note("max_rooms_per_connection", len(conn.rooms), limits.max_rooms_per_connection)
        self._note("max_rooms", len(self.manager.rooms()), limits.max_rooms)
        for room in self.manager.rooms():
            if room.options.capacity is not None:
                self._note("capacity", len(room.members), room.options.capacity)

    def _note(self, name: str, value: float, bound: float) -> None:
        if value > self._largest.get(name, 0):
            self._largest[name] = value
            self.record.add(Measured(name, value, bound))


class WatchedStore(MemoryBroker):
    """Keeps the history, and notes what it keeps."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def submit(self, publication: Publication) -> Submission:
        """As any broker in memory."""
        submission = super().submit(publication)
        confirmation = submission.confirmation
        if publication.keep is not None and confirmation is not None and not confirmation.duplicate:
            assert confirmation.position is not None
            self._record.add(
                Kept(
                    publication.rooms[0],
                    confirmation.position.offset,
                    confirmation.position.epoch,
                    publication.data,
                    publication.exclude,
                    publication.keep.size,
                    publication.keep.ttl,
                )
            )
        return submission


class WatchedBroker:
    """Around ``inner``. ``refuse`` says whether the next submission meets a broker that has no room."""

    def __init__(self, settings: Settings, watch: Watch, *, refuse: Callable[[], bool]) -> None:
        self.store = WatchedStore(watch.record)
        """Where the history is."""
        self.lagging: LaggingBroker | None = None
        """The broker that takes its time, if there is one."""
        if settings.lag is not None:
            self.lagging = LaggingBroker(delay=settings.lag, confirm=settings.confirm, bound=settings.broker_bound)
            self.lagging.store = self.store
        self._inner: Broker = self.lagging or self.store
        self._quick_reads = settings.quick_reads
        self._watch = watch
        self._record = watch.record
        self._refuse = refuse
        self._submitted = 0
        self._under_way: dict[int, tuple[int, Publication]] = {}

    @property
    def supports(self) -> frozenset[str]:
        """What the other one does."""
        return self._inner.supports

    async def run(  # noqa: ASYNC128 - task_status is handed on
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """As the other one; what is under way at the end is lost."""

        def watched(publication: Publication, position: Position | None) -> Report:
            number = self._number_of(publication)
            members = self._watch.members(publication)
            recipients = {conn.id: room for conn, room in members.items()}
            closing = frozenset(conn.id for conn in members if conn.closed is not None)
            policies = self._watch.policies(dict.fromkeys(members.values()))
            report = deliver(publication, position)
            self._record.add(
                Delivered(
                    number,
                    publication.rooms,
                    publication.data,
                    publication.exclude,
                    recipients,
                    closing,
                    policies,
                    report,
                    None if position is None else position.offset,
                    None if position is None else position.epoch,
                )
            )
            self._under_way.pop(id(publication), None)
            self._watch.measure()
            return report

        try:
            await self._inner.run(watched, task_status=task_status)
        finally:
            self._under_way.clear()

    def submit(self, publication: Publication) -> Submission:
        """Raises :exc:`BrokerBusy` when told to, else as the other one."""
        if self._refuse():
            raise BrokerBusy("the broker was told to refuse")
        number = self._number_of(publication)
        try:
            submission = self._inner.submit(publication)
        except BaseException:
            self._under_way.pop(id(publication), None)
            raise
        self._record.add(Submitted(number, publication.rooms, publication.data))
        return submission

    @property
    def busy_for(self) -> float:
        """Seconds after which all that is under way has been delivered, or never will be."""
        return 0.0 if self.lagging is None else 2 * self.lagging.delay * len(self._under_way)

    async def wait_ready(self) -> None:
        """As the other one."""
        await self._inner.wait_ready()

    async def subscribe(self, room: str) -> None:
        """As the other one."""
        await self._inner.subscribe(room)

    def unsubscribe(self, room: str) -> None:
        """As the other one."""
        self._inner.unsubscribe(room)

    async def history(
        self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
    ) -> Slice:
        """As the other one, or at once."""
        reader = self.store if self._quick_reads else self._inner
        return await reader.history(room, keep=keep, since=since, limit=limit, reverse=reverse)

    def _number_of(self, publication: Publication) -> int:
        # By identity: on its own node the object that was submitted is delivered. It is kept, so the id is its alone.
        if id(publication) not in self._under_way:
            self._submitted += 1
            self._under_way[id(publication)] = self._submitted, publication
        return self._under_way[id(publication)][0]


def _is_excluded(conn: Connection, publication: Publication) -> bool:
    """Whether it is not for a connection, or not for its session."""
    return conn.id in publication.exclude or conn.session_id in publication.exclude
