"""What a room does by itself: opening, its tasks, closing."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, attempt, hall, of, record, settle
from trio_rooms import (
    ActionError,
    Config,
    Connection,
    HookTimeout,
    Identity,
    Manager,
    Room,
    RoomClosed,
    RoomFailed,
    current_connection,
    current_room,
)
from trio_rooms.testing import ReplyError

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def allow(conn: Connection, room: str, data: Any) -> bool:
    await trio.lowlevel.checkpoint()
    return True


# on_room_open


async def test_the_first_join_waits_for_the_opening(autojump_clock: MockClock) -> None:
    """on_room_open may load state: no join is through, and no join hook runs, before it has ended."""
    manager = Manager()
    log = record(manager)
    gate = Gate()

    @manager.on_room_open
    async def load(room: Room) -> None:
        await gate()
        room.metadata["state"] = "loaded"

    async with hall(manager) as served, trio.open_nursery() as nursery:
        conns = [(await served.enter()).conn for _ in range(3)]
        joins = [attempt(nursery, conn.join, "r") for conn in conns]
        await gate.reached.wait()
        await settle()
        assert not of(log, "join")
        gate.open.set()
        for join in joins:
            await join.over.wait()
            assert join.result.room.metadata == {"state": "loaded"}


@pytest.mark.parametrize("error", [ValueError("secret"), ActionError("NO"), "hangs"], ids=repr)
async def test_opening_fails(error: Any, autojump_clock: MockClock) -> None:
    """When on_room_open fails all joins that wait fail ROOM_FAILED, the room is discarded, the next tries anew."""
    manager = Manager(config=Config(hook_timeout=3))
    manager.room("r", authorize=allow)
    log = record(manager)
    failures = [error]
    opened: list[Room] = []
    closed: list[Room] = []
    manager.on_room_close(closed.append)

    @manager.on_room_open
    async def load(room: Room) -> None:
        opened.append(room)
        if failures:
            await trio.sleep(1 if failures[0] != "hangs" else trio.current_time() + 1e6)
            raise failures.pop()

    async with hall(manager) as served, trio.open_nursery() as nursery:
        guests = [await served.enter() for _ in range(4)]
        joins = [attempt(nursery, guest.conn.join, "r") for guest in guests[:3]]
        with pytest.raises(ReplyError) as caught:
            await guests[3].client.request("$join", {"room": "r"})
        failures.clear()
        assert caught.value.code == "ROOM_FAILED"
        assert caught.value.temporary
        assert "secret" not in caught.value.message
        for join in joins:
            await join.over.wait()
            assert isinstance(join.error, RoomFailed)
        assert manager.rooms() == []
        assert opened[0].closed
        assert len(of(log, "error")) == 1
        assert of(log, "error") == [(HookTimeout.__name__ if error == "hangs" else type(error).__name__,)]
        assert not of(log, "join")
        assert not of(log, "leave")
        room = (await guests[0].conn.join("r")).room
        assert opened == [opened[0], room]
        assert room is not opened[0]
        assert not closed


async def test_who_waits_need_not_wait_for_the_report(autojump_clock: MockClock) -> None:
    """Joins of a room that did not open fail at once, however long on_error takes."""
    manager = Manager()

    @manager.on_room_open
    def fail(room: Room) -> None:
        raise ValueError

    @manager.on_error
    async def slow(conn: Connection | None, error: BaseException) -> None:
        await trio.sleep(4)

    async with hall(manager) as served:
        before = trio.current_time()
        with pytest.raises(RoomFailed):
            await (await served.enter()).conn.join("r")
        assert trio.current_time() == before


async def test_the_second_open_hook_fails(autojump_clock: MockClock) -> None:
    """Hooks run in the order of registration, and none after the one that fails."""
    manager = Manager()
    calls: list[str] = []
    manager.on_room_open(lambda room: calls.append("first"))

    @manager.on_room_open
    def fail(room: Room) -> None:
        calls.append("second")
        raise ValueError

    manager.on_room_open(lambda room: calls.append("third"))
    async with hall(manager) as served:
        with pytest.raises(RoomFailed):
            await (await served.enter()).conn.join("r")
    assert calls == ["first", "second"]


async def test_closing_while_it_opens(autojump_clock: MockClock) -> None:
    """A room that is closed while it opens fails the joins that wait, and closes when it has opened."""
    manager = Manager()
    calls: list[str] = []
    gate = Gate()

    @manager.on_room_open
    async def load(room: Room) -> None:
        await gate()
        calls.append("open")

    manager.on_room_close(lambda room: calls.append("close"))
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        join = attempt(nursery, conn.join, "r")
        await gate.reached.wait()
        room = manager.get_room("r")
        assert room is not None
        room.close()
        assert manager.get_room("r") is None
        gate.open.set()
        await join.over.wait()
        assert isinstance(join.error, RoomClosed)
        await settle()
        assert calls == ["open", "close"]


async def test_a_room_hook_that_joins_somebody(autojump_clock: MockClock) -> None:
    """I4: an on_room_open hook that joins a connection to the room it opens waits for itself, hook_timeout at most."""
    manager = Manager(config=Config(hook_timeout=3))
    conns: list[Connection] = []

    @manager.on_room_open
    async def pull(room: Room) -> None:
        if room.name == "r":
            await conns[1].join("other")
            await conns[1].join("r")

    async with hall(manager) as served:
        conns += [(await served.enter()).conn for _ in range(2)]
        with pytest.raises(RoomFailed):
            await conns[0].join("r")
        assert trio.current_time() == 3
        assert list(conns[1].rooms) == ["other"]


# Tasks


async def test_a_task_lives_as_long_as_the_room(autojump_clock: MockClock) -> None:
    """A room's task is cancelled when the last member has left."""
    manager = Manager()
    log: list[str] = []

    async def task(*args: object) -> None:
        log.append(f"begun {args}")
        try:
            await trio.sleep_forever()
        finally:
            log.append("over")

    async with hall(manager) as served:
        a, b = (await served.enter()).conn, (await served.enter()).conn
        room = (await a.join("r")).room
        await b.join("r")
        room.start_soon(task, 1, "x")
        await trio.sleep(1)
        a.leave("r")
        await trio.sleep(1)
        assert log == ["begun (1, 'x')"]
        b.leave("r")
        await settle()
        assert log == ["begun (1, 'x')", "over"]
        with pytest.raises(RoomClosed):
            room.start_soon(task)


