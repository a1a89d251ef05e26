"""The demo's server side, in memory and in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pages import check_files, refusal
from trio_rooms.demo import LINGER, LOBBY, MAX_NAME, MAX_TEXT, REMEMBERED, ROOMS, make_manager
from trio_rooms.testing import MemoryServer, TestClient, serve_in_memory


@asynccontextmanager
async def serve_demo() -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(make_manager()) as server:
        yield server


@asynccontextmanager
async def person(server: MemoryServer, name: str | None, *rooms: str) -> AsyncIterator[TestClient]:
    """A client with a name, in these rooms; nothing that came with the joins is kept but what comes later."""
    async with await server.connect(subprotocol="trio-rooms.v1.json") as client:
        await client.receive_json()  # $welcome
        if name is not None:
            await client.request("chat.enter", {"name": name})
        for room in rooms:
            await client.request("chat.join", {"room": room})
        yield client


async def hear(client: TestClient, room: str) -> Any:
    """What is published next to a room."""
    while (message := await client.receive_json()).get("room") != room:
        pass
    return message["data"]


async def test_enter_answers_with_the_tidied_name_and_the_rooms(autojump_clock: MockClock) -> None:
    """Entering trims the name, and the preset rooms are listed before anybody is in them."""
    async with serve_demo() as server, person(server, None) as ada:
        reply = await ada.request("chat.enter", {"name": "  Ada \n Lovelace "})
        assert reply == {"name": "Ada Lovelace", "rooms": [{"room": room, "members": 0} for room in ROOMS]}


@pytest.mark.parametrize(
    ("name", "code"),
    [(" \t", "EMPTY"), ("x" * (MAX_NAME + 1), "TOO_LONG"), ("Ada\u202eecarG", "BAD_NAME"), (7, "BAD_MESSAGE")],
)
async def test_names_that_are_refused(name: object, code: str, autojump_clock: MockClock) -> None:
    """A name that is empty, too long, misleading or no text is refused with its own code."""
    async with serve_demo() as server, person(server, None) as ada:
        assert (await refusal(ada, "chat.enter", {"name": name})).code == code


async def test_without_a_name_one_cannot_join(autojump_clock: MockClock) -> None:
    """Joining before entering is refused, and leaves no membership."""
    async with serve_demo() as server, person(server, None) as ada:
        assert (await refusal(ada, "chat.join", {"room": "general"})).code == "NO_NAME"
        assert server.manager.get_room("chat.general") is None


@pytest.mark.parametrize("room", ["", "a b", "a.b", "../lobby", "$general", "-", "*", "x" * 33, "a\n"])
async def test_room_names_that_are_refused(room: str, autojump_clock: MockClock) -> None:
    """Invariant 10: a client's text never names a room outside of the chat's own, nor one that is no name."""
    async with serve_demo() as server, person(server, "Ada") as ada:
        assert (await refusal(ada, "chat.join", {"room": room})).code == "BAD_ROOM"


async def test_two_people_talk(autojump_clock: MockClock) -> None:
    """Each is told of the other, and both get both messages in one order, numbered."""
    async with serve_demo() as server, person(server, "Ada", "general") as ada, person(server, "Grace") as grace:
        picture = await grace.request("chat.join", {"room": "general"})
        assert [member["name"] for member in picture["members"]] == ["Ada", "Grace"]
        joined = await hear(ada, "chat.general")
        assert (joined["kind"], joined["member"]) == ("joined", picture["members"][1])
        said = [await client.request("chat.say", {"room": "general", "text": " hi "}) for client in (ada, grace)]
        for client in (ada, grace):
            heard = [await hear(client, "chat.general") for _ in said]
            assert [event["text"] for event in heard] == ["hi", "hi"]
            assert [event["member"]["name"] for event in heard] == ["Ada", "Grace"]
            assert [{"n": event["n"]} for event in heard] == said
            assert all(event["n"] > picture["n"] for event in heard)


async def test_what_cannot_be_said(autojump_clock: MockClock) -> None:
    """Empty and overlong texts, and talk in rooms that one is not in, are refused and reach nobody."""
    async with serve_demo() as server, person(server, "Ada", "general") as ada, person(server, "Bob") as bob:
        assert (await refusal(ada, "chat.say", {"room": "general", "text": " \n "})).code == "EMPTY"
        assert (await refusal(ada, "chat.say", {"room": "general", "text": "x" * (MAX_TEXT + 1)})).code == "TOO_LONG"
        assert (await refusal(ada, "chat.say", {"room": "off-topic", "text": "hi"})).code == "NOT_IN_ROOM"
        assert (await refusal(bob, "chat.say", {"room": "general", "text": "hi"})).code == "NOT_IN_ROOM"
        picture = await bob.request("chat.join", {"room": "general"})
        assert picture["messages"] == []


async def test_a_newcomer_sees_what_was_said_last(autojump_clock: MockClock) -> None:
    """A room remembers a bounded number of messages, the newest, and outlives its last member for a while."""
    async with serve_demo() as server:
        async with person(server, "Ada", "general") as ada:
            for i in range(REMEMBERED + 1):
                await ada.request("chat.say", {"room": "general", "text": str(i)})
            await ada.close()
        await trio.sleep(LINGER / 2)
        async with person(server, "Grace") as grace:
            picture = await grace.request("chat.join", {"room": "general"})
        assert [event["text"] for event in picture["messages"]] == [str(i) for i in range(1, REMEMBERED + 1)]


@pytest.mark.parametrize("way", ["asked", "closed", "cut"])
async def test_however_one_leaves_the_others_are_told_once(way: str, autojump_clock: MockClock) -> None:
    """On request, by a close and by a cut, the others hear of it once and the member is gone."""
    async with serve_demo() as server, person(server, "Ada", "general") as ada:
        async with person(server, "Bob", "general") as bob:
            assert (await hear(ada, "chat.general"))["kind"] == "joined"
            if way == "asked":
                assert await bob.request("chat.leave", {"room": "general"}) == {"room": "general"}
            elif way == "closed":
                await bob.close()
        event = await hear(ada, "chat.general")
        assert (event["kind"], event["member"]["name"]) == ("left", "Bob")
        await ada.request("chat.say", {"room": "general", "text": "alone"})
        assert (await hear(ada, "chat.general"))["text"] == "alone"
        room = server.manager.get_room("chat.general")
        assert room is not None
        assert [member.metadata["name"] for member in room.members] == ["Ada"]


async def test_joining_twice_is_announced_once(autojump_clock: MockClock) -> None:
    """A second join is answered with the picture and told to nobody."""
    async with serve_demo() as server, person(server, "Ada", "general") as ada, person(server, "Bob", "general") as bob:
        assert (await hear(ada, "chat.general"))["kind"] == "joined"
        assert len((await bob.request("chat.join", {"room": "general"}))["members"]) == 2
        await bob.request("chat.say", {"room": "general", "text": "hi"})
        assert (await hear(ada, "chat.general"))["kind"] == "message"


async def test_everybody_is_told_of_rooms_that_come_and_go(autojump_clock: MockClock) -> None:
    """A new room is told to those outside of it, and so is its end; a preset room stays listed."""
    async with serve_demo() as server, person(server, "Ada") as ada:
        async with person(server, "Bob", "tea", "general"):
            assert await hear(ada, LOBBY) == {"room": "tea", "members": 1}
            assert await hear(ada, LOBBY) == {"room": "general", "members": 1}
            listed = (await ada.request("chat.enter", {"name": "Ada"}))["rooms"]
            assert {"room": "tea", "members": 1} in listed
        left = [await hear(ada, LOBBY) for _ in range(2)]
        assert sorted(event["room"] for event in left) == ["general", "tea"]
        assert {event["members"] for event in left} == {0}
        ends = [await hear(ada, LOBBY) for _ in range(2)]
        assert sorted(ends, key=str) == [{"room": "general", "members": 0}, {"room": "tea", "gone": True}]


async def test_a_room_that_the_program_closes_is_empty_for_everybody(autojump_clock: MockClock) -> None:
    """Closing a room is one change of its size, not one for each member; it can be joined again."""
    async with (
        serve_demo() as server,
        person(server, "Eve") as eve,
        person(server, "Ada", "general") as ada,
        person(server, "Bob", "general"),
    ):
        sizes = [await hear(eve, LOBBY) for _ in range(2)]
        assert [event["members"] for event in sizes] == [1, 2]
        room = server.manager.get_room("chat.general")
        assert room is not None
        room.close()
        assert await hear(eve, LOBBY) == {"room": "general", "members": 0}
        await ada.request("chat.join", {"room": "general"})
        assert await hear(eve, LOBBY) == {"room": "general", "members": 1}
        await eve.receive_nothing(1)


async def test_the_page_and_all_that_it_loads_are_served(autojump_clock: MockClock) -> None:
    """Every file that the page names is there with its type, and nothing is loaded from elsewhere."""
    async with serve_demo() as server:
        await check_files(server, "client.js")
