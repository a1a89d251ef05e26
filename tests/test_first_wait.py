"""Awaiting something, and being told when it first waits."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trio_rooms._first_wait import watched


async def test_what_does_not_wait() -> None:
    """A coroutine that returns or raises in its first step is not said to wait."""
    waits: list[str] = []

    async def give() -> int:
        return 7

    async def fail() -> int:
        raise StopAsyncIteration("x")

    assert await watched(give(), lambda: waits.append("waits")) == 7
    with pytest.raises(StopAsyncIteration, match="x"):
        await watched(fail(), lambda: waits.append("waits"))
    assert waits == []
    await trio.lowlevel.checkpoint()


async def test_what_waits(autojump_clock: MockClock) -> None:
    """Of a coroutine that waits several times the first is told, before the task stops; what it awaits is its own."""
    log: list[object] = []

    async def work() -> str:
        log.append("begins")
        with trio.move_on_after(1):
            await trio.sleep_forever()
        log.append(trio.current_time() - started)
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112
            nursery.start_soon(trio.sleep, 2)
        return "done"

    started = trio.current_time()
    assert await watched(work(), lambda: log.append("waits")) == "done"
    assert log == ["begins", "waits", pytest.approx(1)]
    assert trio.current_time() - started == pytest.approx(3)


async def test_cancelled_while_it_waits(autojump_clock: MockClock) -> None:
    """A cancellation reaches the coroutine where it waits; it may hold it up, and what it raises passes."""
    log: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            log.append("cleaned up")

    with trio.move_on_after(1) as scope:
        await watched(work(), lambda: log.append("waits"))
    assert scope.cancelled_caught
    assert log == ["waits", "cleaned up"]
    with pytest.raises(trio.TooSlowError), trio.fail_after(1):
        await watched(work(), lambda: None)


async def test_closed_while_it_waits() -> None:
    """Closing it closes the coroutine, as closing an ordinary await does."""
    log: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("closed")

    outer = watched(work(), lambda: None)
    outer.send(None)
    outer.close()
    assert log == ["closed"]
    await trio.lowlevel.checkpoint()
