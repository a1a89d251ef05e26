"""The tree of one serve: it comes up and goes down in order, wherever it is cancelled, and leaves nothing."""

from __future__ import annotations

import ssl
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from listeners import MemoryListener
from trio_rooms import (
    AlreadyServing,
    Config,
    Connection,
    HandshakeRequest,
    Identity,
    Limits,
    Manager,
    NotServing,
    Room,
    Server,
    serve_rooms,
)
from trio_rooms.brokers import Deliver, MemoryBroker
from trio_rooms.testing import Closed, HandshakeRefused, TestClient, handshake_bytes, open_client, serve_in_memory

CONFIG = Config(shutdown_timeout=10, close_timeout=2, hook_timeout=3, limits=Limits(outbox_messages=8))


# D5: a cancellation at every step


@attrs.define(eq=False)
class Busy:
    """A program in which something hangs in every place where something can."""

    hooks: dict[str, int] = attrs.field(factory=dict)

    def count(self, name: str) -> None:
        self.hooks[name] = self.hooks.get(name, 0) + 1

    def make_manager(self) -> Manager:
        manager = Manager(config=CONFIG)
        manager.room("lingering", linger=100)

        @manager.authenticate
        async def authenticate(request: HandshakeRequest) -> Identity:
            if request.query.get("state") == "authenticating":
                await trio.sleep_forever()
            return Identity(user=request.query.get("state"))

        @manager.on_connect
        async def connected(conn: Connection) -> None:
            self.count("connect")
            if conn.identity.user == "connecting":
                await trio.sleep_forever()
            (await conn.join("lingering")).room.start_soon(trio.sleep_forever)
            conn.start_soon(trio.sleep_forever)

        @manager.on_disconnect
        async def disconnected(conn: Connection, close: object) -> None:
            self.count("disconnect")
            if conn.identity.user == "disconnecting":
                await trio.sleep_forever()

        @manager.on_join_room
        async def joined(conn: Connection, room: Room) -> None:
            self.count("join")
            if conn.identity.user == "joining":
                await trio.sleep_forever()

        @manager.on_leave_room
        async def left(conn: Connection, room: Room, reason: str) -> None:
            self.count("leave")

        @manager.on_room_open
        async def opened(room: Room) -> None:
            if room.name == "never":
                await trio.sleep_forever()

        @manager.on_room_close
        async def closed(room: Room) -> None:
            self.count("room_close")

        @manager.on("hang")
        async def hang(conn: Connection) -> None:
            await trio.sleep_forever()

        @manager.on("shield")
        async def shield(conn: Connection) -> None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep_forever()

        @manager.on("open")
        async def open_room(conn: Connection) -> None:
            await conn.join("never")

        @manager.on("flood")
        async def flood(conn: Connection) -> None:
            for _ in range(20):
                await conn.send("x")

        @manager.on("close")
        def close(conn: Connection) -> None:
            conn.close(4001)

        return manager


STATES = {
    "authenticating": None,
    "connecting": None,
    "joining": None,
    "disconnecting": None,
    "idle": None,
    "hanging": "hang",
    "shielded": "shield",
    "opening": "open",
    "flooding": "flood",
    "closing": "close",
}


async def be_client(stream: trio.abc.Stream, state: str) -> None:
    """Connect, get into the state and stay there, until the server ends it. A closing handshake is not answered."""
    try:
        client = await TestClient.connect(stream, path=f"/ws?state={state}")
        if (action := STATES[state]) is not None:
            await client.send_action(action, id=1)
        await trio.sleep_forever()
    except (Closed, HandshakeRefused, trio.BrokenResourceError):
        await trio.lowlevel.checkpoint()


