"""From a message to its one answer: order, concurrency, deadlines, streams, middleware, and what fails on the way."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import FORMATS, Valve, code_of, hang, pausing, receive_all, send_together
from trio_rooms import (
    ActionError,
    AlreadyServing,
    Config,
    Connection,
    ConnectionGone,
    Context,
    Denied,
    EncodingError,
    Limits,
    Manager,
    Message,
    MessageTooLarge,
    OutboxFull,
    UsageError,
    current_connection,
)
from trio_rooms.middleware import recovery
from trio_rooms.testing import FaultyStream, ReplyError, TestClient, open_client, serve_in_memory


@attrs.frozen
class Point:
    x: int


def echoing(**options: Any) -> Manager:
    """A manager with an `echo` handler."""
    manager = Manager(**options)

    @manager.on("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        return data if not isinstance(data, Message) else data.data

    return manager


# Replies


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_a_request_gets_its_result(subprotocol: str | None, autojump_clock: object) -> None:
    """A message with an id is answered with what its handler returned; without an id there is no answer."""
    manager = echoing()
    manager.handle_message("sync", lambda conn, message: [message.data])
    async with open_client(manager, subprotocol=subprotocol) as client:
        if subprotocol:
            await client.receive()
        await send_together(
            client,
            {"action": "echo", "data": 1},
            {"action": "echo", "data": {"a": None}, "id": 1},
            {"action": "echo", "id": "one"},
            {"type": "sync", "data": 2, "id": 0},
            {"action": "sync", "type": "echo", "data": 3, "id": -1},
        )
        assert await receive_all(client) == [
            {"id": 1, "data": {"a": None}},
            {"id": "one", "data": None},
            {"id": 0, "data": [2]},
            {"id": -1, "data": [3]},
        ]


async def test_what_a_wrapper_returns_is_awaited(autojump_clock: object) -> None:
    """A plain function that returns a coroutine, as an undeclared wrapper does, gives its result."""
    manager = Manager()

    async def inner(conn: Connection) -> str:
        await trio.lowlevel.checkpoint()
        return "result"

    manager.handle_message("wrapped", lambda conn: inner(conn))  # noqa: PLW0108 - the point of it
    manager.handle_message("partial", functools.partial(lambda extra, conn: inner(conn), 1))
    async with open_client(manager) as client:
        assert await client.request("wrapped") == "result"
        assert await client.request("partial") == "result"


async def test_payloads_are_decoded_for_the_handler(autojump_clock: object) -> None:
    """A payload of the wrong type is BAD_MESSAGE with the path; the handler is not run, the connection stays."""
    manager = Manager()
    seen = []

    @manager.on("move")
    async def move(conn: Connection, to: Point) -> int:
        seen.append(to)
        return to.x

    async with open_client(manager) as client:
        assert await client.request("move", {"x": 1}) == 1
        for data, told in [({"x": "1"}, "`int`, got `str` - at `..x`"), ({}, "`x`"), (None, "null")]:
            with pytest.raises(ReplyError, match=told) as caught:
                await client.request("move", data)
            assert caught.value.code == "BAD_MESSAGE"
        with pytest.raises(ReplyError, match="null"):
            await client.request("move")
        assert await client.request("move", {"x": 2}) == 2
    assert seen == [Point(1), Point(2)]


async def test_errors_are_told(autojump_clock: object) -> None:
    """An ActionError is told with code, text and `temporary`; without an id it is told without one."""
    manager = Manager()

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NOT_NOW", "later", temporary=True)

    async with open_client(manager) as client:
        await send_together(client, {"action": "refuse", "id": 1}, {"action": "refuse"})
        told = {"code": "NOT_NOW", "message": "later", "temporary": True}
        assert await receive_all(client) == [{"id": 1, "error": told}, {"error": told}]


async def test_errors_are_counted_by_code(autojump_clock: object) -> None:
    """L1: told errors are counted by the library's codes; all others, whatever the class, are "custom"."""
    manager = Manager()

    class Own(ActionError):
        pass

    @manager.on("own")
    async def own(conn: Connection, code: str) -> None:
        raise Own(code)

    @manager.on("plain")
    async def plain(conn: Connection, code: str) -> None:
        raise ActionError(code)

    @manager.on("denied")
    async def denied(conn: Connection) -> None:
        raise Denied("for a reason")

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        for number in range(20):
            for action in ("own", "plain", f"unknown {number}"):
                with pytest.raises(ReplyError):
                    await client.request(action, f"CODE{number}")
        with pytest.raises(ReplyError, match="for a reason"):
            await client.request("denied")
        assert memory.server.statistics().errors_told == {"custom": 40, "UNKNOWN_ACTION": 20, "DENIED": 1}
        assert memory.server.statistics().handler_errors == 0
        assert memory.server.statistics().messages_received == 61


