"""Who reads, and in which task and scope handlers run: nobody can tell the difference, whatever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from messages import Valve, code_of, kept_cancelled, receive_all, send_together
from trio_rooms import ActionError, Config, Connection, Context, Limits, Manager, UsageError
from trio_rooms.testing import FaultyStream, open_client, serve_in_memory

Handler = Callable[..., Any]


@attrs.define(eq=False)
class Script:
    """A handler that does what its data says."""

    stray: trio.Cancelled

    def __call__(self, conn: Connection, data: str) -> Any:
        match data:
            case "refuse":
                raise ActionError("NO")
            case "crash":
                raise ValueError(data)
            case "close":
                conn.close(4001)
            case "close and crash":
                conn.close(4001)
                raise ValueError(data)
            case "unencodable":
                return object()
            case "stray":
                raise self.stray
        return data


def as_async(script: Script) -> Handler:
    """The same as `async def`."""

    async def asynchronous(conn: Connection, data: str) -> Any:
        return script(conn, data)

    return asynchronous


def as_wrapper(script: Script) -> Handler:
    """The same as a `def` that returns something to await."""
    asynchronous = as_async(script)

    def wrapper(conn: Connection, data: str) -> Awaitable[Any]:
        return asynchronous(conn, data)  # type: ignore[no-any-return]

    return wrapper


def as_it_is(script: Script) -> Handler:
    """The script, whose call is a `def`."""

    def plain(conn: Connection, data: str) -> Any:
        return script(conn, data)

    return plain


async def look_on(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    """Middleware that does nothing."""
    return await call_next(ctx)


async def converse(make: Callable[[Script], Handler], last: str, **options: Any) -> tuple[list[Any], list[str]]:
    """What a client is told, and what is reported."""
    script = Script(await kept_cancelled())
    errors: list[str] = []
    manager = Manager(**options)
    manager.handle_message("act", make(script))
    manager.on_error(lambda conn, error: errors.append(repr(error)))
    async with open_client(manager) as client:
        for number, data in enumerate(["first", "refuse", "second", last]):
            await client.send_action("act", data, id=number)
        told = await receive_all(client)
    return told, errors


LAST = ["third", "refuse", "crash", "close", "close and crash", "unencodable", "stray"]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("make", [as_it_is, as_wrapper])
async def test_as_any_handler(make: Callable[[Script], Handler], last: str, autojump_clock: MockClock) -> None:
    """Replies, errors, crashes and closes are those of an `async def` behind middleware, which is never called so."""
    expected = await converse(as_async, last, middleware=[look_on])
    assert await converse(make, last) == expected
    assert len(expected[0]) >= 4
    assert bool(expected[1]) is (last in ("crash", "close and crash", "unencodable", "stray"))


@pytest.mark.parametrize("options", [{}, {"middleware": [look_on]}])
@pytest.mark.parametrize("make", [as_it_is, as_async, as_wrapper])
async def test_the_reader_rests(make: Callable[[Handler], Handler], options: Any, autojump_clock: MockClock) -> None:
    """The connection's task reads by itself from the second of the messages on whose handlers have not waited."""
    manager = Manager(**options)
    manager.handle_message("look", make(lambda conn, data: conn._dispatcher.inbox.resting is not None))

    @manager.on("wait")
    async def wait(conn: Connection) -> list[bool]:
        before = conn._dispatcher.inbox.resting is not None
        await trio.lowlevel.checkpoint()
        return [before, conn._dispatcher.inbox.resting is not None]

    async with open_client(manager) as client:
        assert [await client.request("look", "") for _ in range(4)] == [False, True, True, True]
        assert [await client.request("wait") for _ in range(3)] == [[True, False], [False, False], [False, False]]
        assert [await client.request("look", "") for _ in range(3)] == [False, True, True]


async def test_one_task(autojump_clock: MockClock) -> None:
    """Handlers run in the connection's task from their first step on, whoever has read their message."""
    manager = Manager()
    tasks = set()

    @manager.on("plain")
    def plain(conn: Connection) -> None:
        tasks.add(trio.lowlevel.current_task())

    @manager.on("open")
    async def open_scopes(conn: Connection) -> list[str]:
        tasks.add(trio.lowlevel.current_task())
        log = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            with trio.move_on_after(2) as scope:
                await trio.sleep_forever()
            log.append("cancelled" if scope.cancelled_caught else "?")
        tasks.add(trio.lowlevel.current_task())
        return log

    async with open_client(manager) as client:
        for action in ("plain", "plain", "open", "open", "plain", "plain", "open"):
            assert await client.request(action) == (None if action == "plain" else ["cancelled"])
    assert len(tasks) == 1


