"""What holds up a request to a client, and what ends one: full inboxes, cancels, ends of the connection, drains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from asked import TRANSPORTS, Asked, Transport, asked, asking
from messages import FORMATS, V1, pausing, receive_all, send_together
from trio_rooms import Config, Connection, ConnectionGone, Limits, Manager
from trio_rooms.testing import FaultyStream, Opcode, ReplyError, TestClient, client_frame, serve_in_memory

# Behind what waits for the handler that waits


async def send_one_by_one(client: TestClient, count: int, **fields: object) -> None:
    """Messages in as many reads."""
    for i in range(count):
        await client.send_action("echo", i, **fields)
        await wait_all_tasks_blocked()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_answer_is_found_behind_a_full_inbox(transport: Transport, autojump_clock: MockClock) -> None:
    """Messages that wait for the handler, far more than the inbox takes, keep no answer; they keep their order."""
    async with asked(transport=transport, inbox_messages=2) as at:
        await at.client.send_action("ask", id="first")
        request = await at.client.receive_json()
        for i in range(50):
            await at.client.send_action("echo", i, id=i)
            await wait_all_tasks_blocked()
        assert at.statistics.limited == {}
        await at.client.answer(request, "answer")
        assert await receive_all(at.client) == [
            {"id": "first", "data": "answer"},
            *[{"id": i, "data": i} for i in range(50)],
        ]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_reading_that_has_stopped_goes_on(transport: Transport, autojump_clock: MockClock) -> None:
    """A request that begins when the inbox is full already has what stands in front of it read."""
    manager = asking(inbox_messages=2)
    begin = trio.Event()

    @manager.on("ask later")
    async def ask_later(conn: Connection) -> Any:
        await begin.wait()
        return await conn.request("question")

    async with asked(manager, transport=transport) as at:
        await at.client.send_action("ask later", id="first")
        await send_one_by_one(at.client, 20)
        assert at.statistics.limited["inbox_messages"] == 1
        begin.set()
        await at.client.answer(await at.client.receive_json(), "answer")
        assert await at.client.receive_json() == {"id": "first", "data": "answer"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_reading_ahead_is_bounded(transport: Transport, autojump_clock: MockClock) -> None:
    """Invariant 5: at `read_ahead_bytes` nothing more is read, and counted; what is left has its turn afterwards."""
    async with asked(transport=transport, inbox_messages=2, read_ahead_bytes=10 * 600) as at:
        await at.client.send_action("ask for", 5, id="first")
        request = await at.client.receive_json()
        before = at.statistics.messages_received
        await send_one_by_one(at.client, 100)
        read = at.statistics.messages_received - before
        assert 9 <= read <= 14  # trio-websocket has a few in its own hands
        assert at.statistics.limited["read_ahead_bytes"] == 1
        await at.client.answer(request, "not found")
        await wait_all_tasks_blocked()
        assert at.statistics.messages_received - before == read
        assert await receive_all(at.client, 10) == [
            {"action": "$cancel", "data": {"id": request["id"]}},
            {"id": "first", "data": "no answer"},
        ]
        assert at.statistics.messages_received - before == 101
        assert at.statistics.answers_dropped == 1


async def test_large_messages_are_charged_their_length(autojump_clock: MockClock) -> None:
    """Invariant 5: it is a bound of memory, so a few large messages reach it as well."""
    async with asked(inbox_messages=2, read_ahead_bytes=20_000) as at:
        await at.client.send_action("ask", id="first")
        request = await at.client.receive_json()
        for _ in range(3):
            await at.client.send_action("echo", "x" * 9_000)
            await wait_all_tasks_blocked()
        await at.client.answer(request, "not found")
        await at.client.receive_nothing(100)
        assert at.statistics.limited["read_ahead_bytes"] == 1


async def test_the_usual_bound_comes_back(autojump_clock: MockClock) -> None:
    """Once nothing is asked any more nothing is read either until the inbox has room again."""
    manager = asking(inbox_messages=2)
    manager.handle_message("pause", pausing(50))
    async with asked(manager) as at:
        await at.client.send_action("ask for", 5, id=1)
        await at.client.receive_json()
        await at.client.send_action("pause")
        await send_one_by_one(at.client, 10, id="echo")
        assert await receive_all(at.client, 10) == [
            {"action": "$cancel", "data": {"id": "$1"}},
            {"id": 1, "data": "no answer"},
        ]
        before = at.statistics.messages_received
        await send_one_by_one(at.client, 10, id="echo")
        assert at.statistics.messages_received <= before + 1
        assert at.statistics.limited == {"inbox_messages": 1}
        assert len(await receive_all(at.client, 100)) == 20


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_an_answer_while_the_connection_reads_by_itself(
    subprotocol: str | None, autojump_clock: MockClock
) -> None:
    """Whoever reads takes the answer: the reader, or the connection's task once its handlers do not wait."""
    async with asked(subprotocol=subprotocol) as at:
        for _ in range(3):
            assert await at.client.request("echo", 1) == 1
        assert at.conn._dispatcher.inbox.resting is not None
        request = await at.begin()
        await send_together(
            at.client,
            {"action": "echo", "data": 1, "id": 1},
            {"id": request["id"], "data": "answer"},
            {"id": request["id"], "data": "again"},
            {"action": "echo", "data": 2, "id": 2},
        )
        assert await receive_all(at.client) == [{"id": 1, "data": 1}, {"id": 2, "data": 2}]
        assert await at.result() == "answer"
        assert at.statistics.answers_dropped == 1
        assert at.conn._dispatcher.inbox.resting is not None