async def test_current_connection(autojump_clock: object) -> None:
    """A handler, ordered or beside, runs for its connection."""
    manager = Manager()
    manager.handle_message("who", lambda conn: current_connection() is conn)
    manager.handle_message("beside", lambda conn: current_connection() is conn, concurrent=True)
    async with open_client(manager) as client:
        assert await client.request("who") is True
        assert await client.request("beside") is True


# What cannot be sent


def unsendable() -> dict[str, Callable[[], object]]:
    return {
        "an object": object,
        "a lone surrogate": lambda: "secret\ud800",
        "too large": lambda: "secret" * 1000,
        "endless": endless,
    }


def endless() -> list[Any]:
    loop: list[Any] = ["secret"]
    loop.append(loop)
    return loop


@pytest.mark.parametrize("make", unsendable().values(), ids=unsendable().keys())
@pytest.mark.parametrize("concurrent", [False, True])
async def test_results_that_cannot_be_sent(
    make: Callable[[], object], concurrent: bool, autojump_clock: object
) -> None:
    """I1: a result that cannot be encoded, or fits no outbox, is INTERNAL and a close; reported once."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=2000)))
    manager.handle_message("bad", lambda conn: make(), concurrent=concurrent)
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))
    async with open_client(manager) as client:
        await client.send_json({"action": "bad", "id": 1})
        got = await receive_all(client)
    assert got == [{"id": 1, "error": {"code": "INTERNAL", "message": "internal error", "temporary": False}}, 1011]
    assert [type(error) for error in errors] in ([EncodingError], [MessageTooLarge])


async def test_a_result_that_nobody_asked_for(autojump_clock: object) -> None:
    """Without an id the result is not encoded, so it may be anything."""
    manager = echoing()
    manager.handle_message("bad", lambda conn: object())
    async with open_client(manager) as client:
        await client.send_action("bad")
        assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("text", ["\ud800", "x" * 3000])
@pytest.mark.parametrize("concurrent", [False, True])
async def test_errors_that_cannot_be_sent(text: str, concurrent: bool, autojump_clock: object) -> None:
    """I1: an ActionError whose text cannot be sent ends its connection only, and is reported once."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=2000)))
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    async def bad(conn: Connection) -> None:
        raise ActionError("CODE", text)

    manager.handle_message("bad", bad, concurrent=concurrent)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_json({"action": "bad", "id": 1})
        assert await receive_all(client) == [1011]
    assert len(errors) == 1


async def test_an_outbox_that_holds_no_error(autojump_clock: object) -> None:
    """L1: with the smallest outbox nothing can be answered: the connection ends, the server lives."""
    manager = echoing(config=Config(limits=Limits(outbox_bytes=1, outbox_messages=1)))
    async with serve_in_memory(manager) as memory:
        for action in ("echo", "unknown"):
            client = await memory.connect()
            await client.send_json({"action": action, "id": 1})
            await client.expect_close(1011)


# Order and concurrency


async def test_ordered_handlers_run_one_after_another(autojump_clock: object) -> None:
    """Handlers of one connection run in the order of its messages, however long each takes."""
    manager = Manager()
    log = []

    @manager.on("work")
    async def work(conn: Connection, seconds: int) -> int:
        log.append(f"{seconds} begins")
        await trio.sleep(seconds)
        log.append(f"{seconds} ends")
        return seconds

    async with open_client(manager) as client:
        await send_together(client, *({"action": "work", "data": n, "id": n} for n in (3, 1, 2)))
        assert [reply["id"] for reply in await receive_all(client, 10)] == [3, 1, 2]
    assert log == [f"{n} {what}" for n in (3, 1, 2) for what in ("begins", "ends")]


async def test_connections_do_not_wait_for_each_other(autojump_clock: object) -> None:
    """Invariant 1: a handler that hangs holds up its own connection only."""
    manager = echoing()
    valve = Valve()
    manager.handle_message("hang", lambda conn: valve.wait())
    async with serve_in_memory(manager) as memory:
        culprit, other = await memory.connect(), await memory.connect()
        await send_together(culprit, {"action": "hang"}, {"action": "echo", "id": 1})
        assert await other.request("echo", "x") == "x"
        await culprit.receive_nothing(100)
        valve.opened.set()
        assert await culprit.receive_json() == {"id": 1, "data": None}