async def test_a_task_lives_through_linger(autojump_clock: MockClock) -> None:
    """While the room lingers its tasks go on; when the linger time is over they are cancelled."""
    manager = Manager()
    manager.room("r", linger=5.0)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(trio.current_time())
            await trio.sleep(1)

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        room = (await conn.join("r")).room
        room.start_soon(tick)
        await trio.sleep(2.5)
        conn.leave("r")
        await trio.sleep(3)
        await conn.join("r")
        await trio.sleep(2)
        conn.leave("r")
        await trio.sleep(100)
        assert ticks == [float(second) for second in range(13)]


@pytest.mark.parametrize("how", ["close", "drain", "serve is cancelled"])
async def test_tasks_are_cancelled(how: str, autojump_clock: MockClock) -> None:
    """However a room ends its tasks are cancelled, may clean up, and on_room_close runs once, behind them."""
    manager = Manager()
    log: list[str] = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await trio.sleep(1)
            log.append("task is over")

    manager.on_room_open(lambda room: log.append("open"))
    manager.on_leave_room(lambda conn, room, reason: log.append(f"leave {reason}"))

    @manager.on_room_close
    async def close(room: Room) -> None:
        await trio.sleep(0.5)
        log.append("close")

    with trio.CancelScope() as scope:
        async with hall(manager) as served:
            guest = await served.enter()
            room = (await guest.conn.join("r")).room
            room.start_soon(task)
            await settle()
            if how == "close":
                room.close()
                await trio.sleep(5)
            elif how == "serve is cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
    reason = "closed" if how == "close" else "disconnected"
    assert log == ["open", f"leave {reason}", "task is over", "close"]
    assert room.closed


