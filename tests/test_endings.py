"""Every way in which a connection can end, at every phase of its life: always the same nothing is left.

A phase brings one connection, the victim, to a point and keeps it there; a way then ends it. What must hold
afterwards is checked once, in ``test_nothing_is_left``. Another client of the same room looks on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import product

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_rooms import (
    Close,
    Config,
    Connection,
    ConnectionGone,
    HandshakeRequest,
    Identity,
    Limits,
    Manager,
    Room,
    Server,
)
from trio_rooms.testing import Closed, FaultyStream, Opcode, TestClient, client_frame, close_payload, handshake_bytes

CONFIG = Config(shutdown_timeout=15, limits=Limits(outbox_messages=8))
#: Nothing may take longer in virtual time: the longest is a dead peer (ping + pong), then close and hooks.
LIMIT = 60
USER = ("Authorization", "victim")


@attrs.define(eq=False)
class Scene:
    """A server, the victim, and what the program sees of it."""

    manager: Manager
    nursery: trio.Nursery
    server: Server | None = None
    serving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    calling: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    reached: trio.Event = attrs.field(factory=trio.Event)
    task_fails: trio.Event = attrs.field(factory=trio.Event)
    session_ends: trio.Event = attrs.field(factory=trio.Event)
    session_error: Exception | None = None
    hangs_in: str = ""
    """Where the program's code waits for ever."""
    log: list[str] = attrs.field(factory=list)
    conn: Connection | None = None
    closes: list[Close] = attrs.field(factory=list)
    ours: FaultyStream = attrs.field(init=False)
    """The server's end of the victim's stream."""
    theirs: trio.testing.MemoryReceiveStream = attrs.field(init=False)
    """The victim's own end."""

    async def stay(self, place: str) -> None:
        """Wait for ever if the phase wants to be here."""
        if self.hangs_in == place:
            self.reached.set()
            await trio.sleep_forever()

    def connect(self) -> None:
        """Let the server serve the victim's stream, in a task that can be cancelled by itself."""
        theirs, ours = trio.testing.memory_stream_pair()
        self.theirs, self.ours = theirs, FaultyStream(ours)
        self.nursery.start_soon(self._call)

    async def _call(self) -> None:
        with self.calling:
            await self.manager.handle_connection(self.ours)
        self.over.set()

    async def open(self) -> TestClient:
        """Complete the victim's handshake and wait for its first frame."""
        self.connect()
        client = await TestClient.connect(self.theirs, headers=[USER])
        await trio.testing.wait_all_tasks_blocked()
        return client


def make_manager(get: Callable[[], Scene]) -> Manager:
    """A program with code of every kind, which writes down what happens to the victim."""
    manager = Manager(config=CONFIG)
    manager.room("*", authorize=allow)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        user = request.headers.get("authorization", "looker-on")
        if user == "victim":
            await get().stay("authenticate")
        return Identity(user=user)

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        if conn.identity.user == "victim":
            get().conn = conn
            get().log.append("connect")
            conn.start_soon(task)
        await conn.join("lobby")
        if conn.identity.user == "victim":
            await get().stay("on_connect")

    async def task() -> None:
        await get().task_fails.wait()
        raise LookupError("the task fails")

    @manager.on_disconnect
    def disconnected(conn: Connection, close: Close) -> None:
        if conn.identity.user == "victim":
            get().log.append("disconnect")
            get().closes.append(close)

    @manager.on_join_room
    async def joining(conn: Connection, room: Room) -> None:
        if conn.identity.user == "victim":
            get().log.append(f"join {room.name}")
            await get().stay(f"join {room.name}")

    @manager.on_leave_room
    def left(conn: Connection, room: Room, reason: str) -> None:
        if conn.identity.user == "victim":
            get().log.append(f"leave {room.name}")

    @manager.session
    async def session(conn: Connection) -> None:
        while conn.identity.user != "victim":
            await conn.read_json()
        await get().session_ends.wait()
        if (error := get().session_error) is not None:
            raise error

    @manager.on("hang")
    async def hang(conn: Connection) -> None:
        await get().stay("handler")

    @manager.on("boom", concurrent=True)
    async def boom(conn: Connection) -> None:
        raise ValueError("a handler fails")

    @manager.on("join")
    async def join(conn: Connection) -> None:
        await conn.join("slow")

    @manager.on("flood")
    async def flood(conn: Connection) -> None:
        for _ in range(100):
            await conn.send("x")
        await trio.sleep_forever()

    @manager.on("echo")
    async def echo(conn: Connection, data: str) -> str:
        return data

    return manager


