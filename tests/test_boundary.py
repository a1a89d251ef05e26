"""What code of the program may raise, and who notices: the culprit, by one error or a close, and nobody else."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import FORMATS, code_of, kept_cancelled, receive_all
from trio_rooms import ActionError, Connection, ConnectionGone, Context, Identity, InternalError, Manager, Message, Room
from trio_rooms._boundary import own_cancellations_only, says_only_gone
from trio_rooms.middleware import logger, recovery
from trio_rooms.testing import Closed, HandshakeRefused, MemoryServer, TestClient, serve_in_memory

SECRET = "the password is 1234"

Fail = Callable[[], Awaitable[None]]


async def value_error() -> None:
    raise ValueError(SECRET)


async def group() -> None:
    raise ExceptionGroup(SECRET, [KeyError(SECRET), ExceptionGroup("inner", [OSError(SECRET)])])


async def recursion() -> None:
    await recursion()


async def memory_error() -> None:
    raise MemoryError(SECRET)


async def os_error() -> None:
    raise OSError(5, SECRET)


async def stray_cancelled() -> None:
    raise await kept_cancelled()


async def group_with_stray_cancelled() -> None:
    raise BaseExceptionGroup(SECRET, [await kept_cancelled(), ValueError(SECRET)])


async def only_stray_cancelled_in_a_group() -> None:
    raise BaseExceptionGroup(SECRET, [await kept_cancelled()])


async def too_slow() -> None:
    with trio.fail_after(0):
        await trio.sleep_forever()


async def unprintable() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError(SECRET)

        __repr__ = __str__

    raise Unprintable


FAILURES: list[Fail] = [
    value_error,
    group,
    recursion,
    memory_error,
    os_error,
    stray_cancelled,
    group_with_stray_cancelled,
    only_stray_cancelled_in_a_group,
    too_slow,
    unprintable,
]

#: Where the program's code is called for one client, and what that client gets: error codes, and a close code.
PLACES: dict[str, tuple[list[str], int | None]] = {
    "handler": (["INTERNAL"], 1011),
    "concurrent handler": (["INTERNAL"], 1011),
    "stream": (["INTERNAL"], 1011),
    "middleware": (["INTERNAL"], 1011),
    "middleware afterwards": (["INTERNAL"], 1011),
    "on_message": (["INTERNAL"], None),
    "authorize": (["INTERNAL"], None),
    "on_join_room": (["INTERNAL"], None),
    "on_room_open": (["ROOM_FAILED"], None),
    "on_leave_room": ([], None),
    "session": ([], 1011),
    "task": ([], 1011),
    "on_connect": ([], 1011),
    "connection middleware": ([], 1011),
}


def build(place: str, fail: Fail, **options: Any) -> Manager:
    """A manager whose code fails at one place, for the client that calls itself the culprit."""
    manager = Manager(**options)

    async def fail_if(conn: Connection, where: str) -> None:
        if where == place and conn.query.get("name") == "culprit":
            await fail()

    async def middleware(ctx: Context, call_next: Any) -> Any:
        if ctx.message.action == "act":
            await fail_if(ctx.conn, "middleware")
        result = await call_next(ctx)
        if ctx.message.action == "act":
            await fail_if(ctx.conn, "middleware afterwards")
        return result

    async def connection_middleware(conn: Connection, call_next: Any) -> None:
        await fail_if(conn, "connection middleware")
        await call_next(conn)

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        await fail_if(conn, "authorize")
        return True

    manager.use(middleware)
    manager.use_connection(connection_middleware)
    manager.room("*", authorize=authorize)

    @manager.on("act")
    async def act(conn: Connection) -> None:
        await fail_if(conn, "handler")

    @manager.on("beside", concurrent=True)
    async def beside(conn: Connection) -> None:
        await fail_if(conn, "concurrent handler")

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        await fail_if(conn, "stream")
        yield 1

    @manager.on("start")
    async def start(conn: Connection) -> None:
        conn.start_soon(fail_if, conn, "task")

    @manager.on("echo")
    async def echo(conn: Connection, data: int) -> int:
        return data

    @manager.on_message
    async def on_message(conn: Connection, message: Message) -> None:
        if message.action == "act":
            await fail_if(conn, "on_message")

    @manager.on_connect
    async def on_connect(conn: Connection) -> None:
        await fail_if(conn, "on_connect")

    @manager.on_join_room
    async def on_join_room(conn: Connection, room: Room) -> None:
        await fail_if(conn, "on_join_room")

    @manager.on_leave_room
    async def on_leave_room(conn: Connection, room: Room, reason: str) -> None:
        await fail_if(conn, "on_leave_room")

    @manager.on_room_open
    async def on_room_open(room: Room) -> None:
        if room.name == "culprit" and place == "on_room_open":
            await fail()

    @manager.session
    async def session(conn: Connection) -> None:
        message = await conn.read_json()
        assert message["action"] == "to the session"
        await fail_if(conn, "session")
        await trio.sleep_forever()

    return manager


async def provoke(client: TestClient, place: str) -> None:
    """Do what makes the code at this place run."""
    match place:
        case "concurrent handler":
            await client.send_action("beside", id=1)
        case "stream":
            await client.send_action("stream", id=1)
        case "task":
            await client.send_action("start")
        case "session":
            await client.send_action("to the session")
        case "authorize" | "on_join_room" | "on_room_open":
            await client.send_action("$join", {"room": "culprit"}, id=1)
        case "on_leave_room":
            await client.send_action("$join", {"room": "culprit"})
            await wait_all_tasks_blocked()  # leaving a room while one still joins it would cancel the join
            await client.send_action("$leave", {"room": "culprit"})
        case "on_connect" | "connection middleware":
            pass
        case _:
            await client.send_action("act", id=1)


async def everything(client: TestClient) -> tuple[str, list[Any], int | None]:
    """What a client gets until it is quiet: all of it as one text, the messages, and the close code."""
    text = ""
    messages: list[Any] = []
    try:
        with trio.move_on_after(5):
            while True:
                message = await client.receive_json()
                text += repr(message)
                messages.append(message)
    except Closed as closed:
        return f"{text} {closed.reason}", messages, closed.code
    return text, messages, None


async def assert_unharmed(memory: MemoryServer, client: TestClient) -> None:
    """A client that was there, and one that comes now, are served as if nothing had happened."""
    memory.manager.broadcast_to_room("shared", "event")
    assert await client.receive_json() == "event"
    assert await client.request("echo", 5) == 5
    newcomer = await memory.connect()
    assert await newcomer.request("echo", 6) == 6
    await newcomer.aclose()


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_what_fails_hurts_the_culprit_only(
    place: str, fail: Fail, subprotocol: str | None, autojump_clock: object
) -> None:
    """I1, X4, Invariants 1 and 9: one error or close for the culprit, without the exception's text; reported once."""
    manager = build(place, fail)
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))
    async with serve_in_memory(manager) as memory:
        other = await memory.connect()
        await other.request("$join", {"room": "shared"})
        culprit = await memory.connect(path="/ws?name=culprit", subprotocol=subprotocol)
        await provoke(culprit, place)
        text, messages, close_code = await everything(culprit)
        told, close = PLACES[place]
        assert [message["error"]["code"] for message in messages if "error" in message] == told
        assert close_code == close
        assert "1234" not in text
        assert "Error" not in text
        await assert_unharmed(memory, other)
        if close is None:
            assert await culprit.request("echo", 7) == 7
    assert len(errors) == 1
    assert_is_what_was_raised(errors[0], fail)


