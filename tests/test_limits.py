"""Every limit bites when it is reached, and the metric that docs/security.md names for it counts that.

Each limit is set low for a scenario that exceeds it. First a conversation that stays below it: nothing is counted.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from hall import settle
from limit_tables import metrics_of
from trio_rooms import AskFailed, Close, Config, Connection, HandshakeRequest, Identity, Limits, Manager, Position
from trio_rooms._wire.plain import PlainStream
from trio_rooms.testing import (
    FaultyStream,
    HandshakeRefused,
    MemoryServer,
    Opcode,
    ReplyError,
    TestClient,
    client_frame,
    serve_in_memory,
)


@attrs.define(eq=False)
class Place:
    """A server with a limit that is low, and a client that is there already."""

    memory: MemoryServer
    client: TestClient

    async def refused(self, status: int, **options: Any) -> None:
        """Another client is refused the upgrade."""
        with pytest.raises(HandshakeRefused) as caught:
            await self.memory.connect(**options)
        assert caught.value.status == status

    async def told(self, code: str, action: str, data: object = None, **options: Any) -> None:
        """A request is answered with an error."""
        with pytest.raises(ReplyError) as caught:
            await self.client.request(action, data, **options)
        assert caught.value.code == code

    async def closes(self, code: int, *frames: bytes) -> None:
        """The server closes when these frames have come."""
        await self.client.send_raw(b"".join(frames))
        await self.client.expect_close(code, skip_messages=True)
        await self.client.aclose()

    async def one_by_one(self, *actions: str) -> None:
        """Send messages, each in a read of its own."""
        for action in actions:
            await self.client.send_action(action)
            await settle()

    async def stalled(self) -> TestClient:
        """A client that is joined to all rooms, and to whom nothing gets through any more."""
        streams: list[FaultyStream] = []

        def wrap(stream: trio.abc.Stream) -> FaultyStream:
            streams.append(FaultyStream(stream))
            return streams[0]

        client = await self.memory.connect(wrap=wrap)
        for room in ("close", "drop_newest", "drop_oldest"):
            await client.request("join", room)
        streams[0].stall_sending()
        return client


def make_manager(config: Config) -> Manager:
    manager = Manager(config=config)
    manager.room("drop_newest", overflow="drop_newest")
    manager.room("drop_oldest", overflow="drop_oldest")
    manager.room("kept", history_size=10)
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        if "slow" in request.query:
            await trio.sleep_forever()
        return Identity()

    @manager.session
    async def session(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("join")
    async def join(conn: Connection, data: str) -> None:
        await conn.join(data)

    @manager.on("recover")
    async def recover(conn: Connection, data: tuple[int, str]) -> bool | None:
        return (await conn.join("kept", since=Position(*data))).recovered

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("ask")
    async def ask(conn: Connection) -> None:
        with suppress(AskFailed):
            await conn.request("question")

    manager.handle_message("ask beside", ask, concurrent=True)

    @manager.on("beside", concurrent=True)
    async def beside(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        if close.code == 4999:
            await trio.sleep_forever()

    return manager


async def overflow(place: Place) -> None:
    for room in ("close", "drop_newest", "drop_oldest"):
        client = await place.stalled()
        for _ in range(8):
            place.memory.manager.broadcast_to_room(room, "x" * 50)
            await settle()
        await client.aclose()


async def per_address(place: Place) -> None:
    async with trio.open_nursery() as nursery:
        clients = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            nursery.start_soon(place.memory.manager.handle_connection, PlainStream(ours, ("203.0.113.1", 1)))
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
            clients.append(stream)
            with suppress(HandshakeRefused):
                await TestClient.connect(stream)
        for stream in clients:
            await stream.aclose()


async def pending(place: Place) -> None:
    streams = [place.memory.open_stream() for _ in range(2)]
    await settle()
    for stream in streams:
        await stream.aclose()


async def fragment_and_wait(place: Place) -> None:
    await place.closes(1008, client_frame(Opcode.TEXT, b"x", fin=False))


async def two_rooms(place: Place) -> None:
    assert await place.client.request("join", "a") is None
    await place.told("TOO_MANY_ROOMS", "join", "b")


async def two_missed(place: Place) -> None:
    for number in range(3):
        position = place.memory.manager.broadcast_to_room("kept", number).position
    assert position is not None
    assert await place.client.request("recover", [1, position.epoch]) is False


async def away(place: Place) -> None:
    client = await place.memory.connect(subprotocol="trio-rooms.v1.json")
    await client.send_action("$session")
    await client.receive_json()
    await settle()
    await client.aclose()
    await trio.sleep(4)


async def two_away(place: Place) -> None:
    await away(place)
    await away(place)


async def slow_subscription(place: Place) -> None:
    async with place.memory.manager.subscribe("r", overflow="drop_newest"):
        for _ in range(2):
            place.memory.manager.broadcast_to_room("r", "x")


async def too_many_handlers(place: Place) -> None:
    await place.client.send_action("beside")
    await place.told("BUSY", "beside")


async def times_out(place: Place, path: str, status: int) -> None:
    stream = place.memory.open_stream()
    await stream.send_all(f"GET {path} HTTP/1.1\r\n".encode())
    assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 %d " % status)
    await stream.aclose()


async def handshake_takes_too_long(place: Place) -> None:
    await times_out(place, "/ws", 408)
    await place.refused(503, path="/ws?slow=1")


async def stalled_writes(place: Place) -> None:
    client = await place.stalled()
    await client.send_action("echo", "hi", id=1)
    await client.expect_close(1006)
    await client.aclose()


async def hook_hangs(place: Place) -> None:
    await place.client.close(4999)
    await place.client.aclose()
    await trio.sleep(10)


async def dead(place: Place) -> None:
    await trio.sleep(20)


async def full_room(place: Place) -> None:
    other = await place.memory.connect()
    await other.request("join", "a")
    await place.told("ROOM_FULL", "join", "a")
    await other.aclose()


async def long_id(place: Place) -> None:
    await place.client.send_action("echo", id="longer")
    assert (await place.client.receive_json())["error"]["code"] == "BAD_MESSAGE"


def request_of(**options: Any) -> Callable[[Place], Awaitable[None]]:
    async def scenario(place: Place) -> None:
        await place.refused(**options)

    return scenario


def told(code: str, *args: Any, **options: Any) -> Callable[[Place], Awaitable[None]]:
    async def scenario(place: Place) -> None:
        await place.told(code, *args, **options)

    return scenario


def closed(code: int, *frames: bytes) -> Callable[[Place], Awaitable[None]]:
    async def scenario(place: Place) -> None:
        await place.closes(code, *frames)

    return scenario


def sent(*actions: str) -> Callable[[Place], Awaitable[None]]:
    async def scenario(place: Place) -> None:
        await place.one_by_one(*actions)

    return scenario


FRAGMENTS = [client_frame(Opcode.TEXT, b"x", fin=False), *[client_frame(Opcode.CONTINUATION, b"x", fin=False)] * 2]

#: For each field of Limits a low value and what exceeds it.
LIMITS: dict[str, tuple[Any, Callable[[Place], Awaitable[None]]]] = {
    "max_connections": (1, request_of(status=503)),
    "max_connections_per_address": (1, per_address),
    "max_pending_handshakes": (1, pending),
    "max_header_bytes": (500, request_of(status=431, headers=[("X", "x" * 400)])),
    "max_headers": (7, request_of(status=431, headers=[(f"X{i}", "x") for i in range(5)])),
    "max_header_line": (100, request_of(status=431, headers=[("X", "x" * 100)])),
    "max_target_bytes": (20, request_of(status=414, path="/ws?" + "x" * 100)),
    "max_subprotocols": (1, request_of(status=400, subprotocol=["a", "b"])),
    "max_message_bytes": (200, closed(1009, client_frame(Opcode.TEXT, b"x" * 201))),
    "max_fragments": (2, closed(1009, *FRAGMENTS)),
    "message_timeout": (3.0, fragment_and_wait),
    "inbox_messages": (1, sent(*["wait"] * 3)),
    "read_ahead_bytes": (1, sent("ask", *["wait"] * 20)),
    "max_pending_asks": (1, sent("ask beside", "ask beside")),
    "max_handlers": (1, too_many_handlers),
    "handler_timeout": (3.0, told("DEADLINE_EXCEEDED", "wait")),
    "max_depth": (2, told("BAD_MESSAGE", "echo", [[[]]])),
    "max_id_chars": (4, long_id),
    "max_room_name_bytes": (11, told("BAD_ROOM", "join", "x" * 12)),
    "max_rooms_per_connection": (1, two_rooms),
    "max_rooms": (1, two_rooms),
    "max_recovery": (1, two_missed),
    "outbox_messages": (3, overflow),
    "outbox_bytes": (400, overflow),
    "max_sessions": (1, two_away),
    "subscription_messages": (1, slow_subscription),
    "subscription_bytes": (100, slow_subscription),
    "session_messages": (1, sent(*["for the session"] * 2)),
}

#: The same for what is counted of Config.
SETTINGS: dict[str, tuple[Any, Callable[[Place], Awaitable[None]]]] = {
    "pong_timeout": (3.0, dead),
    "max_connections_per_room": (1, full_room),
    "handshake_timeout": (3.0, handshake_takes_too_long),
    "write_timeout": (3.0, stalled_writes),
    "hook_timeout": (3.0, hook_hangs),
    "session_window": (3.0, away),
    "rooms": ("declared", told("ROOM_NOT_FOUND", "join", "undeclared")),
}


def test_each_limit_has_a_scenario() -> None:
    """L1: nothing that can be reached and is said to be counted is left out."""
    assert list(LIMITS) == [field.name for field in attrs.fields(Limits)]
    assert list(SETTINGS) == [name for name, metrics in metrics_of(Config).items() if metrics]


async def bites(config: Config, name: str, scenario: Callable[[Place], Awaitable[None]]) -> None:
    """Exceed a limit; each metric that is documented for it is 0 before and not 0 after, and the server lives."""
    metrics = metrics_of(Limits if name in LIMITS else Config)[name]
    assert metrics
    async with serve_in_memory(make_manager(config), transport="native") as memory:
        client = await memory.connect()
        assert await client.request("echo", "hi") == "hi"
        await settle()
        before = memory.server.statistics()
        assert [metric for metric in metrics if metric.value(before)] == []
        await scenario(Place(memory, client))
        await settle()
        after = memory.server.statistics()
        assert [metric for metric in metrics if not metric.value(after)] == []
        await client.aclose()
        await settle()
        again = await memory.connect()
        assert await again.request("echo", "hi") == "hi"
        await again.aclose()


@pytest.mark.parametrize("name", LIMITS)
async def test_limit(name: str, autojump_clock: MockClock) -> None:
    """L1: each limit, set low, bites on the wire and is counted by its documented metric."""
    value, scenario = LIMITS[name]
    limits: dict[str, Any] = {"outbox_messages": 1000} if name == "outbox_bytes" else {}
    # No answers of our own in between, and a shutdown that waits for no handler that never ends.
    window = 60 if name == "max_sessions" else None
    config = Config(
        ping_interval=10_000, shutdown_timeout=1, session_window=window, limits=Limits(**{**limits, name: value})
    )
    await bites(config, name, scenario)


@pytest.mark.parametrize("name", SETTINGS)
async def test_setting(name: str, autojump_clock: MockClock) -> None:
    """L1: each setting that ends something is counted by its documented metric."""
    value, scenario = SETTINGS[name]
    settings: dict[str, Any] = {"ping_interval": 3 if name == "pong_timeout" else 10_000, "shutdown_timeout": 1}
    await bites(Config(**settings, **{name: value}), name, scenario)
