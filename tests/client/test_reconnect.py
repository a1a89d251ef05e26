"""Whether, when and how a client comes back."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fake_server import FakeServer, Started, connected
from trio_rooms import _chance
from trio_rooms.client import ClientConfig, ClientEnded, open_rooms

URL = "ws://test/ws"


@pytest.mark.parametrize("code", [1001, 1002, 1007, 1009, 1011, 1012, 1013, 4000, 4008, 4010, 4499, 3000])
async def test_codes_that_bring_it_back(autojump_clock: MockClock, code: int) -> None:
    """After such a close the client makes another connection."""
    async with connected() as (client, server, conn, _):
        await conn.close(code)
        await server.accept()
        await client.wait_open()
        assert client.statistics().connections == 2
        assert client.statistics().failures == 1


@pytest.mark.parametrize("code", [1000, 1008, 4500, 4999])
async def test_codes_that_end_it(autojump_clock: MockClock, code: int) -> None:
    """After such a close it does not, and says why to whoever asks it for anything."""
    async with connected() as (client, server, conn, nursery):
        waiting = Started(nursery, client.receive)
        await conn.close(code, "BANNED")
        end = await client.wait_ended()
        assert (end.code, end.reason, end.status) == (code, "BANNED", None)
        assert client.state == "ended"
        for call in (waiting.result(), client.request("echo"), client.join("a"), client.send("x"), client.wait_open()):
            with pytest.raises(ClientEnded) as raised:
                await call
            assert raised.value.args == (code, "BANNED")
        await trio.sleep(100)
        assert len(server.attempts) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_statuses_that_end_it(autojump_clock: MockClock, status: int) -> None:
    """Who is not let in does not knock for ever."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect) as client:
        await (await server.next()).reject(status)
        end = await client.wait_ended()
        assert (end.code, end.status) == (1006, status)


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
async def test_statuses_that_do_not(autojump_clock: MockClock, status: int) -> None:
    """Anything else may be over soon."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect) as client:
        await (await server.next()).reject(status)
        await server.accept()
        await client.wait_open()


async def test_retry_after(autojump_clock: MockClock) -> None:
    """The time that a refusal names is waited for, and a random one more, so that not all come at once."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect):
        await (await server.next()).reject(503, (b"Retry-After", b"30"))
        await server.accept()
        first, second = server.attempts
        assert 30 < second - first < 30.5


async def test_drain(autojump_clock: MockClock) -> None:
    """The server says when to come back, and that is when; once."""
    async with connected() as (client, server, conn, _):
        await conn.send({"action": "$drain", "data": {"reconnect_in_ms": 7_000}})
        await wait_all_tasks_blocked()
        assert client.state == "draining"
        await conn.close(1012)
        before = trio.current_time()
        conn = await server.accept()
        assert server.attempts[-1] - before == pytest.approx(7)
        await conn.close(1012)
        before = trio.current_time()
        await server.accept()
        assert server.attempts[-1] - before < 1


@pytest.mark.parametrize("delay", [1e16, 10**400], ids=["float", "int"])
async def test_drain_in_a_thousand_years(autojump_clock: MockClock, delay: float) -> None:
    """What the server asks for is bounded."""
    async with connected() as (_, server, conn, _):
        await conn.send({"action": "$drain", "data": {"reconnect_in_ms": delay}})
        await conn.close(1012)
        before = trio.current_time()
        await server.accept()
        assert server.attempts[-1] - before == pytest.approx(600)


async def test_backoff(autojump_clock: MockClock) -> None:
    """The waits are random shares of a time that doubles, up to a bound."""
    server = FakeServer()
    server.down = True
    config = ClientConfig(backoff_base=1, backoff_most=8)
    with _chance.seeded(1):
        async with open_rooms(URL, connect=server.connect, config=config) as client:
            await trio.sleep(60)
            assert isinstance(client.trouble, ConnectionRefusedError)
            assert client.state == "waiting"
    waits = [later - earlier for earlier, later in zip(server.attempts, server.attempts[1:], strict=False)]
    assert all(wait <= most for wait, most in zip(waits, [1, 2, 4, *[8] * len(waits)], strict=False))
    assert max(waits) > 4
    assert len(set(waits)) == len(waits)


async def test_backoff_base(autojump_clock: MockClock) -> None:
    """After a connection that lasted, the wait is a random share of ``backoff_base``."""
    with _chance.seeded(1):
        async with connected(config=ClientConfig(backoff_base=10, backoff_most=10)) as (_, server, conn, _):
            for _ in range(20):
                await trio.sleep(15)
                await conn.cut()
                conn = await server.accept()
    waits = [later - earlier - 15 for earlier, later in zip(server.attempts, server.attempts[1:], strict=False)]
    assert 5 < max(waits) <= 10


