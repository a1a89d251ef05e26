"""Shutdown is closing, then cancelling: what clients see, and that it ends in time whatever they and the program do."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_rooms import Close, Config, Connection, HandshakeRequest, Identity, Limits, Manager, Room, serve_rooms
from trio_rooms.testing import Closed, FaultyStream, HandshakeRefused, TestClient, open_client, serve_in_memory

V1 = "trio-rooms.v1.json"


class Halves(random.Random):
    """No shuffling, and everything in the middle of its range."""

    def random(self) -> float:
        return 0.5

    def shuffle(self, x: object) -> None:  # type: ignore[override]
        pass


def make_manager(config: Config | None = None) -> Manager:
    """A program whose handlers take as long as they are told."""
    manager = Manager(config=config)

    @manager.on("work")
    async def work(conn: Connection, data: float) -> str:
        await trio.sleep(data)
        return "done"

    @manager.on("stubborn")
    async def stubborn(conn: Connection, data: float) -> str:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + data):
            await trio.sleep_forever()
        return "done"

    return manager


async def read_to_the_end(client: TestClient, ends: list[tuple[int, float]]) -> None:
    """Write down with which code it is closed, and when; and hang up."""
    ends.append(((await client.expect_close(skip_messages=True)).code, trio.current_time()))
    await client.aclose()


# D1


async def test_everybody_is_served_to_the_end(autojump_clock: MockClock) -> None:
    """D1: 100 clients, 5 busy: newcomers get 503, replies are flushed, everybody gets 1012, within the deadline."""
    manager = make_manager()
    ends: list[tuple[int, float]] = []
    replies: list[str] = []
    async with trio.open_nursery() as nursery:

        async def finish(client: TestClient, seconds: float) -> None:
            replies.append(await client.request("work", seconds))
            await read_to_the_end(client, ends)

        async with serve_in_memory(manager) as memory:
            for i in range(100):
                client = await memory.connect(subprotocol=V1 if i % 2 else None)
                if i < 5:
                    nursery.start_soon(finish, client, 3 + i)
                else:
                    nursery.start_soon(read_to_the_end, client, ends)
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            memory.server.begin_shutdown()
            with pytest.raises(HandshakeRefused) as refused:
                await memory.connect()
            assert (refused.value.status, refused.value.code) == (503, "DRAINING")
            assert refused.value.headers["retry-after"] == "1"
    assert replies == ["done"] * 5
    assert [code for code, _ in ends] == [1012] * 100
    assert max(when for _, when in ends) - begun == 7
    assert memory.server.statistics().closes == {"server:1012": 100}
    assert memory.server.statistics().handshakes_rejected == {"unavailable": 1}


async def test_messages_behind_the_busy_one_are_not_handled(autojump_clock: MockClock) -> None:
    """In its slot a connection takes no more messages: the one in work is answered, those behind it are not begun."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        for i in range(3):
            await client.send_action("work", 2, id=i)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        assert await client.receive_json() == {"id": 0, "data": "done"}
        await client.expect_close(1012)
        await client.aclose()
        assert trio.current_time() == 2


