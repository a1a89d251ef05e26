"""The verbs of a manager that reach clients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from ._connection import Connection
from ._errors import ConnectionGone, OutboxFull, UsageError
from ._room_options import Overflow
from ._rooms.history import Position, Slice
from ._rooms.publication import Report, Until
from ._subscription import Subscription

if TYPE_CHECKING:
    from ._node import Node


class Publishing:
    """The part of :class:`Manager` that publishes and sends, on the node that is being served."""

    @property
    def _node(self) -> Node:
        raise NotImplementedError

    async def publish(
        self,
        room: str,
        event: object,
        *,
        until: Until = "queued",
        exclude: Iterable[Connection | str] = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        skip_history: bool = False,
    ) -> Report:
        """As :meth:`Room.publish`, and the room need not exist here. Raises :exc:`BadRoom`, too."""
        node = self._node
        publication = node.publications.make(
            node.checked((room,)),
            event,
            exclude=exclude,
            key=key,
            idempotency_key=idempotency_key,
            skip_history=skip_history,
        )
        return await node.carrier.publish(publication, until)

    def broadcast_to_room(
        self,
        room: str,
        event: object,
        *,
        exclude: Iterable[Connection | str] = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        skip_history: bool = False,
    ) -> Report:
        """Publish to a room without waiting; as ``room.publish_nowait``, and the room need not exist here.

        Raises :exc:`BrokerBusy` (nothing was sent), :exc:`BadRoom`, :exc:`EncodingError`, :exc:`MessageTooLarge`,
        :exc:`NotServing`. From a thread: ``trio.from_thread.run_sync(manager.broadcast_to_room, room, event)``.
        """
        return self._publish(
            (room,),
            event,
            exclude=exclude,
            key=key,
            idempotency_key=idempotency_key,
            skip_history=skip_history,
        )

    def subscribe(
        self,
        room: str,
        *,
        since: Position | None = None,
        overflow: Overflow = "close",
        max_messages: int | None = None,
    ) -> AbstractAsyncContextManager[Subscription]:
        """``async with manager.subscribe(room) as events: async for event in events:`` for a task of the program.

        It gets what the room's members get, in the same order, from when the block is entered until it is left; but
        not what is published to everybody, and no exclusion means it. It is no member: it counts nowhere, runs no hook,
        and neither opens the room nor holds it open. Publishers do not wait for it.

        Args:
          room: The name of the room, which need not exist.
          since: In a room with history: first give what was published after this position, if all of that is kept
            (``events.recovered``). Where the room's ``recovery`` is "cache", the latest event is given anyway; ``fill``
            is not asked.
          overflow: What happens at the bound, as for rooms: "close" (default) ends the iteration with
            :exc:`SubscriptionLost`; the others drop, counted in ``events.dropped`` and ``events.displaced``.
          max_messages: How many events may wait. None (default): ``limits.subscription_messages``. Their bytes are
            bounded by ``limits.subscription_bytes``.

        Raises :exc:`NotServing`. Entering raises that, too, and :exc:`BadRoom`, :exc:`RoomNotFound`,
        :exc:`UsageError`, :exc:`RoomFailed` for a history that cannot be read, and what the broker raises. Entering is
        a checkpoint, leaving is not.
        """
        node = self._node
        return node.subscriptions.open(node, room, since=since, overflow=overflow, max_messages=max_messages)

    async def history(
        self, room: str, *, limit: int | None = None, since: Position | None = None, reverse: bool = False
    ) -> Slice:
        """Read what is kept of a room, which need not exist here; as :meth:`Room.history`.

        Raises :exc:`BadRoom` and :exc:`NotServing`, too.
        """
        return await self._node.history(room, limit=limit, since=since, reverse=reverse)

    def broadcast_to_rooms(
        self, rooms: Iterable[str], event: object, *, exclude: Iterable[Connection | str] = ()
    ) -> Report:
        """Publish to the members of any of several rooms, one copy for each connection.

        A member of several of them gets it as an event of the first that it is in, under that room's policy. Raises as
        :meth:`broadcast_to_room`.
        """
        if isinstance(rooms, str):
            raise UsageError("broadcast_to_rooms takes several names, not one")
        names = tuple(dict.fromkeys(rooms))
        return self._publish(names, event, exclude=exclude) if names else Report(final=True)

    def broadcast_to_all(
        self, event: object, *, action: str | None = None, exclude: Iterable[Connection | str] = ()
    ) -> Report:
        """Publish to every connection. One whose outbox is full is closed with 4008.

        With an ``action`` clients get ``{"action", "data"}``. Raises as :meth:`broadcast_to_room`.
        """
        return self._publish((), event, exclude=exclude, action=action)

    def send_to_connection(self, conn: Connection | str, message: object, *, action: str | None = None) -> None:
        """Send to one connection of this node without waiting.

        Raises :exc:`ConnectionGone`, :exc:`OutboxFull`, :exc:`EncodingError`, :exc:`MessageTooLarge`, and for an id
        :exc:`NotServing`.
        """
        if isinstance(conn, str):
            found = self._node.connections.get(conn)
            if found is None:
                raise ConnectionGone("no connection has this id")
            conn = found
        conn.send_nowait(message, action=action)

    def send_to_user(self, user: str, message: object, *, action: str | None = None) -> Report:
        """Send to every connection of a user on this node, without waiting.

        Outboxes without room are counted as ``dropped``. Raises :exc:`EncodingError`, :exc:`MessageTooLarge`,
        :exc:`NotServing`.
        """
        enqueued = dropped = 0
        for conn in tuple(self._node.users.get(user, {}).values()):
            try:
                conn.send_nowait(message, action=action)
                enqueued += 1
            except (OutboxFull, ConnectionGone):
                dropped += 1
        return Report(final=True, enqueued=enqueued, dropped=dropped)

    def _publish(self, rooms: tuple[str, ...], event: object, **options: Any) -> Report:
        node = self._node
        return node.carrier.publish_nowait(node.publications.make(node.checked(rooms), event, **options))
