"""`manager.session` and `read_json`, and middleware around a connection's life."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import FORMATS, Valve, code_of, hang, receive_all, send_together
from trio_rooms import (
    ActionError,
    BadMessage,
    Close,
    Config,
    Connection,
    ConnectionGone,
    Limits,
    Manager,
    UsageError,
)
from trio_rooms.testing import open_client, serve_in_memory


@attrs.frozen
class Greeting:
    text: str


def reading(**options: Any) -> tuple[Manager, list[Any]]:
    """A manager whose session notes what it reads until the end."""
    manager = Manager(**options)
    read: list[Any] = []

    @manager.session
    async def session(conn: Connection) -> None:
        while True:
            read.append(await conn.read_json())

    return manager, read


# What a session reads


async def test_session_reads_what_no_handler_takes(autojump_clock: object) -> None:
    """Messages without a handler, with or without an action, go to the session whole and in order."""
    manager, read = reading()
    handled = []
    manager.handle_message("taken", lambda conn, message: handled.append(message.data))
    async with open_client(manager) as client:
        messages = [{"action": "other", "data": 1, "id": 5}, {"hello": "there"}, {"type": 7, "data": [1]}]
        await send_together(client, messages[0], {"action": "taken", "data": 2}, *messages[1:])
        assert await receive_all(client) == []
        assert read == messages
    assert handled == [2]


async def test_an_id_that_a_session_has_taken_is_free(autojump_clock: object) -> None:
    """A message that the session gets is no request: its id holds nothing."""
    manager, read = reading()
    async with open_client(manager) as client:
        await send_together(client, *({"action": "x", "id": 1} for _ in range(3)))
        assert await receive_all(client) == []
        assert len(read) == 3
        (conn,) = manager.connections.values()
        assert not list(conn._dispatcher.in_flight)


async def test_what_is_no_message_does_not_reach_a_session(autojump_clock: object) -> None:
    """I2: what is not an envelope is BAD_MESSAGE with a session, too."""
    manager, read = reading()
    async with open_client(manager) as client:
        await client.send_text("[1]")
        await client.send_bytes(b"{}")
        assert [code_of(answer) for answer in await receive_all(client)] == ["BAD_MESSAGE"] * 2
    assert read == []


async def test_read_json_decodes(autojump_clock: object) -> None:
    """`read_json(Type)` decodes the whole message; what does not fit is BadMessage, and the next one can be read."""
    manager = Manager(config=Config(limits=Limits(max_depth=3)))
    seen: list[Any] = []

    @manager.session
    async def session(conn: Connection) -> None:
        seen.append(await conn.read_json(Greeting))
        for _ in range(2):
            try:
                await conn.read_json(Greeting)
            except BadMessage as exc:
                seen.append(exc.message)
        seen.append(await conn.read_json(dict[str, int]))

    async with open_client(manager) as client:
        await client.send_json({"text": "hi"})
        await client.send_json({"text": 5})
        await client.send_json({"text": "x", "deep": [[[[1]]]]})
        await client.send_json({"a": 1})
        await client.expect_close(1000)
    assert seen == [
        Greeting("hi"),
        "Expected `str`, got `int` - at `$.text`",
        "nested deeper than 3",
        {"a": 1},
    ]


async def test_read_json_loses_nothing_when_cancelled(autojump_clock: object) -> None:
    """A cancelled `read_json` leaves the message for the next; each read is a checkpoint."""
    manager = Manager()
    seen = []

    @manager.session
    async def session(conn: Connection) -> None:
        for _ in range(3):
            with trio.move_on_after(1):
                await conn.read_json()
        with trio.testing.assert_checkpoints():
            seen.append(await conn.read_json())

    async with open_client(manager) as client:
        await trio.sleep(3.5)
        await client.send_json({"n": 1})
        await client.expect_close(1000)
    assert seen == [{"n": 1}]


@pytest.mark.parametrize("limit", [1, 4])
async def test_session_messages(limit: int, autojump_clock: object) -> None:
    """L1: at `session_messages` dispatch waits: handlers behind do not run until the session reads; no loss."""
    limits = Limits(session_messages=limit)
    manager = Manager(config=Config(limits=limits))
    valve = Valve()
    read: list[Any] = []
    handled: list[int] = []

    @manager.session
    async def session(conn: Connection) -> None:
        await valve.wait()
        while True:
            read.append((await conn.read_json())["n"])

    manager.handle_message("taken", lambda conn, message: handled.append(message.data))
    async with open_client(manager) as client:
        await send_together(
            client,
            *({"n": n} for n in range(limit)),
            {"action": "taken", "data": 1},
            {"n": limit},
            {"action": "taken", "data": 2},
        )
        await wait_all_tasks_blocked()
        assert handled == [1]
        valve.opened.set()
        await wait_all_tasks_blocked()
        assert handled == [1, 2]
        assert read == list(range(limit + 1))


async def test_a_full_session_does_not_hold_up_cancel(autojump_clock: object) -> None:
    """While dispatch waits for the session, `$cancel` and `$leave` still act."""
    manager = Manager(config=Config(limits=Limits(session_messages=1)))
    manager.session(hang)
    valve = Valve()
    manager.handle_message("beside", lambda conn: valve.wait(), concurrent=True)
    async with open_client(manager) as client:
        await send_together(client, {"action": "beside", "id": 1}, {}, {}, {"action": "$cancel", "data": {"id": 1}})
        assert [code_of(answer) for answer in await receive_all(client)] == ["CANCELLED"]
        assert await client.request("$leave", {"room": "r"}) == {"room": "r"}


async def test_read_json_needs_a_session(autojump_clock: object) -> None:
    """Without a session nobody would ever fill the queue: UsageError, also in a task of the connection."""
    manager = Manager()
    outcome = []

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        with pytest.raises(UsageError, match=r"manager\.session"):
            await conn.read_json()
        outcome.append("refused")

    async with open_client(manager):
        await wait_all_tasks_blocked()
    assert outcome == ["refused"]


async def test_a_task_of_the_session_may_read(autojump_clock: object) -> None:
    """A session may divide its work; tasks that a handler starts with `conn.start_soon` may read, too."""
    manager = Manager()
    read = []

    @manager.session
    async def session(conn: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader, conn)
            nursery.start_soon(trio.sleep_forever)

    async def reader(conn: Connection) -> None:
        read.append(await conn.read_json())
        await trio.sleep_forever()

    @manager.on("start")
    async def start(conn: Connection) -> None:
        conn.start_soon(reader, conn)

    async with open_client(manager) as client:
        await client.send_json({"n": 1})
        await client.request("start")
        await client.send_json({"n": 2})
        await wait_all_tasks_blocked()
    assert read == [{"n": 1}, {"n": 2}]


# How a session ends


@pytest.mark.parametrize(
    ("raised", "code", "reason", "reported"),
    [
        (None, 1000, "", 0),
        (ActionError("ENOUGH", "text for people"), 4500, "ENOUGH", 0),
        (BadMessage("what"), 4500, "BAD_MESSAGE", 0),
        (ValueError("secret"), 1011, "internal error", 1),
        (ExceptionGroup("secret", [KeyError("secret")]), 1011, "internal error", 1),
        (RecursionError("secret"), 1011, "internal error", 1),
        (ConnectionGone("another one"), 1011, "internal error", 1),
        (ExceptionGroup("tasks", [ConnectionGone("another one")]), 1011, "internal error", 1),
    ],
    ids=["returns", "ActionError", "BadMessage", "crash", "group", "RecursionError", "other gone", "others gone"],
)
async def test_how_a_session_ends(
    raised: Exception | None, code: int, reason: str, reported: int, autojump_clock: object
) -> None:
    """I1: returning closes with 1000, an ActionError with 4500 and its code, anything else with 1011, reported."""
    manager = Manager()
    errors: list[Exception] = []
    closes = []
    manager.on_error(lambda conn, error: errors.append(error))
    manager.on_disconnect(lambda conn, close: closes.append(close))

    @manager.session
    async def session(conn: Connection) -> None:
        await conn.read_json()
        await conn.send("last words")
        if raised is not None:
            raise raised

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_json({})
        assert await client.receive_json() == "last words"
        closed = await client.expect_close(code)
        assert closed.reason == reason
    assert errors == [raised] * reported
    assert closes == [Close(code, reason, "server")]


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("grouped", [False, True])
async def test_the_end_of_the_connection_ends_the_session(
    how: str, grouped: bool, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """When the client goes, `read_json` raises ConnectionGone or is cancelled; neither is an error."""
    manager = Manager()
    outcomes = []
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    async def read(conn: Connection) -> None:
        try:
            await conn.read_json()
        except BaseException as exc:
            outcomes.append(type(exc))
            raise

    @manager.session
    async def session(conn: Connection) -> None:
        if grouped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, conn)
                nursery.start_soon(trio.sleep_forever)
        else:
            await read(conn)

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await wait_all_tasks_blocked()
        await (client.close() if how == "close" else client.aclose())
        await trio.sleep(10)
        assert memory.server.statistics().connections == 0
        expected = "peer:1000" if how == "close" else "network:1006"
        assert memory.server.statistics().closes == {expected: 1}
    assert outcomes == [ConnectionGone if how == "close" else trio.Cancelled]
    assert errors == []
    assert not caplog.records


async def test_what_was_sent_before_the_close_is_still_read(autojump_clock: object) -> None:
    """The session reads what stood before the peer's close frame, and then hears of the end."""
    manager, read = reading()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await send_together(client, *({"n": n} for n in range(30)))
        await client.close()
        await trio.sleep(1)
    assert [message["n"] for message in read] == list(range(30))


