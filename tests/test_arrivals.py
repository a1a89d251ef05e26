"""The door: over real sockets, from a caller's own server, when it is full, and that each arrival fails alone."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
from trio.testing import MockClock

from doors import ask, callers_server, connect, dial, empty, make_manager, reset
from listeners import MemoryListener, needs_dev_fd, open_descriptors
from trio_rooms import (
    Config,
    Connection,
    HandshakeRequest,
    Identity,
    Limits,
    Refuse,
    UsageError,
    serve_rooms,
)
from trio_rooms._arrivals import TransportName
from trio_rooms._wire.peer import remote_address
from trio_rooms.testing import FaultyStream, HandshakeRefused, TestClient, handshake_bytes, open_client, serve_in_memory

# H2, over real sockets


@needs_dev_fd
@pytest.mark.parametrize("way", ["rst", "fin"])
@pytest.mark.parametrize("sent", ["request", "half", "nothing"])
async def test_hit_and_run(way: str, sent: str, caplog: pytest.LogCaptureFixture) -> None:
    """H2: 300 times a request, then RST or FIN: no task and no descriptor is left, no error logged, others served."""
    manager = make_manager()
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with serve_rooms(manager) as server:
        client = await connect(server)
        before = open_descriptors()
        request = handshake_bytes(host=f"127.0.0.1:{server.port}")
        for i in range(300):
            stream = await dial(server)
            await stream.send_all({"request": request, "half": request[:50], "nothing": b""}[sent])
            if i % 3 == 0:  # let it get further, sometimes
                await trio.testing.wait_all_tasks_blocked()
            if way == "rst":
                reset(stream)
            else:
                await stream.aclose()
        await empty(server, but=1)
        assert open_descriptors() == before
        assert await client.request("echo", "unharmed") == "unharmed"
        assert server.statistics().connections == 1
        await client.close()
        await client.aclose()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    server.assert_quiescent()


@needs_dev_fd
@pytest.mark.time_limit(80)
async def test_connect_and_close(caplog: pytest.LogCaptureFixture) -> None:
    """X3: 10,000 connections closed before a request leave no descriptor."""
    async with serve_rooms(make_manager()) as server:
        await trio.testing.wait_all_tasks_blocked()
        before = open_descriptors()
        for _ in range(10_000):
            stream = await dial(server)
            await stream.aclose()
        await empty(server)
        assert open_descriptors() == before
        assert server.statistics().handshakes_rejected == {"hangup": 10_000}
    assert not caplog.records


@needs_dev_fd
async def test_half_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    """X2: of many half handshakes the newest stay, within the bound, and a proper client gets in at once."""
    config = Config(limits=Limits(max_pending_handshakes=50))
    async with serve_rooms(make_manager(config)) as server:
        await trio.testing.wait_all_tasks_blocked()
        before = open_descriptors()
        streams = []
        for _ in range(200):
            streams.append(await dial(server))
            await streams[-1].send_all(b"GET /ws HTTP/1.1\r\n")
        client = await connect(server)
        assert await client.request("echo", 1) == 1
        statistics = server.statistics()
        assert statistics.pending_handshakes <= 50
        assert statistics.handshakes_rejected == {"pushed_out": 200 - statistics.pending_handshakes}
        for stream in streams:
            await stream.aclose()
        await client.close()
        await client.aclose()
        await empty(server)
        assert open_descriptors() == before
    assert not caplog.records


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors to lower")
async def test_out_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """X1: with no descriptor left clients are turned away, with few words; the server recovers when some are free."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serve_rooms(make_manager()) as server:
        client = await connect(server)
        streams = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 20, hard))
        try:
            for _ in range(200):
                try:
                    with trio.move_on_after(0.01):
                        streams.append(await dial(server))
                except OSError:
                    await trio.lowlevel.checkpoint()
            assert await client.request("echo", "still") == "still"
            for stream in streams:
                await stream.aclose()
            with trio.fail_after(1):
                late = await connect(server)
                assert await late.request("echo", "again") == "again"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in (client, late):
            await one.close()
            await one.aclose()
    assert len(caplog.records) <= 2


# H5, over real sockets


