"""The test client answers the server's requests: by hand, and by functions while it reads."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from messages import FORMATS, MSGPACK
from trio_rooms import AskRefused, Connection, Manager
from trio_rooms.testing import ReplyError, TestClient, open_client


def asking() -> Manager:
    """A manager that asks its client, and replies with what that has answered."""
    manager = Manager()

    @manager.on("ask")
    async def ask(conn: Connection, data: Any) -> Any:
        try:
            return await conn.request("question", data)
        except AskRefused as exc:
            return [exc.code, exc.message, exc.temporary]

    return manager


async def connected(client: TestClient) -> TestClient:
    """The client, which has read its ``$welcome``."""
    if client.subprotocol:
        await client.receive()
    return client


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_by_hand(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """A request is a message; `answer` takes it, and data or an error."""
    async with open_client(asking(), subprotocol=subprotocol) as client:
        await connected(client)
        for options, result in [
            ({}, None),
            ({"data": [1]}, [1]),
            ({"error": ReplyError("NO")}, ["NO", "", False]),
            ({"error": ReplyError("NO", "later", temporary=True)}, ["NO", "later", True]),
        ]:
            await client.send_action("ask", "what", id=1)
            request = await client.receive_json()
            assert (request["action"], request["data"]) == ("question", "what")
            await client.answer(request, **options)
            assert await client.receive_json() == {"id": 1, "data": result}


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_by_a_function(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """It is called while a request of the client's own waits; what it raises as a ReplyError is the answer."""
    async with open_client(asking(), subprotocol=subprotocol) as client:
        await connected(client)
        asked: list[Any] = []

        def answer(data: Any) -> Any:
            asked.append(data)
            if data == "refuse":
                raise ReplyError("NO", "never")
            return {"got": data}

        client.answers["question"] = answer
        assert await client.request("ask", 1) == {"got": 1}
        assert await client.request("ask", "refuse") == ["NO", "never", False]
        assert asked == [1, "refuse"]
        assert client.pending == ()


async def test_a_request_without_a_function_is_a_message(autojump_clock: MockClock) -> None:
    """Only requests of actions that have a function are answered; the same action without an id is a message, too."""
    manager = asking()
    async with open_client(manager) as client:
        client.answers["another"] = pytest.fail
        await client.send_action("ask", 1, id=1)
        request = await client.receive_json()
        client.answers["question"] = lambda data: data
        (conn,) = manager.connections.values()
        for obj in ({"action": "question"}, ["question"], "question"):
            await conn.send(obj)
            assert await client.receive_json() == obj
        await conn.send_bytes(b"\x00")
        assert await client.receive_bytes() == b"\x00"
        await client.answer(request)


async def test_bytes_that_are_no_message(autojump_clock: MockClock) -> None:
    """What cannot be decoded is left for the test to see."""
    async with open_client(asking(), subprotocol=MSGPACK) as client:
        await connected(client)
        client.answers["question"] = pytest.fail
        client._protocol._take_message(b"\xc1")
        assert await client.receive() == b"\xc1"


async def test_an_error_of_the_function(autojump_clock: MockClock) -> None:
    """Any other exception fails the test that receives."""
    async with open_client(asking()) as client:
        client.answers["question"] = lambda data: 1 / data
        with pytest.raises(ZeroDivisionError):
            await client.request("ask", 0)


async def test_nothing_is_answered_behind_the_end(autojump_clock: MockClock) -> None:
    """After its own close frame the client sends nothing more; a request that comes then is a message."""
    manager = asking()
    async with open_client(manager) as client:
        client.answers["question"] = pytest.fail
        (conn,) = manager.connections.values()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, conn)
            await trio.testing.wait_all_tasks_blocked()
            await client.close()
        assert len(client.pending) == 1


async def _ask(conn: Connection) -> None:
    with pytest.raises(Exception, match="ended"):
        await conn.request("question")