async def test_control_frames_are_answered_meanwhile(autojump_clock: MockClock) -> None:
    """Invariant 4: during a drain pings are answered, and a flood of messages is dropped without being kept."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work", 10, id=0)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await trio.sleep(1)
        for i in range(1, 200):
            await client.send_action("work", 1, id=i)
        await client.ping(b"still there?")
        assert await client.receive_pong() == b"still there?"
        (conn,) = manager.connections.values()
        assert len(list(conn._dispatcher.in_flight)) == 1
        await client.aclose()


@pytest.mark.parametrize(("returning", "code"), [(True, 1012), (False, 1001)])
async def test_the_code_says_whether_it_returns(returning: bool, code: int, autojump_clock: MockClock) -> None:
    """1012 says that the service restarts, 1001 that the node goes away, at the deadline too; the first call counts."""
    manager = make_manager(Config(shutdown_timeout=3))
    ends: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery, serve_in_memory(manager) as memory:
        for seconds in (0, 60):
            client = await memory.connect()
            await client.send_action("work", seconds)
            nursery.start_soon(read_to_the_end, client, ends)
        await trio.testing.wait_all_tasks_blocked()
        manager.begin_shutdown(returning=returning)
        manager.begin_shutdown(returning=not returning)
        await memory.server.wait_closed()
    assert [code for code, _ in ends] == [code, code]
    assert ends[1][1] == 3


async def test_whoever_comes_through_the_door_last(autojump_clock: MockClock) -> None:
    """A client whose upgrade was decided before the shutdown gets its 101, and then 1012 at once."""
    manager = make_manager()
    may_enter = trio.Event()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        await may_enter.wait()
        return Identity()

    ends: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery, serve_in_memory(manager) as memory:

        async def come() -> None:
            await read_to_the_end(await memory.connect(), ends)

        nursery.start_soon(come)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await trio.testing.wait_all_tasks_blocked()
        may_enter.set()
        await memory.server.wait_closed()
    assert ends == [(1012, 0)]


# D2


async def test_a_client_that_does_not_answer(autojump_clock: MockClock) -> None:
    """D2: a client that never answers the close frame costs ``close_timeout`` and nothing more."""
    manager = make_manager(Config(close_timeout=4))
    async with serve_in_memory(manager) as memory:
        await memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await memory.server.wait_closed()
        assert trio.current_time() == pytest.approx(4, abs=0.01)


@pytest.mark.parametrize("seconds", [3, 40])
async def test_a_handler_that_ignores_cancellation(seconds: float, autojump_clock: MockClock) -> None:
    """D2: a handler under a shield of 3 s is waited for, one of 40 s is the exception that invariant 8 names."""
    manager = make_manager(Config(shutdown_timeout=10))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("stubborn", 10 + seconds)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await client.expect_close()
        await client.aclose()
        await memory.server.wait_closed()
        assert trio.current_time() == 10 + seconds


HOOKS = ["on_connect", "on_disconnect", "on_leave_room", "on_join_room", "on_message", "on_room_close"]


@pytest.mark.parametrize("name", HOOKS)
async def test_hooks_that_hang(name: str, autojump_clock: MockClock) -> None:
    """D2: whichever hook hangs, the shutdown returns at its deadline and nothing is left."""
    config = Config(shutdown_timeout=2, close_timeout=1, hook_timeout=60)
    manager = make_manager(config)

    @manager.on_connect
    async def join(conn: Connection) -> None:
        await conn.join("lobby")

    async def hang(*args: object) -> None:
        await trio.sleep_forever()

    getattr(manager, name)(hang)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work", 0)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await memory.server.wait_closed()
        assert trio.current_time() <= 2 + 1


async def test_a_room_that_never_opens(autojump_clock: MockClock) -> None:
    """D2: an ``on_room_open`` that hangs does not hold the shutdown beyond its deadline."""
    manager = make_manager(Config(shutdown_timeout=2, close_timeout=1, hook_timeout=60))

    @manager.on_room_open
    async def never(room: Room) -> None:
        await trio.sleep_forever()

    @manager.on_connect
    async def join(conn: Connection) -> None:
        await conn.join("lobby")

    async with serve_in_memory(manager) as memory:
        await memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await memory.server.wait_closed()
        assert trio.current_time() <= 2 + 1


async def test_a_peer_that_takes_nothing(autojump_clock: MockClock) -> None:
    """D2: a stalled socket does not hold the shutdown: write_timeout, then abort."""
    manager = make_manager()
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with serve_in_memory(manager) as memory:
        await memory.connect(wrap=wrap)
        await trio.testing.wait_all_tasks_blocked()
        streams[0].stall_sending()
        memory.server.begin_shutdown()
        await memory.server.wait_closed()
        assert trio.current_time() <= 10 + 5


# D3


async def test_idle(autojump_clock: MockClock) -> None:
    """D3: a server without connections returns at once, one whose clients answer within the window of the drain."""
    async with serve_in_memory(make_manager()):
        pass
    assert trio.current_time() == 0
    ends: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery, serve_in_memory(make_manager(Config(drain_rate=10))) as memory:
        for _ in range(20):
            client = await memory.connect()
            nursery.start_soon(read_to_the_end, client, ends)
    assert len(ends) == 20
    assert trio.current_time() <= 20 / 10


# The spread


async def test_the_spread(autojump_clock: MockClock) -> None:
    """Closes are spread over the window that ``drain_rate`` makes, so that clients do not come back all at once."""
    ends: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery, serve_in_memory(make_manager(Config(drain_rate=20))) as memory:
        for _ in range(100):
            client = await memory.connect()
            nursery.start_soon(read_to_the_end, client, ends)
        await trio.testing.wait_all_tasks_blocked()
        memory.server._node.rng = random.Random(1)
    times = [when for _, when in ends]
    assert times == sorted(times)
    assert 4 < times[-1] <= 5
    for second in range(5):
        assert 10 <= sum(second <= when < second + 1 for when in times) <= 30


async def test_the_window_has_a_bound(autojump_clock: MockClock) -> None:
    """However slow the rate, the window is at most half of the shutdown's time."""
    ends: list[tuple[int, float]] = []
    config = Config(drain_rate=1, shutdown_timeout=8)
    async with trio.open_nursery() as nursery, serve_in_memory(make_manager(config)) as memory:
        for _ in range(50):
            client = await memory.connect()
            nursery.start_soon(read_to_the_end, client, ends)
    assert [code for code, _ in ends] == [1012] * 50
    assert 3 < ends[-1][1] <= 4