async def serve_busily(
    manager: Manager, listener: MemoryListener, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve, with one client for each state, and one whose handshake is not complete."""
    async with trio.open_nursery() as clients:

        async def come() -> None:
            while manager.server is None:  # noqa: ASYNC110 - it may be cancelled on its way up, and nobody tells
                await trio.lowlevel.checkpoint()
            for state in STATES:
                clients.start_soon(be_client, listener.dial(), state)
            await listener.dial().send_all(handshake_bytes()[:30])
            task_status.started(manager.server)

        clients.start_soon(come)
        await manager.serve(listeners=[listener])
        clients.cancel_scope.cancel()


async def cancel_at(step: int, *, shut_down_at: int | None = None) -> tuple[Server | None, Busy, MemoryListener]:
    """Serve, be cancelled after so many checkpoints of somebody else, and return what is left."""
    busy, listener = Busy(), MemoryListener()
    manager = busy.make_manager()
    servers: list[Server] = []
    async with trio.open_nursery() as nursery:
        serving = trio.CancelScope()

        async def serve() -> None:
            with serving:
                await serve_busily(manager, listener)

        nursery.start_soon(serve)
        for i in range(step):
            await trio.lowlevel.checkpoint()
            if not servers and manager.server is not None:
                servers.append(manager.server)
            if i == shut_down_at:
                manager.begin_shutdown()
        cancelled_at = trio.current_time()
        serving.cancel()
    assert trio.current_time() - cancelled_at <= max(CONFIG.close_timeout, CONFIG.hook_timeout)
    assert manager.server is None
    return (servers[0] if servers else None), busy, listener


#: How many checkpoints it takes until all clients are where they stay, generously.
SETTLED = 80


@pytest.mark.parametrize("shut_down_at", [None, 0, SETTLED])
async def test_cancelled_at_every_step(shut_down_at: int | None, autojump_clock: MockClock) -> None:
    """D5: wherever a cancellation strikes serve, coming up, serving or draining, it ends in time and is quiescent."""
    begin = 0 if shut_down_at is None else shut_down_at
    settled = None
    for step in range(begin, begin + SETTLED):
        server, busy, listener = await cancel_at(step, shut_down_at=shut_down_at)
        assert busy.hooks.get("connect", 0) == busy.hooks.get("disconnect", 0)
        assert busy.hooks.get("join", 0) == busy.hooks.get("leave", 0)
        if server is not None:
            server.assert_quiescent()
            assert listener.closed
            settled = server.statistics()
    if shut_down_at is None:
        assert settled is not None
        assert settled.accepted == len(STATES) - 1  # all but the one that authenticates


async def test_cancelled_while_it_drains(autojump_clock: MockClock) -> None:
    """D5: a drain that waits for busy handlers can be cut short at any time, also after its deadline."""
    for tenths in range(0, 130, 7):
        busy, listener = Busy(), MemoryListener()
        manager = busy.make_manager()
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_busily, manager, listener)
            await trio.testing.wait_all_tasks_blocked()
            server.begin_shutdown()
            await trio.sleep(tenths / 10)
            cancelled_at = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - cancelled_at <= max(CONFIG.close_timeout, CONFIG.hook_timeout)
        server.assert_quiescent()
        assert busy.hooks["connect"] == busy.hooks["disconnect"]
        assert busy.hooks["join"] == busy.hooks["leave"]


async def test_a_drain_of_everybody_ends_in_time(autojump_clock: MockClock) -> None:
    """Invariant 8: with something hanging everywhere, serve returns at the deadline of the shutdown, quiescent."""
    busy, listener = Busy(), MemoryListener()
    manager = busy.make_manager()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_busily, manager, listener)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        server.begin_shutdown()
        await server.wait_closed()
        assert trio.current_time() - begun <= CONFIG.shutdown_timeout + CONFIG.close_timeout
        server.assert_quiescent()
    assert busy.hooks["connect"] == busy.hooks["disconnect"]
    assert busy.hooks["join"] == busy.hooks["leave"]
    assert busy.hooks["room_close"] == 1


# Coming up


@attrs.define(eq=False)
class SlowBroker(MemoryBroker):
    """Connects only when told to; writes down when it is connected and when it ends."""

    log: list[str]
    may_connect: trio.Event = attrs.field(factory=trio.Event)
    failure: Exception | None = None
    fails: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        super().__init__()

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.log.append("connecting")
        await self.may_connect.wait()
        async with trio.open_nursery() as nursery:
            await nursery.start(super().run, deliver)
            self.log.append("connected")
            task_status.started()
            try:
                await self.fails.wait()
                raise RuntimeError("the broker is lost")
            finally:
                self.log.append("ended")


async def test_the_broker_is_connected_before_anybody_is_accepted(autojump_clock: MockClock) -> None:
    """Serve does not report that it is up, nor accept, before the broker is connected; and the broker ends last."""
    broker = SlowBroker([])
    manager = Manager(broker=broker)
    listener = MemoryListener()
    manager.on_connect(lambda conn: broker.log.append("on_connect"))
    manager.on_disconnect(lambda conn, close: broker.log.append(f"report {manager.broadcast_to_all(1).final}"))
    async with trio.open_nursery() as nursery:
        early = trio.testing.memory_stream_pair()[0]
        stream = listener.dial()

        async def client() -> None:
            await (await TestClient.connect(stream)).expect_close(1012)
            await stream.aclose()

        nursery.start_soon(client)

        async def connect() -> None:
            await trio.sleep(5)
            broker.may_connect.set()

        nursery.start_soon(connect)
        server = await nursery.start(partial(manager.serve, listeners=[listener]))
        assert trio.current_time() == 5
        await trio.testing.wait_all_tasks_blocked()
        server.begin_shutdown()
        await early.aclose()
    assert broker.log == ["connecting", "connected", "on_connect", "report True", "ended"]


async def test_a_broker_that_cannot_connect_holds_nobody(autojump_clock: MockClock) -> None:
    """D5: while the broker connects, serve can be cancelled."""
    broker = SlowBroker([])
    manager = Manager(broker=broker)
    listener = MemoryListener()
    with trio.move_on_after(3):
        await manager.serve(listeners=[listener])
    assert trio.current_time() == 3
    assert listener.closed
    assert manager.server is None


async def test_a_broker_that_fails_ends_serve(autojump_clock: MockClock) -> None:
    """What a broker raises comes out of serve; clients get a close frame and hooks run."""
    broker = SlowBroker([])
    broker.may_connect.set()
    manager = Manager(broker=broker)
    listener = MemoryListener()
    manager.on_disconnect(lambda conn, close: broker.log.append("on_disconnect"))
    servers = []
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="lost"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            servers.append(await nursery.start(partial(manager.serve, listeners=[listener])))
            client = await TestClient.connect(listener.dial())

            async def read() -> None:
                with trio.CancelScope(shield=True):
                    broker.log.append(f"closed {(await client.expect_close()).code}")
                    await client.aclose()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            broker.fails.set()
    assert sorted(broker.log) == ["closed 1001", "connected", "connecting", "ended", "on_disconnect"]
    servers[0].assert_quiescent()
    assert manager.server is None


async def test_a_broker_that_fails_at_the_start(autojump_clock: MockClock) -> None:
    """A broker that raises before it is connected: serve raises that, and its listeners are closed."""

    class NoBroker(MemoryBroker):
        async def run(  # noqa: ASYNC128 - it never gets that far
            self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            await trio.sleep(1)
            raise OSError("no route")

    listener = MemoryListener()
    manager = Manager(broker=NoBroker())
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no route"), flatten_subgroups=True):
        await manager.serve(listeners=[listener])
    assert listener.closed


async def test_a_listener_that_fails_ends_serve(autojump_clock: MockClock) -> None:
    """What a listener raises comes out of serve; clients get a close frame first."""
    manager = Manager()
    listeners = [MemoryListener(), MemoryListener()]
    seen: list[int] = []
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no more"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(manager.serve, listeners=listeners))
            client = await TestClient.connect(listeners[0].dial())

            async def read() -> None:
                with trio.CancelScope(shield=True):
                    seen.append((await client.expect_close()).code)
                    await client.aclose()

            nursery.start_soon(read)
            listeners[1].fail(OSError("no more"))
    assert seen == [1001]
    assert all(listener.closed for listener in listeners)


@pytest.mark.parametrize("origins", ["https://app.example.com", ["app.example.com"], [""]])
async def test_wrong_origins_are_refused_at_once(origins: object) -> None:
    """A pattern of ``allowed_origins`` that can match nothing is an error of serve, before it listens."""
    listener = MemoryListener()
    with pytest.raises(ValueError, match="origin"):
        await Manager().serve(listeners=[listener], allowed_origins=origins)  # type: ignore[arg-type]


async def test_a_taken_port() -> None:
    """Serve raises OSError where it cannot listen, and can be tried again."""
    manager = Manager()
    async with serve_rooms(Manager()) as other:
        with pytest.raises(OSError, match="in use"):
            await manager.serve(port=other.port)
    async with serve_rooms(manager):
        pass


# Being there


async def test_addresses() -> None:
    """``addresses``, ``port`` and ``url`` tell where a server listens; port 0 is chosen by the system."""
    async with serve_rooms(Manager(), path="/chat") as server:
        assert server.addresses == (("127.0.0.1", server.port),)
        assert server.port > 0
        assert server.url == f"ws://127.0.0.1:{server.port}/chat"
        async with trio.open_nursery() as nursery:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            client = await TestClient.connect(stream, path="/chat", host=f"127.0.0.1:{server.port}")
            nursery.start_soon(client.aclose)
    assert server.url.endswith("/chat")  # still, when it is over


async def test_the_block_passes_its_arguments_on() -> None:
    """Host, port and origins of ``serve_rooms`` are those of serve."""
    origin = "https://app.example.com"
    async with serve_rooms(Manager(), host="0.0.0.0", allowed_origins=[origin]) as server:
        assert server.addresses == (("0.0.0.0", server.port),)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await (await TestClient.connect(stream, headers=[("Origin", origin)])).aclose()
        with pytest.RaisesGroup(OSError):
            async with serve_rooms(Manager(), port=server.port):
                pass


async def test_url_of_ipv6() -> None:
    """The host of an IPv6 listener stands in brackets; without a path there is one nevertheless."""
    try:
        listeners = await trio.open_tcp_listeners(0, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    async with serve_rooms(Manager(), listeners=listeners, path=None) as server:
        assert server.url == f"ws://[::1]:{server.port}/"


async def test_two_listeners() -> None:
    """A caller's own listeners are all served, and closed at the end."""
    listeners = [
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
    ]
    async with serve_rooms(Manager(), listeners=listeners) as server:
        assert server.addresses == tuple(listener.socket.getsockname() for listener in listeners)
        for _, port in server.addresses:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await (await TestClient.connect(stream)).aclose()
    assert all(listener.socket.fileno() == -1 for listener in listeners)
    assert server.statistics().accepted == 2


async def test_without_listeners() -> None:
    """``listeners=[]`` serves what is handed over only: there is no port and no URL to tell."""
    async with serve_rooms(Manager(), listeners=[]) as server:
        assert server.addresses == ()
        assert repr(server) == "<Server without listeners>"
        with pytest.raises(ValueError, match="no listener"):
            server.port  # noqa: B018 - it raises
        with pytest.raises(ValueError, match="no listener"):
            server.url  # noqa: B018 - it raises
    async with serve_rooms(Manager()) as other:
        assert str(other.port) in repr(other)


async def test_draining_is_told(autojump_clock: MockClock) -> None:
    """``server.draining`` turns with the decision, ``wait_closed`` returns with the end."""
    manager = Manager()
    async with serve_rooms(manager, listeners=[]) as server:
        assert not server.draining
        server.begin_shutdown()
        assert server.draining
        await server.wait_closed()
        server.assert_quiescent()
        assert manager.server is None


# What assert_quiescent finds


async def test_assert_quiescent_names_what_is_left(autojump_clock: MockClock) -> None:
    """Invariant 8: while something lives, ``assert_quiescent`` says what: connection, user, room, task, serve."""
    manager = Manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user="ada")

    async def nap() -> None:
        await trio.sleep_forever()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        (await conn.join("lobby")).room.start_soon(nap)

    async with serve_in_memory(manager) as memory, open_client(manager):
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(AssertionError) as caught:
            memory.server.assert_quiescent()
        for name in ("<Connection", "user 'ada'", "'lobby'", "task ", "1 places at the door", "serve itself"):
            assert name in str(caught.value)


