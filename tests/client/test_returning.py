"""The client that comes back to its session on the library's own server, its presence, and what it publishes."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Config, Connection, HandshakeRequest, Identity, Manager, Position, PresenceOptions
from trio_rooms.client import ClientConfig, ClientRoom, Event, Gap, NotConfirmed, RoomsClient, open_rooms
from trio_rooms.testing import FaultyStream, MemoryServer, serve_in_memory

Format = Literal["json", "msgpack"]
FORMS: list[Format] = ["json", "msgpack"]


async def allow(conn: Connection, room: str, data: Any) -> bool:
    return True


def make_manager(**options: Any) -> Manager:
    """Rooms with history ("h*"), with presence ("p*") and with neither; users are who they say."""
    manager = Manager(config=Config(**{"ping_interval": 10_000, "session_window": 60, **options}))
    manager.room("h*", authorize=allow, allow_publish=True, history_size=1_000)
    presence = PresenceOptions(entry=lambda conn, room: {"tab": conn.query.get("tab")}, grace=2, interval=0.1)
    manager.room("p*", authorize=allow, presence=presence)
    manager.room("*", authorize=allow)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query.get("user"))

    @manager.on("type")
    async def type(conn: Connection, typing: bool) -> None:
        conn.set_presence("people", {"typing": typing})

    @manager.on("remember")
    def remember(conn: Connection, name: str) -> None:
        conn.metadata["name"] = name
        conn.keep("name")

    manager.handle_message("name", lambda conn, message: conn.metadata.get("name"))
    return manager


class Line:
    """Opens streams to a server, of which the last can be cut."""

    def __init__(self, memory: MemoryServer) -> None:
        self._memory = memory
        self.streams: list[FaultyStream] = []

    def open(self, form: Format, query: str = "", **settings: Any) -> Any:
        """A client on this line."""
        config = ClientConfig(**({"backoff_most": 0.5} | settings))
        return open_rooms(f"ws://test/ws?{query}", format=form, connect=self._connect, config=config)

    async def _connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.streams.append(FaultyStream(self._memory.open_stream()))
        return self.streams[-1]

    async def cut(self) -> None:
        await self.streams[-1].cut()
        await wait_all_tasks_blocked()


async def receive_data(room: ClientRoom) -> Any:
    item = await room.receive()
    assert isinstance(item, Event), item
    return item.data


# Sessions


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_restored(form: Format, autojump_clock: MockClock) -> None:
    """The session, its metadata and its rooms, those with history recovered; what was left meanwhile is not."""
    manager = make_manager()
    sessions: list[tuple[str | None, bool]] = []
    manager.on_connect(lambda conn: sessions.append((conn.session_id, conn.restored)))
    async with serve_in_memory(manager) as memory:
        line = Line(memory)
        async with line.open(form) as client:
            await client.wait_open()
            assert trio.current_time() == 0, "the server need not wait for the first message"
            await client.request("remember", "Ada")
            async with client.room("hall") as hall, client.room("bare") as bare, client.room("gone") as gone:
                await line.cut()
                gone.leave()
                manager.broadcast_to_room("hall", 1)
                await client.wait_open()
                await wait_all_tasks_blocked()
                assert client.restored
                assert [list(conn.rooms) for conn in manager.connections.values()] == [["hall", "bare"]]
                assert await client.request("name") == "Ada"
                assert hall.recovered
                assert await bare.receive() == Gap("bare", "no history")
                manager.broadcast_to_room("hall", 2)
                manager.broadcast_to_room("bare", 2)
                assert [await receive_data(hall) for _ in range(2)] == [1, 2]
                assert await receive_data(bare) == 2
    assert [restored for _, restored in sessions] == [False, True]
    assert sessions[0][0] == sessions[1][0]


@pytest.mark.parametrize("form", FORMS)
async def test_cuts_at_many_bytes(form: Format, autojump_clock: MockClock) -> None:
    """Cut off again and again, within the welcome, the recovery and events: each event once, in order."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        line = Line(memory)

        async def publish() -> None:
            for number in range(300):
                manager.broadcast_to_room("hall", number)
                await trio.sleep(0.05)

        async def disturb() -> None:
            for number in range(50):
                line.streams[-1].cut_receiving_at(number * 7)
                await trio.sleep(0.3)

        with trio.fail_after(200):
            async with line.open(form) as client, client.room("hall") as hall, trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                nursery.start_soon(disturb)
                assert [await receive_data(hall) for _ in range(300)] == list(range(300))
        statistics = client.statistics()
        assert statistics.connections > 10


# Presence


def tabs(room: ClientRoom) -> dict[str, list[Any]]:
    """What each user's entries say."""
    return {user: [entry.get("tab", entry.get("typing")) for entry in found] for user, found in room.presence.items()}


