"""A task of the program that follows a room: its stream without a connection.

Theory of operation. A subscription is fed by ``Node.deliver`` beside the members, in the same order, and calls nothing
of the program's: it queues the event and wakes whoever iterates. It is bounded like an outbox, and the same policies
decide at the bound; no writer is between, so there is nothing that they could not remove.

It is no member: it neither opens a room nor holds it open, and counts nowhere. It only has the broker bring the room's
publications. In a room with history it catches up as a join does: what is delivered while the history is read is held,
and both are merged in the step in which it begins. From then on it knows how far it has come, so that a publication
that comes twice is passed over, and a new epoch is a loss.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import trio

from ._errors import NotServing, SubscriptionLost, UsageError
from ._recovery import Reading
from ._room_options import Keep, Overflow, RoomOptions
from ._room_stream import CatchUp
from ._rooms.history import Position
from ._rooms.publication import Publication
from ._wire.frames import OVERHEAD

if TYPE_CHECKING:
    from ._node import Node

_TOO_SLOW = "the task was too slow: the bound of its subscription was reached"
_HOLE = "the room's stream has a hole, or has begun anew"


class RoomEvent(msgspec.Struct, frozen=True, gc=False):
    """What a subscription gives: one event of its room."""

    room: str
    """The name of the room."""
    raw: bytes
    """The event in JSON."""
    position: Position | None = None
    """Where it stands in the room's stream; None if the room has no history, or it was not kept."""

    @property
    def offset(self) -> int | None:
        """The offset of :attr:`position`."""
        return None if self.position is None else self.position.offset

    @property
    def data(self) -> Any:
        """The event as builtins, decoded at each call."""
        return msgspec.json.decode(self.raw)

    def decode(self, type: Any) -> Any:
        """The event as ``type``. Raises ``msgspec.ValidationError``."""
        return msgspec.json.decode(self.raw, type=type)


class Subscription:
    """``async for event in events:`` gives the events of a room, as its members see them; see ``manager.subscribe``.

    Iterating is a checkpoint for each event; a cancel loses none. When the server ends, what is queued is still given,
    and then the iteration ends. When events have been missed (the task was slower than the publishers, and the policy
    is "close"; or the room's stream has a hole), what stood before them is given, and then :exc:`SubscriptionLost` is
    raised. Several tasks may iterate; each event goes to one of them.
    """

    def __init__(
        self, node: Node, room: str, options: RoomOptions, since: Position | None, overflow: Overflow, max_messages: int
    ) -> None:
        self.room = room
        """The name of the room."""
        self.recovered: bool | None = None
        """Whether nothing is missing since the position that was asked for; None if none was. If it is False,
        nothing of what is missing is given."""
        self.position: Position | None = None
        """That of the last event that was given: to subscribe again ``since`` there. At first, where the subscription
        begins. None where the room has no history."""
        self.dropped: int = 0
        """Events that were refused at the bound."""
        self.displaced: int = 0
        """Events that newer ones pushed out at the bound, or replaced by their key."""
        self._node = node
        self._since = since
        self._overflow = overflow
        self._max_messages = max_messages
        self._max_bytes = node.config.limits.subscription_bytes
        self._options = options
        self._recovered_events: deque[RoomEvent] = deque()
        self._queue: OrderedDict[object, RoomEvent] = OrderedDict()
        self._bytes = 0
        self._serial = itertools.count()
        self._arrived = trio.lowlevel.ParkingLot()
        self._held: CatchUp | None = None
        self._begun = False
        self._top: Position | None = None
        self._end: str | None = None  # why nothing more is taken in; "" if that is how it should be

    def __repr__(self) -> str:
        return f"<Subscription {self.room!r}: {len(self._queue)} waiting>"

    def __aiter__(self) -> Subscription:
        """Itself."""
        return self

    async def __anext__(self) -> RoomEvent:
        """Wait for the next event. Raises :exc:`SubscriptionLost`, and does so again each time."""
        await trio.lowlevel.checkpoint()
        while not (self._recovered_events or self._queue):
            if self._end is not None:
                if self._end:
                    raise SubscriptionLost(self._end)
                raise StopAsyncIteration
            await self._arrived.park()
        if self._recovered_events:
            event = self._recovered_events.popleft()
        else:
            _, event = self._queue.popitem(last=False)
            self._bytes -= _cost(event)
        if event.position is not None:
            self.position = event.position
        return event

    # What follows is for the library.

    @property
    def _keep(self) -> Keep | None:
        return self._options.keep

    async def _catch_up(self) -> None:
        """Begin. Raises :exc:`NotServing` if the server ends meanwhile, and what the broker raises."""
        if self._keep is None:
            await self._node.subscribe(self.room)
            self.recovered = None if self._since is None else False
        else:
            self._held = CatchUp(self._node.config.limits.max_recovery, self._options.recovery == "cache")
            await self._node.subscribe(self.room)
            reading = Reading(
                node=self._node, name=self.room, options=self._options, since=self._since, held=self._held
            )
            await reading.read()
            self._start(reading)
        if self._end is not None:
            raise NotServing("the server has ended")
        self._begun = True

    def _start(self, reading: Reading) -> None:
        caught = reading.caught()
        if caught.too_much:
            self._node.counters.limit("max_recovery")
        self.recovered = caught.recovered
        self._top = caught.position
        if caught.recovered:
            self.position = self._since
        elif not caught.items:
            self.position = caught.position
        epoch = caught.position.epoch
        self._recovered_events.extend(
            RoomEvent(self.room, item.raw, Position(item.offset, epoch)) for item in caught.items
        )
        self._held = None

    def _deliver(self, publication: Publication, position: Position | None) -> None:
        """Queue an event; called in the broker's order. Never waits."""
        if self._held is not None and position is not None:
            self._held.add(publication, position)
        if not self._begun or self._end is not None:
            return
        if position is not None and self._top is not None:
            if position.epoch != self._top.epoch or (publication.after or 0) > self._top.offset:
                self._lose()
                return
            if position.offset <= self._top.offset:
                return
            self._top = position
        self._put(RoomEvent(self.room, publication.data, position), publication.key)

    def _put(self, event: RoomEvent, key: str | None) -> None:
        cost = _cost(event)
        place: object = next(self._serial) if key is None or self._overflow != "conflate" else key
        if place in self._queue:
            self._displace(place)
        while len(self._queue) >= self._max_messages or self._bytes + cost > self._max_bytes:
            self._node.counters.limit(
                "subscription_bytes" if len(self._queue) < self._max_messages else "subscription_messages"
            )
            if self._overflow == "close":
                self._lose(_TOO_SLOW)
                return
            if self._overflow == "drop_newest" or not self._queue:
                self.dropped += 1
                return
            self._displace(next(iter(self._queue)))
        self._queue[place] = event
        self._bytes += cost
        self._arrived.unpark()

    def _displace(self, place: object) -> None:
        self._bytes -= _cost(self._queue.pop(place))
        self.displaced += 1

    def _get_top(self) -> Position | None:
        """How far it has come."""
        return self._top

    def _lose_before(self, offset: float) -> None:
        """What stands at this offset was lost on its way."""
        if self._top is not None and self._top.offset < offset:
            self._lose()

    def _lose(self, why: str = _HOLE) -> None:
        """Something was missed, or what comes now would be."""
        if self._end is None:
            self._finish(why)

    def _finish(self, why: str = "") -> None:
        """Take in nothing more."""
        if self._end is None:
            self._end = why
            self._arrived.unpark_all()


