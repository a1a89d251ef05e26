"""Many who wait for the delivery of what they have published to a room: who is told when, and what that costs."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from trio_rooms import Position
from trio_rooms._awaited import Awaited, Waiting

positions = st.builds(Position, st.integers(1, 8), st.sampled_from("ab"))
steps = st.one_of(
    st.tuples(st.just("confirm"), st.integers(0, 7), st.none() | positions),
    st.tuples(st.just("advance"), positions),
    st.tuples(st.just("leave"), st.integers(0, 7)),
)


def enter(awaited: Awaited) -> Waiting:
    """One more that is submitted."""
    waiting = Waiting()
    awaited.waiting[waiting] = None
    return waiting


@given(steps=st.lists(steps, max_size=40))
@example(steps=[("confirm", 0, Position(3, "a")), ("advance", Position(2, "a")), ("advance", Position(4, "a"))])
def test_who_is_told(steps: list[Any]) -> None:
    """In whatever order they are confirmed, and deliveries come: each is told at the first that comes behind it."""
    awaited = Awaited()
    waiting = {number: enter(awaited) for number in range(8)}
    over: set[int] = set()
    for step, *arguments in steps:
        if step == "advance":
            (position,) = arguments
            awaited.advance(position)
            over |= {number for number, one in waiting.items() if one.is_behind(position)}
        elif arguments[0] in waiting:
            number, *rest = arguments
            one = waiting[number]
            taken = {other.position for other in waiting.values()} - {None}
            if step == "confirm" and one.position is None and rest[0] not in taken:
                to_come = awaited.confirm(one, rest[0], 0.0)
                assert to_come is not one.is_behind(awaited.passed)
                step = "confirmed" if to_come else "leave"
            if step == "leave":
                awaited.leave(waiting.pop(number))
        assert {number for number, one in waiting.items() if one.over.is_set()} == over & waiting.keys()
        assert list(awaited.waiting) == list(waiting.values())
        assert set(awaited.line) <= set(awaited.waiting)


def test_a_delivery_looks_at_nobody_else() -> None:
    """What it costs is the same whether few or many wait for what stands behind it."""
    few, many = (calls_of_deliveries(number) for number in (20, 2000))
    assert many == few


def calls_of_deliveries(number: int) -> int:
    """The calls that ten deliveries make while so many wait; every other one has been lost."""
    awaited = Awaited()
    awaited.advance(Position(1, "e"))
    waiting = [enter(awaited) for _ in range(number)]
    confirmed = [(one, Position(2 + place, "e")) for place, one in enumerate(waiting)]
    assert all(awaited.confirm(one, position, 0.0) for one, position in reversed(confirmed))
    calls = 0

    def count(*event: Any) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for offset in range(3, 23, 2):
            awaited.advance(Position(offset, "e"))
    finally:
        sys.setprofile(before)
    assert [one for one in waiting if one.over.is_set()] == waiting[:19]
    assert awaited.line == waiting[19:]
    return calls
