"""The client and the library's own server: over memory streams in virtual time, and over sockets."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from certificates import certificates
from trio_rooms import ActionError, AskRefused, Config, Connection, Manager, Refuse, serve_rooms
from trio_rooms.client import ClientConfig, ClientEnded, Event, Gap, RequestFailed, RoomsClient, open_rooms
from trio_rooms.testing import FaultyStream, serve_in_memory

Format = Literal["json", "msgpack"]
URL = "ws://test/ws"


def make_manager(*, session_window: float | None = None, **options: Any) -> Manager:
    """A chat with history."""
    manager = Manager(config=Config(ping_interval=1_000, session_window=session_window))

    async def authorize(conn: Connection, room: str, data: Any) -> Any:
        return room != "secret" and {"welcome": data}

    manager.room("chat", authorize=authorize, **({"history_size": 100} | options))
    manager.room("*", authorize=authorize)
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.on("count", concurrent=True)
    async def count(conn: Connection, data: int) -> Any:
        for number in range(data):
            yield number

    @manager.on("subscribe")
    async def subscribe(conn: Connection, data: str) -> dict[str, str]:
        await conn.join(data)
        return {"room": data}

    return manager


async def dial(memory: Any) -> trio.abc.Stream:
    """A stream to a server in memory."""
    await trio.lowlevel.checkpoint()
    return memory.open_stream()  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_a_conversation(autojump_clock: MockClock, form: Format) -> None:
    """Requests, streams, rooms and refusals in both formats."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        async with open_rooms(URL, format=form, connect=partial(dial, memory)) as client:
            assert await client.request("echo", {"a": [1, None, "x"]}) == {"a": [1, None, "x"]}
            async with client.stream("count", 3) as items:
                assert [item async for item in items] == [0, 1, 2]
            with pytest.raises(RequestFailed, match="UNKNOWN_ACTION"):
                await client.request("nothing")
            with pytest.raises(RequestFailed, match="DENIED"):
                await client.join("secret")
            async with client.room("chat", {"me": 1}) as room:
                assert room.data == {"welcome": {"me": 1}}
                manager.broadcast_to_room("chat", {"text": "hi"})
                event = await room.receive()
                assert isinstance(event, Event)
                assert event.data == {"text": "hi"}
                assert event.position == room.position
            async with client.room("kitchen", "kitchen", action="subscribe") as kitchen:
                assert kitchen.data == {"room": "kitchen"}
                manager.broadcast_to_room("kitchen", 1)
                assert await kitchen.receive() == Event("kitchen", 1)
            manager.broadcast_to_all({"news": 1}, action="news")
            message = await client.receive()
            assert message.action == "news"  # type: ignore[union-attr]
        assert client.statistics().failures == 0


async def test_bytes(autojump_clock: MockClock) -> None:
    """A binary message is a direct one in both formats."""
    manager = make_manager()

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        await conn.send_bytes(b"\x00\xff")

    async with serve_in_memory(manager) as memory:
        for form in ("json", "msgpack"):
            async with open_rooms(URL, format=form, connect=partial(dial, memory)) as client:
                message = await client.receive()
                assert (message.action, message.data) == (None, b"\x00\xff")  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_requests_of_the_server(autojump_clock: MockClock, form: Format) -> None:
    """The server asks, the client answers; what the server does not wait for any more is cancelled."""
    manager, ended = make_manager(), []

    @manager.on("ask me")
    async def ask(conn: Connection, action: str) -> Any:
        try:
            return await conn.request(action, 4)
        except AskRefused as exc:
            return exc.code

    @manager.on("hang up")
    async def hang_up(conn: Connection) -> None:
        with trio.move_on_after(1):
            await conn.request("hang")

    async with (
        serve_in_memory(manager) as memory,
        open_rooms(URL, format=form, connect=partial(dial, memory)) as client,
    ):

        @client.on("double")
        def double(data: int) -> int:
            return 2 * data

        @client.on("refuse")
        def refuse(data: Any) -> None:
            raise ActionError("NEVER", "not me")

        @client.on("hang")
        async def hang(data: Any) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append(data)

        assert await client.request("ask me", "double") == 8
        assert await client.request("ask me", "refuse") == "NEVER"
        assert await client.request("ask me", "unknown") == "UNKNOWN_ACTION"
        await client.request("hang up")
        await wait_all_tasks_blocked()
        assert ended == [None]


