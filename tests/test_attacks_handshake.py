"""Attacks on the handshake, over real sockets, each with the reaction that is promised and an innocent client beside.

What the tables hold is one request each; what takes more than a request is a test of its own. Not here: running out of
descriptors and thousands of half handshakes (test_arrivals.py); certificates and the ``ssl_context`` of ``serve``,
``trusted_proxies`` and ``max_connections_per_address``, which have tests of their own.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from doors import callers_server, make_manager, read_to_end, reset
from sieges import ANSWER, ECHO, besieged
from trio_rooms import Config, Connection, Limits, Manager, serve_rooms
from trio_rooms.testing import Opcode, ServerFrame, client_frame, handshake_bytes, parse_server_frames
from trio_rooms.testing._raw import split_response

pytestmark = pytest.mark.sockets

REQUEST = handshake_bytes()
PLAIN = b" HTTP/1.1\r\nHost: testserver\r\n\r\n"


def with_header(name: str, value: str) -> bytes:
    """A valid request with one more header."""
    return handshake_bytes(headers=[(name, value)])


def without(name: bytes) -> bytes:
    """A valid request less one of its headers."""
    return b"".join(line for line in REQUEST.splitlines(keepends=True) if not line.startswith(name))


def offering(count: int) -> bytes:
    """A request with so many subprotocols."""
    return handshake_bytes(subprotocol=["a"] * count)


#: What is refused: the request, the status, and under which reason it is counted.
REFUSED = {
    "a foreign origin": (with_header("Origin", "https://evil.example"), 403, "origin"),
    "the origin of a sandbox": (with_header("Origin", "null"), 403, "origin"),
    "our host in a foreign origin": (with_header("Origin", "http://testserver.evil.example"), 403, "origin"),
    "our host at another port": (with_header("Origin", "http://testserver:8080"), 403, "origin"),
    "two origins": (with_header("Origin", "http://testserver, http://evil.example"), 403, "origin"),
    **{
        f"a byte that is no ASCII in {name}": (with_header(name, "a\xff"), 400, "bad_request")
        for name in ("Connection", "Upgrade", "Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
    },
    "a byte that is no ASCII in Host": (handshake_bytes(host="testserver\xff"), 400, "bad_request"),
    "a byte that is no ASCII in the key": (handshake_bytes(key="dGhlIHNhbXBsZSBub25jZQ=\xbd"), 400, "bad_request"),
    "a byte that is no ASCII in the version": (REQUEST.replace(b": 13", b": 13\xff"), 400, "bad_request"),
    "a byte that is no ASCII in the target": (handshake_bytes("/ws\xff"), 400, "bad_request"),
    "a byte that is no ASCII in a name": (with_header("X-\xff", "a"), 400, "bad_request"),
    "a header of 100 KB": (with_header("X", "x" * 100_000), 431, "headers"),
    "a header of 9 KB": (with_header("X", "x" * 9_000), 431, "headers"),
    "5,000 headers": (handshake_bytes(headers=[("X", "x" * 10)] * 5_000), 431, "headers"),
    "1,500 headers within 16 KiB": (handshake_bytes(headers=[("X", "x")] * 1_500), 431, "headers"),
    "65 headers": (handshake_bytes(headers=[("X", "x")] * 60), 431, "headers"),
    "a path of 15 KB": (handshake_bytes("/" + "x" * 15_000), 414, "target"),
    "a path of 3 KB": (handshake_bytes("/ws?" + "x" * 3_000), 414, "target"),
    "4,000 subprotocols": (with_header("Sec-WebSocket-Protocol", "a," * 4_000), 400, "subprotocols"),
    "33 subprotocols": (offering(33), 400, "subprotocols"),
    "a plain GET": (b"GET /ws" + PLAIN, 426, "upgrade_required"),
    "a plain GET elsewhere": (b"GET /" + PLAIN, 404, "not_found"),
    "a plain POST": (b"POST /ws" + PLAIN, 426, "upgrade_required"),
    "a POST with a body": (b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 426, "upgrade_required"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "garbage": (b"\x00\x01\x02garbage\xff\xfe", 400, "bad_request"),
    "garbage with an end": (b"\xff\xfe garbage\r\n\r\n", 400, "bad_request"),
    "an empty line": (b"\r\n" + REQUEST, 400, "bad_request"),
    "frames and no request": (ECHO * 10, 400, "bad_request"),
    "version 8": (REQUEST.replace(b": 13", b": 8"), 426, "version"),
    "no version": (without(b"Sec-WebSocket-Version"), 426, "version"),
    "no key": (without(b"Sec-WebSocket-Key"), 400, "bad_request"),
    "no Host": (without(b"Host"), 400, "bad_request"),
    "two Hosts": (with_header("Host", "evil.example"), 400, "bad_request"),
    "no Upgrade": (without(b"Upgrade"), 400, "bad_request"),
    "no Connection": (without(b"Connection"), 400, "bad_request"),
    "a short key": (handshake_bytes(key="short"), 400, "bad_request"),
    "a key of 15 bytes": (handshake_bytes(key="YWFhYWFhYWFhYWFhYWFh"), 400, "bad_request"),
    "two keys": (with_header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), 400, "bad_request"),
    "HTTP/1.0": (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad_request"),
    "a POST that upgrades": (REQUEST.replace(b"GET", b"POST"), 400, "bad_request"),
    "an upgrade with a body": (with_header("Content-Length", "5") + b"hello", 400, "bad_request"),
    "an upgrade in chunks": (with_header("Transfer-Encoding", "chunked") + b"0\r\n\r\n", 400, "bad_request"),
    "a bare CR in a value": (with_header("X", "a\rb"), 400, "bad_request"),
}


@pytest.mark.parametrize(("data", "status", "reason"), REFUSED.values(), ids=REFUSED)
async def test_refused(data: bytes, status: int, reason: str) -> None:
    """2.1: what is no valid handshake is answered with its status and counted under its reason, and its task ends."""
    async with besieged(make_manager()) as siege:
        response = split_response(await siege.ask(data))
        assert response is not None
        assert response[0] == status
        assert "close" in response[1]["connection"]
        assert len(response[2]) == int(response[1]["content-length"])
        await siege.gone()
        assert siege.rejected == {reason: 1}


@pytest.mark.parametrize("data", [REFUSED["a plain GET"][0], REFUSED["a plain POST"][0]], ids=["GET", "POST"])
async def test_what_to_do_instead(data: bytes) -> None:
    """2.1: who asks for no upgrade is told to; who speaks another version, which one is spoken."""
    async with besieged(make_manager()) as siege:
        response = split_response(await siege.ask(data))
        assert response is not None
        assert (response[1]["upgrade"], response[1]["sec-websocket-version"]) == ("websocket", "13")
        response = split_response(await siege.ask(REFUSED["version 8"][0]))
        assert response is not None
        assert response[1]["sec-websocket-version"] == "13"


#: What looks odd and is let in.
LET_IN = {
    "no origin": REQUEST,
    "our own origin": with_header("Origin", "http://testserver"),
    "our own origin in capitals": with_header("Origin", "HTTP://TestServer"),
    "a byte that is no ASCII in User-Agent": with_header("User-Agent", "caf\xe9"),
    "a byte that is no ASCII in Cookie": with_header("Cookie", "a=\xff"),
    "64 headers": handshake_bytes(headers=[("X", "x")] * 59),
    "32 subprotocols": offering(32),
    "a forged address": with_header("X-Forwarded-For", "203.0.113.7"),
    "compression": with_header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
}


@pytest.mark.parametrize("data", LET_IN.values(), ids=LET_IN)
async def test_let_in(data: bytes) -> None:
    """2.1: what real clients send is upgraded, to a connection that negotiates nothing and knows its real peer."""
    remotes: list[str | None] = []
    manager = make_manager()
    manager.on_connect(lambda conn: remotes.append(conn.remote))
    async with besieged(manager) as siege:
        async with await siege.dial() as stream:
            await stream.send_all(data)
            response = split_response(bytes(await stream.receive_some()))
            assert response is not None
            assert response[0] == 101
            assert "sec-websocket-extensions" not in response[1]
            await stream.send_all(ECHO)
            assert parse_server_frames(bytes(await stream.receive_some())) == [ServerFrame(Opcode.TEXT, ANSWER)]
        assert siege.rejected == {}
        assert remotes == ["127.0.0.1"] * 2


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "half"])
async def test_a_frame_behind_the_request(whole: bool) -> None:
    """2.1: a frame in one segment with the request is delivered, and half a frame is the first half of one."""
    cut = len(ECHO) if whole else 9
    async with besieged(make_manager()) as siege, await siege.dial() as stream:
        await stream.send_all(REQUEST + ECHO[:cut])
        seen = b""
        while not (head := split_response(seen)):
            seen += await stream.receive_some()
        await stream.send_all(ECHO[cut:])
        frames = head[2]
        while not (answers := parse_server_frames(frames, allow_partial=True)):
            frames += await stream.receive_some()
        assert answers == [ServerFrame(Opcode.TEXT, ANSWER)]


async def test_reset_behind_the_request() -> None:
    """2.1: who sends a request and resets is a connection that was lost or a handshake that failed, and no error."""
    async with besieged(make_manager()) as siege:
        for n in range(100):
            stream = await siege.dial()
            await stream.send_all(REQUEST)
            if n % 3 == 0:
                await trio.testing.wait_all_tasks_blocked()
            reset(stream)
        await siege.gone()
        assert siege.rejected.get("hangup", 0) + len(siege.told) == 100
        assert {(close.code, close.by) for close in siege.told} <= {(1006, "network")}


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]], ids=["nothing", "half"])
async def test_a_header_that_is_never_finished(sent: bytes) -> None:
    """2.1: a head that does not end is 408 when ``handshake_timeout`` has passed, and its task ends."""
    async with besieged(make_manager(Config(handshake_timeout=0.1))) as siege:
        assert (await siege.ask(sent) if sent else await silence(siege.dial)).startswith(b"HTTP/1.1 408 ")
        await siege.gone()
        assert siege.rejected == {"timeout": 1}


async def silence(dial: Callable[[], Any]) -> bytes:
    """Connect, say nothing, and read to the end."""
    async with await dial() as stream:
        return await read_to_end(stream)


async def test_one_byte_at_a_time() -> None:
    """2.1: the time is for the whole head, however often a byte comes; in time for each byte it would be let in."""
    async with besieged(make_manager(Config(handshake_timeout=0.2))) as siege, await siege.dial() as stream:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def trickle() -> None:
                    for byte in REQUEST:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.01)

                answer = bytes(await stream.receive_some())
                scope.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]], ids=["nothing", "half"])
async def test_connect_and_close(sent: bytes) -> None:
    """2.1: a connection that ends before its request does holds nothing, whatever time is left for it."""
    async with besieged(make_manager(Config(handshake_timeout=10_000))) as siege:
        for _ in range(50):
            stream = await siege.dial()
            await stream.send_all(sent)
            await stream.aclose()
        await siege.gone()
        assert siege.rejected == {"hangup": 50}


async def test_tls_to_a_plain_port() -> None:
    """2.1: a TLS hello on a plain port is met with silence."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="testserver").do_handshake()
    async with besieged(make_manager()) as siege:
        assert await siege.ask(outgoing.read()) == b""
        await siege.gone()
        assert siege.rejected == {"tls": 1}


