"""One process that serves: what all its connections and rooms share for the length of one ``serve``.

A node is made when ``serve`` begins and thrown away when it ends, so nothing of one run can be found in
the next. It also is where publications come back from the broker: :meth:`Node.deliver` is the only way to
a member, runs whole without a checkpoint, and calls nothing of the user's.
"""

from __future__ import annotations

import contextvars
import random
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
import trio

from ._carrier import Carrier
from ._chance import generator
from ._config import Config
from ._counters import Counters
from ._errors import (
    BadRoom,
    InternalError,
    RoomNotFound,
    TooManyRooms,
    UnrecoverablePosition,
    UsageError,
)
from ._expiry import Expiry
from ._grace import Grace
from ._hooks import ErrorReporter, Logger
from ._messages.requests import Bound
from ._onion import compose
from ._publications import Publications
from ._room import Room
from ._room_options import Keep, RoomOptions
from ._rooms.history import Position, Slice
from ._rooms.names import why_not_a_room
from ._rooms.publication import Publication, Report
from ._rooms.roster import union
from ._sessions import Sessions
from ._subscription import Subscriptions
from ._wire.fanout import FanOut, Outcome
from ._wire.flusher import Flusher
from ._wire.outbox import Outbox, flush_all
from ._wire.poller import Poller, make_poller
from .brokers.base import Broker
from .brokers.memory import MemoryBroker

if TYPE_CHECKING:
    from ._connection import Connection
    from ._registry import CallNext, Registry

# Brokers count in 64 bits.
_MAX_OFFSET = 2**63 - 1

_NOBODY: frozenset[str] = frozenset()


