"""The streams of many rooms in memory, bounded in every direction.

Theory of operation. A stream is a window of publications, and behind it a counter and an epoch, which outlive what the
window held: only with them can a client that was away for long be told that it has missed something. Offsets have no
gaps here. A window is bounded by number, bytes and age, for each room; all windows together by bytes, and the streams
by number. At those two the one that was used the longest ago goes, first among those that nobody is subscribed to: it
loses its window, or is forgotten, and what it would have been needed for ends in ``recovered: false``, never in a gap.

Age is looked at when a stream is used; :meth:`Streams.expire` goes over those that nobody uses, and says when to come
again. Nothing in here can wait.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice

import attrs

from .._chance import token
from .._room_options import Keep
from .history import HistoryItem, Position, Slice

# What an item costs beside its bytes, about.
_OVERHEAD = 256

# What nobody uses is looked after so often at most, in seconds.
_PATIENCE = 1.0

# How many are looked at for one that nobody is subscribed to.
_SEARCH = 100

# So many times more than twice the streams may be noted; then those of forgotten streams are thrown out.
_SLACK = 64


@attrs.define(eq=False)
class Stream:
    """The stream of one room."""

    epoch: str = attrs.field(factory=lambda: token(8))
    top: int = 0
    items: deque[tuple[float, int, HistoryItem]] = attrs.field(factory=deque)
    """With the time at which each goes, and what it costs."""
    bytes: int = 0
    lasts: float = 0.0
    """Seconds of no use for which it is kept, at least."""
    over: float = 0.0
    """When the stream itself is forgotten."""
    due: float = math.inf
    """When it is looked at next, used or not."""

    @property
    def position(self) -> Position:
        """The top."""
        return Position(self.top, self.epoch)

    @property
    def trimmed(self) -> int:
        """The highest offset that has left the window."""
        return self.top - len(self.items)

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
        self.bytes -= self.items.popleft()[1]

    def read(self, since: Position | None, limit: int | None, *, reverse: bool) -> Slice:
        """A part of the window; see ``Broker.history``."""
        complete = since is None or (since.epoch == self.epoch and self.trimmed <= since.offset <= self.top)
        items: Iterable[tuple[float, int, HistoryItem]] = self.items
        if since is not None and since.epoch != self.epoch:
            items = ()
        elif since is not None and not reverse:
            items = islice(items, min(max(since.offset - self.trimmed, 0), len(self.items)), None)
        elif reverse:
            items = reversed(self.items)
            if since is not None:
                items = islice(items, min(max(self.top - since.offset + 1, 0), len(self.items)), None)
        return Slice(self.position, tuple([item for _, _, item in islice(items, limit)]), complete)


@attrs.define(eq=False)
class Streams:
    """The streams of all rooms."""

    max_streams: int
    max_bytes: int
    _streams: dict[str, Stream] = attrs.field(factory=dict)  # in the order in which they were used
    _windows: dict[str, Stream] = attrs.field(factory=dict)  # those that hold something, in that order, too
    _times: list[tuple[float, str]] = attrs.field(factory=list)  # a heap: when to look at whom
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
        self._used(room, stream, now)
        while self.bytes > self.max_bytes:
            least = _least_used(self._windows, subscribed)
            self.bytes -= self._windows.pop(least).empty()
            self.evicted += 1
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
        self._used(room, stream, now)
        return stream.read(since, limit, reverse=reverse)

    def expire(self, now: float, subscribed: Collection[str] = ()) -> None:
        """Let go of what is too old. The stream of a room that somebody is subscribed to is in use, if it is quiet."""
        while self._times and self._times[0][0] <= now:
            due, room = heapq.heappop(self._times)
            stream = self._streams.get(room)
            if stream is None or stream.due != due:
                continue  # it is to be looked at sooner, or is forgotten
            stream.due = math.inf
            if stream.over <= now and room in subscribed:
                stream.over = now + stream.lasts
            if stream.over <= now:
                self.forget(room)
            else:
                self.bytes -= stream.expire(now)
                if not stream.items:
                    self._windows.pop(room, None)
                self._watch(room, stream, now)

    @property
    def due(self) -> float:
        """When to call :meth:`expire`; infinity if there is nothing."""
        return self._times[0][0] if self._times else math.inf

    def forget(self, room: str) -> None:
        """Lose a room's stream: the next one has another epoch."""
        stream = self._streams.pop(room, None)
        if stream is not None:
            self._windows.pop(room, None)
            self.bytes -= stream.bytes

    def clear(self) -> None:
        """Lose everything."""
        self._streams.clear()
        self._windows.clear()
        self._times.clear()
        self.bytes = 0

    def _use(self, room: str, keep: Keep, now: float, subscribed: Collection[str]) -> Stream:
        """The stream of a room as it is now."""
        stream = self._streams.get(room)
        if stream is not None and stream.over <= now and room not in subscribed:
            self.forget(room)
            stream = None
        if stream is None:
            if len(self._streams) >= self.max_streams:
                self.forget(_least_used(self._streams, subscribed))
                self.evicted += 1
            stream = Stream()
        stream.lasts = keep.meta_ttl
        stream.over = now + stream.lasts
        self.bytes -= stream.expire(now)
        return stream

    def _used(self, room: str, stream: Stream, now: float) -> None:
        """Note that it was used last."""
        self._streams.pop(room, None)
        self._streams[room] = stream
        self._windows.pop(room, None)
        if stream.items:
            self._windows[room] = stream
        self._watch(room, stream, now)

    def _watch(self, room: str, stream: Stream, now: float) -> None:
        """Have the stream looked at when its time has come."""
        due = max(now + _PATIENCE, stream.items[0][0] if stream.items else stream.over)
        if due >= stream.due:
            return
        stream.due = due
        heapq.heappush(self._times, (due, room))
        if len(self._times) > 2 * len(self._streams) + _SLACK:  # most are of streams that are forgotten
            self._times = [(stream.due, room) for room, stream in self._streams.items()]
            heapq.heapify(self._times)


def _least_used(streams: dict[str, Stream], subscribed: Collection[str]) -> str:
    """Whose stream goes: the first that nobody is subscribed to, if there is one among the first hundred.

    Those that are passed over go to the end of the line, so that the next search need not pass them again.
    """
    first = next(iter(streams))
    for _ in range(min(len(streams), _SEARCH)):
        room = next(iter(streams))
        if room not in subscribed:
            return room
        streams[room] = streams.pop(room)
    return first
