"""How many connections one address may have: at accept, behind proxies, at every end, and in a flood."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
from trio.testing import MockClock

from certificates import certificates
from listeners import needs_dev_fd, open_descriptors
from trio_rooms import Close, Config, Connection, HandshakeRequest, Identity, Limits, Manager, Server, serve_rooms
from trio_rooms._admission import Admission, Ticket
from trio_rooms._per_address import PerAddress
from trio_rooms._wire.plain import PlainStream
from trio_rooms.testing import HandshakeRefused, TestClient, handshake_bytes, serve_in_memory


def config(limit: int | None, *trusted: str, **limits: Any) -> Config:
    return Config(
        trusted_proxies=trusted, handshake_timeout=3, limits=Limits(max_connections_per_address=limit, **limits)
    )


def make_manager(config: Config) -> Manager:
    manager = Manager(config=config)
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("remote", lambda conn, message: conn.remote)

    @manager.on("crash")
    async def crash(conn: Connection) -> None:
        raise ValueError

    @manager.on("leave")
    def leave(conn: Connection) -> None:
        conn.close(4001)

    return manager


class Street:
    """A server, and clients that come from any address."""

    def __init__(self, manager: Manager, server: Server, nursery: trio.Nursery) -> None:
        self.manager = manager
        self.server = server
        self._nursery = nursery

    def dial(self, address: str) -> trio.SocketStream:
        """A new connection from an address."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        stream = PlainStream(ours, (address, 4711))
        self._nursery.start_soon(self.manager.handle_connection, stream)
        return trio.SocketStream(trio.socket.from_stdlib_socket(theirs))

    async def connect(self, address: str, *forwarded: str, **options: Any) -> TestClient:
        """A client from an address, for whom a proxy there may have written something."""
        headers = [("X-Forwarded-For", line) for line in forwarded]
        return await TestClient.connect(self.dial(address), headers=headers, **options)

    async def is_refused(self, address: str, *forwarded: str) -> bool:
        """Whether there is no place for an address. One that gets in leaves again."""
        try:
            client = await self.connect(address, *forwarded)
        except HandshakeRefused as refused:
            answer = (refused.status, refused.code, refused.headers["retry-after"])
            return answer == (503, "TOO_MANY_CONNECTIONS", "1")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        return False

    @property
    def counted(self) -> PerAddress:
        assert self.server._arrivals._per_address is not None
        return self.server._arrivals._per_address

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.server.statistics().handshakes_rejected)


@asynccontextmanager
async def street(manager: Manager, **options: Any) -> AsyncGenerator[Street]:
    """Serve; at the end no address is known any more."""
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[], **options) as server:
        yield Street(manager, server, nursery)
    server.assert_quiescent()
    if (counted := server._arrivals._per_address) is not None:
        assert len(counted) == len(counted._addresses) == 0


# What is counted


def make_ticket() -> Ticket:
    ticket = Admission(max_connections=1, max_pending_handshakes=1).admit(trio.CancelScope())
    assert ticket is not None
    return ticket


def test_take_and_release() -> None:
    """A ticket counts once, under its first address, until it is released, once."""
    counted = PerAddress(2)
    first, second, third = (make_ticket() for _ in range(3))
    assert counted.take(first, "10.0.0.1")
    assert counted.take(first, "10.0.0.1")
    assert counted.take(first, "10.0.0.2")
    assert counted.take(second, "10.0.0.1")
    assert counted.is_full("10.0.0.1")
    assert not counted.take(third, "10.0.0.1")
    assert not counted.is_full("10.0.0.2")
    counted.release(third)
    assert counted.is_full("10.0.0.1")
    counted.release(first)
    counted.release(first)
    assert counted.take(third, "10.0.0.1")
    assert not counted.take(first, "10.0.0.1")
    for ticket in (second, third):
        counted.release(ticket)
    assert len(counted) == 0


def test_asking_leaves_nothing_behind() -> None:
    """Invariant 5: addresses that were asked about or refused are not kept."""
    counted = PerAddress(1)
    assert counted.take(make_ticket(), "10.0.0.1")
    for i in range(100):
        assert not counted.is_full(f"10.0.1.{i}")
        assert not counted.take(make_ticket(), "10.0.0.1")
    assert len(counted) == len(counted._addresses) == 1