@attrs.define(eq=False)
class Node:
    """The shared state of one ``serve``."""

    config: Config
    registry: Registry
    broker: Broker
    logger: Logger
    debug: bool
    nursery: trio.Nursery
    """Tasks of rooms, and hooks that outlive what they belong to. Cancelled last."""
    grace: Grace = attrs.field(factory=Grace)
    flusher: Flusher = attrs.field(factory=lambda: Flusher(flush_all))
    poller: Poller | None = attrs.field(factory=make_poller)
    """Waits for what clients send. None where it is left to trio."""
    counters: Counters = attrs.field(factory=Counters)
    connections: dict[str, Connection] = attrs.field(factory=dict)
    outboxes: dict[str, Outbox] = attrs.field(factory=dict)
    """Of all connections; see ``Roster.outboxes``."""
    users: dict[str, dict[str, Connection]] = attrs.field(factory=dict)
    rooms: dict[str, Room] = attrs.field(factory=dict)
    closing_rooms: dict[str, Room] = attrs.field(factory=dict)
    """Rooms that are closed but whose ``on_room_close`` has not ended; the next of that name waits for it."""
    subscriptions: Subscriptions = attrs.field(factory=Subscriptions)
    draining: bool = False
    carrier: Carrier = attrs.field(init=False)
    """Gives publications to the broker."""
    close_code: int = 1001
    """What clients are closed with when the server ends; 1012 once a shutdown has begun that is a restart."""
    sessions: Sessions | None = attrs.field(init=False, default=None)
    """None where they are off."""
    expiry: Expiry | None = attrs.field(init=False, default=None)
    """Of the sessions."""
    rng: random.Random = attrs.field(factory=generator)
    """For what is spread at random: pings and the closes of a drain. Not for anything secret."""
    errors: ErrorReporter = attrs.field(init=False)
    call_handler: CallNext = attrs.field(init=False)
    inbox_bound: Bound = attrs.field(init=False)
    fan_out: FanOut = attrs.field(init=False)
    publications: Publications = attrs.field(init=False)
    """Makes them."""
    keeps_history: bool = attrs.field(init=False)
    """Whether there may be a room with history."""
    delivers_at_once: bool = attrs.field(init=False)
    """Whether an event is what it was when it is delivered: before anybody could have changed it."""

    def __attrs_post_init__(self) -> None:
        self.errors = ErrorReporter(self.registry.hooks, self.logger, timeout=self.config.hook_timeout)
        self.inbox_bound = Bound(self.config.limits.inbox_messages, self.config.limits.read_ahead_bytes)
        window = self.config.session_window
        if window is not None:
            most = self.config.limits.max_sessions
            self.sessions = Sessions(window=window, most=most, counters=self.counters)
            self.expiry = Expiry(self, self.sessions)
        self.call_handler = compose(self.registry.middleware)
        self.carrier = Carrier(self.broker)
        self.keeps_history = self.registry.patterns.keeps_history
        if self.keeps_history and "history" not in self.broker.supports:
            raise UsageError(f"there are rooms with history, which {type(self.broker).__name__} does not support")
        self.delivers_at_once = type(self.broker) is MemoryBroker  # one that is derived from it may take its time
        self.publications = Publications(self)
        self.fan_out = FanOut(
            self.flusher,
            max_messages=self.config.limits.outbox_messages,
            max_bytes=self.config.limits.outbox_bytes,
            write_buffer_size=self.config.write_buffer_size,
        )

    def told(self, error: BaseException) -> InternalError:
        """What a client is told of an exception: a fixed text, unless debugging is switched on."""
        return InternalError(f"{type(error).__name__}: {error}"[:1000] if self.debug else None)

    def spawn(self, function: Callable[[], Awaitable[None]], context: contextvars.Context) -> None:
        """Start a task of the node's in a given context, not in that of whoever happens to run now."""
        context.run(self.nursery.start_soon, function)

    def add_connection(self, conn: Connection) -> None:
        """Enter a connection into the indexes."""
        self.connections[conn.id] = conn
        self.outboxes[conn.id] = conn.outbox
        if conn.identity.user is not None:
            self.users.setdefault(conn.identity.user, {})[conn.id] = conn

    def remove_connection(self, conn: Connection) -> None:
        """Take a connection out of the indexes."""
        self.connections.pop(conn.id, None)
        self.outboxes.pop(conn.id, None)
        user = conn.identity.user
        if user is not None and user in self.users:
            self.users[user].pop(conn.id, None)
            if not self.users[user]:
                del self.users[user]

    def room_options(self, name: str) -> RoomOptions:
        """The options for a room's name. Raises :exc:`BadRoom`, :exc:`RoomNotFound`."""
        problem = why_not_a_room(name, max_bytes=self.config.limits.max_room_name_bytes)
        if problem is not None:
            raise BadRoom(problem)
        options = self.registry.patterns.match(name)
        if options is None:
            if self.config.rooms == "declared":
                raise RoomNotFound
            options = _DEFAULT_OPTIONS
        return options

    def open_room(self, name: str, options: RoomOptions) -> Room:
        """The room of that name, made if there is none. Raises :exc:`TooManyRooms`."""
        room = self.rooms.get(name)
        if room is None:
            if len(self.rooms) + len(self.closing_rooms) >= self.config.limits.max_rooms:
                self.counters.limit("max_rooms")
                raise TooManyRooms("too many rooms on this node")
            room = self.rooms[name] = Room(self, name, options)
        return room

    def checked(self, rooms: tuple[str, ...]) -> tuple[str, ...]:
        """Names of rooms to publish to, which may be a client's. Raises :exc:`BadRoom`."""
        for room in rooms:
            if room not in self.rooms:  # those have been checked
                problem = why_not_a_room(room, max_bytes=self.config.limits.max_room_name_bytes)
                if problem is not None:
                    raise BadRoom(problem)
        return rooms

    async def history(self, name: str, *, limit: int | None, since: Position | None, reverse: bool) -> Slice:
        """Read the history of a room, open or not. Raises as :meth:`Room.history`, and :exc:`BadRoom`."""
        keep = self.room_options(name).keep
        if keep is None:
            raise UsageError(f"the room {name!r} has no history")
        part = await self.read_stream(name, keep, since=since, limit=limit, reverse=reverse)
        if since is not None and (since.epoch != part.position.epoch or not 0 <= since.offset <= part.position.offset):
            raise UnrecoverablePosition
        return part

    async def read_stream(
        self, name: str, keep: Keep, *, since: Position | None, limit: int | None, reverse: bool
    ) -> Slice:
        """Ask the broker; ``since`` may be anything that a client can say. Raises what the broker raises."""
        if since is None or 0 <= since.offset <= _MAX_OFFSET:
            return await self.broker.history(name, keep=keep, since=since, limit=limit, reverse=reverse)
        part = await self.broker.history(name, keep=keep, since=None, limit=0, reverse=reverse)
        return attrs.evolve(part, complete=False)

    async def subscribe(self, room: str) -> None:
        """Have the broker bring the publications of a room, and no longer than anybody wants them."""
        try:
            await self.broker.subscribe(room)
        finally:
            self.unsubscribe(room)  # if it went while we waited, that was too early

    def unsubscribe(self, room: str) -> None:
        """Have the broker bring them no longer, unless they are wanted: there is such a room, or a task follows it."""
        if room not in self.rooms and room not in self.subscriptions.rooms:
            self.broker.unsubscribe(room)

    def broker_ended(self) -> None:
        """Nothing is delivered any more: who waits for that is told."""
        self.carrier.end()
        self.subscriptions.finish()

    def deliver(self, publication: Publication, position: Position | None) -> Report:
        """Serve this node's members. The broker's to call, once for each publication, in order."""
        if publication.exclude and self.sessions is not None:
            publication.exclude = self.sessions.with_owners(publication.exclude)
        if position is not None:
            in_stream = self._deliver_in_stream(publication, position)
            if in_stream is None:
                return self._delivered_before(publication, position)
            outcome = in_stream
        elif len(publication.rooms) > 1:
            outcome = self._deliver_to_several(publication)
        elif publication.delivery is None:
            outcome = self.fan_out.put_all(publication, self._members_for(publication), publication.exclude)
        else:
            outcome = self.put_all(publication, self._members_for(publication), publication.exclude)
        closed = outcome.closed
        report = Report(True, outcome.enqueued, outcome.dropped, len(closed), outcome.displaced, position)
        for ident in closed:
            self.connections[ident]._overflowed()
        publication.report = report
        if publication.idempotency_key is not None:
            self.carrier.remember(publication, report)
        if publication.on_delivered is not None:
            publication.on_delivered()
        if self.subscriptions.rooms:
            self.subscriptions.deliver(publication, position)
        return report

    def _delivered_before(self, publication: Publication, position: Position) -> Report:
        """What was done then stays known."""
        if publication.report is None:
            publication.report = Report(True, position=position)
        if publication.on_delivered is not None:
            publication.on_delivered()
        return publication.report

    def put_all(
        self, publication: Publication, outboxes: Mapping[str, Outbox], exclude: frozenset[str] = _NOBODY
    ) -> Outcome:
        """As that of the fan-out, and who waits for the publication is told what becomes of it."""
        if publication.delivery is None:
            return self.fan_out.put_all(publication, outboxes, exclude)
        return self.fan_out.put_watched(publication, outboxes, exclude, publication.delivery)

    def _deliver_in_stream(self, publication: Publication, position: Position) -> Outcome | None:
        name = publication.rooms[0]
        self.carrier.passed(publication, position)
        room = self.rooms.get(name)
        if room is None:
            return Outcome(0)
        publication.overflow = room.options.overflow
        if room._stream is None:  # only other nodes, with other options, have a history of it
            return self.put_all(publication, room._roster.outboxes, publication.exclude)
        return room._stream.deliver(publication, position)

    def _members_for(self, publication: Publication) -> Mapping[str, Outbox]:
        """Of its one room, whose policy is noted; or of all."""
        if not publication.rooms:
            return self.outboxes
        room = self.rooms.get(publication.rooms[0])
        if room is None:
            return _EMPTY
        publication.overflow = room.options.overflow
        return room._roster.outboxes

    def _deliver_to_several(self, publication: Publication) -> Outcome:
        present = [self.rooms[name] for name in publication.rooms if name in self.rooms]
        outcome = Outcome(0)
        for name, outboxes in union(((room.name, room._roster) for room in present), publication.exclude):
            part = publication.to(name)
            part.overflow = self.rooms[name].options.overflow
            outcome += self.fan_out.put_all(part, outboxes)
        return outcome


_DEFAULT_OPTIONS = RoomOptions()
_EMPTY: Mapping[str, Outbox] = MappingProxyType({})
