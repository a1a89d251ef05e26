"""The flusher: who gets a turn, when, in what slices, and that nobody is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_rooms._wire.flusher import Flusher

#: So many are flushed between two checkpoints.
SLICE = 64


@attrs.define(eq=False)
class FakeOutbox:
    """Writes down when it is flushed, and does what it is told then."""

    name: Any
    log: list[Any]
    then: Callable[[], None] = lambda: None

    def flush(self) -> None:
        self.log.append(self.name)
        self.then()


@attrs.define(eq=False)
class Turns(trio.abc.Instrument):
    """Writes a mark into the log behind each turn of a task."""

    log: list[Any]

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.log.append("|")


def mark_all(flusher: Flusher, outboxes: list[FakeOutbox]) -> None:
    """As a fan-out does."""
    flusher.many += outboxes
    flusher.marked_many()


@asynccontextmanager
async def running(flusher: Flusher, log: list[Any] | None = None) -> AsyncIterator[trio.Nursery]:
    """A flusher with its task, for the length of the block; the ends of all turns are written into the log."""
    if log is not None:
        trio.lowlevel.add_instrument(Turns(log))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        yield nursery
        nursery.cancel_scope.cancel()


def slices(log: list[Any]) -> list[int]:
    """How many were flushed in each turn in which any were."""
    sizes = [0]
    for entry in log:
        if entry == "|":
            sizes.append(0)
        else:
            sizes[-1] += 1
    return [size for size in sizes if size]


def sliced(count: int) -> list[int]:
    """How many are flushed in each turn, where so many are marked."""
    whole, rest = divmod(count, SLICE)
    return [SLICE] * whole + [rest] * (rest > 0)


async def test_not_before_the_next_checkpoint() -> None:
    """What is marked is flushed when the marking task lets others run, and not before."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher):
        flusher.mark(FakeOutbox("a", log))
        mark_all(flusher, [FakeOutbox("b", log), FakeOutbox("c", log)])
        assert log == []
        await wait_all_tasks_blocked()
        assert log == ["a", "b", "c"]


async def test_it_sleeps_again() -> None:
    """It parks when nothing is marked, and is woken by each way of marking; an empty list wakes nobody."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher):
        for _ in range(3):
            flusher.mark(FakeOutbox("one", log))
            await wait_all_tasks_blocked()
            mark_all(flusher, [FakeOutbox("many", log)])
            await wait_all_tasks_blocked()
            mark_all(flusher, [])
            await wait_all_tasks_blocked()
    assert log == ["one", "many"] * 3


async def test_slices() -> None:
    """A publication to a large room is written in slices, between which everybody else has a turn."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher, log):
        mark_all(flusher, [FakeOutbox(number, log) for number in range(1000)])
        await wait_all_tasks_blocked()
    assert slices(log) == sliced(1000)
    assert [entry for entry in log if entry != "|"] == list(range(1000))


async def test_slices_of_ones() -> None:
    """Those that are marked one by one are sliced, too."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher, log):
        for number in range(600):
            flusher.mark(FakeOutbox(number, log))
        await wait_all_tasks_blocked()
    assert slices(log) == sliced(600)


async def test_small_rooms_share_a_slice() -> None:
    """Publications to many small rooms cost no checkpoint each: a slice is full when that many were flushed."""
    log: list[Any] = []
    flusher = Flusher()
    sizes = [1] * 200 + [3] * 100 + [300, 0, 1]
    async with running(flusher, log):
        for room, size in enumerate(sizes):
            mark_all(flusher, [FakeOutbox((room, number), log) for number in range(size)])
        await wait_all_tasks_blocked()
    assert slices(log) == sliced(sum(sizes))
    assert [entry for entry in log if entry != "|"] == [
        (room, number) for room, size in enumerate(sizes) for number in range(size)
    ]


async def test_ones_go_first() -> None:
    """A reply does not wait for the rest of a large fan-out, but for one slice of it at most."""
    log: list[Any] = []
    flusher = Flusher()
    many = [FakeOutbox(number, log) for number in range(600)]
    many[10].then = lambda: flusher.mark(FakeOutbox("reply", log))
    async with running(flusher):
        mark_all(flusher, many)
        flusher.mark(FakeOutbox("first", log))
        await wait_all_tasks_blocked()
    assert log.index("first") == 0
    assert log.index("reply") == 1 + SLICE
    assert len(log) == 602


async def test_marked_again_while_it_is_flushed() -> None:
    """One whose peer reads as fast as we write is flushed again, but in another slice: it holds nobody up."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher, log):
        greedy = FakeOutbox("greedy", log)
        greedy.then = lambda: flusher.mark(greedy) if log.count("greedy") < 10 else None
        flusher.mark(greedy)
        await wait_all_tasks_blocked()
    assert slices(log) == [1] * 10