async def test_concurrent_handlers_run_beside(autojump_clock: object) -> None:
    """`concurrent=True` runs beside the messages that follow, and beside itself; replies come as they are ready."""
    manager = echoing()

    @manager.on("work", concurrent=True)
    async def work(conn: Connection, seconds: int) -> int:
        await trio.sleep(seconds)
        return seconds

    async with open_client(manager) as client:
        await send_together(
            client, *({"action": "work", "data": n, "id": n} for n in (3, 1, 2)), {"action": "echo", "id": 0}
        )
        assert [reply["id"] for reply in await receive_all(client, 10)] == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("with_session", [False, True])
async def test_max_handlers(limit: int, with_session: bool, autojump_clock: object) -> None:
    """L1: beyond `max_handlers` concurrent and streaming handlers a request is BUSY; a session takes no place."""
    manager = echoing(config=Config(limits=Limits(max_handlers=limit)))
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait(), concurrent=True)

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        await valve.wait()
        yield 1

    if with_session:

        @manager.session
        async def session(conn: Connection) -> None:
            await trio.sleep_forever()

    async with open_client(manager) as client:
        actions = ["wait", "stream", "wait"][:limit]
        await send_together(client, *({"action": action, "id": n} for n, action in enumerate(actions)))
        await wait_all_tasks_blocked()
        assert valve.waiting == limit
        for action in ("wait", "stream"):
            with pytest.raises(ReplyError) as caught:
                await client.request(action, id="more")
            assert (caught.value.code, caught.value.temporary) == ("BUSY", True)
        assert await client.request("echo", 5, id="ordered") == 5
        valve.opened.set()
        await wait_all_tasks_blocked()
        assert await client.request("wait", id="again") is None
        await receive_all(client)


# Ids


async def test_an_id_in_flight_twice(autojump_clock: object) -> None:
    """DUPLICATE_ID answers the second request with the id of one in flight; the first is answered on its own."""
    manager = echoing()
    valve = Valve()

    @manager.on("wait", concurrent=True)
    async def wait(conn: Connection, data: int) -> int:
        await valve.wait()
        return data

    async with open_client(manager) as client:
        await send_together(
            client,
            {"action": "wait", "data": 1, "id": 7},
            {"action": "echo", "data": 2, "id": 7},
            {"action": "x", "id": 7},
        )
        duplicates = await receive_all(client)
        assert [(reply["id"], code_of(reply)) for reply in duplicates] == [(7, "DUPLICATE_ID")] * 2
        valve.opened.set()
        assert await receive_all(client) == [{"id": 7, "data": 1}]
        assert await client.request("echo", 3, id=7) == 3


async def test_a_queued_request_holds_its_id(autojump_clock: object) -> None:
    """A request that waits for its turn is in flight: its id cannot be used again, nor is it answered twice."""
    manager = echoing()
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        await send_together(client, {"action": "wait"}, *({"action": "echo", "data": n, "id": 1} for n in (1, 2)))
        await wait_all_tasks_blocked()
        valve.opened.set()
        answers = await receive_all(client)
        assert sorted((reply.get("data"), code_of(reply)) for reply in answers if "data" in reply) == [(1, None)]
        assert [code_of(reply) for reply in answers if "error" in reply] == ["DUPLICATE_ID"]


@pytest.mark.parametrize(
    "request_", ["echo", "unknown", "refuse", "boom", "beside", "stream", "$join", "$leave", "slow", "bad"]
)
async def test_an_answered_id_is_free(request_: str, autojump_clock: object) -> None:
    """However a request was answered, its id may be used again, and nothing of it is kept."""
    manager = Manager(middleware=[recovery()])

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NO")

    @manager.on("boom")
    async def boom(conn: Connection) -> None:
        raise ValueError

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        yield 1

    @manager.on("slow")
    async def slow(conn: Connection) -> None:
        await trio.sleep(10)

    manager.handle_message("echo", lambda conn: None)
    manager.handle_message("beside", lambda conn: None, concurrent=True)
    manager.handle_message("bad", lambda conn, data: data, concurrent=True)
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        for with_id in (True, True, False):
            message = {"action": request_, "data": {"room": "r"}, "timeout_ms": 1000}
            await client.send_json({**message, "id": 1} if with_id else message)
            answers = await receive_all(client, 5)
            assert not [answer for answer in answers if code_of(answer) == "DUPLICATE_ID"]
            assert not list(conn._dispatcher.in_flight)


# Deadlines


async def test_timeout_ms(autojump_clock: object) -> None:
    """A handler is cancelled when the client's `timeout_ms` has passed: DEADLINE_EXCEEDED, temporary."""
    manager = echoing()
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        begun = trio.current_time()
        with pytest.raises(ReplyError) as caught:
            await client.request("wait", timeout_ms=2500)
        assert (caught.value.code, caught.value.temporary) == ("DEADLINE_EXCEEDED", True)
        assert trio.current_time() - begun == pytest.approx(2.5)
        assert valve.cancelled == 1
        assert await client.request("echo", 1, timeout_ms=1) == 1