def assert_is_what_was_raised(error: BaseException, fail: Fail) -> None:
    """The reported error is the original one; of a Cancelled that was kept, what the boundary made of it."""
    if "cancelled" in fail.__name__:
        assert isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, trio.Cancelled | BaseExceptionGroup)
        return
    classes = {
        value_error: "ValueError",
        group: "ExceptionGroup",
        recursion: "RecursionError",
        memory_error: "MemoryError",
        os_error: "OSError",
        too_slow: "TooSlowError",
        unprintable: "Unprintable",
    }
    assert type(error).__name__ == classes[fail]


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
@pytest.mark.parametrize("place", ["handler", "concurrent handler", "stream", "middleware afterwards"])
async def test_recovery_keeps_the_connection(place: str, fail: Fail, autojump_clock: object) -> None:
    """I1: inside `recovery` whatever a handler or middleware raises is INTERNAL, and the connection lives on."""
    manager = build(place, fail, middleware=[logger(), recovery()])
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))
    async with serve_in_memory(manager) as memory:
        culprit = await memory.connect(path="/ws?name=culprit")
        await provoke(culprit, place)
        text, messages, close_code = await everything(culprit)
        assert [message["error"]["code"] for message in messages if "error" in message] == ["INTERNAL"]
        assert "1234" not in text
        # What raises a Cancelled passes through middleware, as it must; then it is found out.
        assert close_code == (1011 if "cancelled" in fail.__name__ else None)
    assert len(errors) == 1
    assert_is_what_was_raised(errors[0], fail)