async def test_a_fresh_context(autojump_clock: MockClock) -> None:
    """A room's task knows its room and nothing of whoever happened to start it, nor do its hooks."""
    manager = Manager()
    seen: list[tuple[str, object, object, str]] = []

    def look(where: str) -> None:
        seen.append((where, current_room(), current_connection(), variable.get()))

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        look("task")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.lowlevel.checkpoint()

    async def child() -> None:
        await trio.lowlevel.checkpoint()
        look("child")

    manager.on_room_open(lambda room: look("open"))
    manager.on_room_close(lambda room: look("close"))
    rooms: list[Room] = []

    @manager.on("go")
    async def go(conn: Connection) -> None:
        variable.set("of the handler")
        rooms.append((await conn.join("r")).room)
        rooms[0].start_soon(task)
        look("handler")

    async with hall(manager) as served:
        guest = await served.enter()
        await guest.client.request("go")
        await settle()
        conn = guest.conn
    room = rooms[0]
    assert seen == [
        ("open", room, None, "unset"),
        ("handler", None, conn, "of the handler"),
        ("task", room, None, "unset"),
        ("child", room, None, "unset"),
        ("close", room, None, "unset"),
    ]


async def test_a_task_started_in_the_open_hook(autojump_clock: MockClock) -> None:
    """A room may start its tasks while it opens; they begin when it has opened."""
    manager = Manager()
    log: list[str] = []

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        log.append("task")

    @manager.on_room_open
    async def load(room: Room) -> None:
        room.start_soon(task)
        await trio.sleep(1)
        log.append("opened")

    async with hall(manager) as served:
        await (await served.enter()).conn.join("r")
        await settle()
        assert log == ["opened", "task"]


async def test_a_task_publishes(autojump_clock: MockClock) -> None:
    """A room's task publishes to its room like everybody else."""
    manager = Manager()

    async def ticker() -> None:
        room = current_room()
        assert room is not None
        for number in range(3):
            await trio.sleep(1)
            await room.publish(number)

    async with hall(manager) as served:
        guest = await served.enter()
        (await guest.conn.join("r")).room.start_soon(ticker)
        assert [await guest.client.receive_json() for _ in range(3)] == [0, 1, 2]
        assert trio.current_time() == 3


async def test_a_crash_closes_the_room_only(autojump_clock: MockClock) -> None:
    """I1: a task that raises closes its room with ROOM_FAILED and is reported; connections and other rooms live."""
    manager = Manager()
    log = record(manager)
    closed: list[str] = []
    manager.on_room_close(lambda room: closed.append(room.name))

    async def crash() -> None:
        await trio.sleep(1)
        raise ValueError("secret")

    async def endless() -> None:
        await trio.sleep_forever()

    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        other = (await guest.conn.join("other")).room
        room = (await guest.conn.join("r")).room
        for function in (endless, crash, endless):
            room.start_soon(function)
        other.start_soon(endless)
        notice = await guest.client.receive_json()
        assert notice["action"] == "$closed"
        assert notice["data"] == {"room": "r", "code": "ROOM_FAILED", "message": "the room has failed"}
        await settle()
        assert list(guest.conn.rooms) == ["other"]
        assert guest.conn.closed is None
        assert of(log, "error") == [("ValueError",)]
        assert of(log, "leave") == [("r", "closed")]
        assert closed == ["r"]
        assert not other.closed
        assert (await guest.conn.join("r")).room is not room


async def stray() -> None:
    """Raise a Cancelled whose scope is gone."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept.append(exc)
            raise
    raise kept[0]


async def group() -> None:
    await trio.lowlevel.checkpoint()
    raise BaseExceptionGroup("several", [ValueError("one"), ValueError("two")])


async def group_with_stray() -> None:
    try:
        await stray()
    except trio.Cancelled as exc:  # noqa: ASYNC103 - the misdeed that is tested
        raise BaseExceptionGroup("several", [ValueError("one"), exc]) from None  # noqa: ASYNC104


def not_even_async() -> None:
    """Return nothing that can be awaited."""


@pytest.mark.parametrize(
    ("task", "reported"),
    [
        (stray, "RuntimeError"),
        (group, "ExceptionGroup"),
        (group_with_stray, "RuntimeError"),
        (not_even_async, "TypeError"),
    ],
)
async def test_odd_crashes(task: Any, reported: str, autojump_clock: MockClock) -> None:
    """I1: groups, a stray Cancelled and what is no async function close the room, and nothing else."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        room = (await guest.conn.join("r")).room
        room.start_soon(task)
        await settle()
        assert room.closed
        assert of(log, "error") == [(reported,)]
        assert guest.conn.closed is None
        await guest.conn.join("r")