@pytest.mark.parametrize(("sent", "reason"), [(REQUEST, "tls_failed"), (b"", "timeout")], ids=["plain text", "nothing"])
async def test_plain_text_to_a_tls_port(sent: bytes, reason: str) -> None:
    """2.1: who does not speak TLS on such a port is gone within the same time, and others are served meanwhile."""
    plain = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    below = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    listeners = [plain, trio.SSLListener(below, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))]
    manager = make_manager(Config(handshake_timeout=0.1))
    async with besieged(manager, listeners=listeners) as siege:
        async with await trio.open_tcp_stream("127.0.0.1", siege.server.addresses[1][1]) as stream:
            await stream.send_all(sent)
            await siege.is_unnoticed()
            assert b"HTTP" not in await read_to_end(stream)
        await siege.gone()
        assert siege.rejected == {reason: 1}


async def test_a_flood_of_connections() -> None:
    """2.1: beyond ``max_connections`` each request is 503 with ``Retry-After``, until there is room again."""
    async with besieged(make_manager(Config(limits=Limits(max_connections=3)))) as siege:
        async with siege.enter(), siege.enter():
            for _ in range(20):
                response = split_response(await siege.ask(REQUEST))
                assert response is not None
                assert (response[0], response[1]["retry-after"]) == (503, "1")
            assert siege.rejected == {"full": 20}
            await siege.is_unnoticed()
        await siege.gone()
        async with siege.enter() as late:
            await late.send(ECHO)
            assert await late.sees_text() == ANSWER


