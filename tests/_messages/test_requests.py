"""The inbox and its gate, and what is in flight."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rooms import DuplicateId
from trio_rooms._messages.requests import Bound, Inbox, InFlight, Request


def request(ident: int | str | None = None) -> Request:
    return Request(None, ident)


async def test_inbox_keeps_the_order() -> None:
    """What is put in comes out in the same order."""
    inbox = Inbox(Bound(10))
    requests = [request() for _ in range(5)]
    assert [inbox.put(one) for one in requests] == [True] * 5
    assert len(inbox) == 5
    for one in requests:
        assert await inbox.take() is one


async def test_others_get_their_turn() -> None:
    """Of many requests that wait, taking some lets others run; a cancelled taker takes none of them."""
    inbox = Inbox(Bound(1))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(320):
            inbox.put(request())
        for _ in range(319):
            await inbox.take()
        assert 5 <= turns <= 10
        nursery.cancel_scope.cancel()
        with trio.CancelScope() as scope:
            scope.cancel()
            await inbox.take()
        assert len(inbox) == 1


async def test_hand_over() -> None:
    """Who waits is handed the request, which is then not among those that wait; what comes next stands behind it."""
    inbox = Inbox(Bound(1))
    first, second = request(), request()
    taken = []

    async def take() -> None:
        taken.append(await inbox.take())
        taken.append(await inbox.take())

    assert inbox.waiting is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert inbox.waiting is not None
        assert inbox.put(first)
        assert inbox.waiting is None
        assert len(inbox) == 0
        assert inbox.put(second)
        assert len(inbox) == 1
    assert taken == [first, second]


async def test_what_was_handed_over_is_not_discarded() -> None:
    """A request that was handed over before the inbox is closed has been taken."""
    inbox = Inbox(Bound(1))
    one = request()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert await inbox.take() is one
            assert await inbox.take() is None

        await wait_all_tasks_blocked()
        inbox.put(one)
        inbox.close(discard=True)


async def test_gate_opens_below_the_limit() -> None:
    """The gate is shut from the limit on, and opens when a take makes room; puts are never refused."""
    inbox = Inbox(Bound(2))
    passed = 0

    async def pass_gate() -> None:
        nonlocal passed
        await inbox.wait_for_room()
        passed += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_gate)
        await wait_all_tasks_blocked()
        assert passed == 1
        for _ in range(2):
            assert inbox.put(request())
        nursery.start_soon(pass_gate)
        await wait_all_tasks_blocked()
        assert passed == 1
        assert inbox.put(request())
        nursery.start_soon(pass_gate)
        await wait_all_tasks_blocked()
        await inbox.take()
        await wait_all_tasks_blocked()
        assert passed == 1
        await inbox.take()
        await wait_all_tasks_blocked()
        assert passed == 3


async def test_another_bound_while_answers_are_waited_for() -> None:
    """The gate opens at once, and is shut from so many bytes on; when nothing is waited for the usual bound holds."""
    inbox = Inbox(Bound(2, 2000))
    passed = 0

    async def pass_gate() -> None:
        nonlocal passed
        await inbox.wait_for_room()
        passed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            assert inbox.put(request())
        nursery.start_soon(pass_gate)
        await wait_all_tasks_blocked()
        assert passed == 0
        inbox.begin_reading_ahead()
        inbox.begin_reading_ahead()
        await wait_all_tasks_blocked()
        assert passed == 1
        assert inbox.put(request())
        nursery.start_soon(pass_gate)
        inbox.end_reading_ahead()
        await wait_all_tasks_blocked()
        assert passed == 1
        await inbox.take()
        await wait_all_tasks_blocked()
        assert passed == 2
        assert inbox.room() is None
        inbox.end_reading_ahead()
        nursery.start_soon(pass_gate)
        await wait_all_tasks_blocked()
        assert passed == 2
        await inbox.take()
        await inbox.take()
        await wait_all_tasks_blocked()
        assert passed == 3


async def test_an_open_gate_costs_nothing() -> None:
    """Passing an open gate lets nobody run: the read behind it does."""
    with trio.testing.assert_no_checkpoints():
        await Inbox(Bound(1)).wait_for_room()


async def test_close_ends_takes_after_what_waits() -> None:
    """A closed inbox takes nothing in, gives out what waits, and then ends; the gate is open for ever."""
    inbox = Inbox(Bound(1))
    last = request()
    inbox.put(last)
    inbox.close(discard=False)
    inbox.close(discard=False)
    assert not inbox.put(request())
    await inbox.wait_for_room()
    assert await inbox.take() is last
    assert await inbox.take() is None


async def test_close_can_discard() -> None:
    """With `discard` nothing that waits is given out; who waits for the gate or for a request is woken."""
    inbox = Inbox(Bound(1))
    inbox.put(request())
    inbox.put(request())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.wait_for_room)
        await wait_all_tasks_blocked()
        inbox.close(discard=True)
    assert await inbox.take() is None


async def test_close_wakes_a_take() -> None:
    """A take that waits ends when the inbox is closed."""
    inbox = Inbox(Bound(1))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert await inbox.take() is None

        await wait_all_tasks_blocked()
        inbox.close(discard=True)


async def test_a_cancelled_take_loses_nothing() -> None:
    """A take that is cancelled in the moment of a put leaves the request for the next one, or has it."""
    inbox = Inbox(Bound(1))
    taken = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                taken.append(await inbox.take())

            await wait_all_tasks_blocked()
            inbox.put(request())
            scope.cancel()
    assert len(taken) + len(inbox) == 1


def test_in_flight_by_id() -> None:
    """A request is found by its id until it is discarded; 1 and "1" are two ids; a second user is refused."""
    flying = InFlight()
    one, text, other = request(1), request("1"), request(1)
    flying.add(one)
    flying.add(text)
    with pytest.raises(DuplicateId):
        flying.add(other)
    flying.discard(other)
    assert flying.find(1) is one
    assert flying.find("1") is text
    flying.discard(one)
    flying.discard(one)
    assert flying.find(1) is None
    flying.add(other)
    assert flying.find(1) is other
    flying.discard(one)
    assert flying.find(1) is other


def test_in_flight_without_id() -> None:
    """Any number of messages without an id are in flight, and are forgotten like others."""
    flying = InFlight()
    messages = [request(), request()]
    for one in messages:
        flying.add(one)
    assert set(flying) == set(messages)
    flying.discard(messages[0])
    assert list(flying) == messages[1:]
    flying.discard(messages[1])
    flying.discard(messages[1])
    assert list(flying) == []


def test_cancel_of_a_queued_request() -> None:
    """Who cancels a request that has not begun answers it, once."""
    waiting = request(1)
    assert waiting.cancel()
    assert waiting.cancelled
    assert not waiting.cancel()


async def test_cancel_of_a_running_request() -> None:
    """A request that runs is cancelled in its scope, and answered by who runs it."""
    running = request(1)
    with trio.CancelScope() as running.scope:
        assert not running.cancel()
        assert not running.cancel()
        await trio.sleep_forever()
    assert running.scope.cancelled_caught