async def allow(conn: Connection, room: str, data: object) -> bool:
    """Anybody may join."""
    return True


# Phases: each brings the victim there and leaves it there.


async def handshake(scene: Scene) -> None:
    """Half of the request has come."""
    scene.connect()
    await scene.theirs.send_all(handshake_bytes(headers=[USER])[:40])


async def authenticating(scene: Scene) -> None:
    """``authenticate`` waits for ever."""
    scene.hangs_in = "authenticate"
    scene.connect()
    await scene.theirs.send_all(handshake_bytes(headers=[USER]))
    await scene.reached.wait()


async def upgrading(scene: Scene) -> None:
    """The 101 does not leave."""
    scene.connect()
    scene.ours.stall_sending(5)
    await scene.theirs.send_all(handshake_bytes(headers=[USER]))


async def connecting(scene: Scene) -> None:
    """``on_connect`` hangs, a member of the lobby already."""
    scene.hangs_in = "on_connect"
    await scene.open()
    await scene.reached.wait()


async def idle(scene: Scene) -> None:
    """Nothing is going on."""
    await scene.open()


async def handling(scene: Scene) -> None:
    """A handler waits for ever."""
    scene.hangs_in = "handler"
    client = await scene.open()
    await client.send_action("hang", id=1)
    await scene.reached.wait()


async def joining(scene: Scene) -> None:
    """A handler's join waits for a hook."""
    scene.hangs_in = "join slow"
    client = await scene.open()
    await client.send_action("join", id=1)
    await scene.reached.wait()


async def stalled(scene: Scene) -> None:
    """A handler waits for room in the outbox of a peer that reads nothing."""
    client = await scene.open()
    scene.ours.stall_sending()
    await client.send_action("flood")


async def closing(scene: Scene) -> None:
    """The close frame has left, and the peer does not answer it."""
    await scene.open()
    assert scene.conn is not None
    scene.conn.close(4001, "first")


PHASES = [handshake, authenticating, upgrading, connecting, idle, handling, joining, stalled, closing]
BEFORE = [handshake, authenticating, upgrading]  # there is no connection yet, only a stream


# Ways: each ends the victim, from wherever it is.


async def caller_cancelled(scene: Scene) -> None:
    """The task that called ``handle_connection`` is cancelled."""
    scene.calling.cancel()


async def server_cancelled(scene: Scene) -> None:
    """``serve`` is cancelled, the caller's task is not."""
    scene.serving.cancel()


async def shut_down(scene: Scene) -> None:
    """A drain, whose deadline passes wherever the program waits for ever."""
    scene.manager.begin_shutdown()


async def cancelled_in_drain(scene: Scene) -> None:
    """A drain that is cut short: a second Ctrl-C."""
    scene.manager.begin_shutdown()
    await trio.testing.wait_all_tasks_blocked()
    scene.serving.cancel()


async def cut(scene: Scene) -> None:
    """End of file."""
    await trio.aclose_forcefully(scene.theirs)


async def broken(scene: Scene) -> None:
    """Reads and writes fail."""
    await scene.ours.cut()


async def dead(scene: Scene) -> None:
    """Half open: nothing comes any more, and nothing arrives."""
    scene.ours.silence()


async def not_reading(scene: Scene) -> None:
    """The peer takes nothing, so that the next write times out."""
    scene.ours.stall_sending()


async def peer_closes(scene: Scene) -> None:
    """The peer sends a close frame."""
    await scene.theirs.send_all(client_frame(Opcode.CLOSE, close_payload(1000)))


