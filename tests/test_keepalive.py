"""Keepalive in virtual time: the pinger alone over a scripted peer, and whole servers over streams that go silent."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fakes import NoSocket
from trio_rooms import Close, Config, Connection, Manager
from trio_rooms._formats import PLAIN
from trio_rooms._keepalive import first_ping, keep_alive
from trio_rooms._wire.frames import Frame
from trio_rooms._wire.sink import Sink
from trio_rooms.testing import FaultyStream, MemoryServer, Opcode, TestClient, client_frame, serve_in_memory

INTERVAL = 20
TIMEOUT = 20


class FakePeer(NoSocket):
    """A transport whose peer answers pings after ``delay`` seconds, unless it is dead."""

    def __init__(self, nursery: trio.Nursery | None = None, *, delay: float | None = None) -> None:
        self.last_heard = trio.current_time()
        self.paused = False
        self.rtt: float | None = None
        self.control_due = False
        self.on_control: Callable[[], None] = lambda: None
        self.pings: list[float] = []
        self._nursery = nursery
        self._delay = delay

    async def ping(self) -> None:
        self.pings.append(trio.current_time())
        if self._nursery is not None and self._delay is not None:
            self._nursery.start_soon(self._answer, self._delay)
        await trio.lowlevel.checkpoint()

    async def _answer(self, delay: float) -> None:
        await trio.sleep(delay)
        self.last_heard = trio.current_time()

    async def send(self, frames: Sequence[Frame]) -> int:
        raise AssertionError("there is no data")

    async def send_control(self) -> None:
        raise AssertionError("nothing is due")

    async def receive(self) -> str:
        raise AssertionError("nobody receives")

    async def close(self, code: int, reason: str) -> None:
        raise AssertionError("the pinger closes nothing")

    async def abort(self) -> None:
        raise AssertionError("the pinger closes nothing")


class Half(random.Random):
    """The first ping comes after half of the interval."""

    def uniform(self, a: float, b: float) -> float:
        return 0.5


async def watch(peer: FakePeer, *, rng: random.Random, interval: float = INTERVAL, patience: float = TIMEOUT) -> float:
    """Run the pinger with a writer until it gives its verdict; returns when that was."""
    sink = Sink(PLAIN, max_messages=1, max_bytes=1_000, write_buffer_size=1, write_timeout=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, peer)
        await trio.sleep_until(first_ping(interval, rng))
        await keep_alive(sink, peer, interval=interval, timeout=patience)
        verdict = trio.current_time()
        nursery.cancel_scope.cancel()
    return verdict


@pytest.mark.parametrize("heard_at", [0, 3, 9.9, 10, 10.1, 15, 29.9])
async def test_verdict_in_time(heard_at: float, autojump_clock: MockClock) -> None:
    """K1: the verdict comes ``timeout`` to ``interval + timeout`` after the last sign of life."""
    async with trio.open_nursery() as nursery:
        peer = FakePeer()

        @nursery.start_soon
        async def speak() -> None:
            await trio.sleep(heard_at)
            peer.last_heard = trio.current_time()

        verdict = await watch(peer, rng=Half())
    assert TIMEOUT <= verdict - heard_at <= INTERVAL + TIMEOUT


@pytest.mark.parametrize(("interval", "patience"), [(5, 20), (20, 5), (1, 1)])
async def test_any_ratio_of_the_settings(interval: float, patience: float, autojump_clock: MockClock) -> None:
    """K1: the sum of both settings is the bound, whichever is the larger."""
    async with trio.open_nursery() as nursery:
        peer = FakePeer(nursery, delay=0.1)

        @nursery.start_soon
        async def die() -> None:
            await trio.sleep(100)
            peer._delay = None

        verdict = await watch(peer, rng=Half(), interval=interval, patience=patience)
    assert patience <= verdict - peer.last_heard <= interval + patience


async def test_late_pongs_are_in_time(autojump_clock: MockClock) -> None:
    """K3: a peer that always answers just before the timeout lives, and is pinged at the interval."""
    async with trio.open_nursery() as nursery:
        peer = FakePeer(nursery, delay=TIMEOUT - 0.5)
        with trio.move_on_after(1000):
            await watch(peer, rng=Half())
            raise AssertionError("declared dead")
        nursery.cancel_scope.cancel()
    assert peer.pings == [10 + INTERVAL * i for i in range(50)]


async def test_pings_whether_idle_or_not(autojump_clock: MockClock) -> None:
    """A peer that is heard all the time is pinged as often as a silent one: proxies and rtt depend on it."""
    async with trio.open_nursery() as nursery:
        peer = FakePeer()

        @nursery.start_soon
        async def chatter() -> None:
            while True:
                await trio.sleep(1)
                peer.last_heard = trio.current_time()

        with trio.move_on_after(100):
            await watch(peer, rng=Half())
        nursery.cancel_scope.cancel()
    assert peer.pings == [10, 30, 50, 70, 90]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("when", [5, 12, 29])
async def test_a_jump_of_the_clock(when: float, answers: bool, mock_clock: MockClock) -> None:
    """K4: ten minutes that nobody lived through give one more pong period; a peer that uses it lives."""
    verdicts: list[float] = []
    async with trio.open_nursery() as nursery:
        peer = FakePeer()

        @nursery.start_soon
        async def run() -> None:
            verdicts.append(await watch(peer, rng=Half()))

        await advance(mock_clock, when)
        mock_clock.jump(600)
        await trio.testing.wait_all_tasks_blocked()
        resumed = trio.current_time()
        await advance(mock_clock, resumed + TIMEOUT - 1)
        assert verdicts == []
        if answers:
            peer.last_heard = trio.current_time()
        await advance(mock_clock, resumed + TIMEOUT)
        assert verdicts == ([] if answers else [resumed + TIMEOUT])
        nursery.cancel_scope.cancel()


async def advance(clock: MockClock, target: float) -> None:
    """Let the time pass as it does for a process that runs: in small steps, everybody getting a turn."""
    while trio.current_time() < target:
        clock.jump(min(0.5, target - trio.current_time()))
        await trio.testing.wait_all_tasks_blocked()


async def test_paused_reading_is_not_death(autojump_clock: MockClock) -> None:
    """While we do not read, silence says nothing; when we do again, the peer has its whole time."""
    async with trio.open_nursery() as nursery:
        peer = FakePeer()
        peer.paused = True

        @nursery.start_soon
        async def resume() -> None:
            await trio.sleep(500)
            peer.paused = False
            peer.last_heard = trio.current_time()

        verdict = await watch(peer, rng=Half())
    assert 500 + TIMEOUT <= verdict <= 500 + INTERVAL + TIMEOUT


@pytest.mark.time_limit(30)
async def test_pings_are_spread(autojump_clock: MockClock) -> None:
    """K5: of 10,000 connections that began together, no second has more than twice the mean of the pings."""
    rng = random.Random(1)
    peers = [FakePeer() for _ in range(10_000)]
    with trio.move_on_after(INTERVAL + 1):
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(run_forever, peer, rng)
    seconds = Counter(int(peer.pings[0]) for peer in peers)
    assert min(seconds) >= INTERVAL / 10
    assert len(seconds) >= 0.9 * INTERVAL
    assert max(seconds.values()) <= 2 * len(peers) / INTERVAL


async def run_forever(peer: FakePeer, rng: random.Random) -> None:
    """The pinger as one of many."""
    await watch(peer, rng=rng)


class LateSink(Sink):
    """One whose pings are written a little later than they are due, as on a busy server."""

    async def ping(self) -> float:
        await trio.sleep(0.001)
        return trio.current_time()


@pytest.mark.time_limit(100)
async def test_pings_share_their_moments(autojump_clock: MockClock) -> None:
    """The process is not woken for each ping: however many connections, an interval has about a thousand moments."""
    moments = set()
    rng = random.Random(1)

    async def sleep_until(deadline: float) -> None:
        moments.add(round(deadline % INTERVAL, 6))
        await trio.sleep_until(deadline)

    async def watch_lately() -> None:
        sink = LateSink(PLAIN, max_messages=1, max_bytes=1_000, write_buffer_size=1, write_timeout=10)
        await sleep_until(first_ping(INTERVAL, rng))
        peer = FakePeer()
        peer.paused = True  # so that it is never silent
        await keep_alive(sink, peer, interval=INTERVAL, timeout=2 * INTERVAL, sleep_until=sleep_until)

    with trio.move_on_after(4 * INTERVAL):
        async with trio.open_nursery() as nursery:
            for _ in range(3_000):
                nursery.start_soon(watch_lately)
    assert 500 < len(moments) <= 1024


# Over a whole server


class Watched:
    """A server with one client whose end is written down."""

    def __init__(self, memory: MemoryServer) -> None:
        self.memory = memory
        self.closes: list[tuple[Close, float]] = []
        self.conn: Connection | None = None
        self.ours: FaultyStream | None = None

    async def connect(self) -> TestClient:
        """The client, over a stream that can go silent."""
        return await self.memory.connect(wrap=self._wrap)

    def _wrap(self, stream: trio.abc.Stream) -> FaultyStream:
        self.ours = FaultyStream(stream)
        return self.ours


def make_manager(watched: list[Watched], config: Config | None = None) -> Manager:
    manager = Manager(config=config)

    @manager.on_connect
    def connected(conn: Connection) -> None:
        watched[0].conn = conn

    @manager.on_disconnect
    def disconnected(conn: Connection, close: Close) -> None:
        watched[0].closes.append((close, trio.current_time()))

    @manager.on("sleep")
    async def sleep(conn: Connection, data: float) -> None:
        await trio.sleep(data)

    return manager


@pytest.mark.parametrize("silent_at", [0, 7, 19, 33, 61.5])
async def test_a_silent_stream_is_closed(silent_at: float, autojump_clock: MockClock) -> None:
    """K1: a stream that goes silent is aborted 20 to 40 s later, without waiting for a closing handshake."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched)) as memory:
        watched.append(Watched(memory))
        client = await watched[0].connect()
        await client.receive_nothing(silent_at)
        ours = watched[0].ours
        assert ours is not None
        ours.silence()
        await trio.sleep(41)
    (close, when) = watched[0].closes[0]
    assert close == Close(1006, "nothing was heard from the peer", "network")
    assert 20 <= when - silent_at <= 40


