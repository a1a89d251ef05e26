"""The board of pointers in a real browser: what people see in tabs of a headless Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from browser import Browser, Page, open_browser, requires_browser
from cursors import CARDS, ROOM, make_manager
from trio_rooms import Manager, serve_rooms

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

STATE = "document.querySelector('#link').dataset.state"
PEOPLE = "[...document.querySelectorAll('#people li')].map((it) => it.title)"
#: Where something is, as a share of the board.
PLACE = """
  (() => {
    const board = document.querySelector("#board").getBoundingClientRect();
    const box = document.querySelector(%s).getBoundingClientRect();
    const share = (from, size, all) => (from + size / 2) / all;
    return [share(box.x - board.x, box.width, board.width), share(box.y - board.y, box.height, board.height)];
  })()
"""


@asynccontextmanager
async def open_board() -> AsyncIterator[tuple[Manager, Browser, str]]:
    manager = make_manager()
    async with serve_rooms(manager) as server, open_browser() as browser:
        yield manager, browser, f"http://127.0.0.1:{server.port}/"


async def come(browser: Browser, url: str, name: str) -> Page:
    """A page whose person has this name."""
    page = await browser.new_page(url)
    await page.wait_for(f"{STATE} === 'open' && document.querySelector('.card')")
    await page.evaluate(f"document.querySelector('#name').value = '{name}'")
    await page.evaluate("document.querySelector('#name').dispatchEvent(new Event('change'))")
    await page.wait_for(f"({PEOPLE}).includes('{name} (you)')")
    return page


async def mouse(page: Page, kind: str, x: float, y: float, **more: object) -> None:
    """A mouse event at a share of the board."""
    await page.call("Input.dispatchMouseEvent", type=kind, **await at(page, x, y), **more)


async def touch(page: Page, kind: str, *places: tuple[float, float]) -> None:
    await page.call("Input.dispatchTouchEvent", type=kind, touchPoints=[await at(page, *place) for place in places])


async def at(page: Page, x: float, y: float) -> dict[str, float]:
    box: dict[str, float] = await page.evaluate("document.querySelector('#board').getBoundingClientRect().toJSON()")
    return {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}


async def is_at(page: Page, selector: str, x: float, y: float) -> None:
    """Wait until it has moved there, which it does smoothly."""
    place = PLACE % repr(selector)
    await page.wait_for(f"((it) => Math.abs(it[0] - {x}) < 0.01 && Math.abs(it[1] - {y}) < 0.01)({place})")


async def shows_pointer(page: Page, name: str, x: float, y: float) -> None:
    """Wait until somebody's pointer has moved there."""
    found = f"[...document.querySelectorAll('.pointer')].find((it) => it.textContent === '{name}')"
    near = "Math.abs(it.style.getPropertyValue('--{}') - {}) < 0.01"
    await page.wait_for(f"((it) => it && {near.format('x', x)} && {near.format('y', y)})({found})")


async def test_people_see_each_others_pointers() -> None:
    """Where they are, with their names, pressed or not; not their own; gone when they leave the board or the page."""
    async with open_board() as (_, browser, url):
        ada, grace = await come(browser, url, "Ada"), await come(browser, url, "Grace")
        await ada.resize(600, 900)  # windows of other sizes: a place is a share of the board
        for x in (0.1, 0.3, 0.9):
            await mouse(grace, "mouseMoved", x, 0.8)
        await shows_pointer(ada, "Grace", 0.9, 0.8)
        await mouse(grace, "mousePressed", 0.9, 0.8, button="left", buttons=1)
        await ada.wait_for("document.querySelector('.pointer.pressed')")
        await mouse(grace, "mouseReleased", 0.9, 0.8, button="left")
        await ada.wait_for("document.querySelector('.pointer:not(.pressed)')")
        assert await grace.evaluate("document.querySelectorAll('.pointer').length") == 0
        late = await come(browser, url, "Eve")
        await shows_pointer(late, "Grace", 0.9, 0.8)
        await mouse(late, "mouseMoved", 0.5, 0.9)
        await shows_pointer(ada, "Eve", 0.5, 0.9)
        await grace.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)  # above the board
        await ada.wait_for("document.querySelectorAll('.pointer').length === 1")
        await late.close()
        await ada.wait_for("document.querySelectorAll('.pointer').length === 0")
        assert ada.errors == grace.errors == []


async def test_a_card_can_be_dragged() -> None:
    """It follows the mouse at once, is where it was left for everybody, and for who comes later."""
    async with open_board() as (_, browser, url):
        ada, grace = await come(browser, url, "Ada"), await come(browser, url, "Grace")
        x, y = CARDS["idea"]["x"], CARDS["idea"]["y"]
        await mouse(ada, "mouseMoved", x, y)
        await mouse(ada, "mousePressed", x, y, button="left", buttons=1, clickCount=1)
        for step in range(1, 11):
            await mouse(ada, "mouseMoved", x + step * 0.03, y + step * 0.02, button="left", buttons=1)
        await mouse(ada, "mouseReleased", x + 0.3, y + 0.2, button="left", clickCount=1)
        late = await come(browser, url, "Eve")
        for page in (ada, grace, late):
            await is_at(page, "[data-card=idea]", x + 0.3, y + 0.2)
            assert page.errors == []


