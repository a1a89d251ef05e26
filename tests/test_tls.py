"""TLS: to clients like no TLS, and what goes wrong with it goes wrong for one peer, in time and counted."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing
import trio_websocket
from trio.testing import MockClock
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_websockets

from certificates import authority, certificates
from listeners import MemoryListener
from trio_rooms import Config, Connection, Limits, Manager, Server, UsageError, serve_rooms
from trio_rooms.testing import HandshakeRefused, TestClient, handshake_bytes, serve_in_memory

TransportName = Literal["native", "trio-websocket"]
TRANSPORTS: list[TransportName] = ["native", "trio-websocket"]


def make_manager(config: Config | None = None) -> Manager:
    manager = Manager(config=config)
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.on("leave")
    def leave(conn: Connection) -> None:
        conn.close(4001, "enough")

    return manager


@attrs.define(eq=False)
class SecureServer:
    """A server of TLS without sockets."""

    server: Server
    listener: MemoryListener

    def dial(self) -> trio.abc.Stream:
        """A client's end below TLS."""
        return self.listener.dial()

    async def connect(self, **options: Any) -> TestClient:
        """A client that speaks TLS."""
        return await TestClient.connect(certificates().wrap(self.dial()), **options)

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.server.statistics().handshakes_rejected)


@asynccontextmanager
async def secure(manager: Manager, **options: Any) -> AsyncGenerator[SecureServer]:
    """Serve over TLS in memory; at the end nothing is left."""
    listener = MemoryListener()
    layered = trio.SSLListener(listener, certificates().server, https_compatible=True)
    async with serve_rooms(manager, listeners=[layered], **options) as server:
        yield SecureServer(server, listener)
    server.assert_quiescent()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_conversation(transport: TransportName, autojump_clock: MockClock) -> None:
    """Requests, a message larger than a record of TLS, and the close code of the server arrive, in no time."""
    async with secure(make_manager(), transport=transport) as place:
        async with await place.connect() as client:
            assert await client.request("echo", "x" * 40_000) == "x" * 40_000
            await client.send_action("leave")
            closed = await client.expect_close(4001)
            assert closed.reason == "enough"
        assert trio.current_time() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_client_closes(transport: TransportName, autojump_clock: MockClock) -> None:
    """The close frame of a client is answered, and nobody waits for an end of TLS that does not come."""
    manager = make_manager()
    closes: list[tuple[str, int]] = []
    manager.on_disconnect(lambda conn, close: closes.append((close.by, close.code)))
    async with secure(manager, transport=transport) as place:
        client = await place.connect()
        assert (await client.close(4002)).code == 4002
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert place.server.statistics().connections == 0
        assert trio.current_time() == 0
    assert closes == [("peer", 4002)]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_peer_without_a_last_word(transport: TransportName, autojump_clock: MockClock) -> None:
    """A client that hangs up without an end of TLS has hung up: no error, and at once."""
    async with secure(make_manager(), transport=transport) as place:
        client = await place.connect()
        assert await client.request("echo", 1) == 1
        await client.aclose()  # https_compatible: only the stream below
        await trio.testing.wait_all_tasks_blocked()
        statistics = place.server.statistics()
        assert (statistics.connections, statistics.closes, statistics.handler_errors) == (0, {"network:1006": 1}, 0)
        assert trio.current_time() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_peer_that_stays_after_the_end(transport: TransportName, autojump_clock: MockClock) -> None:
    """A peer that answers the close frame, but neither ends TLS nor hangs up, does not hold its connection."""
    config = Config(close_timeout=3)
    async with secure(make_manager(config), transport=transport) as place:
        client = await place.connect()
        await client.send_action("leave")
        await client.expect_close(4001)  # answered, and the stream left open
        await trio.sleep(config.close_timeout + 1)
        assert place.server._arrivals.open == 0
        await client.aclose()


