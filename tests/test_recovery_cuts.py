"""Connections that are cut at any byte and come back: each publication exactly once, in order, or the word."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from followers import Follower, check
from hall import V1, hall
from histories import CONFIRM, Confirm, history_manager, publish
from messages import receive_all
from trio_rooms import Limits, Manager, Report
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import Closed, FaultyStream, LaggingBroker

# R2


async def cut_again_and_again(
    manager: Manager, times: int, seed: int, *, pause: float = 0.01
) -> tuple[Follower, list[tuple[Report, int]]]:
    """A publisher that does not stop, and a follower whose connection is cut at random, so many times.

    The further it is behind the later it may be cut, or what it has missed would only become more.
    """
    rng = random.Random(seed)
    published: list[tuple[Report, int]] = []
    follower = Follower()
    cuts = 0
    async with hall(manager) as served:
        keeper = await served.enter()
        room = (await keeper.conn.join("r")).room

        async def publish_all() -> None:
            number = 0
            while cuts < times:
                number += 1
                published.append((await room.publish(number, exclude=[keeper.conn]), number))
                await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_all)
            while cuts < times:
                streams: list[FaultyStream] = []

                def wrap(stream: trio.abc.Stream, streams: list[FaultyStream] = streams) -> trio.abc.Stream:
                    # Byte by byte nobody keeps up with a publisher that does not pause.
                    streams.append(FaultyStream(stream, one_byte_writes=pause > 0 and rng.random() < 0.05))
                    return streams[0]

                try:
                    client = await served.memory.connect(subprotocol=V1, wrap=wrap)
                    behind = max(0, len(published) - follower.offset)
                    streams[0].cut_sending_at(rng.randrange(1, 2500 + 100 * behind))
                    await follower.follow(client)
                    await client.aclose()
                except Closed:
                    pass
                cuts += 1
                await trio.sleep(rng.random() * pause * 10)
        client = await served.memory.connect(subprotocol=V1)
        await follower.join(client)
        for message in await receive_all(client):
            if message.get("action") is None:
                follower.take(message)
    return follower, published


async def test_cut_a_thousand_times(autojump_clock: MockClock) -> None:
    """R2: a client that is cut at any byte, a thousand times, at full rate, has all exactly once and in order."""
    manager = history_manager(size=3000, limits=Limits(max_recovery=3000))
    follower, published = await cut_again_and_again(manager, 1000, seed=1, pause=0)
    assert len(published) > 10_000
    check(follower, published)
    assert follower.lost == 0
    assert follower.resumed > 800


@pytest.mark.parametrize("confirm", CONFIRM)
async def test_cut_with_a_broker_that_lags(confirm: Confirm, autojump_clock: MockClock) -> None:
    """R2 with a broker whose deliveries, confirmations and reads all take their time, and whose offsets have gaps."""
    broker = LaggingBroker(delay=0.1, confirm=confirm, step=3)
    follower, published = await cut_again_and_again(history_manager(broker, size=1000), 100, seed=2, pause=0.05)
    check(follower, published)
    assert follower.lost == 0


async def test_cut_with_too_little_history(autojump_clock: MockClock) -> None:
    """R2 where not everything is kept: each stretch is whole, and between them the client was told."""
    follower, published = await cut_again_and_again(history_manager(size=3), 200, seed=3)
    check(follower, published)
    assert follower.lost > 10
    assert follower.resumed > 10


# M4


@pytest.mark.parametrize("linger", [0.0, 5.0])
@pytest.mark.parametrize("seed", range(10))
async def test_the_last_leaves_and_the_first_joins(linger: float, seed: int, autojump_clock: MockClock) -> None:
    """M4: whether the room is another object or not, the history is the same, and nothing is missed or comes twice."""
    rng = random.Random(seed)
    broker = LaggingBroker(delay=0.5) if seed % 2 else MemoryBroker()
    manager = history_manager(broker, size=1000, linger=linger)
    opened: list[str] = []
    manager.on_room_open(lambda room: opened.append(room.name))
    follower = Follower()
    published: list[tuple[Report, int]] = []
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        await guest.client.request("$leave", {"room": "r"})

        async def publish_all() -> None:
            for number in range(60):
                published.append((await publish(served, "r", number), number))
                await trio.sleep(rng.random())

        async def come_and_go() -> None:
            for _ in range(20):
                await follower.join(guest.client)
                await trio.sleep(rng.random() * 2)
                await guest.client.request("$leave", {"room": "r"})
                for message in guest.client.pending:
                    follower.take((await guest.client.receive_json()) if message else {})
                await trio.sleep(rng.choice([0, 0, rng.random() * 8]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_all)
            nursery.start_soon(come_and_go)
        await trio.sleep(60)
        await follower.join(guest.client)
    check(follower, published)
    assert follower.lost == 0
    assert follower.seen == list(range(60))


# Anything, at any time


@settings(max_examples=60)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(CONFIRM),
    st.sampled_from([1, 5]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([4, 1000]),
)
def test_any_interleaving(rng: random.Random, confirm: Confirm, step: int, delay: float, size: int) -> None:
    """Invariant 7: publishers, and followers that come and go at random times: no gap, nothing twice."""

    async def run() -> None:
        broker = LaggingBroker(delay=delay, confirm=confirm, step=step)
        manager = history_manager(broker, size=size)
        followers = [Follower() for _ in range(3)]
        published: list[tuple[Report, int]] = []

        async with hall(manager) as served:

            async def publish_some(first: int) -> None:
                for number in range(first, first + 8):
                    published.append((await publish(served, "r", number), number))
                    await trio.sleep(rng.random() * 3)

            async def come_and_go(follower: Follower) -> None:
                for _ in range(4):
                    await trio.sleep(rng.random() * 4)
                    client = await served.memory.connect(subprotocol=V1)
                    with trio.move_on_after(rng.random() * 8):
                        await follower.follow(client)
                    await client.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish_some, 0)
                nursery.start_soon(publish_some, 100)
                for follower in followers:
                    nursery.start_soon(come_and_go, follower)
            await trio.sleep(60)
            published.sort(key=lambda entry: entry[0].position.offset)  # type: ignore[union-attr]
            for follower in followers:
                client = await served.memory.connect(subprotocol=V1)
                await follower.join(client)
                check(follower, published)
                if size > 100:
                    assert follower.lost == 0

    trio.run(run, clock=MockClock(autojump_threshold=0))