async def test_two_move_the_same_card() -> None:
    """All end with the same place, also the two."""
    async with open_board() as (manager, browser, url):
        ada, grace = await come(browser, url, "Ada"), await come(browser, url, "Grace")
        for page in (ada, grace):
            await page.evaluate("document.querySelector('[data-card=plan]').focus()")
        for _ in range(6):
            await ada.press("ArrowUp")
            await grace.press("ArrowDown")
        # What each tells next stands behind it.
        for page, card in ((ada, "idea"), (grace, "done")):
            await page.evaluate(f"document.querySelector('[data-card={card}]').focus()")
            await page.press("ArrowUp")
        for card in ("idea", "done"):
            await is_at(ada, f"[data-card={card}]", CARDS[card]["x"], CARDS[card]["y"] - 0.02)
        room = manager.get_room(ROOM)
        assert room is not None
        card = room.metadata["board"].cards["plan"]
        for page in (ada, grace):
            await is_at(page, "[data-card=plan]", card["x"], card["y"])
            assert page.errors == []


async def test_a_finger_is_a_pointer() -> None:
    """It is seen while it touches the board, drags a card, and the page does not scroll under it."""
    async with open_board() as (_, browser, url):
        ada, phone = await come(browser, url, "Ada"), await come(browser, url, "Phone")
        await phone.resize(390, 800, mobile=True)
        await phone.call("Emulation.setTouchEmulationEnabled", enabled=True)
        x, y = CARDS["done"]["x"], CARDS["done"]["y"]
        await touch(phone, "touchStart", (x, y))
        for step in range(1, 6):
            await touch(phone, "touchMove", (x - step * 0.05, y + step * 0.08))
        await shows_pointer(ada, "Phone", x - 0.25, y + 0.4)
        await touch(phone, "touchEnd")
        await ada.wait_for("document.querySelectorAll('.pointer').length === 0")
        for page in (ada, phone):
            await is_at(page, "[data-card=done]", x - 0.25, y + 0.4)
            assert page.errors == []


async def test_a_card_can_be_moved_with_the_keyboard() -> None:
    """Tab leads to it, the arrow keys move it within the board."""
    async with open_board() as (_, browser, url):
        ada, grace = await come(browser, url, "Ada"), await come(browser, url, "Grace")
        await ada.evaluate("document.querySelector('#name').focus()")
        await ada.press("Tab")
        assert await ada.evaluate("document.activeElement.dataset.card") == "idea"
        for _ in range(5):
            await ada.press("ArrowRight")
        for page in (ada, grace):
            await is_at(page, "[data-card=idea]", CARDS["idea"]["x"] + 0.1, CARDS["idea"]["y"])
        for _ in range(30):
            await ada.press("ArrowUp")
        await is_at(grace, "[data-card=idea]", CARDS["idea"]["x"] + 0.1, 0)


async def test_a_tab_that_was_offline_comes_back() -> None:
    """Its pointer is gone for the others meanwhile; what moved without it, it is told when it is back."""
    async with open_board() as (_, browser, url):
        ada, grace = await come(browser, url, "Ada"), await come(browser, url, "Grace")
        await mouse(ada, "mouseMoved", 0.5, 0.9)
        await mouse(grace, "mouseMoved", 0.1, 0.9)
        await shows_pointer(grace, "Ada", 0.5, 0.9)
        await ada.set_offline(True)
        await ada.wait_for(f"{STATE} === 'offline'")
        await grace.wait_for("document.querySelectorAll('.pointer').length === 0")
        await grace.evaluate("document.querySelector('[data-card=done]').focus()")
        await grace.press("ArrowDown")
        await mouse(grace, "mouseMoved", 0.2, 0.9)
        await ada.set_offline(False)
        await ada.wait_for(f"{STATE} === 'open'")
        await shows_pointer(ada, "Grace", 0.2, 0.9)
        await shows_pointer(grace, "Ada", 0.5, 0.9)
        await is_at(ada, "[data-card=done]", CARDS["done"]["x"], CARDS["done"]["y"] + 0.02)


async def test_names_are_only_text() -> None:
    """Markup in a name is shown as it was typed; a name that is refused is told, and the old one stays."""
    async with open_board() as (_, browser, url):
        ada, mallory = await come(browser, url, "Ada"), await come(browser, url, "Mallory")
        await mouse(mallory, "mouseMoved", 0.5, 0.9)
        await mallory.evaluate("document.querySelector('#name').select()")
        await mallory.call("Input.insertText", text="<img src=x><b>Mal")
        await mallory.press("Enter")
        await mouse(mallory, "mouseMoved", 0.5, 0.8)
        await ada.shows(".pointer b", "<img src=x><b>Mal")
        assert await ada.evaluate("document.querySelectorAll('img, b b').length") == 0
        await mallory.evaluate("document.querySelector('#name').value = ' '")
        await mallory.evaluate("document.querySelector('#name').dispatchEvent(new Event('change'))")
        await mallory.shows("#name-problem", "1 to 24 visible characters")
        assert await mallory.evaluate("document.querySelector('#name').value") == "<img src=x><b>Mal"
        assert ada.errors == mallory.errors == []


async def test_a_window_of_any_width() -> None:
    """Nothing has to be scrolled sideways."""
    async with open_board() as (_, browser, url):
        page = await come(browser, url, "Ada")
        for width in (320, 390, 900, 1200):
            await page.resize(width, 700, mobile=width < 500)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate("document.documentElement.scrollHeight") <= 700