async def test_settings_are_used(autojump_clock: MockClock) -> None:
    """K1: ``ping_interval`` and ``pong_timeout`` decide when a silent peer is dead."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched, Config(ping_interval=1, pong_timeout=3))) as memory:
        watched.append(Watched(memory))
        client = await watched[0].connect()
        client.auto_pong = False
        await trio.sleep(10)
    assert 3 <= watched[0].closes[0][1] <= 4


async def test_only_data_is_life(autojump_clock: MockClock) -> None:
    """K3: a peer that never answers a ping but sends data is alive."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched)) as memory:
        watched.append(Watched(memory))
        client = await watched[0].connect()
        client.auto_pong = False
        for _ in range(50):
            await client.send_action("sleep", 0)
            await trio.sleep(15)
        assert watched[0].closes == []


@pytest.mark.parametrize("payload", [b"", b"never asked for", b"x" * 125])
async def test_unsolicited_pongs(payload: bytes, autojump_clock: MockClock) -> None:
    """K3: pongs that nobody asked for do no harm; they are bytes, so they are life, and no round trip."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched)) as memory:
        watched.append(Watched(memory))
        client = await watched[0].connect()
        client.auto_pong = False
        for _ in range(20):
            await client.send_raw(client_frame(Opcode.PONG, payload))
            await trio.sleep(15)
        assert watched[0].closes == []
        conn = watched[0].conn
        assert conn is not None
        assert conn.rtt is None


async def test_rtt_is_kept(autojump_clock: MockClock) -> None:
    """The round trip of the last answered ping is what ``conn.rtt`` says; None before the first."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched)) as memory:
        watched.append(Watched(memory))
        client = await watched[0].connect()
        conn, ours = watched[0].conn, watched[0].ours
        assert conn is not None
        assert ours is not None
        assert conn.rtt is None
        ours.stall_receiving()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_nothing, 60)
            await trio.sleep(20)  # the ping is answered in this time; the pong waits in the stream
            now = trio.current_time()
            ours.resume_receiving()
            await trio.testing.wait_all_tasks_blocked()
            assert conn.rtt is not None
            assert 0 < conn.rtt <= now


async def test_a_full_inbox_is_not_death(autojump_clock: MockClock) -> None:
    """While a busy handler keeps us from reading, silence is our own; afterwards the peer has its whole time."""
    watched: list[Watched] = []
    async with serve_in_memory(make_manager(watched)) as memory:
        watched.append(Watched(memory))
        memory.server._node.rng = Half()  # pings at 10 and 30
        client = await watched[0].connect()
        client.auto_pong = False
        await trio.sleep(9)
        await client.send_action("sleep", 20.9)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(16):
            await client.send_action("sleep", 0)
            await trio.testing.wait_all_tasks_blocked()
        conn = watched[0].conn
        assert conn is not None
        assert conn._transport is not None
        assert conn._transport.paused
        await trio.sleep(31 - trio.current_time())
        assert not conn._transport.paused
        await client.send_action("sleep", 0)
        await trio.sleep(15)
        assert watched[0].closes == []