async def test_timeout_ms_counts_from_arrival(autojump_clock: object) -> None:
    """A request whose time passes while it waits for its turn is answered, but its handler does not run."""
    manager = Manager()
    ran = []
    manager.handle_message("slow", pausing(10))
    manager.handle_message("run", lambda conn: ran.append(1))
    manager.handle_message("beside", lambda conn: ran.append(2), concurrent=True)

    @manager.on("left")
    async def left(conn: Connection) -> float:
        return trio.current_effective_deadline() - trio.current_time()

    async with open_client(manager) as client:
        await send_together(
            client,
            {"action": "slow"},
            {"action": "run", "id": 1, "timeout_ms": 9_000},
            {"action": "beside", "id": 2, "timeout_ms": 10_000},
            {"action": "$join", "data": {"room": "r"}, "id": 3, "timeout_ms": 1},
            {"action": "left", "id": 4, "timeout_ms": 12_000},
            {"action": "run", "timeout_ms": 1},
        )
        answers = await receive_all(client, 20)
        late = "DEADLINE_EXCEEDED"
        by_id = {reply.get("id"): code_of(reply) for reply in answers}
        assert len(answers) == 5
        assert by_id == {1: late, 2: late, 3: late, 4: None, None: late}
        assert [reply["data"] for reply in answers if "data" in reply] == [pytest.approx(2.0)]
    assert ran == []


@pytest.mark.parametrize(("timeout_ms", "passes"), [(None, 3.0), (1000, 1.0), (60_000, 3.0)])
@pytest.mark.parametrize("action", ["wait", "beside", "stream", "$join"])
async def test_handler_timeout(action: str, timeout_ms: int | None, passes: float, autojump_clock: object) -> None:
    """L1: `handler_timeout` bounds each handler and `$join`; the earlier of it and `timeout_ms` counts."""
    manager = Manager(config=Config(limits=Limits(handler_timeout=3.0)))
    valve = Valve()
    deadlines = []

    async def authorize(conn: Connection, room: str, data: object) -> bool:
        await valve.wait()
        return True

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        await valve.wait()
        yield 1

    async def note_deadline(ctx: Context, call_next: Any) -> Any:
        deadlines.append(ctx.deadline)
        return await call_next(ctx)

    manager.use(note_deadline)
    manager.room("*", authorize=authorize)
    manager.handle_message("wait", lambda conn: valve.wait())
    manager.handle_message("beside", lambda conn: valve.wait(), concurrent=True)
    async with open_client(manager) as client:
        begun = trio.current_time()
        with pytest.raises(ReplyError) as caught:
            await client.request(action, {"room": "r"}, timeout_ms=timeout_ms)
        assert caught.value.code == "DEADLINE_EXCEEDED"
        assert trio.current_time() - begun == pytest.approx(passes)
    assert valve.cancelled == 1
    assert deadlines == ([] if action == "$join" else [pytest.approx(begun + passes)])


async def test_handler_timeout_counts_from_the_handlers_begin(autojump_clock: object) -> None:
    """`handler_timeout` is the time of one handler: waiting for a turn does not count."""
    manager = Manager(config=Config(limits=Limits(handler_timeout=3.0)))
    manager.handle_message("slow", pausing(2))
    async with open_client(manager) as client:
        await send_together(client, *({"action": "slow", "id": n} for n in range(4)))
        assert [code_of(reply) for reply in await receive_all(client, 5)] == [None] * 4


# Streams


def counting(manager: Manager, log: list[str] | None = None) -> None:
    """Register a generator that counts and notes its end."""

    @manager.on("count")
    async def count(conn: Connection, data: dict[str, float]) -> AsyncIterator[int]:
        try:
            for number in range(int(data["to"])):
                yield number
                await trio.sleep(data.get("pause", 0))
            if "error" in data:
                raise ActionError("ENOUGH", "no more")
        finally:
            if log is not None:
                log.append("generator ended")


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_generators_stream(subprotocol: str | None, autojump_clock: object) -> None:
    """Each item is a reply with `more`; the end says that there is no more. Both formats."""
    manager = Manager()
    counting(manager)
    async with open_client(manager, subprotocol=subprotocol) as client:
        if subprotocol:
            await client.receive()
        await client.send_action("count", {"to": 2}, id=1)
        await client.send_action("count", {"to": 0}, id="two")
        answers = await receive_all(client)
        # The streams run beside each other; each is in order.
        assert [answer for answer in answers if answer["id"] == 1] == [
            {"id": 1, "data": 0, "more": True},
            {"id": 1, "data": 1, "more": True},
            {"id": 1, "more": False},
        ]
        assert [answer for answer in answers if answer["id"] != 1] == [{"id": "two", "more": False}]