@pytest.mark.parametrize("returning", [True, False])
@pytest.mark.parametrize("ending", ["raises", "returns", "hangs"])
async def test_a_drain_ends_the_session(returning: bool, ending: str, autojump_clock: object) -> None:
    """D1: in a drain `read_json` raises ConnectionGone; however the session takes it, the close is the drain's."""
    manager = Manager(config=Config(shutdown_timeout=20.0))
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    @manager.session
    async def session(conn: Connection) -> None:
        with pytest.raises(ConnectionGone) as caught:
            await conn.read_json()
        await conn.send("closing")
        match ending:
            case "raises":
                raise caught.value
            case "hangs":
                await trio.sleep_forever()

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        memory.server.begin_shutdown(returning=returning)
        assert await client.receive_json() == "closing"
        await client.expect_close(1012 if returning else 1001)
        assert trio.current_time() - begun == pytest.approx(20.0 if ending == "hangs" else 0.0, abs=0.5)
    assert errors == []


async def test_a_session_that_fails_hurts_nobody_else(autojump_clock: object) -> None:
    """I1: the crash of one session ends that connection only."""
    manager = Manager()

    @manager.session
    async def session(conn: Connection) -> None:
        while True:
            if (await conn.read_json()).get("crash"):
                raise ValueError
            await conn.send("fine")

    async with serve_in_memory(manager) as memory:
        culprit, other = await memory.connect(), await memory.connect()
        await culprit.send_json({"crash": True})
        await culprit.expect_close(1011)
        await other.send_json({})
        assert await other.receive_json() == "fine"


