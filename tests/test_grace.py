"""Shields: what they hold off, for how long, and the one deadline above them all."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from trio_rooms._grace import Grace


async def test_a_shield_holds_off_cancellation(autojump_clock: MockClock) -> None:
    """What is inside goes on after a cancellation from outside, which arrives behind it."""
    grace = Grace()
    with trio.CancelScope() as outer:
        outer.cancel()
        with grace.shield(5):
            await trio.sleep(4)
        await trio.lowlevel.checkpoint()
        raise AssertionError("the cancellation was lost")
    assert trio.current_time() == 4


async def test_a_shield_has_a_deadline(autojump_clock: MockClock) -> None:
    """After its seconds the shield itself cancels, and the block is over."""
    with Grace().shield(5) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_limit_cuts_open_shields(autojump_clock: MockClock) -> None:
    """A limit reaches shields that are open already, and lengthens none."""
    grace = Grace()
    with grace.shield(10):
        grace.limit(3)
        with grace.shield(1):
            grace.limit(2)
            await trio.sleep_forever()
        assert trio.current_time() == 1
        await trio.sleep_forever()
    assert trio.current_time() == 2


async def test_limit_cuts_later_shields(autojump_clock: MockClock) -> None:
    """A shield opened after the limit, or after its moment, gets no more than what is left."""
    grace = Grace()
    grace.limit(3)
    for _ in range(2):
        with grace.shield(10):
            await trio.sleep_forever()
        assert trio.current_time() == 3


def test_the_tightest_limit_counts() -> None:
    """A later limit cannot take back an earlier one."""
    grace = Grace()
    assert grace.hard_deadline == math.inf
    grace.limit(3)
    grace.limit(7)
    assert grace.hard_deadline == 3


async def test_nothing_is_kept() -> None:
    """Invariant 5: shields that are over are forgotten, also when what is inside raises."""
    grace = Grace()
    for _ in range(3):
        try:
            with grace.shield(1):
                raise ValueError
        except ValueError:
            pass
    assert not grace._scopes