async def test_a_stream_may_end_with_an_error(autojump_clock: object) -> None:
    """An ActionError in the middle ends the stream in the place of its end."""
    manager = Manager()
    counting(manager)
    async with open_client(manager) as client:
        await client.send_action("count", {"to": 1, "error": 1}, id=1)
        error = {"code": "ENOUGH", "message": "no more", "temporary": False}
        assert await receive_all(client) == [{"id": 1, "data": 0, "more": True}, {"id": 1, "error": error}]


async def test_a_stream_needs_an_id(autojump_clock: object) -> None:
    """Without an id there is nothing to stream to: BAD_MESSAGE, and the generator does not begin."""
    manager = Manager()
    log: list[str] = []
    counting(manager, log)
    async with open_client(manager) as client:
        await client.send_action("count", {"to": 1})
        (answer,) = await receive_all(client)
        assert code_of(answer) == "BAD_MESSAGE"
        assert "id" not in answer
    assert log == []


async def test_streams_run_beside(autojump_clock: object) -> None:
    """Generators run beside each other and beside ordered handlers."""
    manager = echoing()
    counting(manager)
    async with open_client(manager) as client:
        await send_together(
            client,
            {"action": "count", "data": {"to": 2, "pause": 10}, "id": 1},
            {"action": "count", "data": {"to": 2, "pause": 3}, "id": 2},
            {"action": "echo", "id": 3},
        )
        answers = await receive_all(client, 30)
        items = [(reply["id"], reply.get("data")) for reply in answers if reply.get("more") is not False]
        assert sorted(items[:3]) == [(1, 0), (2, 0), (3, None)]
        assert items[3:] == [(2, 1), (1, 1)]


@pytest.mark.parametrize("how", ["$cancel", "timeout_ms", "close", "drop", "kick"])
async def test_a_stream_that_is_cut_ends_its_generator(how: str, autojump_clock: object) -> None:
    """However a stream is cut in its middle, the generator's finally runs at once."""
    manager = Manager()
    log: list[str] = []
    counting(manager, log)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        (conn,) = manager.connections.values()
        timeout = {"timeout_ms": 1500} if how == "timeout_ms" else {}
        await client.send_action("count", {"to": 1000, "pause": 1.0}, id=1, **timeout)
        assert await client.receive_json() == {"id": 1, "data": 0, "more": True}
        match how:
            case "$cancel":
                await client.send_action("$cancel", {"id": 1})
                assert [code_of(reply) for reply in await receive_all(client, 5)] == ["CANCELLED"]
            case "timeout_ms":
                answers = await receive_all(client, 5)
                assert [code_of(reply) for reply in answers] == [None, "DEADLINE_EXCEEDED"]
            case "close":
                await client.close()
            case "drop":
                await client.aclose()
            case _:
                conn.close(4500, "out")
                await client.expect_close(4500)
        with trio.fail_after(6):  # what a client sent before its close is handled for close_timeout
            await conn.wait_closed() if how in {"close", "drop", "kick"} else await wait_all_tasks_blocked()
        assert log == ["generator ended"]


@pytest.mark.parametrize("bad", [object(), "x" * 5000])
async def test_an_item_that_cannot_be_sent(bad: object, autojump_clock: object) -> None:
    """I1: an item that cannot be encoded or fits no outbox ends the stream and the connection; finally runs."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=2000)))
    log = []

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[object]:
        try:
            yield 1
            yield bad
            yield 2
        finally:
            log.append("ended")

    async with open_client(manager) as client:
        await client.send_action("stream", id=1)
        answers = await receive_all(client)
        assert answers[0] == {"id": 1, "data": 1, "more": True}
        assert code_of(answers[1]) == "INTERNAL"
        assert answers[2:] == [1011]
    assert log == ["ended"]


async def test_a_stream_goes_no_faster_than_its_client(autojump_clock: object) -> None:
    """Items wait for room in the outbox: a generator is not run ahead of a client that does not read."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=4), write_timeout=1000, ping_interval=10_000))
    made = 0

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        nonlocal made
        for number in range(100):
            made += 1
            yield number

    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with open_client(manager, wrap=wrap) as client:
        streams[0].stall_sending()
        await client.send_action("stream", id=1)
        await trio.sleep(10)
        assert 4 <= made <= 10
        streams[0].resume_sending()
        assert len(await receive_all(client)) == 101