async def test_served_until_its_slot(autojump_clock: MockClock) -> None:
    """Until its slot in the window a connection is served as ever."""
    manager = make_manager(Config(drain_rate=1, shutdown_timeout=8))
    async with serve_in_memory(manager) as memory:
        memory.server._node.rng = Halves()
        client = await memory.connect()
        (await memory.connect()).auto_pong = False
        memory.server.begin_shutdown()
        await trio.sleep(0.5)
        assert await client.request("work", 0.25) == "done"
        await client.expect_close(1012)
        assert trio.current_time() == 1
        await client.aclose()


async def test_drain_is_announced(autojump_clock: MockClock) -> None:
    """``$drain`` tells v1 clients in how many milliseconds to come back, before the close; plain ones hear nothing."""
    manager = make_manager(Config(drain_rate=1, shutdown_timeout=8))
    async with serve_in_memory(manager) as memory:
        memory.server._node.rng = Halves()
        plain = await memory.connect()
        v1 = await memory.connect(subprotocol=V1)
        assert (await v1.receive_json())["action"] == "$welcome"
        memory.server.begin_shutdown()
        assert await v1.receive_json() == {"action": "$drain", "data": {"reconnect_in_ms": 3000}}
        assert trio.current_time() == 0
        await v1.expect_close(1012)
        await plain.expect_close(1012)
        for client in (v1, plain):
            await client.aclose()


async def test_an_announcement_that_does_not_fit(autojump_clock: MockClock) -> None:
    """A ``$drain`` for which the outbox has no room is dropped and counted; the close is not."""
    manager = make_manager(Config(limits=Limits(outbox_messages=1)))
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1, wrap=wrap)
        assert (await client.receive_json())["action"] == "$welcome"
        streams[0].stall_sending()
        (conn,) = manager.connections.values()
        for word in ("taken by the writer", "fills the outbox"):
            conn.send_nowait(word)
            await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await trio.testing.wait_all_tasks_blocked()
        streams[0].resume_sending()
        for word in ("taken by the writer", "fills the outbox"):
            assert await client.receive_json() == {"data": word}
        await client.expect_close(1012)
        await client.aclose()
    assert memory.server.statistics().dropped == 1


# Its options