async def test_a_seed_repeats_the_waits(autojump_clock: MockClock) -> None:
    """All of the chance is the library's."""
    seen = []
    for _ in range(2):
        server = FakeServer()
        server.down = True
        start = trio.current_time()
        with _chance.seeded(7):
            async with open_rooms(URL, connect=server.connect):
                await trio.sleep(30)
        seen.append([round(attempt - start, 6) for attempt in server.attempts])
    assert seen[0] == seen[1]


async def test_a_server_that_drops_everybody_is_not_besieged(autojump_clock: MockClock) -> None:
    """Connections that end at once count as failures, welcomed or not."""
    async with connected() as (_, server, conn, nursery):

        async def drop(conn: Any) -> None:
            while True:
                await conn.close(1011)
                conn = await server.accept()

        nursery.start_soon(drop, conn)
        await trio.sleep(100)
        assert len(server.attempts) < 30


async def test_a_frozen_server(autojump_clock: MockClock) -> None:
    """A server that does not answer pings is given up after ``ping_interval`` and ``pong_timeout``."""
    config = ClientConfig(ping_interval=5, pong_timeout=3)
    async with connected(config=config) as (client, server, _, _):
        before = trio.current_time()
        await server.accept()
        assert 8 <= server.attempts[-1] - before < 9
        assert "does not answer" in str(client.trouble)


async def test_a_living_server(autojump_clock: MockClock) -> None:
    """One that answers them is not."""
    config = ClientConfig(ping_interval=5, pong_timeout=3)
    async with connected(config=config) as (client, _, conn, nursery):
        Started(nursery, conn.next_event)
        await trio.sleep(100)
        assert client.statistics().connections == 1
        assert client.state == "open"


