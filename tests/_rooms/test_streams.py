"""Streams in memory: offsets, what is read, and that they are bounded in every direction."""

from __future__ import annotations

import gc
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms._room_options import Keep
from trio_rooms._rooms.history import HistoryItem, Position, Slice
from trio_rooms._rooms.streams import Stream, Streams

KEEP = Keep(size=10, bytes=1 << 20, ttl=60.0, meta_ttl=600.0)

#: What one item of :func:`item` is charged.
COST = 256 + 2 * 8


def item(offset: int) -> HistoryItem:
    return HistoryItem(offset, b"%08d" % offset, b"%08d" % offset)


def make(*, max_streams: int = 1000, max_bytes: int = 1 << 30) -> Streams:
    return Streams(max_streams, max_bytes)


def fill(streams: Streams, room: str, number: int, *, keep: Keep = KEEP, now: float = 0.0) -> Position:
    for _ in range(number - 1):
        streams.append(room, item, keep, now)
    return streams.append(room, item, keep, now)


def read(
    streams: Streams,
    room: str,
    since: Position | None = None,
    *,
    limit: int | None = None,
    reverse: bool = False,
    now: float = 0.0,
    keep: Keep = KEEP,
) -> Slice:
    return streams.read(room, keep, now, since=since, limit=limit, reverse=reverse)


def offsets(part: Slice) -> list[int]:
    return [one.offset for one in part.publications]


def test_offsets_rise_by_one_within_an_epoch() -> None:
    """Each room counts for itself, from 1, and has an epoch of its own."""
    streams = make()
    first = [streams.append("a", item, KEEP, 0.0) for _ in range(3)]
    other = streams.append("b", item, KEEP, 0.0)
    assert [position.offset for position in first] == [1, 2, 3]
    assert len({position.epoch for position in first}) == 1
    assert other.offset == 1
    assert other.epoch != first[0].epoch


def test_a_read_begins_a_stream() -> None:
    """A position is there before the first publication, and the first one continues it."""
    streams = make()
    part = read(streams, "r")
    assert (part.position.offset, part.publications, part.complete) == (0, (), True)
    assert streams.append("r", item, KEEP, 0.0) == Position(1, part.position.epoch)


@pytest.mark.parametrize(
    ("since", "complete", "after", "before"),
    [
        (-1, False, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15], []),
        (0, False, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15], []),
        (4, False, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15], []),
        (5, True, [6, 7, 8, 9, 10, 11, 12, 13, 14, 15], []),
        (6, True, [7, 8, 9, 10, 11, 12, 13, 14, 15], []),
        (8, True, [9, 10, 11, 12, 13, 14, 15], [7, 6]),
        (14, True, [15], [13, 12, 11, 10, 9, 8, 7, 6]),
        (15, True, [], [14, 13, 12, 11, 10, 9, 8, 7, 6]),
        (16, False, [], [15, 14, 13, 12, 11, 10, 9, 8, 7, 6]),
        (2**63, False, [], [15, 14, 13, 12, 11, 10, 9, 8, 7, 6]),
    ],
)
def test_read_since(since: int, complete: bool, after: list[int], before: list[int]) -> None:
    """What comes after an offset, or before it; complete if nothing after it has gone, and it is not above the top."""
    streams = make()
    epoch = fill(streams, "r", 15).epoch
    forwards = read(streams, "r", Position(since, epoch))
    backwards = read(streams, "r", Position(since, epoch), reverse=True)
    assert (offsets(forwards), forwards.complete) == (after, complete)
    assert (offsets(backwards), backwards.complete) == (before, complete)
    assert offsets(read(streams, "r", Position(since, epoch), limit=3)) == after[:3]
    assert offsets(read(streams, "r", Position(since, epoch), limit=3, reverse=True)) == before[:3]


def test_read_since_another_epoch() -> None:
    """Of a position of another stream nothing can be said."""
    streams = make()
    fill(streams, "r", 3)
    part = read(streams, "r", Position(2, "another"))
    assert (part.complete, part.publications, part.position.offset) == (False, (), 3)


def test_read_without_since() -> None:
    """All that is kept, the oldest or the newest first; with a limit the first of these."""
    streams = make()
    fill(streams, "r", 12)
    assert offsets(read(streams, "r")) == list(range(3, 13))
    assert offsets(read(streams, "r", reverse=True)) == list(range(12, 2, -1))
    assert offsets(read(streams, "r", limit=2)) == [3, 4]
    assert offsets(read(streams, "r", limit=1, reverse=True)) == [12]
    only_the_position = read(streams, "r", limit=0)
    assert (only_the_position.publications, only_the_position.position.offset) == ((), 12)