async def test_a_stream_to_nobody_lets_others_run(autojump_clock: object) -> None:
    """Invariant 1: a generator that never waits, and whose client has closed, does not hold the thread."""
    manager = echoing(config=Config(close_timeout=2.0))
    made = 0

    @manager.on("flood")
    async def flood(conn: Connection) -> AsyncIterator[int]:
        nonlocal made
        while made < 1_000_000:
            made += 1
            yield made

    async with serve_in_memory(manager) as memory:
        culprit, other = await memory.connect(), await memory.connect()
        await culprit.send_action("flood", id=1)
        await culprit.receive()
        await culprit.close()
        before = made
        for _ in range(10):
            assert await other.request("echo", 1) == 1
        assert made - before < 10_000
        (conn,) = [conn for conn in manager.connections.values() if conn.closed is not None] or [None]
        if conn is not None:
            conn._cancel_all("the test is over")


# on_message


async def test_on_message_comes_first(autojump_clock: object) -> None:
    """`on_message` hooks run in order of registration before the handler; not for the library's own actions."""
    manager = Manager()
    log: list[object] = []

    @manager.on_message
    async def first(conn: Connection, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        log.append(("first", message.action, message.data))

    @manager.on_message
    def second(conn: Connection, message: Message) -> None:
        log.append("second")

    async def middleware(ctx: Context, call_next: Any) -> Any:
        log.append("middleware")
        return await call_next(ctx)

    manager.use(middleware)
    manager.handle_message("act", lambda conn: log.append("handler"))
    async with open_client(manager) as client:
        await client.request("act", 5)
        await client.request("$leave", {"room": "r"})
        with pytest.raises(ReplyError):
            await client.request("$join", {"room": "r"})
    assert log == [("first", "act", 5), "second", "middleware", "handler"]


@pytest.mark.parametrize("concurrent", [False, True])
async def test_on_message_may_refuse(concurrent: bool, autojump_clock: object) -> None:
    """A hook that raises answers the message in the handler's place; later hooks do not run, the connection stays."""
    manager = Manager()
    log: list[object] = []

    @manager.on_message
    def first(conn: Connection, message: Message) -> None:
        log.append("first")
        if message.data == "refuse":
            raise ActionError("NO", "not this")
        if message.data == "fail":
            raise ValueError("secret")

    manager.on_message(lambda conn, message: log.append("second"))
    manager.on_error(lambda conn, error: log.append(repr(error)))
    manager.handle_message("act", lambda conn: log.append("handler"), concurrent=concurrent)
    async with open_client(manager) as client:
        with pytest.raises(ReplyError, match="not this") as caught:
            await client.request("act", "refuse")
        assert caught.value.code == "NO"
        with pytest.raises(ReplyError) as caught:
            await client.request("act", "fail")
        assert (caught.value.code, caught.value.message) == ("INTERNAL", "internal error")
        assert await client.request("act", "pass") is None
    assert log == ["first", "first", "ValueError('secret')", "first", "second", "handler"]


async def test_on_message_is_bounded_in_time(autojump_clock: object) -> None:
    """A hook that hangs is cut after `hook_timeout`, and its message refused."""
    manager = echoing(config=Config(hook_timeout=3.0))
    manager.on_message(hang)
    async with open_client(manager) as client:
        begun = trio.current_time()
        with pytest.raises(ReplyError) as caught:
            await client.request("echo", 1)
        assert caught.value.code == "INTERNAL"
        assert trio.current_time() - begun == pytest.approx(3.0)


# Middleware


async def test_middleware_is_an_onion(autojump_clock: object) -> None:
    """The first middleware is the outermost, whether given to the manager or added; each sees conn and message."""
    log: list[object] = []

    def layer(name: str) -> Any:
        async def middleware(ctx: Context, call_next: Any) -> Any:
            log.append((name, "in", ctx.message.action, ctx.conn is current_connection(), ctx.deadline))
            result = await call_next(ctx)
            log.append((name, "out", result))
            return result + name

        return middleware

    manager = Manager(middleware=[layer("a"), layer("b")])
    manager.use(layer("c"), layer("d"))
    manager.handle_message("act", lambda conn: "handler ")
    async with open_client(manager) as client:
        assert await client.request("act") == "handler dcba"
    assert log == [
        *((name, "in", "act", True, math.inf) for name in "abcd"),
        ("d", "out", "handler "),
        ("c", "out", "handler d"),
        ("b", "out", "handler dc"),
        ("a", "out", "handler dcb"),
    ]


async def test_middleware_may_answer_by_itself(autojump_clock: object) -> None:
    """Without `call_next` the handler does not run, and what middleware returns is the reply."""

    async def cached(ctx: Context, call_next: Any) -> Any:
        return "cached" if ctx.message.data == 1 else await call_next(ctx)

    manager = echoing(middleware=[cached])
    async with open_client(manager) as client:
        assert await client.request("echo", 1) == "cached"
        assert await client.request("echo", 2) == 2


async def test_middleware_may_answer_for_a_stream(autojump_clock: object) -> None:
    """What middleware returns for a streaming action is sent as an item before the end."""
    seen = []

    async def middleware(ctx: Context, call_next: Any) -> Any:
        if ctx.message.data == {"to": 0}:
            return "instead"
        seen.append(await call_next(ctx))
        return None

    manager = Manager(middleware=[middleware])
    counting(manager)
    async with open_client(manager) as client:
        assert await client.stream("count", {"to": 0}) == ["instead"]
        assert await client.stream("count", {"to": 2}) == [0, 1]
    assert seen == [None]


async def test_middleware_may_replace_exceptions(autojump_clock: object) -> None:
    """Middleware sees what a handler raises, and may turn it into a result or another error, or retry."""
    tries = []

    async def middleware(ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except KeyError:
            return "instead"
        except ValueError as exc:
            raise ActionError("BAD_VALUE", str(exc)) from exc
        except OSError:
            return await call_next(ctx)

    manager = Manager(middleware=[middleware])
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))

    @manager.on("raise")
    async def fail(conn: Connection, what: str) -> str:
        tries.append(what)
        if tries.count(what) > 1:
            return "second try"
        raise {"key": KeyError, "value": ValueError, "os": OSError}[what]("told")

    async with open_client(manager) as client:
        assert await client.request("raise", "key") == "instead"
        with pytest.raises(ReplyError, match="told") as caught:
            await client.request("raise", "value")
        assert caught.value.code == "BAD_VALUE"
        assert await client.request("raise", "os") == "second try"
    assert errors == []


