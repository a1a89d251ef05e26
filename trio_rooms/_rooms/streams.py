"""The streams of many rooms in memory, bounded in every direction.

Theory of operation. A stream is a window of publications, and behind it a counter and an epoch, which outlive what the
window held: only with them can a client that was away for long be told that it has missed something. A window is
bounded by number, bytes and age, for each room; all windows together by bytes, and the streams by number. At those two
the one that was used the longest ago goes, first among those that nobody is subscribed to: it loses its window, or is
forgotten, and what it would have been needed for ends in ``recovered: false``, never in a gap.

Age is looked at when a stream is used; :meth:`Streams.expire` goes over those that nobody uses, and says when to come
again. Nothing in here can wait.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection
from itertools import count

import attrs

from .._chance import token
from .._room_options import Keep
from .history import HistoryItem, Position, Slice

# What an item costs beside its bytes, about.
_OVERHEAD = 256

# What nobody uses is looked after so often at most, in seconds.
_PATIENCE = 1.0


@attrs.define(eq=False)
class Stream:
    """The stream of one room."""

    epoch: str = attrs.field(factory=lambda: token(8))
    top: int = 0
    trimmed: int = 0
    """The highest offset that has left the window."""
    items: deque[tuple[float, int, HistoryItem]] = attrs.field(factory=deque)
    """With the time at which each goes, and what it costs."""
    bytes: int = 0
    over: float = 0.0
    """When the stream itself is forgotten."""
    due: float = math.inf
    """When it is looked at next, used or not."""

    @property
    def position(self) -> Position:
        """The top."""
        return Position(self.top, self.epoch)

    def append(self, item: HistoryItem, keep: Keep, now: float) -> int:
        """Put an item on top; by how many bytes the window has grown."""
        before = self.bytes
        cost = len(item.raw) + len(item.packed) + _OVERHEAD
        self.top = item.offset
        self.items.append((now + keep.ttl, cost, item))
        self.bytes += cost
        while len(self.items) > keep.size or self.bytes > keep.bytes:
            self._trim()
        self.expire(now)
        return self.bytes - before

    def expire(self, now: float) -> int:
        """Let go of what is too old; how many bytes that was."""
        before = self.bytes
        while self.items and self.items[0][0] <= now:
            self._trim()
        return before - self.bytes

    def empty(self) -> int:
        """Let go of the window; how many bytes that was."""
        before = self.bytes
        while self.items:
            self._trim()
        return before

    def _trim(self) -> None:
        _, cost, item = self.items.popleft()
        self.trimmed = item.offset
        self.bytes -= cost

    def read(self, since: Position | None, limit: int | None, *, reverse: bool) -> Slice:
        """A part of the window; see ``Broker.history``."""
        complete = True
        items = [item for _, _, item in self.items]
        if since is not None:
            complete = since.epoch == self.epoch and self.trimmed <= since.offset <= self.top
            if since.epoch != self.epoch:
                items = []
            elif reverse:
                items = [item for item in items if item.offset < since.offset]
            else:
                items = [item for item in items if item.offset > since.offset]
        if reverse:
            items.reverse()
        return Slice(self.position, tuple(items if limit is None else items[:limit]), complete)


@attrs.define(eq=False)
class Streams:
    """The streams of all rooms."""

    max_streams: int
    max_bytes: int
    _streams: dict[str, Stream] = attrs.field(factory=dict)  # in the order in which they were used
    _times: list[tuple[float, int, str, Stream]] = attrs.field(factory=list)
    _serial: count[int] = attrs.field(factory=count)  # so that streams of one time are not compared
    bytes: int = 0
    """What all windows take."""
    evicted: int = 0
    """Windows and streams that went before their time."""

    def __len__(self) -> int:
        return len(self._streams)

    def append(
        self, room: str, item_of: Callable[[int], HistoryItem], keep: Keep, now: float, subscribed: Collection[str] = ()
    ) -> Position:
        """Number what ``item_of`` makes of its offset, and keep it."""
        stream = self._use(room, keep, now, subscribed)
        self.bytes += stream.append(item_of(stream.top + 1), keep, now)
        self._watch(room, stream, now)
        self._shed(subscribed)
        return stream.position

    def read(
        self,
        room: str,
        keep: Keep,
        now: float,
        *,
        since: Position | None,
        limit: int | None,
        reverse: bool,
        subscribed: Collection[str] = (),
    ) -> Slice:
        """A part of a room's stream, which begins if there is none."""
        stream = self._use(room, keep, now, subscribed)
        self._watch(room, stream, now)
        return stream.read(since, limit, reverse=reverse)

    def expire(self, now: float) -> None:
        """Let go of what is too old."""
        while self._times and self._times[0][0] <= now:
            due, _, room, stream = heapq.heappop(self._times)
            if stream.due != due or self._streams.get(room) is not stream:
                continue  # it is to be looked at sooner, or is forgotten
            stream.due = math.inf
            self.bytes -= stream.expire(now)
            if stream.over <= now:
                del self._streams[room]
            else:
                self._watch(room, stream, now)

    @property
    def due(self) -> float:
        """When to call :meth:`expire`; infinity if there is nothing."""
        return self._times[0][0] if self._times else math.inf

    def forget(self, room: str) -> None:
        """Lose a room's stream: the next one has another epoch."""
        stream = self._streams.pop(room, None)
        if stream is not None:
            self.bytes -= stream.bytes

    def clear(self) -> None:
        """Lose everything."""
        self._streams.clear()
        self._times.clear()
        self.bytes = 0

    def _use(self, room: str, keep: Keep, now: float, subscribed: Collection[str]) -> Stream:
        """The stream of a room, which is now the one that was used last."""
        stream = self._streams.pop(room, None)
        if stream is not None and stream.over <= now:
            self.bytes -= stream.bytes
            stream = None
        if stream is None:
            stream = Stream()
            if len(self._streams) >= self.max_streams:
                self.forget(self._least_used(subscribed, lambda one: True))
                self.evicted += 1
        self._streams[room] = stream
        stream.over = now + keep.meta_ttl
        self.bytes -= stream.expire(now)
        return stream

    def _watch(self, room: str, stream: Stream, now: float) -> None:
        """Have the stream looked at when its time has come."""
        due = max(now + _PATIENCE, stream.items[0][0] if stream.items else stream.over)
        if due < stream.due:
            stream.due = due
            heapq.heappush(self._times, (due, next(self._serial), room, stream))

    def _shed(self, subscribed: Collection[str]) -> None:
        while self.bytes > self.max_bytes:
            room = self._least_used(subscribed, lambda one: one.bytes > 0)
            self.bytes -= self._streams[room].empty()
            self.evicted += 1

    def _least_used(self, subscribed: Collection[str], suits: Callable[[Stream], bool]) -> str:
        """Whose stream goes: of those that suit the first that nobody is subscribed to, if there is one.

        Those that are passed over go to the end of the line, so that the next search need not pass them again.
        """
        second = None
        for _ in range(len(self._streams)):
            room = next(iter(self._streams))
            stream = self._streams[room]
            if suits(stream):
                if room not in subscribed:
                    return room
                second = second or room
            self._streams[room] = self._streams.pop(room)
        assert second is not None, "what is too much is somewhere"
        return second
