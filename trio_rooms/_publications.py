"""What is published is made here: encoded once, measured, with those who do not get it, and what is kept of it.

Theory of operation. Everything that can be wrong with an event is found out here, in the task of who publishes it, and
before the broker has it: behind that nobody could be told. So an event that was made fits into an outbox, whatever the
formats of the members are. Most are so small that they need not be measured in more than one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._carrier import checked_key
from ._errors import MessageTooLarge, UsageError
from ._formats import packed
from ._messages.codec import encode
from ._room_options import Keep
from ._rooms.publication import Publication
from ._wire.frames import OVERHEAD

if TYPE_CHECKING:
    from ._connection import Connection
    from ._node import Node

# The longest header of a frame plus what an envelope adds besides the room's name.
_ENVELOPE = 64

# MessagePack is at most so many times as long as JSON: "0.0," are nine bytes there.
_GROWTH = 3

_NOBODY: frozenset[str] = frozenset()


class Publications:
    """Where those of one node are made."""

    __slots__ = ("_delivers_at_once", "_keeps_history", "_node", "_outbox_bytes", "_small")

    def __init__(self, node: Node) -> None:
        limits = node.config.limits
        self._node = node
        self._keeps_history = node.keeps_history
        self._delivers_at_once = node.delivers_at_once
        self._outbox_bytes = limits.outbox_bytes
        # Data of so many bytes fit into an outbox whatever the names of the rooms and the formats are.
        self._small = (limits.outbox_bytes - _around(limits.max_room_name_bytes)) // _GROWTH

    def make(
        self,
        rooms: tuple[str, ...],
        event: object,
        *,
        exclude: Iterable[Connection | str] = (),
        key: str | None = None,
        action: str | None = None,
        idempotency_key: str | None = None,
        skip_history: bool = False,
    ) -> Publication:
        """Encode an event once, for rooms whose names are good.

        Raises :exc:`EncodingError`, :exc:`MessageTooLarge`, :exc:`UsageError`.
        """
        if isinstance(exclude, str):
            raise UsageError("exclude takes connections or ids, in an iterable")
        excluded = self._excluded(exclude) if exclude else _NOBODY
        publication = Publication(rooms, encode(event), excluded, key, action, event=event)
        if idempotency_key is not None:
            publication.idempotency_key = checked_key(idempotency_key)
        if self._keeps_history and not skip_history:
            publication.keep = self._keep(rooms)
        if not self._delivers_at_once or publication.keep is not None:
            packed(publication)
        if len(publication.data) > self._small or action is not None:
            self._check_size(publication)
        return publication

    def _excluded(self, exclude: Iterable[Connection | str]) -> frozenset[str]:
        """Ids of connections, and of their sessions: who comes back must not be brought it either."""
        exclude = tuple(exclude)
        idents = [one if isinstance(one, str) else one.id for one in exclude]
        sessions = self._node.sessions
        if sessions is not None:
            found = [sessions.find(one) if isinstance(one, str) else one._session for one in exclude]
            idents += [session.id for session in found if session is not None]
        return frozenset(idents)

    def _check_size(self, publication: Publication) -> None:
        names = (*publication.rooms, publication.action or "")
        largest = self._outbox_bytes - _around(max(len(name.encode()) for name in names))
        size = len(publication.data)
        if size <= largest < size * _GROWTH:
            size = len(packed(publication))
        if size > largest:
            raise MessageTooLarge(f"an event of {size} bytes is larger than an outbox")

    def _keep(self, rooms: tuple[str, ...]) -> Keep | None:
        """What of a publication to these rooms is to be kept. Raises :exc:`UsageError` if it cannot be."""
        if len(rooms) == 1:
            return self._keep_of(rooms[0])
        if any(self._keep_of(room) is not None for room in rooms):
            raise UsageError("what is published to several rooms is not kept, and one of these has a history")
        return None

    def _keep_of(self, name: str) -> Keep | None:
        room = self._node.rooms.get(name)
        if room is not None:
            return room._keep
        options = self._node.registry.patterns.match(name)
        return None if options is None else options.keep


def _around(name_bytes: int) -> int:
    """The most that an outbox is charged for an event beyond its data. JSON escapes names, at most sixfold."""
    return 6 * name_bytes + _ENVELOPE + OVERHEAD
