"""The alarm: many sleepers, one task that wakes them, and nothing left when nobody sleeps."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms._alarm import Alarm


class Keepers:
    """A nursery for the keepers of an alarm, which counts them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.alarm = Alarm(self._spawn)
        self.started = 0

    @property
    def running(self) -> int:
        return len(self._nursery.child_tasks)

    def _spawn(self, function: Callable[[], Awaitable[None]], context: Context) -> None:
        self.started += 1
        context.run(self._nursery.start_soon, function)


@asynccontextmanager
async def keepers() -> AsyncGenerator[Keepers]:
    """Ends by itself when nobody sleeps any more."""
    async with trio.open_nursery() as nursery:
        yield Keepers(nursery)


async def sleep(alarm: Alarm, deadline: float, woken: list[tuple[float, float]]) -> None:
    """Sleep, and note until when, and when that was over."""
    await alarm.sleep_until(deadline)
    woken.append((deadline, trio.current_time()))


async def test_each_is_woken_at_its_time(autojump_clock: MockClock) -> None:
    """A thousand sleepers that came in any order wake in the order of their times, each at its own, out of one task."""
    times = [float(n) for n in range(1, 1001)]
    woken: list[tuple[float, float]] = []
    async with keepers() as some:
        async with trio.open_nursery() as nursery:
            for deadline in random.Random(1).sample(times, len(times)):
                nursery.start_soon(sleep, some.alarm, deadline, woken)
            await wait_all_tasks_blocked()
            assert some.alarm.sleepers == 1000
            assert some.running == 1
        assert woken == [(deadline, deadline) for deadline in times]
        assert some.started == 1


async def test_an_earlier_one_comes_later(autojump_clock: MockClock) -> None:
    """Who comes later and is due sooner does not wait for the others."""
    woken: list[tuple[float, float]] = []
    async with keepers() as some, trio.open_nursery() as nursery:
        nursery.start_soon(sleep, some.alarm, 100, woken)
        await trio.sleep(5)
        nursery.start_soon(sleep, some.alarm, 10, woken)
    assert woken == [(10, 10), (100, 100)]


async def test_a_time_that_is_over(autojump_clock: MockClock) -> None:
    """A time in the past, and now, wake at once, after a checkpoint."""
    async with keepers() as some:
        await trio.sleep(5)
        for deadline in (-math.inf, 0, 5):
            await some.alarm.sleep_until(deadline)
        assert trio.current_time() == 5
        with trio.CancelScope() as scope:
            scope.cancel()
            await some.alarm.sleep_until(0)
        assert scope.cancelled_caught


async def test_a_cancelled_sleeper(autojump_clock: MockClock) -> None:
    """A sleeper that is cancelled is gone at once, and the others are woken as if it had never been there."""
    woken: list[tuple[float, float]] = []
    async with keepers() as some, trio.open_nursery() as nursery:
        with trio.move_on_after(1) as scope:
            nursery.start_soon(sleep, some.alarm, 7, woken)
            await some.alarm.sleep_until(3)
        assert scope.cancelled_caught
        assert some.alarm.sleepers == 1
    assert woken == [(7, 7)]


async def test_the_keeper_goes_with_the_last(autojump_clock: MockClock) -> None:
    """While nobody sleeps there is no task; the next sleeper has a new one."""
    async with keepers() as some:
        for ended in range(1, 4):
            with trio.move_on_after(1):
                await some.alarm.sleep_until(math.inf)
            await wait_all_tasks_blocked()
            assert (some.running, some.started, some.alarm.sleepers) == (0, ended, 0)


async def test_one_comes_while_the_keeper_goes(autojump_clock: MockClock) -> None:
    """A sleeper that comes after the last has gone, and before the keeper has noticed, is woken."""
    woken: list[tuple[float, float]] = []
    async with keepers() as some, trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await some.alarm.sleep_until(math.inf)
        await sleep(some.alarm, 2, woken)
        nursery.start_soon(sleep, some.alarm, 3, woken)
    assert woken == [(2, 2), (3, 3)]


@pytest.mark.parametrize("order", [1, -1])
async def test_empty_places_never_outnumber_sleepers(order: int, autojump_clock: MockClock) -> None:
    """Ten thousand that are cancelled leave no more places behind than there are sleepers."""
    async with keepers() as some, trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(10_000)]

        async def one(scope: trio.CancelScope, deadline: float) -> None:
            with scope:
                await some.alarm.sleep_until(deadline)

        for n, scope in enumerate(scopes):
            nursery.start_soon(one, scope, 1000.0 + n)
        await wait_all_tasks_blocked()
        for n, scope in enumerate(scopes[::order]):
            scope.cancel()
            if n % 100 == 0:
                await trio.lowlevel.checkpoint()
                assert len(some.alarm._heap) <= 2 * some.alarm.sleepers + 100
        await wait_all_tasks_blocked()
        assert some.alarm._heap == []


async def test_its_nursery_is_cancelled(autojump_clock: MockClock) -> None:
    """A keeper that is cancelled with its nursery wakes nobody any more, and the next sleeper has a new one."""
    async with trio.open_nursery() as outer:
        some = Keepers(outer)
        with trio.move_on_after(1):
            async with trio.open_nursery() as inner:
                some._nursery = inner
                inner.start_soon(some.alarm.sleep_until, math.inf)
        some._nursery = outer
        await some.alarm.sleep_until(5)
        assert trio.current_time() == 5


async def test_calls(autojump_clock: MockClock) -> None:
    """A call is made at its time, once; one whose place was left is not, and to leave it late or twice does nothing."""
    called: list[tuple[str, float]] = []
    async with keepers() as some:

        def note(name: str) -> None:
            called.append((name, trio.current_time()))

        places = [some.alarm.call_at(at, partial(note, name)) for name, at in zip("cabd", (3, 1, 2, 4), strict=True)]
        places[2].leave()
        places[2].leave()
        assert some.alarm.sleepers == 3
        await some.alarm.sleep_until(3.5)
        places[0].leave()
        assert some.alarm.sleepers == 1
        places[3].leave()
        assert some.alarm.sleepers == 0
    assert called == [("a", 1), ("c", 3)]