def test_no_address_is_never_held_back() -> None:
    """Who has no address is not counted."""
    counted = PerAddress(1)
    assert not counted.is_full(None)
    assert all(counted.take(make_ticket(), None) for _ in range(3))
    assert len(counted) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("odd", "odd", True),
        ("odd", "even", False),
    ],
)
def test_what_is_one_address(one: str, other: str, same: bool) -> None:
    """Of IPv6 a /64 is one address; IPv4 is the same within IPv6."""
    counted = PerAddress(1)
    assert counted.take(make_ticket(), one)
    assert counted.is_full(other) == same


# At accept


@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_one_more(transport: str, autojump_clock: MockClock) -> None:
    """L1: ``max_connections_per_address``: one more is refused, other addresses are not, and a freed place is given."""
    async with street(make_manager(config(2)), transport=transport) as place:
        clients = [await place.connect("10.0.0.1") for _ in range(2)]
        assert await place.is_refused("10.0.0.1")
        assert not await place.is_refused("10.0.0.2")
        assert place.rejected == {"address_full": 1}
        await clients[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not await place.is_refused("10.0.0.1")
        await clients[1].aclose()


async def test_off_by_default(autojump_clock: MockClock) -> None:
    """By default nothing is counted: all clients may come from one address."""
    assert Limits().max_connections_per_address is None
    async with street(make_manager(Config())) as place:
        clients = [await place.connect("10.0.0.1") for _ in range(20)]
        assert place.server._arrivals._per_address is None
        for client in clients:
            await client.aclose()


async def test_nothing_is_believed_by_default(autojump_clock: MockClock) -> None:
    """A2: without trusted proxies a header changes neither the address nor what is counted."""
    async with street(make_manager(config(1))) as place:
        client = await place.connect("10.0.0.1", "6.6.6.6")
        assert await client.request("remote") == "10.0.0.1"
        assert await place.is_refused("10.0.0.1", "7.7.7.7")
        await client.aclose()


async def test_half_handshakes_count(autojump_clock: MockClock) -> None:
    """X2: who has sent no request yet has a place already, and is pushed out by nobody from elsewhere who has none."""
    async with street(make_manager(config(2))) as place:
        silent = [place.dial("10.0.0.1") for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        assert await place.is_refused("10.0.0.1")
        assert place.server.statistics().pending_handshakes == 2
        await trio.sleep(3)
        for stream in silent:
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(place.counted) == 0
        assert not await place.is_refused("10.0.0.1")


async def test_refused_ones_push_nobody_out(autojump_clock: MockClock) -> None:
    """X2: an address that is full cannot drive out the handshakes of others."""
    async with street(make_manager(config(1, max_pending_handshakes=2))) as place:
        innocent = place.dial("10.0.0.2")
        await trio.testing.wait_all_tasks_blocked()
        flood = [place.dial("10.0.0.1") for _ in range(50)]
        await trio.testing.wait_all_tasks_blocked()
        assert place.rejected == {"address_full": 49}
        client = await TestClient.connect(innocent)
        assert await client.request("echo", 1) == 1
        for stream in (client, *flood):
            await stream.aclose()


ENDS = ["peer closes", "peer vanishes", "server closes", "crash", "drain", "refused", "page", "garbage", "pushed out"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_every_end_releases(end: str, transport: str, autojump_clock: MockClock) -> None:
    """Invariant 2: however a connection ends, its address has its place back, once."""
    manager = make_manager(config(1, max_pending_handshakes=1))
    manager.page("/health", b"fine", content_type="text/plain")
    async with street(manager, transport=transport) as place:
        stream = place.dial("10.0.0.1")
        other: trio.SocketStream | None = None
        if end in ("refused", "page", "garbage"):
            path = {"refused": "/elsewhere", "page": "/health", "garbage": "no path"}[end]
            await stream.send_all(handshake_bytes(path=path))
            while await stream.receive_some():
                pass
        elif end == "pushed out":
            await trio.testing.wait_all_tasks_blocked()
            other = place.dial("10.0.0.2")
            assert await stream.receive_some() == b""
        else:
            client = await TestClient.connect(stream)
            assert await place.is_refused("10.0.0.1")
            if end == "peer closes":
                await client.close()
            elif end == "server closes":
                await client.send_action("leave")
                await client.expect_close(4001)
            elif end == "crash":
                await client.send_action("crash")
                await client.expect_close(1011, skip_messages=True)
            elif end == "drain":
                place.server.begin_shutdown()
                await client.expect_close(1012)
        await stream.aclose()
        if other is not None:
            await other.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(place.counted) == len(place.counted._addresses) == 0
        if end != "drain":
            assert not await place.is_refused("10.0.0.1")
            assert len(place.counted) == 0


async def test_the_map_is_no_larger_than_who_is_here(autojump_clock: MockClock) -> None:
    """Invariant 5: of 200 addresses that came and went only those that are connected are known."""
    async with street(make_manager(config(5))) as place:
        for i in range(200):
            assert not await place.is_refused(f"10.1.{i // 100}.{i}")
        clients = [await place.connect(f"10.2.0.{i % 3}") for i in range(6)]
        assert len(place.counted) == 3
        for client in clients:
            await client.aclose()


async def test_addresses_that_are_numbers(autojump_clock: MockClock) -> None:
    """A socket of a family whose addresses are no texts, as of virtual machines, has no address here."""
    async with street(make_manager(config(1, "10.0.0.0/8"))) as place:
        clients = [await place.connect(3) for _ in range(2)]  # type: ignore[arg-type]
        assert await clients[0].request("remote") is None
        for client in clients:
            await client.aclose()


# Behind proxies


@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_behind_a_proxy(transport: str, autojump_clock: MockClock) -> None:
    """A2, L1: behind a trusted proxy each client has its own count and its own ``remote``; a forged entry has none."""
    manager = make_manager(config(1, "10.0.0.0/8"))
    async with street(manager, transport=transport) as place:
        ada = await place.connect("10.0.0.1", "203.0.113.1")
        bob = await place.connect("10.0.0.1", "203.0.113.1, 203.0.113.2")
        assert await ada.request("remote") == "203.0.113.1"
        assert await bob.request("remote") == "203.0.113.2"
        for forged in ("203.0.113.1", "6.6.6.6, 203.0.113.1", "6.6.6.6, 203.0.113.1, 10.7.7.7"):
            assert await place.is_refused("10.0.0.1", forged)
        assert place.rejected == {"address_full": 3}
        await ada.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not await place.is_refused("10.0.0.1", "203.0.113.1")
        await bob.aclose()


async def test_past_the_proxy(autojump_clock: MockClock) -> None:
    """A2: who comes past the proxy is counted at accept by the address of the socket, whatever it says."""
    async with street(make_manager(config(1, "10.0.0.0/8"))) as place:
        silent = place.dial("203.0.113.9")
        await trio.testing.wait_all_tasks_blocked()
        assert await place.is_refused("203.0.113.9", "6.6.6.6")
        assert not await place.is_refused("10.0.0.1", "6.6.6.6")
        await silent.aclose()


async def test_authenticate_sees_the_client(autojump_clock: MockClock) -> None:
    """A2: ``authenticate`` is asked with the address that was found out, and the port if it is known."""
    manager = make_manager(config(None, "10.0.0.0/8"))
    seen: list[tuple[str | None, int | None]] = []

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        seen.append((request.remote, request.remote_port))
        return Identity()

    async with street(manager) as place:
        for forwarded in ([], ["203.0.113.1:99"], ["[2001:db8::1]"]):
            await (await place.connect("10.0.0.1", *forwarded)).aclose()
    assert seen == [("10.0.0.1", 4711), ("203.0.113.1", 99), ("2001:db8::1", None)]


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"])
async def test_the_origin_is_compared_with_host(header: str, autojump_clock: MockClock) -> None:
    """H6, A2: "same" compares with the Host that has come, and with no forwarded header, trusted proxy or not."""
    origin = ("Origin", "https://app.example.com")
    async with street(make_manager(config(None, "10.0.0.0/8"))) as place:
        with pytest.raises(HandshakeRefused) as refused:
            await TestClient.connect(
                place.dial("10.0.0.1"), host="inner:8080", headers=[origin, (header, "app.example.com")]
            )
        assert refused.value.status == 403
        client = await TestClient.connect(place.dial("10.0.0.1"), host="app.example.com", headers=[origin])
        await client.aclose()


# Over real sockets


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
@pytest.mark.sockets
async def test_behind_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A2: a proxy that connects to a Unix socket is believed if "unix" is trusted, and else its clients have none."""
    path = tmp_path_factory.mktemp("u") / "s"
    for trusted, expected in [(("unix",), "203.0.113.1"), (("127.0.0.1",), None), ((), None)]:
        async with serve_rooms(make_manager(config(1, *trusted)), unix_path=path) as server:
            stream = await trio.open_unix_socket(path)
            headers = [("X-Forwarded-For", "6.6.6.6, 203.0.113.1")]
            async with await TestClient.connect(stream, headers=headers) as client:
                assert await client.request("remote") == expected
                if expected is not None:
                    with pytest.raises(HandshakeRefused):
                        await TestClient.connect(await trio.open_unix_socket(path), headers=headers)
                await client.close()
        server.assert_quiescent()


@pytest.mark.sockets
@pytest.mark.parametrize("tls", [False, True])
async def test_over_sockets(tls: bool) -> None:
    """L1, A2: over TCP, with TLS or without, the socket's peer is the proxy, and its header says who the client is."""
    options: dict[str, Any] = {"ssl_context": certificates().server} if tls else {}
    async with serve_rooms(make_manager(config(1, "127.0.0.1", "::1")), **options) as server:

        async def connect() -> TestClient:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            if tls:
                stream = certificates().wrap(stream)
            return await TestClient.connect(stream, headers=[("X-Forwarded-For", "203.0.113.1")])

        async with await connect() as client:
            assert await client.request("remote") == "203.0.113.1"
            with pytest.raises(HandshakeRefused) as refused:
                await connect()
            assert refused.value.code == "TOO_MANY_CONNECTIONS"
            await client.close()
    server.assert_quiescent()


@pytest.mark.sockets
async def test_a_callers_server() -> None:
    """L1, A2: requests of the caller's own trio-websocket server are judged by the same rules."""
    manager = make_manager(config(1, "127.0.0.1"))
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[]) as server:
        serve = partial(trio_websocket.serve_websocket, manager.handle_connection, "127.0.0.1", 0, ssl_context=None)
        theirs = await nursery.start(serve)

        async def connect(forwarded: str) -> TestClient:
            stream = await trio.open_tcp_stream("127.0.0.1", theirs.port)
            host = f"127.0.0.1:{theirs.port}"
            return await TestClient.connect(stream, host=host, headers=[("X-Forwarded-For", forwarded)])

        async with await connect("203.0.113.1") as client:
            assert await client.request("remote") == "203.0.113.1"
            with pytest.raises(HandshakeRefused) as refused:
                await connect("6.6.6.6, 203.0.113.1")
            assert (refused.value.status, refused.value.code) == (503, "TOO_MANY_CONNECTIONS")
            async with await connect("203.0.113.2") as other:
                await other.close()
            await client.close()
        server.begin_shutdown()
        await server.wait_closed()
        nursery.cancel_scope.cancel()
    assert [close.by for close in closes] == ["peer", "peer"]
    assert server.statistics().handshakes_rejected == {"address_full": 1}
    assert server._arrivals._per_address is not None
    assert len(server._arrivals._per_address) == 0


@needs_dev_fd
@pytest.mark.sockets
@pytest.mark.time_limit(120)
@pytest.mark.parametrize(("limit", "kept", "reason"), [(None, 1_000, "pushed_out"), (100, 100, "address_full")])
async def test_a_flood_from_one_address(limit: int | None, kept: int, reason: str) -> None:
    """X2: of 2,000 half handshakes few are kept, a proper client gets in at once, and all descriptors come back."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("too few descriptors for both ends of 2,000 connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        manager = make_manager(Config(limits=Limits(max_connections_per_address=limit)))
        async with serve_rooms(manager, host=["127.0.0.1", "127.0.0.2"]) as server:
            await trio.testing.wait_all_tasks_blocked()
            before = open_descriptors()
            flood = []
            for _ in range(2_000):
                flood.append(await trio.open_tcp_stream("127.0.0.1", server.port, local_address="127.0.0.1"))
                await flood[-1].send_all(b"GET /ws HTTP/1.1\r\n")
            stream = await trio.open_tcp_stream("127.0.0.2", server.port, local_address="127.0.0.2")
            client = await TestClient.connect(stream)
            assert await client.request("remote") == "127.0.0.2"
            statistics = server.statistics()
            assert kept - 1 <= statistics.pending_handshakes <= kept
            assert statistics.handshakes_rejected == {reason: 2_000 - statistics.pending_handshakes}
            await client.close()
            for end in (client, *flood):
                await end.aclose()
            while server._arrivals.open:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert open_descriptors() == before
        server.assert_quiescent()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_memory_streams_have_no_address(autojump_clock: MockClock) -> None:
    """Streams without an address are not counted, however low the limit."""
    async with serve_in_memory(make_manager(config(1, "unix"))) as memory:
        clients = [await memory.connect(headers=[("X-Forwarded-For", "6.6.6.6")]) for _ in range(3)]
        assert [await client.request("remote") for client in clients] == [None] * 3
        for client in clients:
            await client.aclose()
