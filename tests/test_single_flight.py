"""One task does what several want: who does it, and what the others are told."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import ActionError, RoomFull
from trio_rooms._single_flight import SingleFlight


class OutOfStock(ActionError):
    """A program's own, whose arguments are not those of its base."""

    def __init__(self, article: int, *, until: float) -> None:
        super().__init__("OUT_OF_STOCK", f"no {article}", temporary=True)
        self.until = until


async def errors_of(make: Callable[[], Exception], number: int) -> list[Exception]:
    """What so many tasks are told that ask at once for what fails."""
    flight = SingleFlight()
    raised: list[Exception] = []

    async def fail() -> None:
        await trio.sleep(1)
        raise make()

    async def ask() -> None:
        try:
            await flight.run(fail)
        except Exception as exc:
            raised.append(exc)

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(ask)
    return raised


@pytest.mark.parametrize(
    "error", [RoomFull(), OutOfStock(7, until=3.0), OSError(5, "gone"), ExceptionGroup("x", [OSError()])]
)
async def test_each_has_an_error_of_its_own(error: Exception, autojump_clock: MockClock) -> None:
    """It is of the same class, says the same, and has seen no other task but where it comes from."""
    raised = await errors_of(lambda: error, 3)
    assert len({id(one) for one in raised}) == 3
    first, *others = raised
    assert first is error
    for other in others:
        assert type(other) is type(error)
        assert (str(other), other.args, other.__dict__) == (str(error), error.args, error.__dict__)
        assert other.__cause__ is error
        names = [frame.name for frame in traceback.extract_tb(other.__traceback__)]
        assert names == ["ask", "run"]
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["ask", "run", "fail"]
    assert error.__context__ is None


async def test_nothing_is_left_of_an_error(autojump_clock: MockClock) -> None:
    """It goes when those are done who were told, without the garbage collector."""
    flight = SingleFlight()
    alive: weakref.WeakSet[Exception] = weakref.WeakSet()
    most = 0

    class Watched(Exception):
        def __new__(cls, *args: object) -> Any:
            nonlocal most
            error = super().__new__(cls, *args)
            alive.add(error)
            most = max(most, len(alive))
            return error

    async def fail() -> None:
        await trio.sleep(1)
        raise Watched

    async def ask() -> None:
        with suppress(Watched):
            await flight.run(fail)

    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert most > 1
        assert not alive
    finally:
        gc.enable()