async def test_no_drain(autojump_clock: MockClock) -> None:
    """``shutdown_timeout=0``: handlers are cancelled at once, clients are still told 1012."""
    manager = make_manager(Config(shutdown_timeout=0))
    cancelled: list[float] = []

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    ends: list[tuple[int, float]] = []
    async with trio.open_nursery() as nursery, serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("wait")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read_to_the_end, client, ends)
    assert cancelled == [0]
    assert ends == [(1012, 0)]


async def test_what_is_left_is_cancelled_at_the_timeout(autojump_clock: MockClock) -> None:
    """``shutdown_timeout`` is when what is left is cancelled, and clients are told why."""
    manager = make_manager(Config(shutdown_timeout=7))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work", 100)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        assert (await client.expect_close()).code == 1012
        assert trio.current_time() == 7
        await client.aclose()


# Who may wait for it


async def test_shutdown_waits(autojump_clock: MockClock) -> None:
    """``await manager.shutdown()`` returns when serve is over; without a serve it does nothing, but is a checkpoint."""
    manager = make_manager()
    with trio.testing.assert_checkpoints():
        await manager.shutdown()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(manager.serve, listeners=[]))
        await manager.shutdown()
        server.assert_quiescent()
        assert manager.server is None


@pytest.mark.parametrize("place", ["handler", "task", "room", "hook"])
async def test_shutdown_from_inside(place: str, autojump_clock: MockClock) -> None:
    """From a handler, a hook, or a task of a connection or room, ``shutdown`` begins and does not wait for itself."""
    manager = make_manager()
    returned: list[float] = []

    async def shut_down() -> None:
        await manager.shutdown()
        returned.append(trio.current_time())

    @manager.on("shutdown")
    async def handler(conn: Connection) -> str:
        if place == "handler":
            await shut_down()
        elif place == "task":
            conn.start_soon(shut_down)
            await trio.sleep(1)
        elif place == "room":
            (await conn.join("lobby")).room.start_soon(shut_down)
            await trio.sleep(1)
        else:
            await conn.join("lobby")
        return "begun"

    @manager.on_join_room
    async def joining(conn: Connection, room: Room) -> None:
        if place == "hook":
            await shut_down()

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        assert await client.request("shutdown") == "begun"
        await client.expect_close(1012)
        await client.aclose()
        await memory.server.wait_closed()
    assert returned == [0]


async def test_shutdown_after_having_served(autojump_clock: MockClock) -> None:
    """A task that served a connection in its own time is the program's again: its ``shutdown`` waits."""
    manager = make_manager()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(manager.serve, listeners=[]))
        ours, theirs = trio.testing.memory_stream_pair()

        async def come() -> None:
            client = await TestClient.connect(theirs)
            await client.aclose()

        nursery.start_soon(come)
        await manager.handle_connection(ours)
        await manager.shutdown()
        server.assert_quiescent()


# The end of the block


async def test_leaving_the_block_drains(autojump_clock: MockClock) -> None:
    """Leaving ``serve_rooms`` shuts down with a drain: a reply that is under way arrives."""
    manager = make_manager()
    ours, theirs = trio.testing.memory_stream_pair()
    replies: list[object] = []
    async with trio.open_nursery() as nursery:

        async def come() -> None:
            client = await TestClient.connect(theirs)
            replies.append(await client.request("work", 3))
            await client.expect_close(1012)
            await client.aclose()

        async with serve_rooms(manager, listeners=[]):
            nursery.start_soon(manager.handle_connection, ours)
            nursery.start_soon(come)
            await trio.testing.wait_all_tasks_blocked()
    assert replies == ["done"]
    assert trio.current_time() == 3