async def test_a_flood_of_half_handshakes() -> None:
    """2.1: beyond ``max_pending_handshakes`` the oldest is dropped; a whole request is never refused for them."""
    async with besieged(make_manager(Config(limits=Limits(max_pending_handshakes=5)))) as siege:
        streams = []
        for _ in range(20):
            streams.append(await siege.dial())
            await streams[-1].send_all(REQUEST[:50])
            await trio.testing.wait_all_tasks_blocked(0.001)
        async with siege.enter() as late:
            await late.send(ECHO)
            assert await late.sees_text() == ANSWER
        for stream in streams[:16]:  # the last of them for the one that has come late
            assert await stream.receive_some() == b""
        assert siege.server.statistics().pending_handshakes == 4
        assert siege.rejected == {"pushed_out": 16}
        for stream in streams:
            await stream.aclose()


# The table of origins, on every way in

PAGES = ["https://app.example.com", "https://*.example.com:8443"]

#: What is allowed, the Origin header, and whether it is let in.
ORIGINS: list[tuple[Any, str | None, bool]] = [
    ("same", None, True),
    ("same", "http://testserver", True),
    ("same", "https://testserver", True),
    ("same", "http://testserver:81", False),
    ("same", "http://other.example", False),
    ("same", "null", False),
    ("same", "file://", False),
    ("same", "", False),
    (PAGES, None, True),
    (PAGES, "https://app.example.com", True),
    (PAGES, "http://app.example.com", False),
    (PAGES, "https://app.example.com.evil.example", False),
    (PAGES, "https://a.b.example.com:8443", True),
    (PAGES, "https://evil-example.com:8443", False),
    (PAGES, "https://example.com:8443", False),
    (PAGES, "http://testserver", False),
    (PAGES, "null", False),
    ([], None, True),
    ([], "http://testserver", False),
    (None, "http://other.example", True),
    (None, "null", True),
]