async def test_shutdown(autojump_clock: MockClock) -> None:
    """A drain closes with 1012 over TLS; a handshake of TLS under way ends with it."""
    async with secure(make_manager()) as place:
        half = place.dial()
        client = await place.connect()
        await trio.testing.wait_all_tasks_blocked()
        place.server.begin_shutdown()
        await client.expect_close(1012)
        await client.aclose()
        await place.server.wait_closed()
        assert await half.receive_some() == b""
    assert trio.current_time() <= place.server._node.config.shutdown_timeout


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("sent", [b"", b"\x16", HELLO], ids=["nothing", "a byte", "half a hello"])
async def test_too_slow(
    sent: bytes, transport: TransportName, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """H3: a peer whose handshake of TLS is not over in ``handshake_timeout`` is gone then, counted, and not logged."""
    async with secure(make_manager(Config(handshake_timeout=3)), transport=transport) as place:
        stream = place.dial()
        if sent:
            await stream.send_all(sent)
        assert await stream.receive_some() == b""
        assert trio.current_time() == pytest.approx(3)
        await trio.testing.wait_all_tasks_blocked()
        assert place.server._arrivals.open == 0
        assert place.rejected == {"timeout": 1}
    assert not caplog.records


async def test_one_deadline_for_tls_and_request(autojump_clock: MockClock) -> None:
    """H3: what the handshake of TLS takes is not given again to the request: 408 at the one deadline."""
    async with secure(make_manager(Config(handshake_timeout=3))) as place:
        below = place.dial()
        await trio.sleep(2)
        stream = certificates().wrap(below)
        await stream.do_handshake()
        await stream.send_all(handshake_bytes()[:20])
        assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() == pytest.approx(3)
        await stream.aclose()
    assert place.rejected == {"timeout": 1}


@pytest.mark.parametrize(
    "sent",
    [handshake_bytes(), b"SSH-2.0-OpenSSH_9\r\n", b"\x16\x03\x01\xff\xff" + b"\xff" * 40],
    ids=["plain request", "another protocol", "broken hello"],
)
async def test_no_tls(sent: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """H5: a peer that speaks something else is gone at once, counted as ``tls_failed``, and not logged."""
    async with secure(make_manager()) as place:
        stream = place.dial()
        await stream.send_all(sent)
        while await stream.receive_some():  # an alert, perhaps
            pass
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0
        assert place.server._arrivals.open == 0
        assert place.rejected == {"tls_failed": 1}
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", b"\x16", HELLO], ids=["nothing", "a byte", "half a hello"])
async def test_gone_while_it_shakes_hands(sent: bytes, autojump_clock: MockClock) -> None:
    """H2: a peer that goes away within the handshake of TLS has hung up, and that is all."""
    async with secure(make_manager()) as place:
        stream = place.dial()
        if sent:
            await stream.send_all(sent)
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert place.rejected == {"hangup": 1}
        assert place.server.statistics().handler_errors == 0


async def test_no_version_in_common(autojump_clock: MockClock) -> None:
    """H5: a client with which no version of TLS can be agreed on is ``tls_failed``."""
    old = ssl.create_default_context()
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    listener = MemoryListener()
    async with serve_rooms(make_manager(), listeners=[trio.SSLListener(listener, new)]) as server:
        stream = trio.SSLStream(listener.dial(), old)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().handshakes_rejected == {"tls_failed": 1}


async def test_slow_ones_hold_nobody(autojump_clock: MockClock) -> None:
    """Invariant 1: however many dawdle in the handshake of TLS, the next client gets in at once."""
    async with secure(make_manager()) as place:
        slow = [place.dial() for _ in range(50)]
        client = await place.connect()
        assert await client.request("echo", 1) == 1
        assert trio.current_time() == 0
        assert place.server.statistics().pending_handshakes == 50
        for stream in (client, *slow):
            await stream.aclose()


async def test_pushed_out(autojump_clock: MockClock) -> None:
    """X2: handshakes of TLS are pending ones: beyond the bound the oldest is dropped, and no proper client."""
    async with secure(make_manager(Config(limits=Limits(max_pending_handshakes=2)))) as place:
        slow = [place.dial() for _ in range(3)]
        client = await place.connect()
        assert await client.request("echo", 1) == 1
        assert await slow[0].receive_some() == b""
        assert place.rejected["pushed_out"] >= 1
        for stream in (client, *slow):
            await stream.aclose()


async def test_full(autojump_clock: MockClock) -> None:
    """L1: with every place taken a client of TLS is told so, in TLS."""
    async with secure(make_manager(Config(limits=Limits(max_connections=1)))) as place:
        client = await place.connect()
        with pytest.raises(HandshakeRefused) as refused:
            await place.connect()
        assert (refused.value.status, refused.value.code) == (503, "FULL")
        await client.aclose()


async def test_same_origin(autojump_clock: MockClock) -> None:
    """H6: over TLS a page of the same host is of the same origin, and another is not."""
    async with secure(make_manager()) as place:
        client = await place.connect(headers=[("Origin", "https://testserver")])
        await client.aclose()
        with pytest.raises(HandshakeRefused) as refused:
            await place.connect(headers=[("Origin", "https://evil.example.com")])
        assert refused.value.status == 403


async def test_a_stream_of_the_callers(autojump_clock: MockClock) -> None:
    """``handle_connection`` takes a stream of TLS before its handshake, which is bounded as any."""
    async with serve_in_memory(make_manager(Config(handshake_timeout=3))) as memory:
        wrap = partial(trio.SSLStream[trio.abc.Stream], ssl_context=certificates().server, server_side=True)
        client = await memory.connect(wrap=wrap, wrap_client=certificates().wrap)
        assert await client.request("echo", 1) == 1
        silent = memory.open_stream(wrap)
        assert await silent.receive_some() == b""
        assert trio.current_time() == pytest.approx(3)
        await client.aclose()


# Over real sockets, with clients of others


@asynccontextmanager
async def over_sockets(manager: Manager, **options: Any) -> AsyncGenerator[Server]:
    async with serve_rooms(manager, ssl_context=certificates().server, **options) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        yield server
    server.assert_quiescent()


async def raw(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.port)


@pytest.mark.sockets
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_trio_websocket_as_client(transport: TransportName) -> None:
    """trio-websocket connects to ``server.url``, and its close frame is answered."""
    async with (
        over_sockets(make_manager(), transport=transport) as server,
        trio_websocket.open_websocket_url(server.url, ssl_context=certificates().client) as ws,
    ):
        await ws.send_message('{"action": "echo", "data": "hi", "id": 1}')
        assert json.loads(await ws.get_message()) == {"id": 1, "data": "hi"}
        await ws.aclose(4002)
        assert ws.closed is not None
        assert ws.closed.code == 4002


@pytest.mark.sockets
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_websockets_as_client(transport: TransportName) -> None:
    """The ``websockets`` library connects to ``server.url``, and sees the close code of the server."""

    def converse(url: str) -> tuple[object, int | None, str | None]:
        with connect_websockets(url, ssl=certificates().client) as ws:
            ws.send('{"action": "echo", "data": "hi", "id": 1}')
            answer = json.loads(ws.recv())
            ws.send('{"action": "leave"}')
            with pytest.raises(ConnectionClosedError):
                ws.recv()
            return answer, ws.close_code, ws.close_reason

    async with over_sockets(make_manager(), transport=transport) as server:
        outcome = await trio.to_thread.run_sync(converse, server.url)
    assert outcome == ({"id": 1, "data": "hi"}, 4001, "enough")


@pytest.mark.sockets
async def test_refusals_over_sockets(caplog: pytest.LogCaptureFixture) -> None:
    """H5: plain text to a port of TLS, and a client that does not trust us: gone, counted, nobody else notices."""
    async with over_sockets(make_manager()) as server:
        client = await TestClient.connect(certificates().wrap(await raw(server)), host=f"127.0.0.1:{server.port}")
        async with await raw(server) as plain:
            await plain.send_all(handshake_bytes())
            while await plain.receive_some():
                pass

        def distrust() -> None:
            with pytest.raises(ssl.SSLCertVerificationError):
                connect_websockets(server.url)

        await trio.to_thread.run_sync(distrust)
        assert await client.request("echo", "unharmed") == "unharmed"
        await client.close()
        await client.aclose()
        while server._arrivals.open:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.statistics().handshakes_rejected == {"tls_failed": 2}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.sockets
async def test_a_page() -> None:
    """A page is served over TLS as well, and its end is an end of TLS, no truncation."""
    manager = make_manager()
    manager.page("/health", b"fine", content_type="text/plain")
    async with over_sockets(manager) as server:
        strict = trio.SSLStream(await raw(server), certificates().client, server_hostname="localhost")
        await strict.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join([bytes(chunk) async for chunk in strict])
        assert answer.endswith(b"\r\n\r\nfine")
        await strict.aclose()


@pytest.mark.sockets
async def test_a_new_certificate() -> None:
    """A certificate that is loaded into the context while it serves is what the next client is shown."""

    async def serial(server: Server) -> object:
        stream = certificates().wrap(await raw(server))
        await stream.do_handshake()
        shown = stream.getpeercert()["serialNumber"]
        await stream.aclose()
        return shown

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("localhost").configure_cert(context)
    async with serve_rooms(make_manager(), ssl_context=context) as server:
        before = await serial(server)
        authority().issue_cert("localhost").configure_cert(context)
        assert await serial(server) != before


@pytest.mark.sockets
async def test_a_callers_server() -> None:
    """A request of the caller's own trio-websocket server over TLS is served, with the peer's address."""
    manager = make_manager()
    remotes: list[str | None] = []
    manager.on_connect(lambda conn: remotes.append(conn.remote))
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[]) as server:
        theirs = await nursery.start(
            partial(
                trio_websocket.serve_websocket,
                manager.handle_connection,
                "127.0.0.1",
                0,
                ssl_context=certificates().server,
            )
        )
        stream = await trio.open_tcp_stream("127.0.0.1", theirs.port)
        host = f"127.0.0.1:{theirs.port}"
        client = await TestClient.connect(certificates().wrap(stream), host=host)
        assert await client.request("echo", 1) == 1
        assert remotes == ["127.0.0.1"]
        await client.send_action("leave")
        await client.expect_close(4001)
        await client.aclose()
        server.begin_shutdown()
        await server.wait_closed()
        nursery.cancel_scope.cancel()
    server.assert_quiescent()


# What cannot work is said at once


async def test_what_does_not_go_together() -> None:
    """A context beside listeners, that of a client, and what is no context are refused before anybody is served."""
    for options, text in [
        ({"listeners": [], "ssl_context": certificates().server}, "SSLListener"),
        ({"ssl_context": certificates().client}, "that of a client"),
        ({"ssl_context": "cert.pem"}, "is an ssl.SSLContext"),
    ]:
        with pytest.RaisesGroup(pytest.RaisesExc(UsageError, match=text), flatten_subgroups=True):
            async with serve_rooms(Manager(), **options):  # type: ignore[arg-type]
                raise AssertionError("served")