async def test_middleware_is_fixed_while_served(autojump_clock: object) -> None:
    """Nothing is registered while the manager is served; afterwards it may be, and counts at the next serve."""
    manager = echoing()
    log = []

    async def middleware(ctx: Context, call_next: Any) -> Any:
        log.append(1)
        return await call_next(ctx)

    async with open_client(manager) as client:
        with pytest.raises(AlreadyServing):
            manager.use(middleware)
        await client.request("echo", 1)
    assert log == []
    manager.use(middleware)
    async with open_client(manager) as client:
        await client.request("echo", 1)
    assert log == [1]


# The bounds of a queue


async def test_replies_wait_for_room(autojump_clock: object) -> None:
    """Replies are never dropped: with a full outbox dispatch stops until the client reads."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=2), write_timeout=1000, ping_interval=10_000))
    ran = []
    manager.handle_message("run", lambda conn, message: ran.append(message.id))
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with open_client(manager, wrap=wrap) as client:
        streams[0].stall_sending()
        await send_together(client, *({"action": "run", "id": n} for n in range(50)))
        await trio.sleep(10)
        assert 2 <= len(ran) <= 6
        streams[0].resume_sending()
        assert [reply["id"] for reply in await receive_all(client)] == list(range(50))


async def test_replies_to_a_client_that_has_closed_are_counted(autojump_clock: object) -> None:
    """Invariant 6: what is still handled after the peer's close is answered to nobody, and counted as dropped."""
    manager = Manager()
    ran = []

    @manager.on("run")
    async def run(conn: Connection, data: int) -> None:
        await trio.sleep(0.1)
        ran.append(data)

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await send_together(client, *({"action": "run", "data": n, "id": n} for n in range(5)))
        await client.close()
        await trio.sleep(2)
        assert ran == list(range(5))
        assert memory.server.statistics().dropped == 5


def small_reads(inbox: int) -> Config:
    return Config(limits=Limits(inbox_messages=inbox), read_buffer_size=64, ping_interval=10_000)


async def test_inbox_messages(autojump_clock: object) -> None:
    """L1: at `inbox_messages` nothing more is read, until handlers have made room; nothing is lost."""
    received = []
    for limit in (1, 10):
        manager = Manager(config=small_reads(limit))
        valve = Valve()
        ran = []

        @manager.on("wait")
        async def wait(conn: Connection, data: int) -> None:
            await valve.wait()  # noqa: B023 - runs within this round
            ran.append(data)  # noqa: B023

        async with serve_in_memory(manager) as memory:
            client = await memory.connect()
            await send_together(client, *({"action": "wait", "data": n, "pad": "x" * 64} for n in range(100)))
            await trio.sleep(100)
            received.append(memory.server.statistics().messages_received)
            valve.opened.set()
            await wait_all_tasks_blocked()
            assert ran == list(range(100))
    assert received[1] - received[0] == 9
    assert received[0] <= 4


async def test_ping_is_answered_while_a_handler_runs(autojump_clock: object) -> None:
    """Invariant 4: control frames within what was read are answered while the handler is busy."""
    manager = Manager()
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        await client.send_action("wait")
        await client.ping(b"still there?")
        assert await client.receive_pong() == b"still there?"