async def test_order(autojump_clock: MockClock) -> None:
    """A `def` handler waits for its turn like any other, and runs when those before it have ended."""
    manager = Manager()
    valve = Valve()
    log: list[object] = []

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        await valve.wait()
        log.append("waited")

    manager.handle_message("note", lambda conn, message: log.append(message.data))
    async with open_client(manager) as client:
        await client.send_action("note", 1)
        await client.send_action("wait")
        await wait_all_tasks_blocked()
        await client.send_action("note", 2)
        await wait_all_tasks_blocked()
        assert log == [1]
        valve.opened.set()
        await wait_all_tasks_blocked()
        await client.send_action("note", 3)
        await send_together(client, {"action": "wait"}, *({"action": "note", "data": n} for n in (4, 5)))
        await wait_all_tasks_blocked()
    assert log == [1, "waited", 2, 3, "waited", 4, 5]


async def test_not_before_on_connect_has_ended(autojump_clock: MockClock) -> None:
    """A message that comes while `on_connect` runs waits for it."""
    manager = Manager()
    valve = Valve()
    log: list[str] = []

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await valve.wait()
        log.append("connected")

    manager.handle_message("note", lambda conn: log.append("handled"))
    async with open_client(manager) as client:
        await client.send_action("note")
        await wait_all_tasks_blocked()
        assert log == []
        valve.opened.set()
        await wait_all_tasks_blocked()
        assert log == ["connected", "handled"]