# What ends the waiting


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_the_callers_timeout(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """It ends on time; a v1 client is told; the late answer is dropped and counted, and the next one is not its."""
    async with asked(subprotocol=subprotocol) as at:
        began = trio.current_time()
        await at.client.send_action("ask for", 5, id=1)
        late = await at.client.receive_json()
        cancelled = [{"action": "$cancel", "data": {"id": late["id"]}}] if subprotocol else []
        assert await receive_all(at.client, 7) == [*cancelled, {"id": 1, "data": "no answer"}]
        assert trio.current_time() == began + 5 + 7
        request = await at.begin()
        assert request["id"] != late["id"]
        await at.client.answer(late, "late")
        await wait_all_tasks_blocked()
        assert at.results == []
        assert at.statistics.answers_dropped == 1
        await at.client.answer(request, "in time")
        assert await at.result() == "in time"


async def test_unasked_answers(autojump_clock: MockClock) -> None:
    """Answers to what was never asked, and second ones, are dropped and counted; errors and nonsense, too."""
    async with asked() as at:
        await at.client.send_json({"id": "$1", "data": "too early"})
        await at.client.send_json({"id": "$1", "error": 5})
        await wait_all_tasks_blocked()
        request = await at.begin()
        await at.client.answer(request, "first")
        await at.client.answer(request, error=ReplyError("SECOND"))
        await at.client.send_json({"id": "$2", "data": "too early"})
        assert await at.client.request("echo", 1) == 1
        assert await at.result() == "first"
        assert at.statistics.answers_dropped == 4
        assert at.statistics.errors_told == {}


async def test_a_client_cancels_what_asks_it(autojump_clock: MockClock) -> None:
    """`$cancel` of a request whose handler asks: the handler is cancelled, and what it asks is, too."""
    async with asked() as at:
        await at.client.send_action("ask", id=1)
        request = await at.client.receive_json()
        await at.client.send_action("$cancel", {"id": 1})
        told, reply = await receive_all(at.client)
        assert told == {"action": "$cancel", "data": {"id": request["id"]}}
        assert reply["error"]["code"] == "CANCELLED"


async def test_a_cancel_that_comes_before_the_answer_is_read(autojump_clock: MockClock) -> None:
    """In one step the request is cancelled and then answered: the answer is dropped and counted."""
    async with asked() as at:
        request = await at.begin()
        asks = at.conn._asks
        assert asks is not None
        message = at.conn._format.parse(f'{{"id": "{request["id"]}", "data": 1}}', Limits(), clock=trio.current_time)
        at.scopes[0].cancel()
        assert asks.take(message)
        await wait_all_tasks_blocked()
        assert at.results == []
        assert at.statistics.answers_dropped == 1
        await at.client.receive_nothing(1)  # no $cancel for what it has answered


async def test_a_cancel_while_the_outbox_is_full(autojump_clock: MockClock) -> None:
    """The client was not asked, so it is not told that it need not answer."""
    stream: list[FaultyStream] = []

    def wrap(under: trio.abc.Stream) -> FaultyStream:
        stream.append(FaultyStream(under))
        return stream[0]

    manager = asking(outbox_messages=1)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1, wrap=wrap)
        await client.receive_json()
        await wait_all_tasks_blocked()
        (conn,) = manager.connections.values()
        stream[0].stall_sending(after=0)
        while True:
            try:
                conn.send_nowait("full")
            except trio.WouldBlock:
                break
            await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await conn.request("question")
        stream[0].resume_sending()
        assert {str(message) for message in await receive_all(client)} == {"{'data': 'full'}"}
        await client.aclose()


def peer_closes(at: Asked) -> Any:
    return at.client.close()


