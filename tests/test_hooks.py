"""Hooks: their order, their time, and what comes of one that raises (the table in the documentation of hooks)."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Gate, attempt, hall, of, pause, record, settle
from messages import code_of, receive_all
from trio_rooms import (
    ActionError,
    AlreadyServing,
    Close,
    Config,
    Connection,
    Identity,
    InternalError,
    Manager,
    Message,
    Refuse,
    Room,
    RoomFailed,
    UsageError,
    current_connection,
)
from trio_rooms.testing import HandshakeRefused, ReplyError, open_client

SECRET = "the text of an exception"

HOOKS = [
    "on_connect",
    "on_disconnect",
    "on_message",
    "on_error",
    "on_join_room",
    "on_leave_room",
    "on_room_open",
    "on_room_close",
]


async def hang() -> None:
    await trio.sleep_forever()


async def stray() -> None:
    """Raise a Cancelled whose scope is gone."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept = exc
            raise
    raise kept


async def crash() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError(SECRET)


async def group() -> None:
    await trio.lowlevel.checkpoint()
    raise BaseExceptionGroup("several", [ValueError(SECRET), RecursionError()])


#: What a hook may do that it should not, and the exception that on_error is called with.
MISDEEDS = {
    "raises": (crash, "ValueError"),
    "hangs": (hang, "HookTimeout"),
    "raises a group": (group, "ExceptionGroup"),
    "raises a stray Cancelled": (stray, "RuntimeError"),
}


@pytest.fixture(params=MISDEEDS.values(), ids=MISDEEDS)
def misdeed(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], str]:
    """What a hook does, and what is reported."""
    found: tuple[Callable[[], Any], str] = request.param
    return found


def manager_with_timeout() -> Manager:
    return Manager(config=Config(hook_timeout=3.0, ping_interval=1e6, handshake_timeout=1000))


# Registering


@pytest.mark.parametrize("name", HOOKS)
async def test_registering(name: str, autojump_clock: MockClock) -> None:
    """A hook is returned as it is, so the method can decorate; what is no function, or comes too late, is refused."""
    manager = Manager()

    def hook(*args: object) -> None:
        """Do nothing."""

    register = getattr(manager, name)
    assert register(hook) is hook
    with pytest.raises(UsageError):
        register("not a function")
    async with hall(manager):
        with pytest.raises(AlreadyServing):
            register(hook)
    register(hook)


async def test_what_they_are_called_with(autojump_clock: MockClock) -> None:
    """Each hook has its own arguments, whether it is a function, async or not."""
    calls: dict[str, tuple[object, ...]] = {}
    manager = Manager()

    def note(name: str) -> None:
        def plain(*args: object) -> None:
            calls[name] = args

        async def asynchronous(*args: object) -> None:
            await trio.lowlevel.checkpoint()
            calls[name + " async"] = args

        getattr(manager, name)(plain)
        getattr(manager, name)(asynchronous)

    for name in HOOKS:
        note(name)

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise ValueError(SECRET)

    async with hall(manager) as served:
        guest = await served.enter()
        room = (await guest.conn.join("r")).room
        with pytest.raises(ReplyError):
            await guest.client.request("fail")
        await guest.client.expect_close(1011)
        conn = guest.conn
    message = calls["on_message"][1]
    error = calls["on_error"][1]
    assert isinstance(message, Message)
    assert message.action == "fail"
    assert isinstance(error, ValueError)
    expected = {
        "on_connect": (conn,),
        "on_disconnect": (conn, Close(1011, "internal error", "server")),
        "on_message": (conn, message),
        "on_error": (conn, error),
        "on_join_room": (conn, room),
        "on_leave_room": (conn, room, "disconnected"),
        "on_room_open": (room,),
        "on_room_close": (room,),
    }
    assert calls == expected | {name + " async": args for name, args in expected.items()}


# The table: a hook that raises, and what comes of it; the same if it hangs