async def violation(scene: Scene) -> None:
    """The peer sends a frame that is not masked."""
    await scene.theirs.send_all(client_frame(Opcode.TEXT, b"{}", mask=None))


async def overflow(scene: Scene) -> None:
    """More is published than the outbox holds, before the writer can run."""
    for _ in range(20):
        scene.manager.broadcast_to_all("x", exclude=[c for c in scene.manager.connections.values() if c != scene.conn])


async def program_closes(scene: Scene) -> None:
    """``conn.close``."""
    assert scene.conn is not None
    scene.conn.close(4002)


async def handler_raises(scene: Scene) -> None:
    """A concurrent handler fails."""
    await scene.theirs.send_all(client_frame(Opcode.TEXT, b'{"action": "boom", "id": 9}'))


async def task_raises(scene: Scene) -> None:
    """A task of ``conn.start_soon`` fails."""
    scene.task_fails.set()


async def session_raises(scene: Scene) -> None:
    """The session fails."""
    scene.session_error = ZeroDivisionError("the session fails")
    scene.session_ends.set()


async def session_returns(scene: Scene) -> None:
    """The session returns."""
    scene.session_ends.set()


ANYWHERE = [
    caller_cancelled,
    server_cancelled,
    shut_down,
    cancelled_in_drain,
    cut,
    broken,
    dead,
    not_reading,
    peer_closes,
    violation,
]
CONNECTED = [overflow, program_closes, handler_raises, task_raises, session_raises, session_returns]
MATRIX = [*product(ANYWHERE, PHASES), *((way, phase) for way in CONNECTED for phase in PHASES if phase not in BEFORE)]


@asynccontextmanager
async def staged() -> AsyncGenerator[Scene, None]:
    """A scene whose server serves; whoever is left at the end of the block is cancelled."""
    scenes: list[Scene] = []
    manager = make_manager(lambda: scenes[0])
    async with trio.open_nursery() as nursery:
        scene = Scene(manager, nursery)
        scenes.append(scene)

        async def serve(*, task_status: trio.TaskStatus[Server]) -> None:  # noqa: ASYNC128 - handed on
            with scene.serving:
                await manager.serve(listeners=[], task_status=task_status)

        scene.server = await nursery.start(serve)
        yield scene
        nursery.cancel_scope.cancel()


async def look_on(scene: Scene) -> TestClient:
    """Another client, a member of the lobby, whose pings are answered."""
    theirs, ours = trio.testing.memory_stream_pair()
    scene.nursery.start_soon(scene.manager.handle_connection, ours)
    client = await TestClient.connect(theirs)
    assert await client.request("echo", "here") == "here"
    return client


@pytest.mark.parametrize(("way", "phase"), MATRIX, ids=lambda function: function.__name__)
async def test_nothing_is_left(
    way: Callable[[Scene], Awaitable[None]], phase: Callable[[Scene], Awaitable[None]], autojump_clock: MockClock
) -> None:
    """Invariant 2: hooks balance, rooms and indexes and tasks are empty, and nobody else notices, whatever ends it."""
    async with staged() as scene:
        looker_on = await look_on(scene)
        await phase(scene)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(LIMIT):
            await way(scene)
            pinging = trio.CancelScope()
            scene.nursery.start_soon(answer_pings, looker_on, pinging)
            await scene.over.wait()
            pinging.cancel()
            await trio.testing.wait_all_tasks_blocked()
        check_victim(scene)
        await check_looker_on(scene, looker_on)
        await check_server(scene)


async def answer_pings(client: TestClient, scope: trio.CancelScope) -> None:
    """Read, so that pings are answered."""
    with scope, suppress(Closed):
        raise AssertionError(f"not expected: {await client.receive()!r}")