@pytest.mark.parametrize("how", ["exception", "cancelled"])
async def test_failing_in_the_block_skips_the_drain(how: str, autojump_clock: MockClock) -> None:
    """An exception or a cancellation in the block of ``serve_rooms``: close frames, no drain, nothing left."""
    manager = make_manager()
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))
    ends: list[tuple[int, float]] = []
    failures: list[BaseException] = []
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            try:
                async with serve_rooms(manager, listeners=[]) as server:
                    nursery.start_soon(manager.handle_connection, ours)
                    client = await TestClient.connect(theirs)
                    await client.send_action("work", 100)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(read_to_the_end, client, ends)
                    if how == "exception":
                        raise LookupError("of the program")
                    scope.cancel()
                    await trio.sleep_forever()
            except* LookupError as group:
                failures.append(group)
        assert bool(failures) == (how == "exception")
        assert [close.code for close in closes] == [1001]
        server.assert_quiescent()
        assert manager.server is None
        await trio.testing.wait_all_tasks_blocked()
    assert ends == [(1001, 0)]


async def test_somebody_else_begins(autojump_clock: MockClock) -> None:
    """A shutdown that somebody else begins does not end the block; leaving it then is no error."""
    manager = make_manager()
    async with serve_rooms(manager, listeners=[]) as server:
        manager.begin_shutdown()
        await server.wait_closed()
        await trio.sleep(5)
        server.begin_shutdown()
    assert trio.current_time() == 5


async def test_begun_before_it_is_up() -> None:
    """D4: a shutdown that is begun while serve is still on its way up is not lost; the first call counts."""
    manager = make_manager()
    manager.begin_shutdown()  # without a serve: nothing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(manager.serve, host="localhost"))
        while not manager._registry.frozen:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        assert manager.server is None
        manager.begin_shutdown(returning=False)
        manager.begin_shutdown()
        while manager.server is None:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        assert manager.server.draining
        assert manager.server._node.close_code == 1001
    async with open_client(manager) as client:
        assert await client.request("work", 0) == "done"


# The watchdog


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_log_names_what_holds_a_shutdown(
    cancelled: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 8: user code that shields itself without a deadline is named in the log after the deadline."""
    manager = make_manager(Config(shutdown_timeout=3, close_timeout=2))
    release = trio.Event()

    @manager.on("hold")
    async def hold(conn: Connection) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async def hold_room() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        (await conn.join("lobby")).room.start_soon(hold_room)

    async with trio.open_nursery() as nursery:
        serving = trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[object]) -> None:  # noqa: ASYNC128 - handed on
            with serving:
                await manager.serve(listeners=[], task_status=task_status)

        server = await nursery.start(serve)
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(manager.handle_connection, ours)
        client = await TestClient.connect(theirs)
        await client.send_action("hold", id=1)
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel() if cancelled else manager.begin_shutdown()
        await trio.sleep(5.9)
        assert not [record for record in caplog.records if "shutdown" in record.getMessage()]
        await trio.sleep(0.2)
        (record,) = [record for record in caplog.records if "shutdown" in record.getMessage()]
        for name in ("takes longer than 5", "<Connection", "'hold'"):
            assert name in record.getMessage()
        release.set()
        await client.aclose()
    server.assert_quiescent()


async def test_the_log_is_silent_otherwise(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown that uses all of its time but no more is not worth an entry."""
    manager = make_manager(Config(shutdown_timeout=3, close_timeout=2))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work", 100)
        await trio.testing.wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await memory.server.wait_closed()
        assert trio.current_time() == 5
        with pytest.raises(Closed):
            await client.receive()
    assert not caplog.records


@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_a_cancellation_while_something_is_to_be_written(transport: Any, autojump_clock: MockClock) -> None:
    """Invariant 3: a write that did not begin before the cancellation tears nothing; the close frame goes out."""
    manager = Manager()
    clients: list[TestClient] = []
    with trio.CancelScope() as scope:
        async with serve_in_memory(manager, transport=transport) as memory:
            clients.extend([await memory.connect() for _ in range(10)])
            await trio.testing.wait_all_tasks_blocked()
            for conn in manager.connections.values():
                conn.send_nowait("too late")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    for client in clients:
        await client.expect_close(1001)
        await client.aclose()
