"""The jobs' page in a real browser: what it shows after a cut, and after a restart of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from browser import Browser, Page, open_browser, requires_browser
from jobs import ROOM, STEPS, Jobs, Store
from trio_rooms import serve_rooms

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

STATE = "document.querySelector('#link').dataset.state"
JOBS = """
  Object.fromEntries([...document.querySelectorAll("#jobs li")].map((it) =>
    [it.querySelector("b").textContent, it.querySelector(".about").textContent]))
"""
#: What the page says of how it knows, the first first.
LOG = "[...document.querySelectorAll('#log li span')].map((it) => it.textContent).reverse()"
#: What the first bar has shown after each redraw, from when this is evaluated.
RECORD = """
  (() => {
    window.shown = [];
    const bar = document.querySelector("#jobs progress");
    new MutationObserver(() => shown.push(bar.value)).observe(bar, { attributeFilter: ["value"] });
  })()
"""


@asynccontextmanager
async def serve(store: Store, port: int = 0, *, speed: float = 10.0) -> AsyncIterator[tuple[Jobs, int]]:
    """The program's parts as its main function has them; with the port."""
    jobs = Jobs(store, speed=speed)
    async with serve_rooms(jobs.manager, port=port) as server, trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run)
        yield jobs, server.port
        nursery.cancel_scope.cancel()


async def open_page(browser: Browser, port: int) -> Page:
    page = await browser.new_page(f"http://127.0.0.1:{port}/")
    await page.shows("#log", "Loaded the state")
    return page


async def start(page: Page, title: str) -> None:
    await page.type("#title", title)
    await page.press("Enter")
    await page.shows("#jobs b", title)


def advance(jobs: Jobs, title: str, done: int) -> None:
    """Change a job and publish it, as its work would."""
    job = next(job for job in jobs.store.jobs.values() if job.title == title)
    job.done = done
    jobs.manager.broadcast_to_room(ROOM, job.public())


async def test_two_pages_show_the_same() -> None:
    """A job that one starts is in both to its end; one that the other cancels is cancelled in both."""
    async with serve(Store(), speed=0.001) as (jobs, port), open_browser() as browser:
        one, two = await open_page(browser, port), await open_page(browser, port)
        await start(one, "Sort")
        await start(two, "Count")
        await one.shows("#jobs b", "Count")
        await one.click("[aria-label='Cancel Count']")
        next(job for job in jobs.store.jobs.values() if job.title == "Sort").status = "done"
        advance(jobs, "Sort", STEPS)
        for page in (one, two):
            await page.wait_for(f"(({JOBS}).Sort === 'done') && ({JOBS}).Count === 'cancelled'")
            assert await page.evaluate("document.querySelectorAll('#jobs button:not([hidden])').length") == 0
            assert page.errors == []


async def test_a_page_that_was_offline_has_every_change_once() -> None:
    """Must hold 3: nothing is missing and nothing comes twice of what was published meanwhile, and the page says so."""
    async with serve(Store(), speed=0.001) as (jobs, port), open_browser() as browser:
        page = await open_page(browser, port)
        await start(page, "Sort")
        await page.wait_for(f"({JOBS}).Sort === '0 %'")  # it is at work, and what comes now is counted
        await page.evaluate(RECORD)
        advance(jobs, "Sort", 1)
        await page.wait_for("shown.length === 1")
        await page.set_offline(True)
        await page.wait_for(f"{STATE} === 'offline'")
        for done in (2, 3, 4):
            advance(jobs, "Sort", done)
        await page.evaluate("document.querySelector('#title').value = 'Asked for offline'")
        await page.press("Enter")
        await page.wait_for(f"({JOBS})['Asked for offline'] === 'waiting'")
        await page.set_offline(False)
        await page.wait_for(f"({JOBS})['Asked for offline'] === '0 %'")
        advance(jobs, "Sort", 5)
        await page.wait_for("shown.at(-1) === 5")
        shown = await page.evaluate("shown")
        assert shown == sorted(shown)
        log = await page.evaluate(LOG)
        assert log == ["Loaded the state: 0 jobs", "Offline", "Caught up: 3 changes, none missing, none twice"]
        assert [job.title for job in jobs.store.jobs.values()] == ["Sort", "Asked for offline"]


async def test_after_a_restart_the_page_loads_the_state_by_itself() -> None:
    """It is told that nothing can be recovered, and shows what the new server knows; then it goes on from there."""
    store = Store()
    async with open_browser() as browser:
        async with serve(store, speed=0.001) as (jobs, port):
            page = await open_page(browser, port)
            await start(page, "Sort")
            await start(page, "Lost by the crash")
            advance(jobs, "Sort", STEPS // 2)
            await page.wait_for(f"({JOBS}).Sort === '50 %'")
        await page.wait_for(f"{STATE} === 'waiting'")
        # What the new server has is older, for the last second was not saved.
        (sort, lost) = store.jobs.values()
        sort.done = STEPS // 4
        del store.jobs[lost.id]
        async with serve(store, port, speed=0.001) as (jobs, _):
            await page.wait_for(f"JSON.stringify({JOBS}) === JSON.stringify({{ Sort: '25 %' }})", seconds=60)
            advance(jobs, "Sort", STEPS)
            await page.wait_for(f"({JOBS}).Sort === '100 %'")
        log = await page.evaluate(LOG)
        assert log[:2] == ["Loaded the state: 0 jobs", "The server restarts"]
        assert "loaded the state anew" in log[2]


async def test_titles_are_only_text() -> None:
    """Markup in a title is shown as it was typed; one that is refused is told, and no job."""
    async with serve(Store()) as (jobs, port), open_browser() as browser:
        page = await open_page(browser, port)
        await start(page, "<img src=x><b>bold")
        assert await page.evaluate("document.querySelectorAll('img, b b').length") == 0
        await page.evaluate("document.querySelector('#title').value = ' '")
        await page.press("Enter")
        await page.shows("#problem", "visible characters")
        assert await page.evaluate("document.querySelectorAll('#jobs li').length") == 1
        assert len(jobs.store.jobs) == 1
        assert page.errors == []


async def test_a_window_of_any_width() -> None:
    """Nothing has to be scrolled sideways, and each bar and button says what it is of."""
    async with serve(Store(), speed=0.001) as (_, port), open_browser() as browser:
        page = await open_page(browser, port)
        await start(page, "wide" * 15)
        for width in (320, 390, 900, 1200):
            await page.resize(width, 700, mobile=width < 500)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate("document.querySelector('progress').getAttribute('aria-label')") == "wide" * 15
        await page.evaluate("document.querySelector('#start button').focus()")
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Cancel"
        await page.press("Enter")
        await page.wait_for(f"Object.values({JOBS})[0] === 'cancelled'")