def check_victim(scene: Scene) -> None:
    """Its hooks balance, its stream is closed, and no index knows it."""
    joins = [line.removeprefix("join ") for line in scene.log if line.startswith("join ")]
    leaves = [line.removeprefix("leave ") for line in scene.log if line.startswith("leave ")]
    assert sorted(joins) == sorted(leaves)
    assert scene.log.count("disconnect") == scene.log.count("connect") == (0 if scene.conn is None else 1)
    with pytest.raises(trio.ClosedResourceError):
        scene.ours._check()
    if scene.conn is not None:
        assert scene.log[-1] == "disconnect"
        assert scene.closes == [scene.conn.closed]
        assert not scene.conn.rooms
        assert scene.conn.id not in scene.manager.connections
        with pytest.raises(ConnectionGone):
            scene.conn.send_nowait("x")
        with pytest.raises(ConnectionGone):
            scene.conn.start_soon(trio.sleep_forever)


async def check_looker_on(scene: Scene, client: TestClient) -> None:
    """It is served as if nothing had happened, and is alone; or the server ended it too."""
    if scene.manager.server is None or scene.manager.server.draining:
        assert (await client.expect_close()).code in (1001, 1012)
        return
    assert await client.request("echo", "still here") == "still here"
    room = scene.manager.get_room("lobby")
    assert room is not None
    assert [member.identity.user for member in room.members] == ["looker-on"]
    assert scene.manager.send_to_user("victim", "x").enqueued == 0
    assert [room.name for room in scene.manager.rooms()] == ["lobby"]


async def check_server(scene: Scene) -> None:
    """It shuts down at once, and its books balance."""
    assert scene.server is not None
    scene.server.begin_shutdown()
    with trio.fail_after(CONFIG.shutdown_timeout + CONFIG.close_timeout):
        await scene.server.wait_closed()
    scene.server.assert_quiescent()
    statistics = scene.server.statistics()
    assert sum(statistics.closes.values()) == statistics.accepted == (1 if scene.conn is None else 2)
    await trio.testing.wait_all_tasks_blocked()
    assert not scene.nursery.child_tasks


#: How the victim's end is told where nothing else was going on.
TOLD = {
    caller_cancelled: Close(1001, "the server is closing"),
    server_cancelled: Close(1001, "the server is closing"),
    shut_down: Close(1012, "the server is closing"),
    cut: Close(1006, "", "network"),
    broken: Close(1006, "", "network"),
    dead: Close(1006, "nothing was heard from the peer", "network"),
    peer_closes: Close(1000, "", "peer"),
    overflow: Close(4008, "slow consumer"),
    program_closes: Close(4002),
    handler_raises: Close(1011, "internal error"),
    task_raises: Close(1011, "internal error"),
    session_raises: Close(1011, "internal error"),
    session_returns: Close(1000),
}


@pytest.mark.parametrize("way", TOLD, ids=lambda function: function.__name__)
async def test_on_disconnect_is_told_the_cause(
    way: Callable[[Scene], Awaitable[None]], autojump_clock: MockClock
) -> None:
    """``on_disconnect`` gets the code, the reason and who ended it."""
    async with staged() as scene:
        await idle(scene)
        await way(scene)
        with trio.fail_after(LIMIT):
            await scene.over.wait()
        assert scene.closes == [TOLD[way]]


async def test_a_violation_is_told_with_its_code(autojump_clock: MockClock) -> None:
    """A violation is closed with 1002 by the server, not by the peer."""
    async with staged() as scene:
        await idle(scene)
        await violation(scene)
        await scene.over.wait()
        assert [(close.code, close.by) for close in scene.closes] == [(1002, "server")]


async def test_the_first_cause_counts(autojump_clock: MockClock) -> None:
    """What happens to a connection that is closing already does not change how it ended."""
    async with staged() as scene:
        await closing(scene)
        for way in (program_closes, overflow, cut):
            await way(scene)
        await scene.over.wait()
        assert scene.closes == [Close(4001, "first")]


def test_the_matrix_is_whole() -> None:
    """Each way and each phase of this module is in the matrix."""
    assert len(MATRIX) == len(ANYWHERE) * len(PHASES) + len(CONNECTED) * (len(PHASES) - len(BEFORE))
    assert {way for way, _ in MATRIX} >= set(TOLD)