@pytest.mark.parametrize("form", FORMS)
async def test_who_is_there(form: Format, autojump_clock: MockClock) -> None:
    """The state, then changes: tabs of one user, an entry that is replaced, who goes."""
    manager = make_manager(session_window=None)
    async with serve_in_memory(manager) as memory:
        line = Line(memory)
        with trio.fail_after(60):
            async with line.open(form, "user=ada&tab=1") as ada, ada.room("people") as room:
                while not room.presence:  # the first state does not have oneself in it yet
                    await room.presence.wait_change()
                assert tabs(room) == {"ada": ["1"]}
                async with (
                    line.open(form, "user=ada&tab=2") as second,
                    line.open(form, "user=bob&tab=3") as bob,
                    second.room("people") as of_second,
                    bob.room("people") as of_bob,
                ):
                    await trio.sleep(1)
                    await bob.request("type", True)
                    await trio.sleep(1)
                    for each in (room, of_second, of_bob):
                        assert tabs(each) == {"ada": ["1", "2"], "bob": [True]}
                await trio.sleep(1)  # who leaves the room has no grace
                assert tabs(room) == {"ada": ["1"]}
            assert not room.presence


@pytest.mark.parametrize("window", [None, 60])
@pytest.mark.parametrize("form", FORMS)
async def test_presence_after_an_outage(form: Format, window: float | None, autojump_clock: MockClock) -> None:
    """It is as it was while the connection is lost, and then as it is on the server; nobody saw the quick one go."""
    manager = make_manager(session_window=window)
    offline: list[str] = []
    manager.on_user_offline(lambda room, user: offline.append(user))
    async with serve_in_memory(manager) as memory:
        line, other = Line(memory), Line(memory)
        with trio.fail_after(60):
            async with line.open(form, "user=ada&tab=1") as ada, ada.room("people") as room:
                async with other.open(form, "user=bob&tab=2") as bob, bob.room("people") as of_bob:
                    await trio.sleep(1)
                    old = room.presence["ada"][0]["id"]
                    await line.cut()
                    assert tabs(room) == {"ada": ["1"], "bob": ["2"]}
                    await bob.request("type", True)
                    await trio.sleep(1.5)
                    assert tabs(room) == tabs(of_bob) == {"ada": ["1"], "bob": [True]}
                    assert room.presence["ada"][0]["id"] != old
                await trio.sleep(5)
                assert offline == ["bob"]
                assert tabs(room) == {"ada": ["1"]}


# Publishing


async def publish_and_lose(line: Line, hall: ClientRoom, stall: Literal["request", "reply"], **options: Any) -> object:
    """Publish, and lose the connection before the request has gone, or before its reply has come."""
    found: list[object] = []

    async def publish() -> None:
        try:
            found.append(await hall.publish("x", **options))
        except NotConfirmed as exc:
            found.append(exc)

    async with trio.open_nursery() as nursery:
        stream = line.streams[-1]
        if stall == "request":
            stream.stall_sending()
        else:
            stream.stall_receiving()
        nursery.start_soon(publish)
        await wait_all_tasks_blocked()
        await line.cut()
    return found[0]


@pytest.mark.parametrize("user", ["", "user=ada"])
@pytest.mark.parametrize("lost", ["request", "reply"])
@pytest.mark.parametrize("form", FORMS)
async def test_published_once(
    form: Format, lost: Literal["request", "reply"], user: str, autojump_clock: MockClock
) -> None:
    """With an idempotency key it is sent again, and published once, whatever was lost; without one a loss is told."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        line = Line(memory)
        with trio.fail_after(60):
            async with line.open(form, user) as client, client.room("hall") as hall:
                confirmed = await publish_and_lose(line, hall, lost, idempotency_key="k")
                assert isinstance(confirmed, Position)
                assert confirmed.offset == 1
                assert isinstance(await publish_and_lose(line, hall, lost), NotConfirmed)
                await client.wait_open()
                manager.broadcast_to_room("hall", "end")
                seen = []
                while not seen or seen[-1] != "end":
                    seen.append(await receive_data(hall))
                assert seen == (["x", "end"] if lost == "request" else ["x", "x", "end"])


@pytest.mark.parametrize("form", FORMS)
async def test_publishing_after_a_restart(form: Format, autojump_clock: MockClock) -> None:
    """Where no session is restored, the rooms are joined before what waits to be published is sent."""
    manager = make_manager()
    memories: list[MemoryServer] = []

    async def connect() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not memories:
            raise OSError("nobody listens")
        return memories[-1].open_stream()

    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            opened = partial(open_rooms, "ws://test/ws", format=form, connect=connect)
            async with serve_in_memory(manager) as memory:
                memories.append(memory)
                client = await nursery.start(keep, opened)
                hall = await client.join("hall")
            memories.clear()
            nursery.start_soon(partial(hall.publish, "x", idempotency_key="k"))
            async with serve_in_memory(manager) as memory:
                memories.append(memory)
                assert await hall.receive() == Gap("hall", "not recovered")
                assert await receive_data(hall) == "x"
                assert not client.restored
                nursery.cancel_scope.cancel()


async def keep(opened: Any, *, task_status: trio.TaskStatus[RoomsClient] = trio.TASK_STATUS_IGNORED) -> None:
    """A client until it is cancelled."""
    async with opened() as client:
        task_status.started(client)
        await trio.sleep_forever()