@given(st.integers(0, 30), st.integers(-3, 35), st.integers(0, 12) | st.none(), st.booleans())
def test_read_as_by_the_book(number: int, since: int, limit: int | None, reverse: bool) -> None:
    """Whatever is asked for, it is what a search through the window would find."""
    streams = make()
    epoch = read(streams, "r").position.epoch
    for _ in range(number):
        streams.append("r", item, KEEP, 0.0)
    window = list(range(max(1, number - KEEP.size + 1), number + 1))
    part = read(streams, "r", Position(since, epoch), limit=limit, reverse=reverse)
    expected = [one for one in reversed(window) if one < since] if reverse else [one for one in window if one > since]
    assert offsets(part) == expected[:limit]
    lost_since = any(one > since for one in range(1, number - len(window) + 1))
    assert part.complete == (not lost_since and 0 <= since <= number)


def test_ttl() -> None:
    """Each publication goes when its time is over; the offsets go on."""
    streams = make()
    first = fill(streams, "r", 2, now=0.0)
    fill(streams, "r", 1, now=30.0)
    assert offsets(read(streams, "r", now=59.9)) == [1, 2, 3]
    assert offsets(read(streams, "r", now=60.0)) == [3]
    assert not read(streams, "r", Position(1, first.epoch), now=60.0).complete
    assert read(streams, "r", Position(2, first.epoch), now=60.0).complete
    assert offsets(read(streams, "r", now=90.0)) == []
    assert streams.bytes == 0
    assert streams.append("r", item, KEEP, 100.0) == Position(4, first.epoch)


def test_meta_ttl() -> None:
    """After so long without use the stream begins anew, with another epoch; any use puts that off."""
    streams = make()
    first = fill(streams, "r", 2)
    assert read(streams, "r", now=599.0).position == first
    assert read(streams, "r", now=1198.0).position == first
    renewed = read(streams, "r", now=1798.0).position
    assert renewed.offset == 0
    assert renewed.epoch != first.epoch


def test_bound_of_bytes_of_a_room() -> None:
    """The oldest go for the newest; one that is larger than the bound is numbered and not kept."""
    streams = make()
    keep = attrs.evolve(KEEP, bytes=3 * COST)
    epoch = fill(streams, "r", 5, keep=keep).epoch
    assert offsets(read(streams, "r", keep=keep)) == [3, 4, 5]
    assert streams.bytes == 3 * COST
    streams.append("r", lambda offset: HistoryItem(offset, bytes(1000), b""), keep, 0.0)
    assert read(streams, "r", keep=keep).publications == ()
    assert streams.bytes == 0
    assert read(streams, "r", Position(6, epoch), keep=keep).complete
    assert not read(streams, "r", Position(5, epoch), keep=keep).complete


def test_bound_of_bytes_of_all() -> None:
    """The room that was used the longest ago loses its window, never its offsets; rooms with subscribers go last."""
    streams = make(max_bytes=10 * COST)
    epoch = fill(streams, "idle", 4).epoch
    streams.append("watched", item, KEEP, 0.0)
    fill(streams, "busy", 5)
    assert (streams.bytes, streams.evicted) == (10 * COST, 0)
    read(streams, "idle")
    streams.append("busy", item, KEEP, 0.0, ["watched"])
    assert read(streams, "idle").publications == ()
    assert read(streams, "idle").position == Position(4, epoch)
    assert not read(streams, "idle", Position(3, epoch)).complete
    assert offsets(read(streams, "watched")) == [1]
    assert (streams.bytes, streams.evicted) == (7 * COST, 1)


def test_bound_of_streams() -> None:
    """Beyond it the stream that was used the longest ago is forgotten, first among those without a subscriber."""
    streams = make(max_streams=3)
    positions = {room: fill(streams, room, 1) for room in ("a", "b", "c")}
    read(streams, "a")
    fill(streams, "d", 1)
    assert (len(streams), streams.evicted) == (3, 1)
    assert [read(streams, room).position for room in ("a", "c")] == [positions["a"], positions["c"]]
    for room in ("e", "f", "g"):
        streams.append(room, item, KEEP, 0.0, {"a"})
    assert read(streams, "a").position == positions["a"]
    assert (len(streams), streams.evicted) == (3, 4)