@pytest.mark.parametrize("place", ["handler", "on_message", "authorize", "on_join_room", "stream"])
async def test_debug_tells_the_text(place: str, autojump_clock: object) -> None:
    """Invariant 9: with `debug=True` the client is told type and text of the exception, under the same code."""
    manager = build(place, value_error, debug=True)
    async with serve_in_memory(manager) as memory:
        culprit = await memory.connect(path="/ws?name=culprit")
        await provoke(culprit, place)
        (message, *_) = await receive_all(culprit)
        assert message["error"] == {"code": "INTERNAL", "message": f"ValueError: {SECRET}", "temporary": False}
        assert memory.server.statistics().errors_told == {"INTERNAL": 1}


async def test_debug_with_recovery(autojump_clock: object) -> None:
    """With `recovery` in between the told text is that of the handler's exception, not of its wrapping; it is cut."""

    async def long() -> None:
        raise ValueError("x" * 5000)

    manager = build("handler", long, debug=True, middleware=[recovery()])
    async with serve_in_memory(manager) as memory:
        culprit = await memory.connect(path="/ws?name=culprit")
        await provoke(culprit, "handler")
        (message,) = await receive_all(culprit)
        assert message["error"]["message"] == ("ValueError: " + "x" * 5000)[:1000]


async def test_debug_with_a_text_that_cannot_be_sent(autojump_clock: object) -> None:
    """I1: in debug mode, an exception whose text cannot be encoded, or fails, ends the culprit's connection only."""

    async def undecodable() -> None:
        raise ValueError("file \udcff")

    for fail in (undecodable, unprintable):
        manager = build("handler", fail, debug=True)
        async with serve_in_memory(manager) as memory:
            other = await memory.connect()
            await other.request("$join", {"room": "shared"})
            culprit = await memory.connect(path="/ws?name=culprit")
            await provoke(culprit, "handler")
            assert (await receive_all(culprit))[-1] == 1011
            await assert_unharmed(memory, other)


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
async def test_authenticate_fails(fail: Fail, autojump_clock: object) -> None:
    """I1: `authenticate` that raises is 500 without detail, for that client only."""
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.authenticate
    async def authenticate(request: Any) -> Any:
        if "culprit" in request.query.values():
            await fail()
        return Identity(user="other")

    async with serve_in_memory(manager) as memory:
        with pytest.raises(HandshakeRefused) as refused:
            await memory.connect(path="/ws?name=culprit")
        assert refused.value.status == 500
        assert b"1234" not in refused.value.body
        other = await memory.connect()
        assert await other.request("echo", 1) == 1


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
@pytest.mark.parametrize("where", ["on_error", "on_disconnect"])
async def test_hooks_that_only_report(where: str, fail: Fail, autojump_clock: object) -> None:
    """I1: what `on_error` and `on_disconnect` raise changes nothing for anybody, and is not reported for ever."""
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    calls = []

    @manager.on("boom")
    async def boom(conn: Connection) -> None:
        raise KeyError

    @manager.on_error
    async def on_error(conn: Connection | None, error: BaseException) -> None:
        calls.append("on_error")
        if where == "on_error":
            await fail()

    @manager.on_disconnect
    async def on_disconnect(conn: Connection, close: object) -> None:
        calls.append("on_disconnect")
        if where == "on_disconnect":
            await fail()

    async with serve_in_memory(manager) as memory:
        other, culprit = await memory.connect(), await memory.connect()
        await culprit.send_action("boom", id=1)
        answers = await receive_all(culprit)
        assert [code_of(answers[0]), *answers[1:]] == ["INTERNAL", 1011]
        assert await other.request("echo", 1) == 1
        await other.close()
        await trio.sleep(10)
        assert memory.server.statistics().connections == 0
    expected = ["on_error", "on_disconnect", "on_disconnect"] if where == "on_error" else None
    assert calls == (expected or ["on_error", "on_disconnect", "on_error", "on_disconnect", "on_error"])


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_internal_errors_of_the_program_are_told(subprotocol: str | None, autojump_clock: object) -> None:
    """An InternalError without a cause is an ActionError like any other: told, not reported."""
    manager = Manager()
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise InternalError("something of ours")

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=subprotocol)
        await client.send_action("fail", id=1)
        answers = await receive_all(client)
        assert answers[-1] == {
            "id": 1,
            "error": {"code": "INTERNAL", "message": "something of ours", "temporary": False},
        }
        assert subprotocol is not None or len(answers) == 1
    assert errors == []