async def test_several_crashes(autojump_clock: MockClock) -> None:
    """Each task that fails is reported, also one that fails while it is being cancelled."""
    manager = Manager()
    log = record(manager)

    async def first() -> None:
        await trio.sleep(1)
        raise ValueError

    async def second() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError

    async with hall(manager) as served:
        room = (await (await served.enter()).conn.join("r")).room
        room.start_soon(first)
        room.start_soon(second)
        await trio.sleep(2)
        assert of(log, "error") == [("ValueError",), ("KeyError",)]


async def test_a_task_that_closes_its_room(autojump_clock: MockClock) -> None:
    """A task may close its own room, which cancels it."""
    manager = Manager()
    log = record(manager)
    cancelled: list[bool] = []

    async def suicidal() -> None:
        room = current_room()
        assert room is not None
        room.close("DONE")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        (await guest.conn.join("r")).room.start_soon(suicidal)
        assert (await guest.client.receive_json())["data"]["code"] == "DONE"
        await settle()
        assert cancelled == [True]
        assert not of(log, "error")


async def test_shutdown_in_a_task(autojump_clock: MockClock) -> None:
    """A room's task that shuts the server down does not wait for its own end."""
    manager = Manager()
    log: list[str] = []

    async def end_it() -> None:
        await manager.shutdown()
        log.append("went on")
        await trio.sleep_forever()

    async with hall(manager) as served:
        guest = await served.enter()
        (await guest.conn.join("r")).room.start_soon(end_it)
        await guest.client.expect_close(1012)
        await guest.client.aclose()
        with trio.fail_after(1):
            await served.server.wait_closed()
    assert log == ["went on"]


async def test_a_task_that_does_not_end(autojump_clock: MockClock) -> None:
    """D2: a room's task that takes its time to end holds the server no longer than close_timeout after the drain."""
    manager = Manager(config=Config(shutdown_timeout=2, close_timeout=3))

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep(1)

    async with hall(manager) as served:
        (await (await served.enter()).conn.join("r")).room.start_soon(slow)
        await settle()
    assert trio.current_time() <= 2 + 3


# on_room_close


async def test_close_hooks_all_run(autojump_clock: MockClock) -> None:
    """A close hook that raises or hangs is reported, and the rest still run."""
    manager = Manager(config=Config(hook_timeout=3))
    log = record(manager)
    calls: list[str] = []

    @manager.on_room_close
    def fail(room: Room) -> None:
        calls.append("fails")
        raise ValueError

    @manager.on_room_close
    async def hang(room: Room) -> None:
        calls.append("hangs")
        await trio.sleep_forever()

    @manager.on_room_close
    async def good(room: Room) -> None:
        await trio.lowlevel.checkpoint()
        calls.append("good")

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        await conn.join("r")
        conn.leave("r")
        before = trio.current_time()
        await conn.join("r")
        assert trio.current_time() == before + 3
        assert calls == ["fails", "hangs", "good"]
        assert of(log, "error") == [("ValueError",), ("HookTimeout",)]


async def test_the_report_of_a_close_hook_has_its_own_time(autojump_clock: MockClock) -> None:
    """An on_error hook is not cut short by the time that the failed hook took."""
    manager = Manager(config=Config(hook_timeout=3))
    reported: list[str] = []

    @manager.on_room_close
    async def hang(room: Room) -> None:
        await trio.sleep_forever()

    @manager.on_error
    async def slow(conn: Connection | None, error: BaseException) -> None:
        await trio.sleep(2.5)
        reported.append(type(error).__name__)

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        await conn.join("r")
        conn.leave("r")
        await trio.sleep(10)
        assert reported == ["HookTimeout"]


async def test_who_speaks_last(autojump_clock: MockClock) -> None:
    """Identities, members and metadata are still there for the hooks of a room that opens and closes."""
    manager = Manager()
    seen: list[tuple[str, int, bool]] = []

    @manager.authenticate
    async def authenticate(request: Any) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity(user="ada")

    manager.on_room_open(lambda room: seen.append(("open", len(room.members), room.closed)))
    manager.on_room_close(lambda room: seen.append(("close", len(room.members), room.closed)))
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        assert guest.conn.identity.user == "ada"
    assert seen == [("open", 0, False), ("close", 0, True)]