def test_bound_of_streams_that_all_have_subscribers() -> None:
    """Then one of these goes: the bound holds."""
    streams = make(max_streams=200)
    for number in range(300):
        streams.append(str(number), item, KEEP, 0.0, {str(one) for one in range(300)})
    assert len(streams) == 200
    assert streams.bytes == 200 * COST


def test_forget() -> None:
    """The next stream of that room is another one; forgetting what is not there is nothing."""
    streams = make()
    first = fill(streams, "r", 3)
    streams.forget("r")
    streams.forget("r")
    assert (streams.bytes, len(streams)) == (0, 0)
    again = streams.append("r", item, KEEP, 0.0)
    assert again.offset == 1
    assert again.epoch != first.epoch


def test_expire_takes_what_nobody_uses() -> None:
    """What is due is said; when it is, windows go and later whole streams, though nobody asks for them."""
    streams = make()
    assert streams.due == math.inf
    fill(streams, "r", 2, now=0.0)
    fill(streams, "r", 1, now=30.0)
    assert streams.due == 60.0
    streams.expire(60.0)
    assert (streams.bytes, streams.due) == (COST, 90.0)
    streams.expire(90.0)
    assert (streams.bytes, len(streams), streams.due) == (0, 1, 630.0)
    streams.expire(630.0)
    assert (len(streams), streams.due) == (0, math.inf)


def test_used_streams_are_not_forgotten() -> None:
    """A stream that is used again before it is due is looked at later."""
    streams = make()
    read(streams, "r", now=0.0)
    read(streams, "r", now=500.0)
    streams.expire(600.0)
    assert (len(streams), streams.due) == (1, 1100.0)


def test_subscribed_streams_are_not_forgotten() -> None:
    """A quiet room with members keeps its epoch; when they have gone, for as long as any other."""
    streams = make()
    position = fill(streams, "r", 1)
    streams.expire(60.0, {"r"})
    streams.expire(600.0, {"r"})
    assert (len(streams), streams.due) == (1, 1200.0)
    assert streams.read("r", KEEP, 1200.0, since=None, limit=0, reverse=False, subscribed={"r"}).position == position
    streams.expire(1800.0)
    assert len(streams) == 0


def test_clear() -> None:
    """Nothing is left."""
    streams = make()
    fill(streams, "r", 3)
    streams.clear()
    assert (len(streams), streams.bytes, streams.due) == (0, 0, math.inf)


@pytest.mark.parametrize("only_read", [False, True])
def test_a_flood_of_names(only_read: bool) -> None:
    """Must hold 5: under a flood of room names nothing grows beyond the bounds, neither streams nor notes of them."""
    streams = make(max_streams=50, max_bytes=100 * COST)
    for number in range(5000):
        if only_read:
            read(streams, f"room{number}", now=number / 100)
        else:
            fill(streams, f"room{number}", 3, now=number / 100)
        assert len(streams) <= 50
        assert streams.bytes <= 100 * COST
        assert len(streams._times) <= 2 * 50 + 64
        assert len(streams._windows) <= 50
    gc.collect()
    assert sum(isinstance(one, Stream) for one in gc.get_objects()) <= 50 + 1


def test_a_room_that_comes_and_goes() -> None:
    """What is noted of one stream stays little, however often its window fills and empties."""
    streams = make()
    for number in range(1000):
        fill(streams, "r", 1, now=number * 61.0)
        streams.expire(number * 61.0 + 60.0)
    assert len(streams._times) <= 2 + 64


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0, 200)), max_size=60))
def test_the_sum_of_bytes_stays_right(steps: list[tuple[str, bool, float]]) -> None:
    """Whatever happens in whatever order, the bytes are those of what is there, and what holds something is known."""
    streams = make(max_streams=4, max_bytes=12 * COST)
    now = 0.0
    for room, appends, later in steps:
        now += later
        if appends:
            fill(streams, room, 3, now=now)
        else:
            read(streams, room, now=now)
        streams.expire(now)
        assert streams.bytes == sum(stream.bytes for stream in streams._streams.values())
        assert streams.bytes == COST * sum(len(stream.items) for stream in streams._streams.values())
        assert set(streams._windows) == {room for room, stream in streams._streams.items() if stream.items}
        assert streams.due > now