def peer_hangs_up(at: Asked) -> Any:
    return at.client.aclose()


async def program_closes(at: Asked) -> None:
    at.conn.close(4000)
    await at.client.expect_close(4000, skip_messages=True)


async def overflows(at: Asked) -> None:
    await at.conn.join("r")
    at.memory.manager.broadcast_to_room("r", "x" * 1000)
    for _ in range(20):
        at.memory.manager.broadcast_to_room("r", "x" * 1000)


async def breaks_the_protocol(at: Asked) -> None:
    await at.client.send_raw(client_frame(Opcode.TEXT, b"\xff"))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("end", [peer_closes, peer_hangs_up, program_closes, overflows, breaks_the_protocol])
async def test_the_end_of_the_connection(
    end: Callable[[Asked], Any], transport: Transport, autojump_clock: MockClock
) -> None:
    """Whatever ends the connection: at once all its requests raise ConnectionGone, also those of other tasks."""
    async with asked(transport=transport, outbox_messages=10) as at:
        for _ in range(3):
            await at.begin()
        began = trio.current_time()
        await end(at)
        for _ in range(3):
            assert type(await at.result()) is ConnectionGone
        assert trio.current_time() == began
        with pytest.raises(ConnectionGone):
            await at.conn.request("question")
        assert at.statistics.handler_errors == 0


async def test_a_dead_peer(autojump_clock: MockClock) -> None:
    """A peer of which nothing is heard is noticed by the pings, and then nothing waits for it any more."""
    manager = Manager(config=Config(ping_interval=20, pong_timeout=20))
    raised: list[tuple[float, str]] = []

    @manager.on("ask")
    async def ask(conn: Connection) -> None:
        with pytest.raises(ConnectionGone):
            await conn.request("question")
        raised.append((trio.current_time(), conn.closed.by if conn.closed else ""))

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("ask")
        began = trio.current_time()
        await trio.sleep(100)
        ((at, by),) = raised
        assert 20 < at - began <= 40
        assert by == "network"
        await client.aclose()


@pytest.mark.parametrize("how", ["close", "aclose"])
async def test_the_handler_that_asks_learns_of_it(how: str, autojump_clock: MockClock) -> None:
    """An ordered handler of the same connection; to let it go is no error, it is no news."""
    manager = Manager()
    raised: list[type[BaseException]] = []

    @manager.on("ask")
    async def ask(conn: Connection) -> None:
        try:
            await conn.request("question")
        except BaseException as exc:
            raised.append(type(exc))
            raise

    async with asked(manager) as at:
        await at.client.send_action("ask", id=1)
        await at.client.receive_json()
        await getattr(at.client, how)()
        await wait_all_tasks_blocked()
        assert raised == [ConnectionGone]
        assert at.statistics.handler_errors == 0


async def test_an_answer_in_front_of_the_close(autojump_clock: MockClock) -> None:
    """What the peer sent before its close frame still counts: the answer is taken."""
    async with asked() as at:
        request = await at.begin()
        await at.client.answer(request, "last words")
        await at.client.close()
        assert await at.result() == "last words"


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_a_drain_lets_it_finish(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Handlers finish during a drain, so what they have asked is still answered; what is not, ends with it."""
    async with asked(subprotocol=subprotocol) as at:
        await at.client.send_action("ask", id=1)
        request = await at.client.receive_json()
        at.memory.server.begin_shutdown()
        if subprotocol:
            assert (await at.client.receive_json())["action"] == "$drain"
        await trio.sleep(1)
        await at.client.answer(request, "in time")
        assert await at.client.receive_json() == {"id": 1, "data": "in time"}
        await at.client.expect_close(1012)


async def test_a_drain_that_waits_in_vain(autojump_clock: MockClock) -> None:
    """At `shutdown_timeout` everything is cancelled, and it leaves nothing."""
    manager = Manager(config=Config(shutdown_timeout=10, ping_interval=100))
    manager.handle_message("ask", lambda conn, message: conn.request("question"))
    async with asked(manager) as at:
        await at.client.send_action("ask", id=1)
        await at.client.receive_json()
        began = trio.current_time()
        at.memory.server.begin_shutdown()
        await at.client.expect_close(1012, skip_messages=True)
        assert trio.current_time() == began + 10


async def test_it_always_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """Also where the answer has come before it waits for it, as with a client in the same process."""
    async with asked() as at:
        with trio.testing.assert_checkpoints():
            at.nursery.start_soon(_answer_all, at.client)
            assert await at.conn.request("question") is None


async def _answer_all(client: TestClient) -> None:
    request = await client.receive_json()
    await client.answer(request)
