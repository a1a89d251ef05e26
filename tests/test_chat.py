"""The chat's server side, in memory and in virtual time: messages once each, who is present, who is typing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock

from chat import MAX_NAME, MAX_TEXT, REMEMBERED, ROOM, make_manager
from pages import check_files, get, refusal
from program import ROOT, run_program
from trio_rooms.testing import HandshakeRefused, MemoryServer, TestClient, serve_in_memory

Json = dict[str, Any]


@asynccontextmanager
async def serve() -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(make_manager()) as server:
        yield server


@asynccontextmanager
async def tab(server: MemoryServer, name: str, since: Json | None = None) -> AsyncIterator[tuple[TestClient, Json]]:
    """Somebody's tab that has joined, with the reply to its join."""
    async with await server.connect(path=f"/ws?name={name}", subprotocol="trio-rooms.v1.json") as client:
        await client.receive_json()  # $welcome
        wish = {"room": ROOM} | ({"since": since} if since else {})
        yield client, await client.request("$join", wish)


async def say(client: TestClient, text: str, number: int = 0) -> None:
    await client.request("say", {"id": f"message-{text}-{number}", "text": text})


async def hear(client: TestClient) -> Json:
    """What is published next."""
    while (message := await client.receive_json()).get("action") == "$presence":
        pass
    assert message["room"] == ROOM, message
    data: Json = message["data"]
    return data


async def told(client: TestClient) -> Json:
    """What is told next of who is present."""
    while (message := await client.receive_json()).get("action") != "$presence":
        pass
    data: Json = message["data"]
    return data


async def position(client: TestClient) -> Json:
    """Where the room is."""
    part = await client.request("$history", {"room": ROOM, "limit": 0})
    return {"epoch": part["epoch"], "offset": part["offset"]}


async def test_a_message_is_said_once(autojump_clock: MockClock) -> None:
    """To all, its speaker among them; a page that says it again, with the same id, changes nothing."""
    async with serve() as server, tab(server, "Ada") as (ada, _), tab(server, "Bob") as (bob, _):
        for _ in range(2):
            await say(ada, " hello ")
        await say(bob, "hello", 1)
        for client in (ada, bob):
            heard = [await hear(client) for _ in range(2)]
            assert [(message["user"], message["text"]) for message in heard] == [("Ada", "hello"), ("Bob", "hello")]
            assert all(isinstance(message["at"], int) for message in heard)
        listed = await ada.request("$history", {"room": ROOM})
        assert [kept["data"]["user"] for kept in listed["publications"]] == ["Ada", "Bob"]


async def test_who_was_away_has_what_was_said(autojump_clock: MockClock) -> None:
    """From its position: each message once, and nothing of who was typing; too much is not recovered."""
    async with serve() as server, tab(server, "Ada") as (ada, _):
        async with tab(server, "Bob") as (bob, _):
            await say(ada, "before")
            since = await position(bob)
        await say(ada, "one")
        await ada.send_json({"action": "typing"})
        await say(ada, "two")
        async with tab(server, "Bob", since) as (bob, joined):
            assert joined["recovered"] is True
            assert [missed["data"]["text"] for missed in joined["publications"]] == ["one", "two"]
        for number in range(REMEMBERED):
            await say(ada, "many", number)
        async with tab(server, "Bob", since) as (bob, joined):
            assert joined["recovered"] is False
            assert "publications" not in joined


async def test_typing_is_told_to_the_others_and_not_kept(autojump_clock: MockClock) -> None:
    """Not to the tab that types, and not to who comes later."""
    async with serve() as server, tab(server, "Ada") as (ada, _), tab(server, "Bob") as (bob, _):
        before = await position(ada)
        await ada.send_json({"action": "typing"})
        assert await hear(bob) == {"typing": "Ada"}
        await say(bob, "go on")
        assert (await hear(ada))["text"] == "go on"
        assert (await ada.request("$history", {"room": ROOM, "since": before}))["publications"][0]["data"][
            "user"
        ] == "Bob"


async def test_a_user_is_one_in_many_tabs(autojump_clock: MockClock) -> None:
    """Must hold 3: present from the first tab to a little after the last; away where it is hidden."""
    async with serve() as server, tab(server, "Eve") as (eve, _):
        people: dict[str, list[Json]] = {}

        async def look() -> dict[str, list[Json]]:
            change = await told(eve)
            people.update(change.get("users", {}))
            for user, entries in change.get("leaves", {}).items():
                gone = {entry["id"] for entry in entries}
                people[user] = [entry for entry in people.get(user, []) if entry["id"] not in gone]
            for user, entries in change.get("joins", {}).items():
                new = {entry["id"] for entry in entries}
                people[user] = [*(entry for entry in people.get(user, []) if entry["id"] not in new), *entries]
            return people

        async def sees(user: str, *away: bool) -> None:
            while [entry["away"] for entry in people.get(user, [])] != list(away):
                await look()

        await sees("Eve", False)
        async with tab(server, "Ada") as (ada, _):
            await sees("Ada", False)
            async with tab(server, "Ada"):
                await sees("Ada", False, False)
                await ada.request("away", {"away": True})
                while sorted(entry["away"] for entry in people["Ada"]) != [False, True]:
                    await look()
            await sees("Ada", True)
        await sees("Ada")


@pytest.mark.parametrize("name", ["", "%20", "%20Ada", "a%0Ab", "%E2%80%AE", "x" * (MAX_NAME + 1)])
async def test_a_name_is_needed(name: str, autojump_clock: MockClock) -> None:
    """Who has none that others can read is refused before the upgrade."""
    async with serve() as server:
        with pytest.raises(HandshakeRefused) as caught:
            await server.connect(path=f"/ws?name={name}")
        assert caught.value.status == 400


async def test_what_is_no_message(autojump_clock: MockClock) -> None:
    """Nothing, too much, an id that may be another's, and what is said by who is not in the room."""
    async with serve() as server:
        async with tab(server, "Ada") as (ada, _):
            for message in ("", " ", "x" * (MAX_TEXT + 1)):
                assert (await refusal(ada, "say", {"id": "long enough", "text": message})).code == "BAD_TEXT"
            assert (await refusal(ada, "say", {"id": "short", "text": "x"})).code == "BAD_TEXT"
            assert (await ada.request("$history", {"room": ROOM}))["publications"] == []
        async with await server.connect(path="/ws?name=Bob", subprotocol="trio-rooms.v1.json") as bob:
            await bob.receive_json()
            for action, data in (("say", {"id": "long enough", "text": "x"}), ("typing", {}), ("away", {"away": True})):
                assert (await refusal(bob, action, data)).code == "NOT_IN_ROOM"


async def test_the_page_and_all_that_it_loads_are_served(autojump_clock: MockClock) -> None:
    """Every file that the page names is there with its type, and nothing is loaded from elsewhere."""
    async with serve() as server:
        await check_files(server, "client.js", "page.js")
        head, _ = await get(server, "/base.css")
        assert "content-type: text/css" in head


@pytest.mark.sockets
async def test_the_program() -> None:
    """It prints its address, and a signal ends it with status 0."""
    async with run_program(ROOT / "examples" / "chat", "--port", "0") as program:
        assert (await program.line()).startswith("http://127.0.0.1:")
        assert await program.stop(signal.SIGTERM) == 0
    assert program.stderr == b""
