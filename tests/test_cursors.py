"""The board of pointers, its server's side, in memory and in virtual time: what is told, and to whom."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cursors import CARDS, LINGER, ROOM, make_manager
from pages import check_files, get, refusal
from program import ROOT, run_program
from trio_rooms.testing import FaultyStream, MemoryServer, TestClient, serve_in_memory

Json = dict[str, Any]
Wrap = Callable[[trio.abc.Stream], trio.abc.Stream]


@asynccontextmanager
async def serve() -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(make_manager()) as server:
        yield server


@asynccontextmanager
async def person(server: MemoryServer, name: str, *, wrap: Wrap | None = None) -> AsyncIterator[TestClient]:
    """Somebody on the board."""
    async with await server.connect(subprotocol="trio-rooms.v1.json", wrap=wrap) as client:
        await client.receive_json()  # $welcome
        await client.request("$join", {"room": ROOM, "data": {"name": name}})
        yield client


async def hear(client: TestClient) -> Json:
    """What is published next on the board; who is there is told beside it."""
    while (message := await client.receive_json()).get("action") == "$presence":
        pass
    assert message["room"] == ROOM, message
    data: Json = message["data"]
    return data


async def hear_nothing(client: TestClient) -> None:
    with trio.move_on_after(2):
        raise AssertionError(f"heard {await hear(client)}")


async def test_a_pointer_is_told_to_the_others(autojump_clock: MockClock) -> None:
    """With its owner's name, within the board, and not to its owner; when it leaves, and when its owner does, too."""
    async with serve() as server, person(server, "Ada") as ada:
        async with person(server, "Bob") as bob:
            await bob.send_json({"action": "point", "data": {"x": 0.123456, "y": 7, "pressed": True}})
            first = await hear(ada)
            assert first == {"pointer": first["pointer"], "name": "Bob", "x": 0.1235, "y": 1.0, "pressed": True}
            assert (await ada.request("look"))["pointers"] == [first]
            await bob.send_json({"action": "point", "data": {}})
            assert await hear(ada) == {"pointer": first["pointer"]}
            assert (await ada.request("look"))["pointers"] == []
            await bob.send_json({"action": "point", "data": {}})
            await bob.request("rename", {"name": " Bob  B "})
            await bob.send_json({"action": "point", "data": {"x": 0, "y": 0}})
            assert (await hear(ada))["name"] == "Bob B"
            await hear_nothing(bob)
        assert await hear(ada) == {"pointer": first["pointer"]}
        await hear_nothing(ada)


async def test_who_is_there_is_told(autojump_clock: MockClock) -> None:
    """By name, also who has no pointer on the board; under the new name after a change of it."""
    async with serve() as server, person(server, "Ada") as ada, person(server, "Bob") as bob:
        await bob.request("rename", {"name": "Robert"})
        await trio.sleep(2)
        users = (await ada.request("$presence", {"room": ROOM}))["users"]
        assert sorted(entry["name"] for entries in users.values() for entry in entries) == ["Ada", "Robert"]


async def test_a_card_is_told_to_all(autojump_clock: MockClock) -> None:
    """Also to who moved it, so that all end with the same; who comes later has it where it is."""
    async with serve() as server, person(server, "Ada") as ada, person(server, "Bob") as bob:
        for client, x in ((ada, 0.1), (bob, 0.9)):
            await client.send_json({"action": "move", "data": {"card": "idea", "x": x, "y": 0.5}})
            await wait_all_tasks_blocked()
        moved = [{"card": "idea", "title": CARDS["idea"]["title"], "x": x, "y": 0.5} for x in (0.1, 0.9)]
        for client in (ada, bob):
            assert [await hear(client) for _ in moved] == moved
        async with person(server, "Eve") as eve:
            assert moved[-1] in (await eve.request("look"))["cards"]


async def test_the_board_is_kept_for_a_while(autojump_clock: MockClock) -> None:
    """Who comes back within the linger time finds it as it was left; after it the cards are where they were first."""
    async with serve() as server:
        for seconds, x in ((0, 0.1), (LINGER - 1, 0.1), (LINGER + 1, CARDS["idea"]["x"])):
            await trio.sleep(seconds)
            async with person(server, "Ada") as ada:
                if not seconds:
                    await ada.send_json({"action": "move", "data": {"card": "idea", "x": x, "y": 0.5}})
                    await hear(ada)
                assert next(card for card in (await ada.request("look"))["cards"] if card["card"] == "idea")["x"] == x


async def test_a_slow_reader_gets_the_newest(autojump_clock: MockClock) -> None:
    """S2: of two thousand steps of two pointers it is told a few, in order and the last; it stays connected."""
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with (
        serve() as server,
        person(server, "Slow", wrap=wrap) as slow,
        person(server, "Ada") as ada,
        person(server, "Bob") as bob,
    ):
        streams[0].stall_sending()
        for number in range(1, 1001):
            for client in (ada, bob):
                await client.send_json({"action": "point", "data": {"x": number / 1000, "y": 0.5}})
        await wait_all_tasks_blocked()
        streams[0].resume_sending()
        heard: dict[str, list[float]] = {"Ada": [], "Bob": []}
        while [steps[-1:] for steps in heard.values()] != [[1.0], [1.0]]:
            step = await hear(slow)
            heard[step["name"]].append(step["x"])
        for steps in heard.values():
            assert steps == sorted(set(steps))
            assert len(steps) < 10


@pytest.mark.parametrize("name", [None, 7, "", " \n ", "\u202e", "x" * 25])
async def test_a_name_is_needed(name: object, autojump_clock: MockClock) -> None:
    """Without a visible and not too long name nobody comes on the board, and nobody else may do anything there."""
    async with serve() as server, await server.connect(subprotocol="trio-rooms.v1.json") as client:
        await client.receive_json()
        assert (await refusal(client, "$join", {"room": ROOM, "data": {"name": name}})).code == "BAD_NAME"
        assert (await refusal(client, "$join", {"room": ROOM})).code == "BAD_NAME"
        for action, data in (
            ("look", {}),
            ("point", {"x": 0, "y": 0}),
            ("rename", {"name": "x"}),
            ("move", {"card": "idea", "x": 0, "y": 0}),
        ):
            assert (await refusal(client, action, data)).code == "NOT_ON_BOARD"


async def test_what_is_not_on_the_board_cannot_be_moved(autojump_clock: MockClock) -> None:
    """An unknown card, and a place that is none, are refused."""
    async with serve() as server, person(server, "Ada") as ada:
        assert (await refusal(ada, "move", {"card": "none", "x": 0, "y": 0})).code == "UNKNOWN_CARD"
        assert (await refusal(ada, "move", {"card": "idea", "x": "left", "y": 0})).code == "BAD_MESSAGE"
        assert (await refusal(ada, "point", {"x": "left"})).code == "BAD_MESSAGE"
        await hear_nothing(ada)


async def test_the_page_and_all_that_it_loads_are_served(autojump_clock: MockClock) -> None:
    """Every file that the page names is there with its type, and nothing is loaded from elsewhere."""
    async with serve() as server:
        await check_files(server, "client.js", "page.js")
        head, _ = await get(server, "/base.css")
        assert "content-type: text/css" in head


@pytest.mark.sockets
async def test_the_program() -> None:
    """It prints its address, and a signal ends it with status 0."""
    async with run_program(ROOT / "examples" / "cursors", "--port", "0") as program:
        assert (await program.line()).startswith("http://127.0.0.1:")
        assert await program.stop(signal.SIGTERM) == 0
    assert b"Traceback" not in program.stderr