async def test_each_connection_has_its_own_session(autojump_clock: object) -> None:
    """The session runs once for each connection, after `on_connect`, and reads that connection's messages."""
    manager = Manager()
    log: list[str] = []

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await trio.sleep(1)
        log.append(f"connect {conn.query['n']}")

    @manager.session
    async def session(conn: Connection) -> None:
        log.append(f"session {conn.query['n']}")
        log.append(f"read {(await conn.read_json())['n']}")
        await trio.sleep_forever()

    async with serve_in_memory(manager) as memory:
        for number in (1, 2):
            client = await memory.connect(path=f"/ws?n={number}")
            await client.send_json({"n": number})
            await trio.sleep(2)
    assert log == [f"{what} {number}" for number in (1, 2) for what in ("connect", "session", "read")]


# Middleware around a connection


def connection_layer(name: str, log: list[str]) -> Any:
    async def middleware(conn: Connection, call_next: Any) -> None:
        log.append(f"{name} in")
        await call_next(conn)
        log.append(f"{name} out")

    return middleware


async def test_connection_middleware_is_an_onion(autojump_clock: object) -> None:
    """The first is the outermost; `call_next` covers on_connect and messages, and returns when they are over."""
    manager = Manager()
    log: list[str] = []
    manager.use_connection(connection_layer("a", log), connection_layer("b", log))
    manager.use_connection(connection_layer("c", log))
    manager.on_connect(lambda conn: log.append("connect"))
    manager.on_disconnect(lambda conn, close: log.append("disconnect"))
    manager.handle_message("act", lambda conn: log.append("message"))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.request("act")
        await client.close()
        await trio.sleep(1)
    assert log == ["a in", "b in", "c in", "connect", "message", "c out", "b out", "a out", "disconnect"]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_connection_middleware_may_refuse(subprotocol: str | None, autojump_clock: object) -> None:
    """Not calling `call_next` closes with 1008: no on_connect, so no on_disconnect, and no message is handled."""
    manager = Manager()
    log: list[str] = []

    async def refuse(conn: Connection, call_next: Any) -> None:
        await trio.sleep(1)

    manager.use_connection(refuse)
    manager.on_connect(lambda conn: log.append("connect"))
    manager.on_disconnect(lambda conn, close: log.append("disconnect"))
    manager.handle_message("act", lambda conn: log.append("message"))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=subprotocol)
        await client.send_action("act", id=1)
        closed = await client.expect_close(1008, skip_messages=True)
        assert closed.reason == "refused"
    assert log == []


