"""Makes the pictures of the web pages in docs/ anew: ``nox -s screenshots``, or ``python tests/screenshots.py``.

It needs Chromium. What is in the pictures is the same each time but for the clock and the system's fonts.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from browser import Browser, Page, open_browser
from trio_rooms import Manager, demo, serve_rooms

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DESKTOP = (1280, 800)
WIDE = (1080, 560)
LOW = (1080, 400)
PHONE = (390, 1180)  # taller than a phone, to show all of the page
SCALE = 1.5

sys.path += [str(ROOT / "examples" / example) for example in ("dashboard", "chat", "cursors", "jobs")]

import chat  # noqa: E402 - from the folders above
import cursors  # noqa: E402
import dashboard  # noqa: E402
from jobs import ROOM, Jobs, Store  # noqa: E402

CONVERSATION = (
    ("Ada Lovelace", "Good morning! Two tabs, two names, one room."),
    ("Grace Hopper", "Good morning, Ada. I see you on the right, and you see me."),
    ("Grace Hopper", "What happens when somebody reads too slowly?"),
    ("Ada Lovelace", "That is the room's choice: close, drop, or conflate."),
    ("Grace Hopper", "And when the server restarts?"),
    ("Ada Lovelace", "Then it says so, and both of us come back by ourselves."),
    ("Grace Hopper", "<b>Markup</b> stays what it is: text."),
)


@asynccontextmanager
async def serve(manager: Manager) -> AsyncIterator[str]:
    async with serve_rooms(manager) as server:
        yield f"http://127.0.0.1:{server.port}/"


async def picture_demo(browser: Browser, url: str) -> None:
    """Two people in a room, and something unread in another one."""
    pages = {name: await browser.new_page(url) for name in ("Ada Lovelace", "Grace Hopper")}
    ada, grace = pages.values()
    for name, page in pages.items():
        await page.resize(*DESKTOP)
        await page.type("#name", name)
        await page.press("Enter")
        await page.wait_for("document.querySelector('#state').dataset.state === 'open'")
        await page.shows("#members", name)
    await ada.click("[data-room='help-desk']")
    await ada.shows("#members", "Ada")
    await ada.click("[data-room='general']")
    for name, text in CONVERSATION:
        await pages[name].type("#text", text)
        await pages[name].press("Enter")
        for page in pages.values():
            await page.shows("#log .message:not(.sending)", text)
    await grace.click("[data-room='help-desk']")
    await grace.shows("#members", "Grace")
    await grace.type("#text", "Does anybody know how conflate works?")
    await grace.press("Enter")
    await ada.shows("[data-room='help-desk'] .badge", "1")
    await grace.click("[data-room='general']")
    await shoot(ada, "demo.png", DESKTOP)


async def picture_dashboard(browser: Browser, url: str) -> None:
    """A run in the midst of its nodes, one that is over and one that has failed; then that one on a phone."""
    page = await browser.new_page(url)
    await page.resize(*DESKTOP)
    await page.shows("#workflow", "Release")
    await start(page, "report")
    await page.shows("[data-node=aggregate] small", "running")
    await start(page, "video", fail=True)
    await page.shows("[data-node=hd] small", "failed")
    await start(page, "release")
    await page.shows("[data-node=scan] small", "running, 20 %")
    await shoot(page, "dashboard.png", DESKTOP)
    await page.click("#executions li:nth-child(2) button")
    await page.shows("[data-node=hd] small", "failed")
    await page.prefer(color_scheme="dark")
    await shoot(page, "dashboard-phone.png", PHONE)


async def picture_chat(browser: Browser, url: str) -> None:
    """Somebody who was away while another, in two tabs, went on talking."""
    ada, grace, _ = [await browser.new_page(f"{url}?name={name}") for name in ("Ada", "Grace", "Grace")]
    await ada.resize(*WIDE)
    await ada.shows("#people", "2 tabs")

    async def say(page: Page, text: str) -> None:
        await page.type("#text", text)
        await page.press("Enter")

    for page, text in ((ada, "I am on the train."), (grace, "Then you will be gone in the tunnel.")):
        await say(page, text)
        await ada.shows(".message:not(.pending)", text)
    await ada.set_offline(True)
    for text in ("Are you still there?", "I will just go on."):
        await say(grace, text)
        await grace.shows(".message:not(.pending)", text)
    await say(ada, "Said in the tunnel, and sent once.")
    await ada.set_offline(False)
    await ada.shows(".message:not(.pending)", "Said in the tunnel")
    await ada.shows("#people", "2 tabs")
    await grace.type("#text", "W")
    await ada.shows("#typing", "Grace is typing")
    await shoot(ada, "chat.png", WIDE)


async def picture_cursors(browser: Browser, url: str) -> None:
    """Three people on the board, one of whom moves a card."""
    pages = [await browser.new_page(f"{url}") for _ in range(4)]
    for page, name in zip(pages, ("You", "Grace", "Ada", "Linus"), strict=True):
        await page.resize(*WIDE)
        await page.shows(".card", "Move me")
        await page.evaluate("document.querySelector('#name').select()")
        await page.call("Input.insertText", text=name)
        await page.press("Enter")
        await page.shows("#people", f"{name} (you)")
    places = ((520, 240), (860, 420), (300, 480))
    for page, (x, y) in zip(pages[1:], places, strict=True):
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    ada = pages[2]
    await ada.call("Input.dispatchMouseEvent", type="mouseMoved", x=970, y=300)
    await ada.call("Input.dispatchMouseEvent", type="mousePressed", x=970, y=300, button="left", buttons=1)
    await ada.call("Input.dispatchMouseEvent", type="mouseMoved", x=930, y=390, buttons=1)
    await pages[0].wait_for("document.querySelector('.pointer.pressed')?.style.getPropertyValue('--x') > 0.7")
    await pages[0].wait_for("document.querySelectorAll('.pointer').length === 3")
    await shoot(pages[0], "cursors.png", WIDE)


async def picture_jobs(browser: Browser, url: str, jobs: Jobs) -> None:
    """A page that was cut off while two jobs went on."""

    def go_on(*done: int) -> None:
        for job, share in zip(jobs.store.jobs.values(), done, strict=True):
            job.done = share
            jobs.manager.broadcast_to_room(ROOM, job.public())

    page = await browser.new_page(url)
    await page.resize(*LOW)
    for title in ("Index the archive", "Render the map", "Transcode the lecture"):
        await page.type("#title", title)
        await page.press("Enter")
        await page.shows("#jobs b", title)
    await page.click("[aria-label='Cancel Render the map']")
    await page.shows(".about", "cancelled")
    go_on(20, 12, 4)
    await page.shows(".about", "50 %")
    await page.set_offline(True)
    await page.shows("#log", "Offline")
    for done in range(21, 35):
        go_on(done, 12, done - 16)
    await page.set_offline(False)
    await page.shows("#log", "Caught up")
    await page.evaluate(
        "document.querySelectorAll('#log time').forEach((it, i) => (it.textContent = `10:42:0${9 - 4 * i}`))"
    )
    await shoot(page, "jobs.png", LOW)


async def start(page: Page, workflow: str, *, fail: bool = False) -> None:
    await page.evaluate(f"document.querySelector('#workflow').value = '{workflow}'")
    await page.evaluate(f"document.querySelector('#fail').checked = {str(fail).lower()}")
    await page.click("#start-button")


async def shoot(page: Page, name: str, size: tuple[int, int]) -> None:
    """Write a picture of a page that moves nothing."""
    await page.evaluate("document.activeElement.blur()")
    await page.resize(*size, scale=SCALE)
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
    # What turns for ever is allowed to.
    moving = "it.playState === 'running' && it.effect.getComputedTiming().iterations !== Infinity"
    await page.wait_for(f"!document.getAnimations().some((it) => {moving})")
    await page.screenshot(DOCS / name, *size, scale=SCALE)


async def main() -> None:
    async with open_browser() as browser:
        async with serve(demo.make_manager()) as url:
            await picture_demo(browser, url)
        async with serve(dashboard.make_manager()) as url:
            await picture_dashboard(browser, url)
        async with serve(chat.make_manager()) as url:
            await picture_chat(browser, url)
        async with serve(cursors.make_manager()) as url:
            await picture_cursors(browser, url)
        jobs = Jobs(Store(), speed=0.001)
        async with serve(jobs.manager) as url, trio.open_nursery() as nursery:
            nursery.start_soon(jobs.run)
            await picture_jobs(browser, url, jobs)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