async def test_handshake_timeout(autojump_clock: MockClock) -> None:
    """A server that does not answer the upgrade is given up, too."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect, config=ClientConfig(handshake_timeout=4)) as client:
        await server.next()
        await server.next()
        assert 4 <= server.attempts[1] - server.attempts[0] < 5
        assert isinstance(client.trouble, trio.TooSlowError)


async def test_write_timeout(autojump_clock: MockClock) -> None:
    """A server that does not read is given up before the pings show it."""
    server = FakeServer()
    config = ClientConfig(write_timeout=2)

    async def connect() -> trio.abc.Stream:
        stream = await server.connect()
        assert isinstance(stream, trio.StapledStream)
        return trio.StapledStream(Stuck(stream.send_stream), stream.receive_stream)

    async with open_rooms(URL, connect=connect, config=config) as client, trio.open_nursery() as nursery:
        await server.accept()
        await client.wait_open()
        before = trio.current_time()
        Started(nursery, client.request, "echo")
        await server.accept()
        assert 2 <= server.attempts[1] - before < 3
        nursery.cancel_scope.cancel()


class Stuck(trio.abc.SendStream):
    """Takes the upgrade and the first message, and nothing more."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._takes = 2

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._takes:
            await trio.sleep_forever()
        self._takes -= 1
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_server_that_speaks_no_v1(autojump_clock: MockClock) -> None:
    """Without the subprotocol there is no connection."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect) as client:
        conn = await server.next()
        await conn.accept(None)
        await server.accept()
        await client.wait_open()
        assert "does not speak" in str(client.trouble) or client.trouble is not None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([1], 1002),
        ({"action": 1}, 1002),
        ({"action": "x", "id": 1.5}, 1002),
        ({"action": "$closed"}, 1002),
        ({"action": "$closed", "data": {"room": []}}, 1002),
        ({"action": "$presence", "room": {}, "data": {"users": {}}}, 1002),
        ({"room": ["a"], "data": 1}, 1002),
        ({"room": "a", "data": "x" * 2_000}, 1009),
    ],
)
async def test_violations(autojump_clock: MockClock, message: object, code: int) -> None:
    """A server that breaks the protocol is told so, and tried again."""
    async with connected(config=ClientConfig(max_message_bytes=1_000)) as (client, server, conn, _):
        await conn.send(message)
        assert await conn.expect_close() == code
        await server.accept()
        await client.wait_open()


async def test_states(autojump_clock: MockClock) -> None:
    """Whoever waits for changes of the state sees them."""
    server = FakeServer()
    seen = []
    async with open_rooms(URL, connect=server.connect) as client, trio.open_nursery() as nursery:
        assert client.state == "connecting"

        async def watch() -> None:
            while True:
                seen.append(await client.wait_change())

        nursery.start_soon(watch)
        conn = await server.accept()
        await client.wait_open()
        assert client.connection_id == "c"
        await conn.cut()
        conn = await server.accept()
        await client.wait_open()
        await conn.close(4500)
        await client.wait_ended()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == ["open", "waiting", "connecting", "open", "ended"]


async def test_leaving_says_goodbye(autojump_clock: MockClock) -> None:
    """The server sees 1000, and nothing is waited for longer than the closing handshake."""
    async with connected() as (_, _, conn, nursery):
        pass
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        async with open_rooms(URL, connect=server.connect):
            conn = await server.accept()
            closed = Started(nursery, conn.expect_close)
        assert await closed.result() == 1000


async def test_close_timeout(autojump_clock: MockClock) -> None:
    """A server that does not answer the close frame is left alone after ``close_timeout``."""
    server = FakeServer()
    async with open_rooms(URL, connect=server.connect, config=ClientConfig(close_timeout=3)):
        await server.accept()
        before = trio.current_time()
    assert trio.current_time() - before == pytest.approx(3)


async def test_asking_while_it_closes() -> None:
    """Who asks while the block is left is told at once, however long the server takes for its close frame."""
    # In real time: a client that asked itself again and again would not let the virtual clock go on.
    server, done = FakeServer(), trio.Event()
    async with trio.open_nursery() as nursery:
        async with open_rooms(URL, connect=server.connect) as client:
            conn = await server.accept()
            await client.wait_open()

            async def ask() -> None:
                await client.wait_ended()
                for call in (client.request, client.send, client.join):
                    with pytest.raises(ClientEnded):
                        await call("x")
                done.set()

            async def answer() -> None:
                await done.wait()
                assert await conn.expect_close() == 1000

            nursery.start_soon(ask)
            nursery.start_soon(answer)
        assert done.is_set()


async def test_welcomed_too_late(autojump_clock: MockClock) -> None:
    """A client that has ended stays so, whatever the server says before it closes."""
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        async with open_rooms(URL, connect=server.connect) as client:
            conn = await server.next()
            await conn.accept()

            async def welcome() -> None:
                await trio.sleep(1)
                await conn.welcome()
                await conn.send({"action": "$drain", "data": {"reconnect_in_ms": 1}})
                await conn.expect_close()

            nursery.start_soon(welcome)
        assert client.state == "ended"
        with pytest.raises(ClientEnded):
            await client.wait_open()


async def test_leaving_while_nobody_is_there(autojump_clock: MockClock) -> None:
    """Without a connection there is nothing to wait for."""
    server = FakeServer()
    server.down = True
    async with open_rooms(URL, connect=server.connect) as client:
        await trio.sleep(10)
        before = trio.current_time()
    assert trio.current_time() == before
    assert client.state == "ended"


async def test_cancelled(autojump_clock: MockClock) -> None:
    """A cancelled block says goodbye, too, within ``close_timeout``."""
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(5):
            async with open_rooms(URL, connect=server.connect):
                conn = await server.accept()
                closed = Started(nursery, conn.expect_close)
                await trio.sleep_forever()
        assert await closed.result() == 1000


async def test_a_cut_anywhere(autojump_clock: MockClock) -> None:
    """Wherever the stream ends, in the upgrade or in a frame, the client comes back."""
    server = FakeServer()
    answer = (
        b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n"
        b"Sec-WebSocket-Protocol: trio-rooms.v1.json\r\n\r\n"
    )
    async with open_rooms(URL, connect=server.connect) as client:
        for length in range(0, len(answer) + 1, 7):
            conn = await server.next()
            await conn.stream.send_all(answer[:length])
            await conn.cut()
        for length in range(1, 8):
            conn = await server.accept()
            await conn.stream.send_all(b"\x81\x05hello"[:length])
            await conn.cut()
        await server.accept()
        await client.wait_open()


@pytest.mark.parametrize(
    "url",
    ["http://x/ws", "ws:///ws", "x", "ws://x/ws#y", "ws://x/ü", "ws://x/a b", f"ws://{'x' * 64}/ws", "ws://x:99999/"],
)
async def test_urls(url: str) -> None:
    """What is no URL of a WebSocket is an error at once."""
    with pytest.raises(ValueError, match="URL"):
        async with open_rooms(url):
            raise AssertionError


@pytest.mark.parametrize("header", [("X", "€"), ("X", "a\r\nY: b"), ("X Y", "a"), ("", "a")])
async def test_headers(header: tuple[str, str]) -> None:
    """So is what cannot be a header."""
    with pytest.raises(ValueError, match="header"):
        async with open_rooms(URL, headers=[header]):
            raise AssertionError


async def test_format_names() -> None:
    """So is a format that does not exist."""
    with pytest.raises(ValueError, match="json, msgpack"):
        async with open_rooms(URL, format="xml"):  # type: ignore[arg-type]
            raise AssertionError


async def test_what_the_upgrade_carries(autojump_clock: MockClock) -> None:
    """Host, path and query of the URL, and the program's headers."""
    server = FakeServer()
    headers = [("Authorization", "Bearer x")]
    async with open_rooms("ws://test:81/a?b=c", connect=server.connect, headers=headers):
        conn = await server.next()
        assert conn.request is not None
        assert (conn.request.host, conn.request.target) == ("test:81", "/a?b=c")
        assert (b"authorization", b"Bearer x") in conn.request.extra_headers