async def test_what_comes_during_a_drain_is_not_kept(autojump_clock: object) -> None:
    """Invariant 5: messages that come while the connection drains are neither run nor remembered."""
    manager = Manager()
    valve = Valve()
    ran = []
    manager.handle_message("wait", lambda conn: valve.wait())
    manager.handle_message("run", lambda conn: ran.append(1))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        (conn,) = manager.connections.values()
        await client.send_action("wait", id="first")
        await wait_all_tasks_blocked()
        memory.server.begin_shutdown()
        await trio.sleep(1)
        for number in range(50):
            await client.send_action("run", id=number)
        await wait_all_tasks_blocked()
        assert [request.id for request in conn._dispatcher.in_flight] == ["first"]
        valve.opened.set()
        assert await receive_all(client) == [{"id": "first", "data": None}, 1012]
    assert ran == []


# What is no error


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("with_recovery", [False, True])
async def test_a_client_that_leaves_is_no_error(
    concurrent: bool, with_recovery: bool, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """A handler that finds its client gone ends with ConnectionGone, which is neither logged nor reported."""
    manager = Manager(middleware=[recovery()] if with_recovery else ())
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))
    outcomes = []

    async def talk(conn: Connection) -> None:
        try:
            while True:
                await conn.send("tick")
                await trio.sleep(1)
        except BaseException as exc:
            outcomes.append(type(exc))
            raise

    manager.handle_message("talk", talk, concurrent=concurrent)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("talk", id=1)
        await client.receive()
        await client.close()
        await trio.sleep(10)
        assert memory.server.statistics().handler_errors == 0
    assert outcomes == [ConnectionGone]
    assert errors == []
    assert not caplog.records


async def test_another_client_that_is_gone_is_an_error(autojump_clock: object) -> None:
    """ConnectionGone about somebody else is the handler's own failure."""
    manager = Manager()
    manager.handle_message("send", lambda conn: manager.send_to_connection("nobody", 1))
    errors = []
    manager.on_error(lambda conn, error: errors.append(type(error)))
    async with open_client(manager) as client:
        await client.send_action("send", id=1)
        answers = await receive_all(client)
        assert [code_of(answers[0]), *answers[1:]] == ["INTERNAL", 1011]
    assert errors == [ConnectionGone]


async def test_a_handler_may_close_its_own_connection(autojump_clock: object) -> None:
    """A handler that closes is cancelled at its next checkpoint; what it sent before is still written."""
    manager = Manager()
    log = []

    @manager.on("quit")
    async def leave(conn: Connection) -> str:
        await conn.send("bye")
        conn.close(4001, "as you wish")
        try:
            await trio.lowlevel.checkpoint()
        finally:
            log.append("cancelled")
        return "unreachable"

    async with open_client(manager) as client:
        await client.send_action("quit", id=1)
        assert await client.receive_json() == "bye"
        assert await client.expect_close(4001) is not None
    assert log == ["cancelled"]


async def test_read_json_inside_a_handler(autojump_clock: object) -> None:
    """`read_json` in a handler, its middleware or its child tasks would wait for itself: UsageError."""
    manager = Manager()

    @manager.session
    async def session(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("direct")
    async def direct(conn: Connection) -> str:
        with pytest.raises(UsageError, match="inside a handler"):
            await conn.read_json()
        return "refused"

    @manager.on("child", concurrent=True)
    async def child(conn: Connection) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(direct, conn)
            nursery.start_soon(direct, conn)
        return "refused"

    async with open_client(manager) as client:
        assert await client.request("direct") == "refused"
        assert await client.request("child") == "refused"


async def test_describe_names_what_runs(autojump_clock: object) -> None:
    """What is in flight can be named for the log, in one line, whatever the client calls it."""
    manager = Manager()
    valve = Valve()
    manager.handle_message("wait\nERROR forged", lambda conn: valve.wait())
    async with open_client(manager) as client:
        await client.send_action("wait\nERROR forged")
        await wait_all_tasks_blocked()
        (conn,) = manager.connections.values()
        assert conn._dispatcher.describe() == r"""actions ["'wait\\nERROR forged'"]"""
        valve.opened.set()
        assert isinstance(client, TestClient)


async def test_errors_when_the_outbox_is_gone(autojump_clock: object) -> None:
    """`send_nowait` in a handler raises OutboxFull at the bound, which is the handler's to deal with."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=1)))

    @manager.on("burst")
    async def burst(conn: Connection) -> str:
        conn.send_nowait(1)
        with pytest.raises(OutboxFull):
            conn.send_nowait(2)
        return "full"

    async with open_client(manager) as client:
        assert await client.request("burst") == "full"
        assert await client.receive_json() == 1