class Cutter:
    """Opens streams that can be cut."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.streams: list[FaultyStream] = []

    async def connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.streams.append(FaultyStream(self._memory.open_stream()))
        return self.streams[-1]

    async def cut(self) -> None:
        await self.streams[-1].cut()


@pytest.mark.parametrize("session_window", [None, 60])
@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_cuts(autojump_clock: MockClock, form: Format, session_window: float | None) -> None:
    """A client that is cut off again and again, at any byte, sees each publication once and in order."""
    manager = make_manager(session_window=session_window, history_size=200)
    config = ClientConfig(backoff_most=0.5)
    async with serve_in_memory(manager) as memory:
        cutter = Cutter(memory)

        async def publish() -> None:
            for number in range(200):
                manager.broadcast_to_room("chat", number)
                await trio.sleep(0.05)

        async def disturb() -> None:
            for number in range(40):
                cutter.streams[-1].cut_receiving_at(number * 7)
                await trio.sleep(0.3)

        async with open_rooms(URL, format=form, connect=cutter.connect, config=config) as client:
            async with client.room("chat") as room, trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                nursery.start_soon(disturb)
                seen: list[Any] = []
                while len(seen) < 200:
                    item = await room.receive()
                    assert isinstance(item, Event), (item, seen)
                    seen.append(item.data)
            assert seen == list(range(200))
            assert client.statistics().connections > 10
            assert client.restored is (session_window is not None)
        assert (memory.server.statistics().sessions_restored > 10) is (session_window is not None)


async def test_too_long_away(autojump_clock: MockClock) -> None:
    """Who was away for longer than the history reaches is told so, gets nothing old, and goes on."""
    manager = make_manager(history_size=5)
    async with serve_in_memory(manager) as memory:
        cutter = Cutter(memory)
        async with open_rooms(URL, connect=cutter.connect) as client, client.room("chat") as room:
            for missed, expected in ((5, [0, 1, 2, 3, 4]), (6, [Gap("chat", "not recovered")])):
                await cutter.cut()
                for number in range(missed):
                    manager.broadcast_to_room("chat", number)
                await client.wait_change()
                await client.wait_open()
                await wait_all_tasks_blocked()
                got = [await room.receive() for _ in expected]
                assert [item.data if isinstance(item, Event) else item for item in got] == expected
                assert room.recovered is (missed == 5)
            manager.broadcast_to_room("chat", "live")
            item = await room.receive()
            assert isinstance(item, Event)
            assert item.data == "live"


async def test_overflow(autojump_clock: MockClock) -> None:
    """Who does not receive has a bounded buffer, and gets what did not fit from the history."""
    manager = make_manager()
    config = ClientConfig(buffer_messages=10)
    async with (
        serve_in_memory(manager) as memory,
        open_rooms(URL, connect=partial(dial, memory), config=config) as client,
        client.room("chat") as room,
    ):
        for number in range(50):
            manager.broadcast_to_room("chat", number)
        await wait_all_tasks_blocked()
        got = [await room.receive() for _ in range(50)]
        assert [item.data for item in got if isinstance(item, Event)] == list(range(50))
        assert client.statistics().overflows == 1


async def test_refused(autojump_clock: MockClock) -> None:
    """The status of a refusal, and its code."""
    manager = Manager()

    @manager.authenticate
    def authenticate(request: Any) -> None:
        raise Refuse(403, "BANNED")

    async with serve_in_memory(manager) as memory, open_rooms(URL, connect=partial(dial, memory)) as client:
        with pytest.raises(ClientEnded) as raised:
            await client.request("echo")
        assert (raised.value.status, raised.value.reason) == (403, "BANNED")


# Sockets


@pytest.mark.sockets
async def test_a_restart() -> None:
    """The server goes and comes on the same port: what is asked meanwhile waits, and the room says what is missing."""
    config = ClientConfig(backoff_base=0.05, backoff_most=0.1)
    manager = make_manager()
    async with trio.open_nursery() as nursery:
        async with serve_rooms(manager) as server:
            port, url = server.port, server.url
            client = await nursery.start(keep_client, url, config)
            assert await client.request("echo", 1) == 1
            room = await client.join("chat")
            manager.broadcast_to_room("chat", 1)
            assert (await room.receive()).data == 1
        assert client.state != "open"
        manager = make_manager()
        async with serve_rooms(manager, port=port):
            assert await client.request("echo", 2) == 2
            assert await room.receive() == Gap("chat", "not recovered")
            manager.broadcast_to_room("chat", 2)
            assert (await room.receive()).data == 2
            assert client.statistics().connections == 2
            nursery.cancel_scope.cancel()


async def keep_client(
    url: str, config: ClientConfig, *, task_status: trio.TaskStatus[RoomsClient] = trio.TASK_STATUS_IGNORED
) -> None:
    """A client until it is cancelled."""
    async with open_rooms(url, config=config) as client:
        task_status.started(client)
        await trio.sleep_forever()


@pytest.mark.sockets
@pytest.mark.parametrize("trusted", [True, False])
async def test_tls(trusted: bool) -> None:
    """Over TLS; a server that is not trusted is no server."""
    context = certificates().client if trusted else None
    async with (
        serve_rooms(make_manager(), ssl_context=certificates().server) as server,
        open_rooms(f"wss://localhost:{server.port}/ws", ssl_context=context) as client,
    ):
        if trusted:
            assert await client.request("echo", 1) == 1
        else:
            await client.wait_change()
            assert client.state == "waiting"
            assert "certificate" in repr(client.trouble) + repr(getattr(client.trouble, "__cause__", None))