async def test_assert_quiescent_checks_the_books(autojump_clock: MockClock) -> None:
    """Invariant 6: a message that was taken in and is accounted for nowhere is named."""
    async with serve_rooms(Manager(), listeners=[]) as server:
        pass
    server.assert_quiescent()
    server._node.counters.enqueued += 2
    with pytest.raises(AssertionError, match="2 messages"):
        server.assert_quiescent()


async def test_a_closing_room_is_left(autojump_clock: MockClock) -> None:
    """A room whose ``on_room_close`` has not ended is named, too."""
    manager = Manager()

    @manager.on_room_close
    async def closed(room: Room) -> None:
        await trio.sleep(1)

    @manager.on("visit")
    async def visit(conn: Connection) -> None:
        async with conn.joined("lobby"):
            pass

    async with serve_in_memory(manager) as memory, open_client(manager) as client:
        await client.request("visit")
        with pytest.raises(AssertionError, match=r"closing room .*lobby"):
            memory.server.assert_quiescent()


# Twice


async def test_serving_twice_at_once(autojump_clock: MockClock) -> None:
    """One manager is served once at a time; the second serve raises, the first goes on."""
    manager = Manager()
    manager.handle_message("echo", lambda conn, data: data.data)
    async with serve_in_memory(manager):
        with pytest.raises(AlreadyServing):
            await manager.serve(listeners=[])
        async with open_client(manager) as client:
            assert await client.request("echo", 1) == 1