Way = Callable[..., AbstractAsyncContextManager[int]]


@asynccontextmanager
async def by_serve(manager: Manager, **options: Any) -> AsyncGenerator[int]:
    """The library's own listener."""
    async with serve_rooms(manager, **options) as server:
        yield server.port


@asynccontextmanager
async def by_handle_stream(manager: Manager, **options: Any) -> AsyncGenerator[int]:
    """The program's own listener, whose streams it hands over."""
    async with serve_rooms(manager, listeners=[], **options) as server, trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, manager.handle_connection, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        server.begin_shutdown()
        await server.wait_closed()
        nursery.cancel_scope.cancel()


WAYS: dict[str, Way] = {"serve": by_serve, "a stream": by_handle_stream, "a request": callers_server}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("allowed", "origin", "let_in"), ORIGINS)
async def test_origins_on_every_way_in(way: Way, allowed: Any, origin: str | None, let_in: bool) -> None:
    """H6: one table of origins, equal for ``serve`` and for streams and requests that ``handle_connection`` takes."""
    entered: list[Connection] = []
    manager = make_manager()
    manager.on_connect(entered.append)
    request = REQUEST if origin is None else with_header("Origin", origin)
    async with way(manager, allowed_origins=allowed) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 101 " if let_in else b"HTTP/1.1 403 ")
        if let_in:
            await stream.send_all(client_frame(Opcode.CLOSE))
            await read_to_end(stream)
    assert len(entered) == let_in
