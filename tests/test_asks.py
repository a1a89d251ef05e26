"""Requests to clients: what is asked and answered, that nothing holds an answer up, and what ends the waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from asked import TRANSPORTS, Transport, asked
from messages import FORMATS, MSGPACK, V1, receive_all, send_together
from trio_rooms import (
    ActionError,
    AskFailed,
    AskRefused,
    BadAnswer,
    Connection,
    Context,
    EncodingError,
    Manager,
    Message,
    MessageTooLarge,
    Room,
    TooManyAsks,
)
from trio_rooms.testing import ReplyError, open_client, serve_in_memory


@attrs.frozen
class Point:
    x: int


# Questions and answers


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_an_ordered_handler_asks_its_own_client(
    subprotocol: str | None, transport: Transport, autojump_clock: MockClock
) -> None:
    """The client is sent action, data and an id, and what it answers under the id is what `request` returns."""
    async with asked(subprotocol=subprotocol, transport=transport) as at:
        await at.client.send_action("ask", {"a": [1, None]}, id=7)
        request = await at.client.receive_json()
        assert request == {"action": "question", "data": {"a": [1, None]}, "id": "$1"}
        await at.client.send_json({"id": "$1", "data": {"b": 2.5}})
        assert await at.client.receive_json() == {"id": 7, "data": {"b": 2.5}}
        assert at.statistics.answers_dropped == 0


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_absent_data_is_none(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Both ways: a request without data is sent with null, and an answer without data is None."""
    async with asked(subprotocol=subprotocol) as at:
        request = await at.begin()
        assert request == {"action": "question", "data": None, "id": "$1"}
        await at.client.send_json({"id": request["id"]})
        assert await at.result() is None


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_answers_are_decoded_as_a_type(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """`type` is what msgspec can build; another answer is a BadAnswer that says where it is wrong."""
    async with asked(subprotocol=subprotocol) as at:
        for data, expected in [({"x": 1}, Point(1)), ({"x": 2, "y": 3}, Point(2))]:
            request = await at.begin(type=Point)
            await at.client.send_json({"id": request["id"], "data": data})
            assert await at.result() == expected
        for data, told in [({"x": "1"}, "`int`, got `str`"), ({}, "`x`"), (None, "Expected `object`")]:
            request = await at.begin(type=Point)
            await at.client.send_json({"id": request["id"], "data": data})
            error = await at.result()
            assert type(error) is BadAnswer
            assert told in str(error)
        assert await at.client.request("echo", "still here") == "still here"


async def test_bytes_in_messagepack(autojump_clock: MockClock) -> None:
    """An answer that is bytes is an answer, not a binary message."""
    async with asked(subprotocol=MSGPACK) as at:
        request = await at.begin(data=b"\x00")
        assert request["data"] == b"\x00"
        await at.client.send_json({"id": request["id"], "data": b"\xff"})
        assert await at.result() == b"\xff"


async def test_a_type_that_cannot_be_built(autojump_clock: MockClock) -> None:
    """It is an error of the program, raised before the client is asked."""
    async with asked() as at:
        with pytest.raises(TypeError, match="more than one"):
            await at.conn.request("question", type=dict[str, int] | dict[str, str])
        await at.client.receive_nothing(1)
        assert (await at.begin())["id"] == "$1"


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_an_error_answer(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """It raises AskRefused with code, message and `temporary`, which are optional but for the code."""
    async with asked(subprotocol=subprotocol) as at:
        for error, told in [
            ({"code": "NO", "message": "never", "temporary": True}, ("NO", "never", True)),
            ({"code": "NO", "extra": [1]}, ("NO", "", False)),
        ]:
            request = await at.begin()
            await at.client.send_json({"id": request["id"], "data": 1, "error": error})
            refused = await at.result()
            assert type(refused) is AskRefused
            assert (refused.code, refused.message, refused.temporary) == told
        request = await at.begin()
        await at.client.send_json({"id": request["id"], "data": 1, "error": None})
        assert await at.result() == 1


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("error", ["NO", 0, {}, {"code": 1}, {"code": "NO", "temporary": "yes"}])
async def test_a_malformed_error_answer(subprotocol: str | None, error: object, autojump_clock: MockClock) -> None:
    """An error of another shape is a BadAnswer."""
    async with asked(subprotocol=subprotocol) as at:
        request = await at.begin()
        await at.client.send_json({"id": request["id"], "error": error})
        assert type(await at.result()) is BadAnswer


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_depth(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Invariant 5: answers are nested no deeper than other messages."""
    async with asked(subprotocol=subprotocol, max_depth=3) as at:
        request = await at.begin()
        await at.client.send_json({"id": request["id"], "data": [[[1]]]})
        assert await at.result() == [[[1]]]
        request = await at.begin()
        await at.client.send_json({"id": request["id"], "data": [[[[1]]]]})
        error = await at.result()
        assert type(error) is BadAnswer
        assert str(error) == "nested deeper than 3"


def test_what_a_client_says_is_short_in_a_log() -> None:
    """Names that clients choose are cut, and shown by their repr."""
    text = str(AskRefused("A\n" + "x" * 1000, "m" * 1000))
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize("kind", [AskRefused, BadAnswer, TooManyAsks])
def test_they_are_not_for_other_clients(kind: type[Exception]) -> None:
    """No ActionError: what escapes from a handler would be told to whoever that handler serves."""
    assert issubclass(kind, AskFailed)
    assert not issubclass(kind, ActionError)


async def test_what_one_client_answers_another_is_not_told(autojump_clock: MockClock) -> None:
    """Invariant 9: an error answer that a handler lets go is an error of the handler like any other."""
    manager = Manager()

    @manager.on("ask the other")
    async def ask_other(conn: Connection) -> None:
        (other,) = [one for one in manager.connections.values() if one is not conn]
        await other.request("question")

    async with serve_in_memory(manager) as memory:
        one, other = await memory.connect(), await memory.connect()
        await one.send_action("ask the other", id=1)
        request = await other.receive_json()
        await other.answer(request, error=ReplyError("SECRET", "text of the other"))
        told = {"code": "INTERNAL", "message": "internal error", "temporary": False}
        assert await receive_all(one) == [{"id": 1, "error": told}, 1011]
        await other.receive_nothing(1)
        for client in (one, other):
            await client.aclose()


async def test_requests_beside_each_other(autojump_clock: MockClock) -> None:
    """Each has an id of its own, and each answer finds the request that it belongs to, in any order."""
    async with asked() as at:
        requests = [await at.begin(data=i) for i in range(5)]
        assert [request["id"] for request in requests] == ["$1", "$2", "$3", "$4", "$5"]
        for request in reversed(requests):
            await at.client.answer(request, request["data"] * 10)
            assert await at.result() == request["data"] * 10
        assert (await at.begin())["id"] == "$6"


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_ids_of_the_client_are_others(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Invariant 10: a client may call its own request like one of ours; the two are told apart by the action."""
    async with asked(subprotocol=subprotocol) as at:
        request = await at.begin()
        for field in ("action", "type"):
            await at.client.send_json({field: "echo", "data": "mine", "id": request["id"]})
            assert await at.client.receive_json() == {"id": request["id"], "data": "mine"}
        await at.client.answer(request, "yours")
        assert await at.result() == "yours"


@pytest.mark.parametrize("ident", [1, "one", "$", "$01", "$0", "$AAPL", "$1 ", "$\u0661", "$" + "9" * 20])
async def test_other_ids_are_no_answers(ident: int | str, autojump_clock: MockClock) -> None:
    """A message without an action is an answer only under an id as we make them; else it is what it was."""
    async with asked() as at:
        await at.begin()
        await at.client.send_json({"id": ident, "data": 1})
        reply = await at.client.receive_json()
        assert (reply["id"], reply["error"]["code"]) == (ident, "BAD_MESSAGE")
        assert at.results == []
        assert at.statistics.answers_dropped == 0
        at.nursery.cancel_scope.cancel()


async def test_ids_of_ours_are_taken_however_short_others_have_to_be(autojump_clock: MockClock) -> None:
    """`max_id_chars` is about ids that the client makes."""
    async with asked(max_id_chars=1) as at:
        await at.client.answer(await at.begin(), 5)
        assert await at.result() == 5
        await at.client.send_action("echo", id="$1")
        assert (await at.client.receive_json())["error"]["code"] == "BAD_MESSAGE"


async def test_nobody_else_sees_answers(autojump_clock: MockClock) -> None:
    """No hook, no middleware and no session is given an answer, to whatever it may be."""
    manager = Manager()
    seen: list[Any] = []

    async def note(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
        seen.append(ctx.message.action)
        return await call_next(ctx)

    manager.use(note)
    manager.on_message(lambda conn, message: seen.append(message.action))

    @manager.session
    async def session(conn: Connection) -> None:
        seen.append(await conn.request("from the session"))
        while True:
            seen.append(await conn.read_json())

    async with open_client(manager, subprotocol=V1) as client:
        await client.receive_json()
        request = await client.receive_json()
        await send_together(
            client,
            {"id": request["id"], "data": "answer"},
            {"id": request["id"], "data": "again"},
            {"id": "$99", "data": "unasked"},
            {"id": 1, "data": "for the session"},
        )
        await wait_all_tasks_blocked()
        assert seen == ["answer", {"id": 1, "data": "for the session"}]
        assert manager.server is not None
        assert manager.server.statistics().answers_dropped == 2


async def test_everybody_may_ask(autojump_clock: MockClock) -> None:
    """Hooks, middleware, the session, tasks of the connection and of a room, handlers beside, and streams."""
    manager = Manager()
    heard: list[Any] = []

    async def ask(conn: Connection, where: str) -> None:
        heard.append(await conn.request("ask", where))

    @manager.use_connection
    async def around(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
        await ask(conn, "connection middleware")
        await call_next(conn)

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await ask(conn, "on_connect")
        conn.start_soon(ask, conn, "task")

    @manager.on_join_room
    async def joins(conn: Connection, room: Room) -> None:
        await ask(conn, "on_join_room")
        room.start_soon(ask, conn, "room task")

    @manager.on_message
    async def message(conn: Connection, message: Message) -> None:
        await ask(conn, "on_message")

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        await ask(conn, "stream")
        yield 1
        await conn.join("r")

    @manager.on("beside", concurrent=True)
    async def beside(conn: Connection) -> None:
        await ask(conn, "beside")

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        client.answers["ask"] = lambda where: f"from {where}"
        assert await client.stream("stream") == [1]
        await client.request("beside")
        places = (
            "connection middleware, on_connect, task, on_message, stream, on_join_room, room task, on_message, beside"
        )
        assert sorted(heard) == sorted(f"from {place}" for place in places.split(", "))
        await client.aclose()


# What cannot be sent


async def test_what_cannot_be_sent_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Data that cannot be encoded, or is too large, raises as `send` does; nothing of it is left."""
    async with asked(outbox_bytes=2000, max_pending_asks=1) as at:
        for error, data in [(EncodingError, object()), (MessageTooLarge, "x" * 2000)]:
            with pytest.raises(error):
                await at.conn.request("question", data)
        await at.client.answer(await at.begin(), 1)
        assert await at.result() == 1


async def test_more_than_may_wait(autojump_clock: MockClock) -> None:
    """Invariant 5: beyond `max_pending_asks` it raises at once and is counted; each answer, or cancel, makes room."""
    async with asked(max_pending_asks=2) as at:
        first = await at.begin()
        for end in (at.client.answer(first), None):
            await at.begin()
            with pytest.raises(TooManyAsks):
                await at.conn.request("question")
            if end is None:
                at.scopes[1].cancel()
                assert (await at.client.receive_json())["action"] == "$cancel"
            else:
                await end
                assert await at.result() is None
        await at.begin()
        with pytest.raises(TooManyAsks):
            await at.conn.request("question")
        await at.client.receive_nothing(1)
        assert at.statistics.limited["max_pending_asks"] == 3
        at.nursery.cancel_scope.cancel()