class Subscriptions:
    """Those of one node, by the room."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[Subscription]] = {}
        """Never with an empty list, so that it is empty where there are none."""

    def all(self) -> list[Subscription]:
        """Each of them; a copy."""
        return [subscription for one in self.rooms.values() for subscription in one]

    def deliver(self, publication: Publication, position: Position | None) -> None:
        """Queue an event for whoever follows one of its rooms; what is published to everybody is of none."""
        for room in publication.rooms:
            for subscription in self.rooms.get(room, ()):
                subscription._deliver(publication, position)

    def finish(self) -> None:
        """Nothing is delivered any more."""
        for subscription in self.all():
            subscription._finish()
        self.rooms.clear()

    @contextmanager
    def _follow(self, subscription: Subscription) -> Iterator[None]:
        """Feed it for the length of the block."""
        room, node = subscription.room, subscription._node
        self.rooms.setdefault(room, []).append(subscription)
        try:
            yield
        finally:
            subscription._finish()
            followers = self.rooms.get(room, [])
            if subscription in followers:  # else the server has ended, and another one may have begun
                followers.remove(subscription)
                if not followers:
                    del self.rooms[room]
                node.unsubscribe(room)

    @asynccontextmanager
    async def open(
        self, node: Node, room: str, *, since: Position | None, overflow: Overflow, max_messages: int | None
    ) -> AsyncIterator[Subscription]:
        """See ``manager.subscribe``."""
        if overflow not in get_args(Overflow):
            raise UsageError(f"overflow is one of {get_args(Overflow)}, not {overflow!r}")
        if max_messages is None:
            max_messages = node.config.limits.subscription_messages
        if max_messages < 1:
            raise UsageError(f"max_messages is at least 1, not {max_messages}")
        subscription = Subscription(node, room, node.room_options(room), since, overflow, max_messages)
        with self._follow(subscription):
            await subscription._catch_up()
            yield subscription


def _cost(event: RoomEvent) -> int:
    return len(event.raw) + OVERHEAD