async def test_authenticate(misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """An authenticate that raises is answered 500, without any detail."""
    act, _ = misdeed
    if act is hang:
        act = crash  # its time is that of the handshake
    manager = manager_with_timeout()

    @manager.authenticate
    async def authenticate(request: Any) -> Identity:
        await act()
        return Identity()

    async with hall(manager) as served:
        with pytest.raises(HandshakeRefused) as caught:
            await served.memory.connect()
        assert caught.value.status == 500
        assert SECRET.encode() not in caught.value.body
        assert served.server.statistics().accepted == 0


async def test_authenticate_refuses(autojump_clock: MockClock) -> None:
    """Refuse is answered with its status and code, None with 401."""
    manager = Manager()
    verdicts: list[Refuse | None] = [Refuse(403, "BANNED"), None]

    @manager.authenticate
    async def authenticate(request: Any) -> Identity | None:
        await trio.lowlevel.checkpoint()
        verdict = verdicts.pop(0)
        if verdict is not None:
            raise verdict
        return None

    async with hall(manager) as served:
        for status in (403, 401):
            with pytest.raises(HandshakeRefused) as caught:
                await served.memory.connect()
            assert caught.value.status == status


async def test_on_connect(misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """An on_connect that raises closes with 1011, without any detail; on_disconnect runs once."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    manager.on_connect(lambda conn: act())
    manager.on_connect(lambda conn: log.append(("later hook", conn.id)))
    async with hall(manager) as served:
        ok_calls = trio.current_time()
        client = await served.memory.connect()
        closed = await client.expect_close(1011)
        assert SECRET not in closed.reason
        await client.aclose()
        await settle()
        assert [entry[0] for entry in log] == ["connect", "error", "disconnect"]
        assert of(log, "error") == [(reported,)]
        assert trio.current_time() == ok_calls + (3 if act is hang else 0)


async def test_on_connect_says_no(autojump_clock: MockClock) -> None:
    """An ActionError of on_connect closes with 4500 and its code, and is no error to report."""
    manager = Manager()
    log = record(manager)

    @manager.on_connect
    async def refuse(conn: Connection) -> None:
        raise ActionError("BANNED")

    async with hall(manager) as served:
        client = await served.memory.connect()
        assert (await client.expect_close(4500)).reason == "BANNED"
        await settle()
        assert not of(log, "error")
        assert len(of(log, "disconnect")) == 1


async def test_on_disconnect_and_on_leave_room(
    misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock
) -> None:
    """What on_leave_room and on_disconnect raise is reported, and the rest still run."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    manager.on_leave_room(lambda conn, room, reason: act())
    manager.on_leave_room(lambda conn, room, reason: log.append(("later leave", conn.id)))
    manager.on_disconnect(lambda conn, close: act())
    manager.on_disconnect(lambda conn, close: log.append(("later disconnect", conn.id)))
    async with hall(manager) as served:
        guest, ok = await served.enter(), await served.enter()
        await guest.conn.join("r")
        await ok.conn.join("r")
        start = trio.current_time()
        await guest.client.aclose()
        await guest.conn.wait_closed()
        events = [entry[0] for entry in log if entry[-1] == guest.conn.id]
        expected = ["connect", "join", "leave", "error", "later leave", "disconnect", "error", "later disconnect"]
        assert events == expected
        assert of(log, "error", guest.conn) == [(reported,)] * 2
        # Together they have no more time than one.
        assert trio.current_time() == start + (3 if act is hang else 0)
        assert manager.broadcast_to_room("r", 1).enqueued == 1
        assert ok.conn.closed is None


async def test_on_leave_room_of_an_open_connection(
    misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock
) -> None:
    """Each leave hook of a connection that lives on has its own time, and the connection lives on."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    manager.on_leave_room(lambda conn, room, reason: act())
    async with hall(manager) as served:
        guest = await served.enter()
        for name in ("a", "b"):
            await guest.conn.join(name)
        for name in ("a", "b"):
            guest.conn.leave(name)
        await guest.conn.join("c")
        assert trio.current_time() == (6 if act is hang else 0)
        assert of(log, "error") == [(reported,)] * 2
        assert guest.conn.closed is None


async def test_on_message(misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """An on_message that raises is an error reply; the handler is not run and the connection stays."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    handled: list[str] = []

    @manager.on_message
    async def check(conn: Connection, message: Message) -> None:
        if message.action == "bad":
            await act()

    manager.on_message(lambda conn, message: handled.append("later hook"))
    manager.handle_message("bad", lambda conn: handled.append("bad"))
    manager.handle_message("good", lambda conn: "good")
    async with hall(manager) as served:
        guest = await served.enter()
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("bad")
        assert caught.value.code == "INTERNAL"
        assert SECRET not in caught.value.message
        assert handled == []
        assert await guest.client.request("good") == "good"
        assert of(log, "error") == [(reported,)]


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize(
    ("how", "by", "told", "reported"),
    [
        ("pass", "the hook's time", "INTERNAL", ["HookTimeout"]),
        ("swallow", "the hook's time", "INTERNAL", ["HookTimeout"]),
        ("fail", "the hook's time", "INTERNAL", ["ValueError"]),
        ("fail twice", "the hook's time", "INTERNAL", ["ValueError"]),
        ("pass", "a cancel", "CANCELLED", []),
        ("pass", "the message's time", "DEADLINE_EXCEEDED", []),
        ("fail", "a cancel", "INTERNAL", ["ValueError"]),
        ("in time", "", None, []),
        ("in time", "the message's time, later", "DEADLINE_EXCEEDED", []),
    ],
)
async def test_an_on_message_that_is_cut(
    how: str, by: str, told: str | None, reported: list[str], concurrent: bool, autojump_clock: MockClock
) -> None:
    """Whatever cuts an on_message that waits, its message is answered once, and the messages behind it are handled."""
    manager = Manager(config=Config(hook_timeout=3))
    errors: list[str] = []
    manager.on_error(lambda conn, error: errors.append(type(error).__name__))

    async def wait_and_fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    @manager.on_message
    async def check(conn: Connection, message: Message) -> None:
        if message.action != "act":
            return
        if how == "in time":
            await trio.sleep(2)
        elif how == "fail twice":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_and_fail)
                nursery.start_soon(trio.sleep_forever)
        elif how == "fail":
            await wait_and_fail()
        else:
            with suppress(trio.Cancelled if how == "swallow" else KeyError):
                await trio.sleep_forever()

    @manager.on("act", concurrent=concurrent)
    async def act(conn: Connection) -> str:
        await trio.sleep(10 if by else 3)
        return "done"

    manager.handle_message("note", lambda conn, message: message.data)
    async with open_client(manager) as client:
        for number in range(3):
            assert await client.request("note", number) == number
        timeout = {"the message's time": 1000, "the message's time, later": 4000}.get(by)
        message = {"action": "act", "id": "x"}
        await client.send_json(message if timeout is None else {**message, "timeout_ms": timeout})
        await wait_all_tasks_blocked()
        if by == "a cancel":
            await client.send_action("$cancel", {"id": "x"})
        (answer,) = await receive_all(client, 20)
        assert answer["id"] == "x"
        assert code_of(answer) == told
        assert type_names(errors) == reported
        for number in range(3):
            assert await client.request("note", number) == number


def type_names(errors: list[str]) -> list[str]:
    """What was reported, the groups of one error as that error."""
    return ["ValueError" if name == "ExceptionGroup" else name for name in errors]


async def test_on_message_says_no(autojump_clock: MockClock) -> None:
    """An ActionError of on_message is told to the client, and not reported."""
    manager = Manager()
    log = record(manager)

    @manager.on_message
    def check(conn: Connection, message: Message) -> None:
        raise ActionError("MUTED", "be quiet", temporary=True)

    manager.handle_message("say", lambda conn: None)
    async with hall(manager) as served:
        with pytest.raises(ReplyError) as caught:
            await (await served.enter()).client.request("say")
        assert (caught.value.code, caught.value.message, caught.value.temporary) == ("MUTED", "be quiet", True)
        assert not of(log, "error")


@pytest.mark.parametrize("by_client", [True, False], ids=["by client", "by program"])
async def test_on_join_room(by_client: bool, misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """An on_join_room that raises vetoes the join; it is reported once, and followed by on_leave_room."""
    act, reported = misdeed
    manager = manager_with_timeout()

    async def allow(conn: Connection, room: str, data: Any) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    manager.room("r", authorize=allow)
    log = record(manager)
    manager.on_join_room(lambda conn, room: act())
    manager.on_join_room(lambda conn, room: log.append(("later hook", conn.id)))
    async with hall(manager) as served:
        guest = await served.enter()
        if by_client:
            with pytest.raises(ReplyError) as told:
                await guest.client.request("$join", {"room": "r"})
            assert told.value.code == "INTERNAL"
            assert SECRET not in told.value.message
        else:
            with pytest.raises(InternalError) as caught:
                await guest.conn.join("r")
            assert SECRET not in caught.value.message
        await settle()
        assert [entry[0] for entry in log] == ["connect", "join", "error", "leave"]
        assert of(log, "error") == [(reported,)]
        assert of(log, "leave") == [("r", "vetoed")]
        assert guest.conn.closed is None
        assert manager.rooms() == []


async def test_a_veto_has_its_code(autojump_clock: MockClock) -> None:
    """An ActionError of on_join_room is the join's, and not reported."""
    manager = Manager()
    log = record(manager)

    @manager.on_join_room
    async def veto(conn: Connection, room: Room) -> None:
        raise ActionError("TOO_YOUNG")

    @manager.on("enter")
    async def enter(conn: Connection) -> None:
        await conn.join("r")

    async with hall(manager) as served:
        with pytest.raises(ReplyError) as caught:
            await (await served.enter()).client.request("enter")
        assert caught.value.code == "TOO_YOUNG"
        await settle()
        assert of(log, "leave") == [("r", "vetoed")]
        assert not of(log, "error")


@pytest.mark.parametrize("where", ["on_connect", "session", "task", "handler", "handler that expects it"])
async def test_a_failed_join_hook_is_reported_wherever_the_join_was(where: str, autojump_clock: MockClock) -> None:
    """What on_join_room raises is reported once, also where the code that joins takes the error for a refusal."""
    manager = Manager()
    log = record(manager)

    @manager.on_join_room
    def fail(conn: Connection, room: Room) -> None:
        raise ValueError(SECRET)

    async def join(conn: Connection) -> None:
        await conn.join("r")

    if where == "on_connect":
        manager.on_connect(join)
    elif where == "session":
        manager.session(join)

    @manager.on("go")
    async def go(conn: Connection) -> None:
        if where == "task":
            conn.start_soon(join, conn)
        elif where == "handler":
            await join(conn)
        elif where == "handler that expects it":
            try:
                await join(conn)
            except ActionError:
                await trio.lowlevel.checkpoint()

    async with hall(manager) as served:
        client = await served.memory.connect()
        await client.send_action("go")
        await settle()
        assert of(log, "error").count(("ValueError",)) == 1
        if where in {"on_connect", "session"}:
            await client.expect_close(1011)
        await client.aclose()


async def test_on_room_open(misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """An on_room_open that raises fails the joins that wait with ROOM_FAILED; the room is discarded."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    manager.on_room_open(lambda room: act())
    manager.on_room_close(lambda room: log.append(("close", "")))
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conns = [(await served.enter()).conn for _ in range(2)]
        joins = [attempt(nursery, conn.join, "r") for conn in conns]
        for join in joins:
            await join.over.wait()
            assert isinstance(join.error, RoomFailed)
        await settle()
        assert manager.rooms() == []
        assert [entry for entry in log if entry[0] != "connect"] == [("error", reported, None)]


async def test_on_room_close(misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock) -> None:
    """What on_room_close raises is reported, and the rest still run."""
    act, reported = misdeed
    manager = manager_with_timeout()
    log = record(manager)
    manager.on_room_close(lambda room: act())
    manager.on_room_close(lambda room: log.append(("later hook", "")))
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        await conn.join("r")
        conn.leave("r")
        await trio.sleep(10)
        assert of(log, "error") == [(reported,)]
        assert log[-1] == ("later hook", "")


async def test_on_error(
    misdeed: tuple[Callable[[], Any], str], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What on_error raises is logged and nothing more; it is not called for itself, and the rest still run."""
    act, _ = misdeed
    manager = manager_with_timeout()
    calls: list[str] = []

    @manager.on_error
    async def bad(conn: Connection | None, error: BaseException) -> None:
        calls.append("bad")
        await act()

    manager.on_error(lambda conn, error: calls.append("good"))
    manager.on_leave_room(lambda conn, room, reason: crash())
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        guest.conn.leave("r")
        await trio.sleep(10)
        assert calls == ["bad", "good"]
        assert guest.conn.closed is None
        messages = [entry.getMessage() for entry in caplog.records]
        assert messages == ["on_leave_room failed: ValueError", "on_error failed"]
        assert served.server.statistics().handler_errors == 1


# Order


async def test_hooks_run_one_at_a_time(autojump_clock: MockClock) -> None:
    """Hooks of one connection run one at a time, in the order of their events, wherever those come from."""
    manager = Manager()
    rng = random.Random(3)
    running: list[str] = []
    order: list[tuple[str, str]] = []

    def note(event: str) -> Callable[..., Any]:
        async def hook(conn: Connection, *args: Any) -> None:
            assert not running, (event, running)
            running.append(event)
            await trio.sleep(rng.choice([0, 0.1]))
            running.remove(event)
            order.append((event, getattr(args[0], "name", "") if args else ""))

        return hook

    for name in ("connect", "join_room", "leave_room", "message", "disconnect"):
        getattr(manager, f"on_{name}")(note(name))

    @manager.on("work", concurrent=True)
    async def work(conn: Connection, name: str) -> None:
        await conn.join(name)
        await trio.sleep(rng.choice([0, 0.1]))
        conn.leave(name)

    async with hall(manager) as served:
        guest = await served.enter()
        for number in range(12):
            await guest.client.send_action("work", f"r{number}")
        await trio.sleep(15)
        await guest.client.aclose()
    assert order[0][0] == "connect"
    assert order[-1][0] == "disconnect"
    for number in range(12):
        mine = [event for event, name in order if name == f"r{number}"]
        assert mine == ["join_room", "leave_room"]
    assert sum(event == "message" for event, _ in order) == 12


async def test_order_of_leaves(autojump_clock: MockClock) -> None:
    """Leave hooks run in the order in which the rooms were left."""
    manager = Manager()
    log = record(manager)
    manager.on_leave_room(pause(lambda: 0.1))
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        names = [f"r{number}" for number in range(10)]
        for name in names:
            await conn.join(name)
        random.Random(1).shuffle(names)
        for name in names:
            conn.leave(name)
        await trio.sleep(5)
        assert of(log, "leave") == [(name, "left") for name in names]


async def test_hooks_of_two_connections_run_beside_each_other(autojump_clock: MockClock) -> None:
    """Invariant 1: a slow hook of one connection does not make another one wait."""
    manager = Manager()
    slow: list[Connection] = []

    @manager.on_join_room
    async def wait(conn: Connection, room: Room) -> None:
        if conn in slow:
            await trio.sleep(4)

    async with hall(manager) as served, trio.open_nursery() as nursery:
        a, b = (await served.enter()).conn, (await served.enter()).conn
        slow.append(a)
        join = attempt(nursery, a.join, "r")
        await settle()
        await b.join("r")
        assert trio.current_time() == 0
        await join.over.wait()
        assert trio.current_time() == 4


async def test_an_event_without_hooks_still_waits_for_earlier_ones(autojump_clock: MockClock) -> None:
    """A join for which there is no hook begins after the leave hooks that were due before it."""
    manager = Manager()
    gate = Gate()
    manager.on_leave_room(lambda conn, room, reason: gate())
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        await conn.join("r")
        conn.leave("r")
        join = attempt(nursery, conn.join, "r")
        await gate.reached.wait()
        await settle()
        assert not conn.rooms
        gate.open.set()
        await join.over.wait()
        assert list(conn.rooms) == ["r"]


async def test_who_gives_up_waiting(autojump_clock: MockClock) -> None:
    """A join that is cancelled while it stands in line runs no hook, and those behind it move up."""
    manager = Manager()
    log = record(manager)
    gate = Gate()
    manager.on_leave_room(lambda conn, room, reason: gate() if room.name == "first" else None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        await conn.join("first")
        conn.leave("first")
        joins = [attempt(nursery, conn.join, name) for name in ("a", "b", "c")]
        await settle()
        joins[0].scope.cancel()
        joins[1].scope.cancel()
        await settle()
        gate.open.set()
        await joins[2].over.wait()
        assert of(log, "join") == [("first",), ("c",)]
        assert list(conn.rooms) == ["c"]


async def test_tasks_of_a_hook(autojump_clock: MockClock) -> None:
    """Tasks that a hook waits for are inside its turn; those that outlive it are not."""
    manager = Manager()
    order: list[str] = []
    outside: list[trio.Nursery] = []
    go_on = trio.Event()

    async def join(conn: Connection, name: str) -> None:
        await conn.join(name)

    async def join_later(conn: Connection) -> None:
        await go_on.wait()
        await conn.join("later")

    @manager.on_message
    async def check(conn: Connection, message: Message) -> None:
        if message.action == "first":
            outside[0].start_soon(join_later, conn)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join, conn, "inside1")
                nursery.start_soon(join, conn, "inside2")
        else:
            go_on.set()
            await trio.sleep(1)
            order.append("second is over")

    manager.on_join_room(lambda conn, room: order.append(room.name))
    manager.handle_message("first", lambda conn: None)
    manager.handle_message("second", lambda conn: None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        outside.append(nursery)
        guest = await served.enter()
        await guest.client.request("first")
        assert sorted(order) == ["inside1", "inside2"]
        await guest.client.request("second")
        await settle()
        assert order[2:] == ["second is over", "later"]


async def test_a_task_that_outlives_its_hook_has_no_turn(autojump_clock: MockClock) -> None:
    """A task that a hook has started for later stands in line like everybody else, with its own joins too."""
    manager = Manager()
    outside: list[trio.Nursery] = []
    order: list[str] = []

    async def join(conn: Connection, delay: float, name: str) -> None:
        await trio.sleep(delay)
        await conn.join(name)

    @manager.on_message
    async def check(conn: Connection, message: Message) -> None:
        outside[0].start_soon(join, conn, 1.0, "a")
        outside[0].start_soon(join, conn, 1.5, "b")

    @manager.on_join_room
    async def slow(conn: Connection, room: Room) -> None:
        order.append(f"{room.name} begins")
        await trio.sleep(1)
        order.append(f"{room.name} ends")

    manager.handle_message("go", lambda conn: None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        outside.append(nursery)
        await (await served.enter()).client.request("go")
        await trio.sleep(5)
    assert order == ["a begins", "a ends", "b begins", "b ends"]


async def test_hooks_know_their_connection(autojump_clock: MockClock) -> None:
    """Hooks that no task waits for run in the context of their connection."""
    manager = Manager()
    seen: list[Connection | None] = []
    for name in ("on_connect", "on_leave_room", "on_disconnect"):
        getattr(manager, name)(lambda *args: seen.append(current_connection()))
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        guest.conn.leave("r")
        await guest.client.aclose()
        await guest.conn.wait_closed()
    assert seen == [guest.conn] * 3


# Time


async def test_hooks_of_a_live_connection_may_take_their_time(autojump_clock: MockClock) -> None:
    """Each hook has hook_timeout for itself."""
    manager = manager_with_timeout()
    log = record(manager)
    for _ in range(3):
        manager.on_join_room(pause(lambda: 2.9))
    async with hall(manager) as served:
        await (await served.enter()).conn.join("r")
        assert trio.current_time() == pytest.approx(8.7)
        assert not of(log, "error")


async def test_all_hooks_together_after_the_end(autojump_clock: MockClock) -> None:
    """After the end of the connection all hooks together have hook_timeout; each is called, cut ones are reported."""
    manager = manager_with_timeout()
    log = record(manager)
    over: list[str] = []

    @manager.on_leave_room
    async def slow(conn: Connection, room: Room, reason: str) -> None:
        await trio.sleep(2)
        over.append(room.name)

    async with hall(manager) as served:
        guest = await served.enter()
        names = [f"r{number}" for number in range(4)]
        for name in names:
            await guest.conn.join(name)
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert trio.current_time() == 3
        assert over == ["r0"]
        assert of(log, "leave") == [(name, "disconnected") for name in names]
        assert of(log, "error") == [("HookTimeout",)] * 3
        assert log[-1][0] == "disconnect"


async def test_a_hook_that_runs_when_the_end_comes(autojump_clock: MockClock) -> None:
    """A leave hook that has begun before the end is not cancelled by it, but has no more time than the others."""
    manager = manager_with_timeout()
    over: list[float] = []

    @manager.on_leave_room
    async def slow(conn: Connection, room: Room, reason: str) -> None:
        await trio.sleep(2.5)
        over.append(trio.current_time())

    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        guest.conn.leave("r")
        await trio.sleep(1)
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert over == [2.5]
        assert trio.current_time() == 2.5


async def test_a_slow_hook_at_shutdown(autojump_clock: MockClock) -> None:
    """D2, Invariant 8: hooks that hang do not hold serve beyond its deadline."""
    manager = Manager(config=Config(hook_timeout=100, shutdown_timeout=2, close_timeout=3))
    log = record(manager)
    for name in ("on_leave_room", "on_disconnect", "on_room_close", "on_join_room"):
        getattr(manager, name)(lambda *args: hang())
    async with trio.open_nursery() as nursery:
        async with hall(manager) as served:
            guest = await served.enter()
            join = attempt(nursery, guest.conn.join, "r")
            await settle()
            assert of(log, "join") == [("r",)]
        assert trio.current_time() <= 5
        assert join.over.is_set()
    assert [entry[0] for entry in log if entry[0] != "error"] == ["connect", "join", "leave", "disconnect"]
