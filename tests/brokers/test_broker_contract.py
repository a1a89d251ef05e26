"""What every broker promises. A new one joins by one entry in BROKERS."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from broker_cases import BROKERS, PATIENCE, Case, event, running, submit
from trio_rooms import AlreadyServing, BrokerBusy, NotServing, Publication


@pytest.fixture(params=BROKERS.values(), ids=BROKERS)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of broker."""
    found: Case = request.param
    return found


def test_supports(case: Case) -> None:
    """What a broker supports is from a fixed vocabulary, and known before it runs."""
    assert case.make().supports <= {"history", "presence", "sessions"}


async def test_delivers_what_was_submitted(case: Case, autojump_clock: MockClock) -> None:
    """On the node that submitted it, the very object is delivered, once."""
    broker = case.make()
    async with running(broker) as node:
        publication = event(1)
        submission = broker.submit(publication)
        with trio.fail_after(PATIENCE):
            await submission.wait()
        assert await node.received(1) == [publication]
        assert node.delivered[0] is publication
        with trio.move_on_after(PATIENCE):
            await node.received(2)
        assert len(node.delivered) == 1


async def test_order_within_a_room(case: Case, autojump_clock: MockClock) -> None:
    """Submissions of one node to one room are delivered in their order, whatever goes on in other rooms."""
    broker = case.make()
    async with running(broker) as node:
        for number in range(30):
            await submit(broker, event(number, f"room{number % 3}"))
        await node.received(30)
        for room in range(3):
            assert node.data(f"room{room}") == [b"%d" % number for number in range(room, 30, 3)]


async def test_delivers_to_several_rooms_and_to_everybody(case: Case, autojump_clock: MockClock) -> None:
    """A publication with several targets, or with none, is carried as one."""
    broker = case.make()
    async with running(broker) as node:
        several, everybody = event(1, "a", "b"), Publication((), b"2")
        await submit(broker, several)
        await submit(broker, everybody)
        assert await node.received(2) == [several, everybody]


@pytest.mark.parametrize("name", [name for name, case in BROKERS.items() if case.bound is not None])
async def test_bound(name: str, autojump_clock: MockClock) -> None:
    """Invariant 5: beyond the bound submit raises BrokerBusy, which is a WouldBlock, and takes nothing."""
    case = BROKERS[name]
    assert case.bound is not None
    broker = case.make()
    async with running(broker) as node:
        for number in range(case.bound):
            broker.submit(event(number))
        with pytest.raises(BrokerBusy) as caught:
            broker.submit(event(99))
        assert isinstance(caught.value, trio.WouldBlock)
        await node.received(case.bound)
        with trio.fail_after(PATIENCE):
            await broker.wait_ready()
        broker.submit(event(100))
        await node.received(case.bound + 1)
        assert node.data("r") == [*(b"%d" % number for number in range(case.bound)), b"100"]


async def test_many_wait_for_room(case: Case, autojump_clock: MockClock) -> None:
    """However many tasks wait for room, each gets it in the end, and none is forgotten when others are cancelled."""
    broker = case.make()
    async with running(broker) as node, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(submit, broker, event(number))
        with trio.move_on_after(0.1):
            await submit(broker, event(99))
            await submit(broker, event(99))
        with trio.fail_after(PATIENCE):
            await node.received(20)


async def test_wait_ready_without_need(case: Case, autojump_clock: MockClock) -> None:
    """With room in the queue, waiting for it is no more than a checkpoint."""
    broker = case.make()
    async with running(broker):
        before = trio.current_time()
        with trio.testing.assert_checkpoints():
            await broker.wait_ready()
        assert trio.current_time() == before


async def test_cancelled_wait(case: Case, autojump_clock: MockClock) -> None:
    """A submission whose confirmation nobody waits for is delivered all the same."""
    broker = case.make()
    async with running(broker) as node:
        submission = broker.submit(event(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await submission.wait()
        assert scope.cancelled_caught
        assert await node.received(1)


async def test_confirmation_can_be_awaited_twice(case: Case, autojump_clock: MockClock) -> None:
    """Waiting for what has been confirmed returns at once, with the same position."""
    broker = case.make()
    async with running(broker):
        submission = broker.submit(event(1))
        with trio.fail_after(PATIENCE):
            first = await submission.wait()
            assert await submission.wait() == first


async def test_subscribe_is_idempotent(case: Case, autojump_clock: MockClock) -> None:
    """A subscription can be asked for again, and given up without there being one."""
    broker = case.make()
    async with running(broker) as node:
        broker.unsubscribe("r")
        with trio.fail_after(PATIENCE):
            await broker.subscribe("r")
            await broker.subscribe("r")
        await submit(broker, event(1))
        await node.received(1)
        broker.unsubscribe("r")
        broker.unsubscribe("r")
        with trio.fail_after(PATIENCE):
            await broker.subscribe("r")


async def test_not_running(case: Case, autojump_clock: MockClock) -> None:
    """Before it runs, and after, a broker takes nothing."""
    broker = case.make()
    with pytest.raises(NotServing):
        broker.submit(event(1))
    async with running(broker):
        pass
    with pytest.raises(NotServing):
        broker.submit(event(1))


async def test_runs_again(case: Case, autojump_clock: MockClock) -> None:
    """A broker can be run again, and then delivers nothing that was submitted before."""
    broker = case.make()
    async with running(broker) as node:
        broker.submit(event(1))
        await submit(broker, event(2))
    before = len(node.delivered)
    async with running(broker) as again:
        await submit(broker, event(3))
        await again.received(1)
        assert again.data("r") == [b"3"]
    assert len(node.delivered) == before


async def test_one_node_at_a_time(case: Case, autojump_clock: MockClock) -> None:
    """A second node is refused, and the first is served on."""
    broker = case.make()
    async with running(broker) as node:
        with pytest.RaisesGroup(AlreadyServing):
            async with running(broker):
                pass
        await submit(broker, event(1))
        await node.received(1)


async def test_its_end_leaves_nobody_waiting(case: Case, autojump_clock: MockClock) -> None:
    """Who waits for a confirmation or for room when the broker ends is told; nobody waits for ever."""
    broker = case.make()
    outcomes: list[str] = []

    async def publish(number: int) -> None:
        try:
            while True:
                try:
                    submission = broker.submit(event(number))
                    break
                except BrokerBusy:
                    await broker.wait_ready()
            await submission.wait()
            outcomes.append("confirmed")
        except NotServing:
            outcomes.append("not serving")

    async with trio.open_nursery() as nursery:
        async with running(broker):
            for number in range(10):
                nursery.start_soon(publish, number)
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await trio.testing.wait_all_tasks_blocked()
    assert len(outcomes) == 10
    assert set(outcomes) == ({"confirmed"} if case.bound is None else {"not serving"})