async def test_the_cause_of_an_action_error_is_not_told(autojump_clock: object) -> None:
    """Invariant 9: of an ActionError raised from an exception only code and message are told."""
    manager = Manager()

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        try:
            raise ValueError(SECRET)
        except ValueError as exc:
            raise ActionError("BAD_VALUE") from exc

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("fail", id=1)
        text, _, _ = await everything(client)
        assert "1234" not in text
        assert memory.server.statistics().handler_errors == 0


# The boundary itself


async def test_a_cancellation_that_is_meant_passes() -> None:
    """A Cancelled of a scope around the boundary passes it, also in a group."""
    with trio.CancelScope() as scope, own_cancellations_only():
        scope.cancel()
        await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.RaisesGroup(ValueError), trio.CancelScope() as scope, own_cancellations_only():
        scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled)
            await trio.sleep_forever()


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError


async def test_what_it_lets_through() -> None:
    """Exceptions pass as they are, and so does what is meant to end the process."""
    for error in (ValueError(), ExceptionGroup("", [ValueError()]), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)) as caught, own_cancellations_only():
            raise error
        assert caught.value is error
    mixed = BaseExceptionGroup("", [await kept_cancelled(), KeyboardInterrupt()])
    with pytest.RaisesGroup(trio.Cancelled, KeyboardInterrupt) as caught_group, own_cancellations_only():
        raise mixed
    assert caught_group.value is mixed


async def test_a_stray_cancelled_is_an_error() -> None:
    """I1: without a cancelled scope around it, a Cancelled is a RuntimeError, alone or in a group with exceptions."""
    assert trio.current_effective_deadline() < math.inf  # the tests' own bound is no cancellation
    for error in (await kept_cancelled(), BaseExceptionGroup("", [await kept_cancelled(), ValueError()])):
        with pytest.raises(RuntimeError) as caught, own_cancellations_only():
            raise error
        assert caught.value.__cause__ is error


def test_what_says_only_gone() -> None:
    """ConnectionGone, and groups of nothing else."""
    gone = ConnectionGone()
    assert says_only_gone(gone)
    assert says_only_gone(ExceptionGroup("", [gone, ExceptionGroup("", [gone])]))
    assert not says_only_gone(ValueError())
    assert not says_only_gone(ExceptionGroup("", [gone, ValueError()]))


async def test_a_client_that_leaves_in_on_connect(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """A client that goes while `on_connect` or a task of the connection talks to it is no error."""
    manager = Manager()
    outcomes = []

    async def talk(conn: Connection) -> None:
        try:
            while True:
                await conn.send("tick")
                await trio.sleep(0.5)
        except ConnectionGone:
            outcomes.append("gone")
            raise

    @manager.on_connect
    async def on_connect(conn: Connection) -> None:
        if conn.query:
            await talk(conn)
        conn.start_soon(talk, conn)

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        await trio.sleep(2)

    async with serve_in_memory(manager) as memory:
        for path in ("/ws?in=hook", "/ws"):
            client = await memory.connect(path=path)
            await client.send_action("wait")
            await client.receive()
            await wait_all_tasks_blocked()
            await client.close()
            await trio.sleep(10)
        assert memory.server.statistics().handler_errors == 0
    assert outcomes == ["gone", "gone"]
    assert not caplog.records