async def test_connection_middleware_may_close_by_itself(autojump_clock: object) -> None:
    """A code that middleware has chosen is not replaced by 1008."""
    manager = Manager()

    async def refuse(conn: Connection, call_next: Any) -> None:
        conn.close(4403, "banned")

    manager.use_connection(refuse)
    async with open_client(manager) as client:
        assert (await client.expect_close(4403)).reason == "banned"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("raised", "code", "reason", "reported"),
    [(ActionError("NO_ENTRY"), 4500, "NO_ENTRY", 0), (ValueError("secret"), 1011, "internal error", 1)],
    ids=["ActionError", "ValueError"],
)
async def test_connection_middleware_that_raises(
    before: bool, raised: Exception, code: int, reason: str, reported: int, autojump_clock: object
) -> None:
    """I1: raising closes as in on_connect; afterwards it is reported, and the client's own close stands."""
    manager = Manager()
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    async def middleware(conn: Connection, call_next: Any) -> None:
        if not before:
            await call_next(conn)
        raise raised

    manager.use_connection(middleware)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        if before:
            assert (await client.expect_close(code)).reason == reason
        else:
            await client.close(4999)
            await trio.sleep(10)
            assert memory.server.statistics().closes == {"peer:4000": 1}
    assert errors == [raised] * reported


async def test_connection_middleware_sees_what_on_connect_raises(autojump_clock: object) -> None:
    """What `on_connect` raises passes through the middleware, which may make another error of it."""
    manager = Manager()
    seen = []

    async def middleware(conn: Connection, call_next: Any) -> None:
        try:
            await call_next(conn)
        except KeyError as exc:
            seen.append(exc)
            raise ActionError("TRANSLATED") from exc

    manager.use_connection(middleware)

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        raise KeyError("secret")

    async with open_client(manager) as client:
        assert (await client.expect_close(4500)).reason == "TRANSLATED"
    assert len(seen) == 1


async def test_connection_middleware_may_hold_something_open(autojump_clock: object) -> None:
    """A context that middleware enters is left when the connection ends, from whatever cause."""
    manager = Manager()
    log = []

    async def middleware(conn: Connection, call_next: Any) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await call_next(conn)
                nursery.cancel_scope.cancel()
        finally:
            log.append("left")

    manager.use_connection(middleware)
    async with serve_in_memory(manager) as memory:
        for end in ("close", "aclose", "kick"):
            client = await memory.connect()
            await wait_all_tasks_blocked()
            (conn,) = manager.connections.values()
            if end == "kick":
                conn.close(4000)
            else:
                await getattr(client, end)()
            await conn.wait_closed()
    assert log == ["left"] * 3
