"""The demo in a real browser: what a person sees in two tabs of a headless Chromium."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE

import pytest
import trio

from browser import Page, open_browser, requires_browser
from trio_rooms import serve_rooms
from trio_rooms.demo import make_manager

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

COMMAND = "import sys; from trio_rooms.cli import main; sys.exit(main())"
STATE = "document.querySelector('#state').dataset.state"
MEMBERS = "[...document.querySelectorAll('#members li > span:nth-child(2)')].map((name) => name.textContent)"


@asynccontextmanager
async def run_demo(port: int = 0) -> AsyncIterator[tuple[trio.Process, str]]:
    """The command in a process of its own, and the address that it prints."""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", COMMAND, "demo", "--port", str(port)], stdout=PIPE
        )
        assert process.stdout is not None
        try:
            said = b""
            while b"\n" not in said:
                chunk = await process.stdout.receive_some()
                assert chunk, "the demo ended before it said where it is"
                said += chunk
            yield process, next(word for word in said.decode().split() if word.startswith("http://"))
        finally:
            process.kill()
            nursery.cancel_scope.cancel()
            with trio.move_on_after(5, shield=True):
                await process.wait()
                await process.stdout.aclose()


async def come_in(page: Page, name: str) -> None:
    await page.type("#name", name)
    await page.press("Enter")
    await page.wait_for(f"{STATE} === 'open' && ({MEMBERS}).includes({json.dumps(name)})")


async def say(page: Page, text: str) -> None:
    await page.type("#text", text)
    await page.press("Enter")


async def sees(page: Page, by: str, text: str) -> None:
    """Wait until the page shows a message with this text, under this name ("You" for one's own)."""
    await page.wait_for(
        f"""[...document.querySelectorAll("#log .message:not(.sending)")].some((message) => {{
          let first = message;
          while (first.classList.contains("follows")) first = first.previousElementSibling;
          return first.querySelector(".by b").textContent === {json.dumps(by)}
            && message.querySelector(".text").textContent === {json.dumps(text)};
        }})"""
    )


async def test_two_tabs_chat() -> None:
    """Two tabs see each other's names, messages, earlier ones, unread ones of another room, and leaving."""
    async with run_demo() as (_, url), open_browser() as browser:
        ada, grace = await browser.new_page(url), await browser.new_page(url)
        await come_in(ada, "Ada")
        await say(ada, "first!")
        await sees(ada, "You", "first!")
        await come_in(grace, "Grace")
        for page in (ada, grace):
            await page.wait_for(f"String({MEMBERS}) === 'Ada,Grace'")
        await ada.shows(".notice", "Grace came in")
        await sees(grace, "Ada", "first!")

        await say(ada, "hello")
        await say(ada, "are you there?")
        await sees(grace, "Ada", "hello")
        await sees(grace, "Ada", "are you there?")
        await say(grace, "I am, Ada")
        await sees(ada, "Grace", "I am, Ada")
        await sees(grace, "You", "I am, Ada")

        await grace.click("[data-room='help-desk']")
        await grace.wait_for(f"String({MEMBERS}) === 'Grace'")
        await say(ada, "where did you go?")
        await grace.shows("[data-room='general'] .badge", "1")
        await grace.click("[data-room='general']")
        await sees(grace, "Ada", "where did you go?")
        await grace.wait_for("!document.querySelector('.badge:not([hidden])')")

        await grace.goto(url)  # a reload: the tab keeps its name and its rooms
        await grace.wait_for(f"String({MEMBERS}) === 'Ada,Grace'")
        await sees(grace, "You", "I am, Ada")
        await ada.wait_for(f"String({MEMBERS}) === 'Ada,Grace'")

        await grace.close()
        await ada.shows(".notice", "Grace left")
        await ada.wait_for(f"String({MEMBERS}) === 'Ada'")
        assert ada.errors == grace.errors == []


async def test_a_press_during_which_the_rooms_are_drawn_is_a_click() -> None:
    """A message raises the number of unread ones between the press and the release: the room is shown."""
    async with run_demo() as (_, url), open_browser() as browser:
        ada, grace = await browser.new_page(url), await browser.new_page(url)
        await come_in(ada, "Ada")
        await come_in(grace, "Grace")
        await grace.click("[data-room='help-desk']")
        await say(ada, "one")
        await grace.shows("[data-room='general'] .badge", "1")

        async def say_more() -> None:
            await say(ada, "two")
            await grace.shows("[data-room='general'] .badge", "2")

        await grace.click("[data-room='general'] .badge", held=say_more)
        await sees(grace, "Ada", "two")
        assert ada.errors == grace.errors == []


async def test_what_others_write_is_only_text() -> None:
    """Markup in a name or a message is shown as it was typed and does nothing."""
    async with run_demo() as (_, url), open_browser() as browser:
        ada, mallory = await browser.new_page(url), await browser.new_page(url)
        await come_in(ada, "Ada")
        await come_in(mallory, "<b>Mal</b>")
        text = '<img src=x onerror="window.harmed = true"><script>window.harmed = true</script>'
        await say(mallory, text)
        for page, by in ((ada, "<b>Mal</b>"), (mallory, "You")):
            await sees(page, by, text)
            assert await page.evaluate("document.querySelector('#log img, #log script, .by b b, #members b')") is None
            assert not await page.evaluate("window.harmed")
        # The page's own policy would have stopped a script, too, and the console would tell of it.
        assert ada.errors == mallory.errors == []


async def test_a_refused_message_can_be_changed_and_sent() -> None:
    """The server's refusal is shown, the text is back in its field, and nobody else got it."""
    async with run_demo() as (_, url), open_browser() as browser:
        page = await browser.new_page(url)
        await come_in(page, "Ada")
        await say(page, "x" * 1001)
        await page.shows("#say-problem", "1001 characters")
        await page.wait_for("document.querySelector('#text').value.length === 1001")
        await page.evaluate("document.querySelector('#text').value = ''")
        await say(page, "shorter")
        await sees(page, "You", "shorter")
        assert await page.evaluate("document.querySelectorAll('#log .message').length") == 1
        assert page.errors == []


async def test_a_restart_of_the_server_is_seen_and_survived() -> None:
    """D1: on SIGTERM both pages say that they reconnect; when the server is back, they are in their room again."""
    async with open_browser() as browser:
        async with run_demo() as (process, url):
            ada, grace = await browser.new_page(url), await browser.new_page(url)
            await come_in(ada, "Ada")
            await come_in(grace, "Grace")
            await say(ada, "before")
            await sees(grace, "Ada", "before")
            assert ada.errors == grace.errors == []
            process.send_signal(signal.SIGTERM)
            for page in (ada, grace):
                await page.wait_for(f"{STATE} === 'waiting'")
                await page.shows("#banner", "The server is restarting. Reconnecting")
            assert await process.wait() == 0
        await say(ada, "is anybody there?")
        await ada.shows("#say-problem", "no connection")
        assert await ada.evaluate("document.querySelector('#text').value") == "is anybody there?"
        async with run_demo(int(url.rstrip("/").rpartition(":")[2])):
            for page in (ada, grace):
                await page.wait_for(f"{STATE} === 'open' && String({MEMBERS}) === 'Ada,Grace'", seconds=60)
                await sees(page, "You" if page is ada else "Ada", "before")
            await ada.press("Enter")
            await sees(grace, "Ada", "is anybody there?")


async def test_a_tab_that_was_offline_comes_back() -> None:
    """Without a network the page says so at once, and it is connected again as soon as there is one."""
    async with run_demo() as (_, url), open_browser() as browser:
        page = await browser.new_page(url)
        await come_in(page, "Ada")
        await page.set_offline(True)
        await page.wait_for(f"{STATE} === 'offline'")
        await page.shows("#banner", "You are offline")
        await page.set_offline(False)
        await page.wait_for(f"{STATE} === 'open' && String({MEMBERS}).includes('Ada')")
        await say(page, "back")
        await sees(page, "You", "back")


async def test_a_new_room_is_listed_for_everybody_and_can_be_left() -> None:
    """A room that one person opens appears in the other's list; leaving it leads back to a room that one is in."""
    async with run_demo() as (_, url), open_browser() as browser:
        ada, grace = await browser.new_page(url), await browser.new_page(url)
        await come_in(ada, "Ada")
        await come_in(grace, "Grace")
        await ada.type("#new-room-name", "Tea & Bücher!")
        await ada.press("Enter")
        await ada.shows("#room-title", "Tea bücher")
        await grace.shows("[data-room='tea-bücher'] small", "1")
        await grace.click("[data-room='tea-bücher']")
        await grace.wait_for(f"String({MEMBERS}) === 'Ada,Grace'")
        await grace.click("#leave")
        await grace.shows("#room-title", "General")
        await ada.shows(".notice", "Grace left")
        assert ada.errors == grace.errors == []


async def test_the_close_code_decides_whether_the_page_comes_back() -> None:
    """After 4000-4499 the page reconnects by itself; after 4500-4999 it does not, until the person asks for it."""
    manager = make_manager()
    async with serve_rooms(manager) as server, open_browser() as browser:
        page = await browser.new_page(f"http://127.0.0.1:{server.port}/")
        await come_in(page, "Ada")
        for connections, code in ((1, 4400), (2, 4600)):
            await page.wait_for(f"JSON.parse(sessionStorage.mine).length === {connections} && {STATE} === 'open'")
            (conn,) = manager.connections.values()
            conn.close(code, "because")
            await conn.wait_closed()
        await page.wait_for(f"{STATE} === 'ended'")
        await page.shows("#banner", "because")
        assert not manager.connections
        await page.click("#retry")
        await page.wait_for(f"JSON.parse(sessionStorage.mine).length === 3 && {STATE} === 'open'")
        assert page.errors == []


async def test_who_is_removed_from_a_room_can_join_again() -> None:
    """Instead of the field for a message there is the reason and a button; with it the field is back."""
    manager = make_manager()
    async with serve_rooms(manager) as server, open_browser() as browser:
        page = await browser.new_page(f"http://127.0.0.1:{server.port}/")
        await come_in(page, "Ada")
        room = manager.get_room("chat.general")
        assert room is not None
        room.kick(room.members[0], message="A moderator removed you.")
        await page.shows("#shut", "A moderator removed you.")
        await page.wait_for("document.querySelector('#say').hidden && document.querySelector('#leave').hidden")
        await page.click("#join")
        await page.wait_for("document.querySelector('#shut').hidden")
        await say(page, "back again")
        await sees(page, "You", "back again")
        assert page.errors == []


async def test_entering_waits_for_the_server() -> None:
    """Without a server the form says so and that it tries again; when there is one, the person is in."""
    async with open_browser() as browser:
        async with serve_rooms(make_manager()) as server:
            page = await browser.new_page(f"http://127.0.0.1:{server.port}/")
        await page.type("#name", "Ada")
        await page.press("Enter")
        await page.shows("#enter-problem", "The server cannot be reached. Trying again")
        assert await page.evaluate("document.querySelector('#enter-button').disabled")
        async with serve_rooms(make_manager(), port=server.port):
            await page.wait_for(f"({MEMBERS}).includes('Ada')", seconds=60)


async def test_a_window_of_any_width() -> None:
    """Nothing has to be scrolled sideways; where members are a drawer, Escape shuts it and the focus is back."""
    widths = (320, 390, 900, 1200)
    async with serve_rooms(make_manager()) as server, open_browser() as browser:
        page = await browser.new_page(f"http://127.0.0.1:{server.port}/")
        for width in widths:
            await page.resize(width, 700, mobile=width < 500)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await come_in(page, "Ada Augusta King, Countess of L.")
        await say(page, "wide" * 200)
        await sees(page, "You", "wide" * 200)
        for width in widths:
            await page.resize(width, 700, mobile=width < 500)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate("document.querySelector('#scroller').scrollWidth") <= width
            if width < 1080:
                await page.evaluate("document.querySelector('#open-people').focus()")
                await page.press("Enter")
                await page.wait_for("document.activeElement.id === 'people' && document.querySelector('.room').inert")
                await page.press("Escape")
                await page.wait_for("document.activeElement.id === 'open-people'")
        assert page.errors == []
