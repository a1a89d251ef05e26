"""The chat in a real browser: tabs that go offline and come back, and who is there in how many of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from browser import Browser, Page, open_browser, requires_browser
from chat import ROOM, make_manager
from trio_rooms import Manager, serve_rooms

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

STATE = "document.querySelector('#link').dataset.state"
#: The messages that a page shows, in order: who and what.
MESSAGES = """
  [...document.querySelectorAll(".message:not(.pending)")].map((it) =>
    [it.querySelector(".by b").textContent, it.querySelector(".text").textContent])
"""
NOTICES = "[...document.querySelectorAll('.notice')].map((it) => it.textContent)"
#: Who is there: name and what is said of them.
PEOPLE = """
  Object.fromEntries([...document.querySelectorAll("#people li")].map((it) =>
    [it.dataset.user, it.querySelector("small").textContent]))
"""


@asynccontextmanager
async def open_chat(manager: Manager | None = None) -> AsyncIterator[tuple[Browser, str]]:
    async with serve_rooms(manager or make_manager()) as server, open_browser() as browser:
        yield browser, f"http://127.0.0.1:{server.port}/"


async def come(browser: Browser, url: str, name: str) -> Page:
    page = await browser.new_page(f"{url}?name={name}")
    await page.wait_for(f"{STATE} === 'open' && '{name}' in ({PEOPLE})")
    return page


async def say(page: Page, text: str) -> None:
    await page.type("#text", text)
    await page.press("Enter")


async def shows(page: Page, *messages: str) -> None:
    """Wait until the page shows these messages, "who: what", and nothing else."""
    wanted = json.dumps([message.split(": ", 1) for message in messages])
    await page.wait_for(f"JSON.stringify({MESSAGES}) === JSON.stringify({wanted})")


async def sees(page: Page, **people: str) -> None:
    """Wait until the page shows just these people, with what it says of them."""
    wanted = json.dumps(dict(sorted(people.items())))
    await page.wait_for(f"JSON.stringify({PEOPLE}) === JSON.stringify({wanted})")


async def test_a_tab_that_was_offline_shows_each_message_once() -> None:
    """Must hold 3: nothing of what was said meanwhile is missing or there twice; its own words arrive once."""
    manager = make_manager()
    restored: list[tuple[str | None, bool]] = []
    manager.on_connect(lambda conn: restored.append((conn.identity.user, conn.restored)))
    async with open_chat(manager) as (browser, url):
        ada, bob = await come(browser, url, "Ada"), await come(browser, url, "Bob")
        await say(ada, "one")
        await say(bob, "two")
        await shows(ada, "You: one", "Bob: two")
        for cut in (1, 2):
            await ada.set_offline(True)
            await ada.wait_for(f"{STATE} === 'offline'")
            for number in range(3):
                await say(bob, f"meanwhile {cut}.{number}")
            await say(ada, f"from the tunnel {cut}")
            await ada.shows(".pending .text", f"from the tunnel {cut}")
            await ada.set_offline(False)
            await ada.wait_for(f"{STATE} === 'open' && !document.querySelector('.pending')")
        await say(bob, "live again")

        def as_seen_by(me: str, other: str) -> list[str]:
            meanwhile = [
                text
                for cut in (1, 2)
                for text in (
                    *(f"{other}: meanwhile {cut}.{number}" for number in range(3)),
                    f"{me}: from the tunnel {cut}",
                )
            ]
            return [f"{me}: one", f"{other}: two", *meanwhile, f"{other}: live again"]

        await shows(ada, *as_seen_by("You", "Bob"))
        await shows(bob, *as_seen_by("Ada", "You"))
        assert await ada.evaluate(NOTICES) == ["3 messages came while you were away"] * 2
        assert await bob.evaluate(NOTICES) == []
        assert restored == [("Ada", False), ("Bob", False), ("Ada", True), ("Ada", True)]
        late = await come(browser, url, "Eve")
        await shows(late, *as_seen_by("Ada", "Bob"))


async def test_a_tab_that_is_cut_in_the_midst_of_it() -> None:
    """Must hold 3: while messages go on, before, during and after each cut, the tab ends with all of them, in order."""
    manager = make_manager()
    told = itertools.count()

    async def talk(count: int) -> None:
        for _ in range(count):
            number = next(told)
            message = {"id": f"message {number}", "user": "Bot", "at": number, "text": str(number)}
            manager.broadcast_to_room(ROOM, message)
            await trio.sleep(0.01)

    async with open_chat(manager) as (browser, url):
        ada, eve = await come(browser, url, "Ada"), await come(browser, url, "Eve")
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, 60)
                await ada.set_offline(True)
                await ada.wait_for(f"{STATE} === 'offline'")
                await ada.set_offline(False)
                await ada.wait_for(f"{STATE} === 'open'")
                await eve.click("#cut")
                await eve.click("#cut")
                await eve.wait_for(f"{STATE} === 'open'")
        for page in (ada, eve):
            await shows(page, *(f"Bot: {number}" for number in range(180)))
            assert page.errors == []


async def test_a_person_in_two_tabs_is_one() -> None:
    """Must hold 3: shown once with the number of tabs, and not gone before the last of them is."""
    async with open_chat() as (browser, url):
        ada, bob, second = [await come(browser, url, name) for name in ("Ada", "Bob", "Bob")]
        await sees(ada, Ada="you", Bob="2 tabs")
        for page in (bob, second):
            await sees(page, Ada="", Bob="you, 2 tabs")
        await say(bob, "from one of them")
        await shows(second, "You: from one of them")
        await second.close()
        await sees(ada, Ada="you", Bob="")
        await ada.set_offline(True)
        await ada.wait_for(f"{STATE} === 'offline'")
        await ada.set_offline(False)
        await sees(ada, Ada="you", Bob="")
        await bob.close()
        await sees(ada, Ada="you")
        await ada.shows("#announcer", "Bob left")
        assert ada.errors == []


async def test_a_reconnect_does_not_flicker() -> None:
    """Who is back within the grace has not been away for anybody."""
    async with open_chat() as (browser, url):
        ada, bob = await come(browser, url, "Ada"), await come(browser, url, "Bob")
        await sees(bob, Ada="", Bob="you")
        await bob.evaluate(
            """
            window.lists = new Set();
            const people = () => String([...document.querySelectorAll("#people li")].map((it) => it.dataset.user));
            const look = new MutationObserver(() => lists.add(people()));
            look.observe(document.querySelector("#people"), { childList: true });
            """
        )
        await ada.click("#cut")
        await ada.wait_for(f"{STATE} === 'closed'")
        await say(bob, "are you there?")
        await ada.click("#cut")
        await shows(ada, "Bob: are you there?")
        third = await come(browser, url, "Cleo")
        await sees(bob, Ada="", Bob="you", Cleo="")
        assert await bob.evaluate("[...lists].filter((list) => !list.startsWith('Ada,Bob'))") == []
        assert third.errors == ada.errors == bob.errors == []


async def test_who_types_is_shown() -> None:
    """To the others, until the message comes or nothing does; not to the one who types, in none of the tabs."""
    async with open_chat() as (browser, url):
        ada, bob, second = [await come(browser, url, name) for name in ("Ada", "Bob", "Bob")]
        await bob.type("#text", "Hel")
        await ada.shows("#typing", "Bob is typing")
        await bob.press("Enter")
        await shows(ada, "Bob: Hel")
        await ada.wait_for("document.querySelector('#typing').textContent === ''")
        await bob.type("#text", "again")
        await ada.shows("#typing", "Bob is typing")
        await ada.wait_for("document.querySelector('#typing').textContent === ''")
        for page in (bob, second):
            assert await page.evaluate("document.querySelector('#typing').textContent") == ""


async def test_a_restart_is_told() -> None:
    """What was said before stays on the page, with a word that something may be missing; the server knows nothing."""
    async with open_browser() as browser:
        async with serve_rooms(make_manager()) as server:
            page = await come(browser, f"http://127.0.0.1:{server.port}/", "Ada")
            await say(page, "before")
            await shows(page, "You: before")
        await page.wait_for(f"{STATE} === 'waiting'")
        await say(page, "in between")
        async with serve_rooms(make_manager(), port=server.port):
            await page.wait_for(f"({NOTICES}).length", seconds=60)
            await shows(page, "You: before", "You: in between")
            assert "cannot tell what was said" in (await page.evaluate(NOTICES))[0]


async def test_what_others_write_is_only_text() -> None:
    """Markup in a name or a message is shown as it was typed; a refused message is back in its field."""
    async with open_chat() as (browser, url):
        ada = await come(browser, url, "Ada")
        mallory = await browser.new_page(url + "?name=%3Cb%3EMal")
        await mallory.wait_for(f"{STATE} === 'open'")
        await say(mallory, "<img src=x><script>window.harmed = true</script>")
        await shows(ada, "<b>Mal: <img src=x><script>window.harmed = true</script>")
        assert await ada.evaluate("document.querySelectorAll('img, b b, #people b').length") == 0
        await ada.evaluate("document.querySelector('#text').maxLength = 2000")
        await say(ada, "x" * 1001)
        await ada.shows("#problem", "1 to 1000 characters")
        assert await ada.evaluate("document.querySelector('#text').value.length") == 1001
        assert await ada.evaluate("document.querySelectorAll('.own').length") == 0
        assert ada.errors == mallory.errors == []


async def test_a_person_comes_in() -> None:
    """By the form, whose name then is in the address: a reload is the same person, also in another tab."""
    async with open_chat() as (browser, url):
        page = await browser.new_page(url)
        await page.type("#name", "Ada L.")
        await page.press("Enter")
        await page.wait_for(f"'Ada L.' in ({PEOPLE})")
        other = await browser.new_page(url)
        await sees(other, **{"Ada L.": "you, 2 tabs"})
        for width in (320, 390, 900):
            await page.resize(width, 700, mobile=width < 500)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.errors == other.errors == []


async def test_a_member_that_is_removed_is_told() -> None:
    """The page says why, and does not come back by itself."""
    manager = make_manager()
    async with serve_rooms(manager) as server, open_browser() as browser:
        page = await come(browser, f"http://127.0.0.1:{server.port}/", "Ada")
        room = manager.get_room(ROOM)
        assert room is not None
        room.kick(room.members[0], message="A moderator removed you.")
        await page.shows("#problem", "A moderator removed you.")
        assert page.errors == []