async def test_the_context_is_the_connections(autojump_clock: MockClock) -> None:
    """A `def` handler sees what connection middleware has set, and later handlers see what it sets."""
    manager = Manager()
    variable: ContextVar[list[str]] = ContextVar("variable")

    @manager.use_connection
    async def around(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
        variable.set(["middleware"])
        await call_next(conn)

    @manager.session
    async def session(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("def")
    def plain(conn: Connection) -> list[str]:
        variable.set([*variable.get(), "def"])
        with pytest.raises(UsageError, match="inside a handler"):
            conn.read_json().send(None)
        return variable.get()

    @manager.on("async")
    async def asynchronous(conn: Connection) -> list[str]:
        variable.set([*variable.get(), "async"])
        return variable.get()

    async with open_client(manager) as client:
        assert await client.request("def") == ["middleware", "def"]
        assert await client.request("async") == ["middleware", "def", "async"]
        assert await client.request("def") == ["middleware", "def", "async", "def"]


async def test_pings_are_answered_while_a_reply_waits_for_room(autojump_clock: MockClock) -> None:
    """Invariant 4: a reply that finds no room is not the reader's to wait for; no reply is lost."""
    config = Config(limits=Limits(outbox_messages=2), write_timeout=1000, ping_interval=10_000)
    manager = Manager(config=config)
    manager.handle_message("echo", lambda conn, message: message.data)
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=wrap)
        streams[0].stall_sending()
        for number in range(10):
            await client.send_action("echo", number, id=number)
        await wait_all_tasks_blocked()
        assert memory.server.statistics().messages_received == 10
        await client.ping(b"?")
        streams[0].resume_sending()
        assert [reply["data"] for reply in await receive_all(client)] == list(range(10))
        assert await client.receive_pong() == b"?"


@pytest.mark.parametrize("cancelled_at_once", [True, False])
async def test_cancel_of_what_a_def_returned(cancelled_at_once: bool, autojump_clock: MockClock) -> None:
    """`$cancel` cancels the awaitable that a `def` handler has returned; it is answered once."""
    manager = Manager()
    valve = Valve()

    @manager.on("wait")
    def wait(conn: Connection) -> Awaitable[None]:
        return valve.wait()

    async with open_client(manager) as client:
        messages = [{"action": "wait", "id": 1}, {"action": "$cancel", "data": {"id": 1}}]
        if cancelled_at_once:
            await send_together(client, *messages)
        else:
            await client.send_json(messages[0])
            await wait_all_tasks_blocked()
            await client.send_json(messages[1])
        (answer,) = await receive_all(client)
        assert (answer["id"], code_of(answer)) == (1, "CANCELLED")


async def test_deadline_of_what_a_def_returned(autojump_clock: MockClock) -> None:
    """`handler_timeout` and `timeout_ms` bound the awaitable that a `def` handler has returned."""
    manager = Manager(config=Config(limits=Limits(handler_timeout=5)))
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        for timeout_ms, seconds in ((None, 5), (2000, 2)):
            started = trio.current_time()
            await client.send_json({"action": "wait", "id": 1, "timeout_ms": timeout_ms})
            assert code_of(await client.receive_json()) == "DEADLINE_EXCEEDED"
            assert trio.current_time() - started == pytest.approx(seconds)


async def test_an_awaitable_of_a_connection_that_its_handler_has_closed(autojump_clock: MockClock) -> None:
    """What a `def` handler returns after it has closed its connection is begun, and cancelled at its checkpoint."""
    manager = Manager()
    valve = Valve()

    @manager.on("quit")
    def leave(conn: Connection) -> Awaitable[None]:
        conn.close(4001)
        return valve.wait()

    async with open_client(manager) as client:
        await client.send_action("quit", id=1)
        assert await receive_all(client) == [4001]
    assert valve.cancelled == 1


async def test_an_id_is_free_when_its_reply_is_written(autojump_clock: MockClock) -> None:
    """Who has read a reply may use its id again at once, of a `def`, an `async def` and a stream alike."""
    manager = Manager()
    in_flight: list[list[Any]] = []

    class Watching(FaultyStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            if b'"id":1' in data:  # not the upgrade, not a ping
                in_flight.extend(list(conn._dispatcher.in_flight) for conn in manager.connections.values())
            await super().send_all(data)

    @manager.on("async")
    async def asynchronous(conn: Connection) -> None:
        await trio.lowlevel.checkpoint()

    @manager.on("stream")
    async def stream(conn: Connection) -> Any:
        if False:
            yield

    manager.handle_message("def", lambda conn: None)
    async with open_client(manager, wrap=Watching) as client:
        for action in ("def", "async", "stream"):
            del in_flight[:]
            await client.send_action(action, id=1)
            (reply,) = await receive_all(client)
            assert reply["id"] == 1
            assert in_flight == [[]]


@attrs.define(eq=False)
class Cut:
    """What a handler does about its cancellation."""

    valve: Valve

    async def __call__(self, conn: Connection, how: str) -> str:
        try:
            await self.valve.wait()
        except trio.Cancelled:
            if how == "hide":
                return "hidden"  # noqa: ASYNC104
            if how == "refuse":
                raise ActionError("NO") from None  # noqa: ASYNC104
            raise
        finally:
            if how == "crash":
                raise ValueError
        return "passed"

    async def together(self, conn: Connection) -> None:
        """Fail for two reasons at once."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self, conn, "crash")
            nursery.start_soon(self, conn, "pass")


def cut_manager(valve: Valve, errors: list[str], **options: Any) -> Manager:
    """Handlers that wait for the valve, and one that does not."""
    manager = Manager(**options)
    cut = Cut(valve)

    @manager.on("cut")
    async def wait(conn: Connection, data: str) -> str:
        return await cut(conn, data)

    manager.handle_message("together", cut.together)
    manager.handle_message("note", lambda conn, message: message.data)
    manager.on_error(lambda conn, error: errors.append(type(error).__name__))
    return manager


@pytest.mark.parametrize("notes", [0, 3])
@pytest.mark.parametrize("by", ["cancel", "deadline"])
@pytest.mark.parametrize(
    ("how", "told", "error"),
    [("pass", None, None), ("hide", "hidden", None), ("refuse", "NO", None), ("crash", "INTERNAL", "ValueError")],
)
async def test_a_handler_that_is_cut(
    how: str, told: str | None, error: str | None, by: str, notes: int, autojump_clock: MockClock
) -> None:
    """A handler that is cut has the last word, as ever; the messages behind it have their turn."""
    valve, errors = Valve(), list[str]()
    manager = cut_manager(valve, errors)
    async with open_client(manager) as client:
        for number in range(notes):
            assert await client.request("note", number) == number
        timeout = {"timeout_ms": 500} if by == "deadline" else {}
        await client.send_json({"action": "cut", "data": how, "id": "cut", **timeout})
        await send_together(client, *({"action": "note", "data": n, "id": n} for n in (1, 2)))
        if by == "cancel":
            await client.send_action("$cancel", {"id": "cut"})
        first, *rest = await receive_all(client)
        assert valve.cancelled == 1
        expected = told or ("CANCELLED" if by == "cancel" else "DEADLINE_EXCEEDED")
        assert first["id"] == "cut"
        assert (first["data"] if "data" in first else code_of(first)) == expected
        assert errors == ([] if error is None else [error])
        if error is None:
            assert [reply["data"] for reply in rest] == [1, 2]
            valve.opened.set()
            assert await client.request("cut", "pass") == "passed"
            assert await client.request("note", 5) == 5
        else:
            assert rest == [1011]


async def test_a_handler_that_is_cut_and_fails(autojump_clock: MockClock) -> None:
    """Of a group of a cancellation of ours and an error the error is reported, and ends the connection."""
    valve, errors = Valve(), list[str]()
    async with open_client(cut_manager(valve, errors)) as client:
        await client.send_action("together", id=1)
        await client.send_action("$cancel", {"id": 1})
        answer, code = await receive_all(client)
    assert (code_of(answer), code) == ("INTERNAL", 1011)
    assert errors == ["ExceptionGroup"]


async def test_a_cancel_that_comes_too_late(autojump_clock: MockClock) -> None:
    """A `$cancel` of a request whose handler has failed, while that is reported, changes nothing."""
    manager = Manager()
    valve = Valve()
    manager.handle_message("fail", lambda conn: 1 / 0)

    @manager.on_error
    async def wait(conn: Connection | None, error: BaseException) -> None:
        await valve.wait()

    async with open_client(manager) as client:
        await client.send_action("fail", id=1)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 1})
        await wait_all_tasks_blocked()
        valve.opened.set()
        answer, code = await receive_all(client)
    assert (code_of(answer), code) == ("INTERNAL", 1011)
    assert valve.cancelled == 0


async def test_a_handler_that_waits_holds_up_nothing_else(autojump_clock: MockClock) -> None:
    """Invariant 4: pings, `$leave` and `$cancel` that came with a request act while its handler waits."""
    manager = Manager()
    valve = Valve()
    manager.handle_message("note", lambda conn: None)

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        await valve.wait()

    async with open_client(manager) as client:
        for _ in range(3):
            await client.request("note")
        await send_together(
            client,
            {"action": "wait", "id": "a"},
            {"action": "wait", "id": "b"},
            {"action": "$leave", "data": {"room": "r"}, "id": "c"},
            {"action": "$cancel", "data": {"id": "b"}},
        )
        await client.ping(b"?")
        assert [reply["id"] for reply in await receive_all(client)] == ["c", "b"]
        assert await client.receive_pong() == b"?"
        valve.opened.set()
        assert [reply["id"] for reply in await receive_all(client)] == ["a"]


@pytest.mark.parametrize("make", [as_it_is, as_async])
async def test_others_get_their_turn(make: Callable[[Handler], Handler], autojump_clock: MockClock) -> None:
    """P5: a client whose requests come by the thousand at once is answered in order, and others run meanwhile."""
    limits = Limits(inbox_messages=10_000, outbox_messages=10_000)
    manager = Manager(config=Config(limits=limits, read_buffer_size=1 << 20))
    handled: list[int] = []
    manager.handle_message("count", make(lambda conn, data: handled.append(1)))
    turns: list[int] = []

    async def take_turns() -> None:
        while True:
            turns.append(len(handled))
            await trio.lowlevel.checkpoint()

    async with open_client(manager) as client, trio.open_nursery() as nursery:
        for _ in range(2):
            await client.request("count", "")
        nursery.start_soon(take_turns)
        await send_together(client, *({"action": "count", "data": "", "id": n} for n in range(3000)))
        assert [(await client.receive_json())["id"] for _ in range(3000)] == list(range(3000))
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in pairwise(turns)) <= 64


@pytest.mark.parametrize("how", ["close", "drain", "leave", "vanish"])
async def test_an_end_while_the_reader_rests(how: str, autojump_clock: MockClock) -> None:
    """Invariant 2: a connection that reads by itself ends as any other, whoever ends it, at once."""
    manager = Manager()
    manager.handle_message("note", lambda conn: None)
    ends: list[Any] = []
    manager.on_disconnect(lambda conn, close: ends.append((close.code, close.by)))
    started = trio.current_time()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        for _ in range(3):
            await client.request("note")
        (conn,) = manager.connections.values()
        assert conn._dispatcher.inbox.resting is not None
        if how == "close":
            conn.close(4001)
            assert await receive_all(client) == [4001]
        elif how == "drain":
            manager.begin_shutdown()
            assert await receive_all(client) == [1012]
        elif how == "leave":
            await client.close(4002)
        else:
            await client.aclose()
        await conn.wait_closed()
    expected = {
        "close": (4001, "server"),
        "drain": (1012, "server"),
        "leave": (4002, "peer"),
        "vanish": (1006, "network"),
    }
    assert ends == [expected[how]]
    assert trio.current_time() - started < 3


async def test_a_scope_around_a_connection(autojump_clock: MockClock) -> None:
    """A scope of connection middleware that a handler cancels lets none of the messages behind it have their turn."""
    manager = Manager()
    handled: list[str] = []

    @manager.use_connection
    async def around(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            conn.metadata["scope"] = scope
            await call_next(conn)

    @manager.on("note")
    def note(conn: Connection, data: str) -> None:
        handled.append(data)
        if data == "stop":
            conn.metadata["scope"].cancel()

    async with open_client(manager) as client:
        for _ in range(3):
            await client.request("note", "before")
        await send_together(client, *({"action": "note", "data": data} for data in ("now", "stop", "behind", "behind")))
        assert await receive_all(client) == [1000]
    assert handled == ["before"] * 3 + ["now", "stop"]