async def test_marked_twice() -> None:
    """Being marked twice is no error."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher):
        outbox = FakeOutbox("a", log)
        flusher.mark(outbox)
        mark_all(flusher, [outbox])
        await wait_all_tasks_blocked()
    assert log == ["a", "a"]


def test_without_a_task() -> None:
    """A flusher that does not run flushes at once."""
    log: list[Any] = []
    flusher = Flusher()
    flusher.mark(FakeOutbox("a", log))
    mark_all(flusher, [FakeOutbox("b", log), FakeOutbox("c", log)])
    assert log == ["a", "b", "c"]


@pytest.mark.parametrize("after", range(5))
async def test_cancelled_in_the_middle(after: int) -> None:
    """What was marked when the flusher is cancelled is flushed all the same, and once; then marking flushes at once."""
    log: list[Any] = []
    flusher = Flusher()
    many = [FakeOutbox(("many", number), log) for number in range(700)]
    ones = [FakeOutbox(("one", number), log) for number in range(400)]
    async with running(flusher) as nursery:
        for one in ones:
            flusher.mark(one)
        mark_all(flusher, many)
        mark_all(flusher, many[:1])
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert sorted(log) == sorted([one.name for one in [*ones, *many, many[0]]])
        flusher.mark(FakeOutbox("late", log))
        mark_all(flusher, [FakeOutbox("later", log)])
        assert log[-2:] == ["late", "later"]


async def test_cancelled_when_just_woken() -> None:
    """A cancel that comes between the mark and the turn forgets nobody."""
    log: list[Any] = []
    flusher = Flusher()
    async with running(flusher) as nursery:
        flusher.mark(FakeOutbox("a", log))
        nursery.cancel_scope.cancel()
    assert log == ["a"]


async def test_marked_by_the_last_flush() -> None:
    """What is marked by what is flushed at the very end is flushed, too."""
    log: list[Any] = []
    flusher = Flusher()
    first, second = FakeOutbox("first", log), FakeOutbox("second", log)
    first.then = lambda: flusher.mark(second)
    second.then = lambda: mark_all(flusher, [FakeOutbox("third", log)])
    async with running(flusher) as nursery:
        flusher.mark(first)
        nursery.cancel_scope.cancel()
    assert log == ["first", "second", "third"]


async def test_may_run_again() -> None:
    """One that has run may run once more, as where a manager is served twice in a program."""
    log: list[Any] = []
    flusher = Flusher()
    for number in range(2):
        async with running(flusher):
            flusher.mark(FakeOutbox(number, log))
            assert len(log) == number
            await wait_all_tasks_blocked()
    assert log == [0, 1]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("one")),
            st.tuples(st.just("many"), st.integers(0, 600)),
            st.tuples(st.just("turns"), st.integers(1, 3)),
            st.tuples(st.just("sleep")),
        ),
        max_size=20,
    )
)
async def test_everyone_once_and_in_order(steps: list[Any]) -> None:
    """Whatever is marked when: each is flushed once for each mark, those of a kind in order, and no slice is larger."""
    log: list[Any] = []
    flusher = Flusher()
    marked: dict[str, list[Any]] = {"one": [], "many": []}
    async with running(flusher, log):
        for number, (what, *args) in enumerate(steps):
            if what == "one":
                marked["one"].append(("one", number))
                flusher.mark(FakeOutbox(marked["one"][-1], log))
            elif what == "many":
                names = [("many", number, index) for index in range(args[0])]
                marked["many"] += names
                mark_all(flusher, [FakeOutbox(name, log) for name in names])
            else:
                for _ in range(args[0] if args else 20):
                    await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
    flushed = [entry for entry in log if entry != "|"]
    for kind, names in marked.items():
        assert [entry for entry in flushed if entry[0] == kind] == names
    assert max(slices(log), default=0) <= 2 * SLICE
