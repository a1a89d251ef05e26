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
PHONE = (390, 1180)  # taller than a phone, to show all of the page
SCALE = 1.5

sys.path.append(str(ROOT / "examples" / "dashboard"))

import dashboard  # noqa: E402 - from the folder above

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


if __name__ == "__main__":
    trio.run(main)