async def test_serving_again_begins_anew(autojump_clock: MockClock) -> None:
    """After serve the manager can be served again, with handlers added meanwhile and nothing left of the first time."""
    manager = Manager()

    @manager.on("join")
    async def join(conn: Connection) -> list[str]:
        room = (await conn.join("lobby")).room
        room.metadata.setdefault("seen", []).append(conn.id)
        return list(room.metadata["seen"])

    for _ in range(3):
        async with open_client(manager) as client:
            assert len(await client.request("join")) == 1
            server = manager.server
            assert server is not None
            assert server.statistics().accepted == 1
        assert manager.rooms() == []
        assert server.statistics().accepted == 1
        server.assert_quiescent()
    manager.on("later")(lambda conn: None)


async def test_nothing_gets_in_after_the_end(autojump_clock: MockClock) -> None:
    """When all connections are over, nothing is let in any more while rooms and broker end."""
    manager = Manager()
    ending = trio.Event()

    @manager.on_room_close
    async def closed(room: Room) -> None:
        ending.set()
        await trio.sleep(1)

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await conn.join("lobby")

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[]) as server:
        nursery.start_soon(manager.handle_connection, ours)
        client = await TestClient.connect(theirs)
        server.begin_shutdown()
        await client.expect_close(1012)
        await client.aclose()
        await ending.wait()
        await trio.testing.wait_all_tasks_blocked()
        late, _ = trio.testing.memory_stream_pair()
        with pytest.raises(NotServing):
            await manager.handle_connection(late)
    server.assert_quiescent()


async def test_tls() -> None:
    """A caller's TLS listener has an address like any other."""
    plain = await trio.open_tcp_listeners(0, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with serve_rooms(Manager(), listeners=[trio.SSLListener(plain[0], context)]) as server:
        assert server.port == plain[0].socket.getsockname()[1]