async def test_what_is_no_websocket() -> None:
    """H5: pages with GET and HEAD, 404, 405, 426, 400, and silence for a TLS hello, over a real socket."""
    manager = make_manager()
    manager.page("/health", b"fine", content_type="text/plain")
    async with serve_rooms(manager) as server:
        head = b" HTTP/1.1\r\nHost: x\r\n\r\n"
        page = await ask(server, b"GET /health?x=1" + head)
        assert page.startswith(b"HTTP/1.1 200 ")
        assert page.endswith(b"\r\n\r\nfine")
        answer = await ask(server, b"HEAD /health" + head)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Length: 4\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
        for request, status in [
            (b"POST /health", 405),
            (b"GET /", 404),
            (b"GET /ws", 426),
            (b"POST /ws", 426),
            (b"PRI *", 404),
        ]:
            assert (await ask(server, request + head)).startswith(b"HTTP/1.1 %d " % status)
        assert (await ask(server, b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await ask(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert await ask(server, b"\x16\x03\x01\x02\x00") == b""
        assert (await ask(server, handshake_bytes(path="/elsewhere"))).startswith(b"HTTP/1.1 404 ")
        await empty(server)
    server.assert_quiescent()


# Limits at the door


async def test_full(autojump_clock: MockClock) -> None:
    """L1: ``max_connections``: one more gets 503 FULL without being read, and a freed place is given again."""
    async with serve_in_memory(make_manager(Config(limits=Limits(max_connections=2)))) as memory:
        clients = [await memory.connect() for _ in range(2)]
        with pytest.raises(HandshakeRefused) as refused:
            await memory.connect()
        assert (refused.value.status, refused.value.code) == (503, "FULL")
        assert refused.value.headers["retry-after"] == "1"
        await clients[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        await memory.connect()
    assert memory.server.statistics().handshakes_rejected == {"full": 1}


async def test_a_flood_in_front_of_a_full_house(autojump_clock: MockClock) -> None:
    """Invariant 5: of those for whom there is no place few are told at a time; the others are closed at once."""
    async with serve_in_memory(make_manager(Config(limits=Limits(max_connections=1)))) as memory:
        client = await memory.connect()
        streams = [memory.open_stream() for _ in range(200)]
        await trio.testing.wait_all_tasks_blocked()
        assert memory.server._arrivals.open == 1 + 32
        answers = [bytes(await stream.receive_some())[:12] for stream in streams]
        assert sorted(answers) == [b""] * 168 + [b"HTTP/1.1 503"] * 32
        assert memory.server.statistics().handshakes_rejected == {"full": 200}
        assert await client.request("echo", 1) == 1
        await trio.sleep(3)
        assert memory.server._arrivals.open == 1
        for stream in streams:
            await stream.aclose()
        with pytest.raises(HandshakeRefused):
            await memory.connect()


async def test_pending_handshakes(autojump_clock: MockClock) -> None:
    """L1: ``max_pending_handshakes``: the oldest incomplete one is dropped, counted, and no complete one is."""
    async with serve_in_memory(make_manager(Config(limits=Limits(max_pending_handshakes=2)))) as memory:
        client = await memory.connect()
        streams = [memory.open_stream()]
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked()
            streams.append(memory.open_stream())
        await trio.testing.wait_all_tasks_blocked()
        assert await streams[0].receive_some() == b""
        assert memory.server.statistics().pending_handshakes == 2
        assert await client.request("echo", 1) == 1
        assert memory.server.statistics().handshakes_rejected == {"pushed_out": 1}
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_the_handshake_has_one_time(transport: TransportName, autojump_clock: MockClock) -> None:
    """H3: ``handshake_timeout`` counts from accept to the 101 that has left, in total."""
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        streams[0].stall_sending(10)
        return streams[-1]

    manager = make_manager(Config(handshake_timeout=3))

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        await trio.sleep(2)
        return Identity()

    async with serve_in_memory(manager, transport=transport) as memory:
        stream = memory.open_stream(wrap)
        await stream.send_all(handshake_bytes())
        await trio.sleep(2.9)
        assert memory.server._arrivals.open == 1
        await trio.sleep(0.2)
        assert memory.server._arrivals.open == 0
        assert memory.server.statistics().handshakes_rejected == {"hangup": 1}
        assert memory.server.statistics().accepted == 0


async def test_timeouts_of_the_request(autojump_clock: MockClock) -> None:
    """H3: nothing and half a request are answered 408 at the time-out."""
    async with serve_in_memory(make_manager(Config(handshake_timeout=3))) as memory:
        for sent in (b"", b"GET /ws"):
            stream = memory.open_stream()
            if sent:
                await stream.send_all(sent)
            began = trio.current_time()
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert trio.current_time() - began == 3
            await stream.aclose()


# I1: what goes wrong for one goes wrong for nobody else


async def stray_cancelled() -> trio.Cancelled:
    """A Cancelled whose scope is over."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept = exc
            raise
    return kept


async def raise_one(kind: str) -> None:
    """What user code may raise that is not an answer to the client."""
    if kind == "exception":
        raise ValueError("secret")
    elif kind == "group":
        raise ExceptionGroup("secret", [ValueError(), RecursionError()])
    elif kind == "cancelled":
        raise await stray_cancelled()
    elif kind == "both":
        raise BaseExceptionGroup("secret", [ValueError(), await stray_cancelled()])
    elif kind == "memory":
        raise MemoryError
    elif kind == "system":
        raise OSError("secret")
    raise AssertionError(kind)


KINDS = ["exception", "group", "cancelled", "both", "memory", "system"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["authenticate", "on_connect", "middleware", "task", "session", "on_disconnect"])
async def test_only_the_culprit(
    place: str, kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """I1, X4: whatever the program raises for one connection ends that one; another client and the door live."""
    manager = make_manager()
    listener = MemoryListener()
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))

    async def fail(where: str, user: str | None) -> None:
        if where == place and user == "culprit":
            await raise_one(kind)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        user = request.query["user"]
        await fail("authenticate", user)
        return Identity(user=user)

    @manager.use_connection
    async def around(conn: Connection, call_next: object) -> None:
        await fail("middleware", conn.identity.user)
        await call_next(conn)  # type: ignore[operator]

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await fail("on_connect", conn.identity.user)
        conn.start_soon(fail, "task", conn.identity.user)

    @manager.session
    async def session(conn: Connection) -> None:
        await fail("session", conn.identity.user)
        while True:
            await conn.read_json()

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: object) -> None:
        await fail("on_disconnect", conn.identity.user)

    async with serve_rooms(manager, listeners=[listener]) as server:
        innocent = await TestClient.connect(listener.dial(), path="/ws?user=innocent")
        stream = listener.dial()
        await stream.send_all(handshake_bytes(path="/ws?user=culprit"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().connections == 1
        assert await innocent.request("echo", "unharmed") == "unharmed"
        newcomer = await TestClient.connect(listener.dial(), path="/ws?user=newcomer")
        assert await newcomer.request("echo", "let in") == "let in"
        assert errors
        for client in (innocent, newcomer):
            await client.aclose()
    server.assert_quiescent()
    assert len(caplog.records) == server.statistics().handler_errors == len(errors)


@pytest.mark.parametrize(("place", "told"), [("authenticate", 500), ("on_connect", 1011), ("task", 1011)])
async def test_no_detail_is_told(place: str, told: int, autojump_clock: MockClock) -> None:
    """Invariant 9: a client learns a status or code and a fixed text, nothing of the exception."""
    manager = make_manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        if place == "authenticate":
            await raise_one("exception")
        return Identity()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        if place == "on_connect":
            await raise_one("exception")
        conn.start_soon(raise_one, "exception" if place == "task" else "nothing")

    async with serve_in_memory(manager) as memory:
        if place == "authenticate":
            with pytest.raises(HandshakeRefused) as refused:
                await memory.connect()
            assert refused.value.status == told
            assert b"secret" not in refused.value.body
        else:
            closed = await (await memory.connect()).expect_close(told)
            assert closed.reason == "internal error"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_raises_anything(
    kind: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """I1: a caller's stream that raises what no stream should is reported, and closed; nobody else notices."""

    class Odd(FaultyStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await raise_one("exception" if kind == "system" else kind)
            return b""

    odd: list[Odd] = []

    def wrap(stream: trio.abc.Stream) -> Odd:
        odd.append(Odd(stream))
        return odd[-1]

    async with serve_in_memory(make_manager()) as memory:
        client = await memory.connect()
        stream = memory.open_stream(wrap)
        assert await stream.receive_some() == b""
        assert await client.request("echo", 1) == 1
        assert memory.server.statistics().handler_errors == 1
    (record,) = caplog.records
    assert record.getMessage() == "a connection failed: ExceptionGroup"


async def test_who_it_is(autojump_clock: MockClock) -> None:
    """``remote_address`` knows TCP, with TLS or without, and nothing else; a peer that is gone has none."""
    async with serve_rooms(make_manager()) as server:
        client = await dial(server)
        assert remote_address(client) == ("127.0.0.1", server.port)
        import ssl

        assert remote_address(trio.SSLStream(client, ssl.create_default_context(), server_hostname="x")) == (
            "127.0.0.1",
            server.port,
        )
        await client.aclose()
        assert remote_address(client) is None
    one, other = trio.testing.memory_stream_pair()
    assert remote_address(one) is None
    await one.aclose()
    await other.aclose()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_unix_sockets_have_no_address() -> None:
    """The peer of a Unix socket has no host and port."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    assert remote_address(ours) is None
    await ours.aclose()
    await theirs.aclose()


# From a caller's own trio-websocket server


@asynccontextmanager
async def websocket(port: int, **options: Any) -> AsyncGenerator[TestClient, None]:
    """A client of the program's own server."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    client = await TestClient.connect(stream, host=f"127.0.0.1:{port}", **options)
    async with client:
        yield client


async def test_a_callers_server() -> None:
    """A request of the caller's own trio-websocket server: replies, rooms, what the handshake said, both formats."""
    manager = make_manager()
    seen: list[Connection] = []

    @manager.on("join")
    async def join(conn: Connection, data: str) -> list[str]:
        seen.append(conn)
        await conn.join(data)
        return list(conn.rooms)

    async with (
        callers_server(manager) as port,
        websocket(port, path="/any/where?a=1", headers=[("X-One", "1"), ("Cookie", "c=2")]) as ws,
        websocket(port, subprotocol=["other", "trio-rooms.v1.json"]) as v1,
    ):
        assert await ws.request("echo", "hi") == "hi"
        assert await ws.request("join", "lobby") == ["lobby"]
        conn = seen[0]
        assert (conn.path, dict(conn.query), conn.headers["x-one"]) == ("/any/where", {"a": "1"}, "1")
        assert (dict(conn.cookies), conn.remote, conn.subprotocol) == ({"c": "2"}, "127.0.0.1", None)
        assert v1.subprotocol == "trio-rooms.v1.json"
        assert (await v1.receive_json())["action"] == "$welcome"
        assert await v1.request("join", "lobby") == ["lobby"]
        manager.broadcast_to_room("lobby", {"n": 1})
        assert await ws.receive_json() == {"n": 1}
        assert await v1.receive_json() == {"room": "lobby", "data": {"n": 1}}


@pytest.mark.parametrize(("by", "code"), [("program", 4001), ("peer", 4002), ("shutdown", 1012), ("handler", 1011)])
async def test_how_it_ends_on_a_callers_server(by: str, code: int) -> None:
    """Close codes arrive in both directions, and ``on_disconnect`` hears the same."""
    manager = make_manager()
    closes: list[tuple[str, int]] = []
    manager.on_disconnect(lambda conn, close: closes.append((close.by, close.code)))
    manager.on("close")(lambda conn: conn.close(4001, "enough"))

    @manager.on("crash")
    async def crash(conn: Connection) -> None:
        raise ValueError

    async with callers_server(manager) as port, websocket(port) as ws:
        await ws.request("echo", 1)
        if by == "program":
            await ws.send_action("close")
        elif by == "handler":
            await ws.send_action("crash")
        elif by == "shutdown":
            manager.begin_shutdown()
        if by == "peer":
            assert (await ws.close(code)).code == code
        else:
            await ws.expect_close(code, skip_messages=True)
    assert closes == [("peer" if by == "peer" else "server", code)]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (("Origin", "https://evil.example.com"), 403),
        (("Origin", "null"), 403),
        (("Authorization", "nobody"), 401),
        (("Authorization", "banned"), 410),
        (("Authorization", "crash"), 500),
    ],
)
async def test_refusals_on_a_callers_server(header: tuple[str, str], status: int) -> None:
    """H6: origin and ``authenticate`` decide over a caller's request as over any other, with the same answers."""
    manager = make_manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity | None:
        word = request.headers.get("authorization")
        if word == "crash":
            raise ValueError("secret")
        if word == "banned":
            raise Refuse(410, "BANNED")
        return None if word == "nobody" else Identity(user="ada")

    async with callers_server(manager) as port:
        with pytest.raises(HandshakeRefused) as refused:
            async with websocket(port, headers=[header]):
                raise AssertionError("let in")
        assert refused.value.status == status
        assert refused.value.code
        assert b"secret" not in refused.value.body
        async with websocket(port, headers=[("Origin", f"http://127.0.0.1:{port}")]) as ws:
            assert await ws.request("echo", 1) == 1


@pytest.mark.parametrize("where", ["authenticate", "the 101"])
async def test_timeouts_on_a_callers_server(where: str, autojump_clock: MockClock) -> None:
    """H8: a caller's request has ``handshake_timeout`` from being handed over to the 101 that has left, in total."""
    manager = make_manager(Config(handshake_timeout=3))
    ours, theirs = trio.testing.memory_stream_pair()
    faults = FaultyStream(ours)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        if where == "authenticate":
            await trio.sleep(4)
        faults.stall_sending(10)
        return Identity()

    async with serve_rooms(manager, listeners=[]) as server, trio.open_nursery() as nursery:
        await theirs.send_all(handshake_bytes())
        request = await trio_websocket.wrap_server_stream(nursery, faults)
        await manager.handle_connection(request)
        assert trio.current_time() == 3
        assert server._arrivals.open == 0
        if where == "authenticate":
            assert (await theirs.receive_some()).startswith(b"HTTP/1.1 503 ")
            assert server.statistics().handshakes_rejected == {"authenticate_timeout": 1}
        else:
            assert server.statistics().handshakes_rejected == {"hangup": 1}
        await theirs.aclose()
        nursery.cancel_scope.cancel()


async def test_a_full_house_on_a_callers_server() -> None:
    """L1: ``max_connections`` refuses a caller's request with 503, too."""
    manager = make_manager(Config(limits=Limits(max_connections=1)))
    async with callers_server(manager) as port, websocket(port) as ws:
        assert await ws.request("echo", 1) == 1
        with pytest.raises(HandshakeRefused) as refused:
            async with websocket(port):
                raise AssertionError("let in")
        assert (refused.value.status, refused.value.code) == (503, "FULL")
        assert refused.value.headers["retry-after"] == "1"


async def test_same_origin_on_every_way_in(autojump_clock: MockClock) -> None:
    """H6: serve and ``handle_connection`` judge an Origin alike."""
    for origin, allowed in [
        ("http://testserver", True),
        ("https://testserver", True),
        ("http://testserver:81", False),
        ("http://evil.example.com", False),
        ("null", False),
    ]:
        listener = MemoryListener()
        async with serve_rooms(make_manager(), listeners=[listener]) as server:
            ours, theirs = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server._arrivals.handle, ours)
                for stream in (listener.dial(), theirs):
                    if allowed:
                        client = await TestClient.connect(stream, headers=[("Origin", origin)])
                        await client.aclose()
                    else:
                        with pytest.raises(HandshakeRefused) as refused:
                            await TestClient.connect(stream, headers=[("Origin", origin)])
                        assert refused.value.status == 403


async def test_neither_stream_nor_request(autojump_clock: MockClock) -> None:
    """``handle_connection`` says what it takes."""
    manager = make_manager()
    async with open_client(manager):
        with pytest.raises(UsageError, match="takes a trio stream"):
            await manager.handle_connection("a string")  # type: ignore[arg-type]
