"""docs/tutorial.md, walked from an empty folder to its end; and every other page that has a terminal in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import open_browser, requires_browser, shows
from markdown import PAGES, Fence, fences
from program import ROOT
from walk import open_walk

TUTORIAL = ROOT / "docs" / "tutorial.md"

START = "$ python chat.py\nws://127.0.0.1:8080/ws\n"


def steps(page: Path) -> list[Fence]:
    """The files and the terminals of a page."""
    return [fence for fence in fences(page) if fence.file is not None or fence.language == "console"]


@pytest.mark.sockets
@pytest.mark.time_limit(300)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(step.language == "console" for step in steps(page))], ids=lambda p: p.name
)
async def test_a_walk(page: Path, tmp_path: Path) -> None:
    """Who writes the page's files and types its commands sees what the page shows."""
    async with open_walk(tmp_path) as walk:
        await walk.go(steps(page))


def test_what_the_tutorial_has() -> None:
    """The walk above is one: the tutorial has files and commands, and all its Python is in files."""
    found = list(fences(TUTORIAL))
    assert sum(fence.language == "console" for fence in found) > 10
    assert {"chat.py", "chat.html", "pytest.ini", "test_chat.py"} <= {fence.file for fence in found}
    assert all(fence.file for fence in found if fence.language == "python")


@pytest.mark.browser
@pytest.mark.sockets
@pytest.mark.time_limit(120)
@requires_browser
async def test_the_page_of_the_tutorial(tmp_path: Path) -> None:
    """Two people talk in the tutorial's page, and one is told that the other has gone."""
    async with open_walk(tmp_path) as walk, open_browser() as browser:
        for step in steps(TUTORIAL):
            if step.file is not None:  # the last text of each file stands
                walk.write(step.file, step.text)
        await walk.go([Fence(TUTORIAL, 0, "console", START, None, "terminal: server")])
        url = f"http://127.0.0.1:{walk.port}/"
        ada, bob = await browser.new_page(url), await browser.new_page(url)
        for page, name, shown in ((ada, "ada", "here: ada"), (bob, "bob", "here: ada, bob")):
            await page.type("#name", name)
            await page.press("Enter")
            await shows(page, "#events li", shown)
        await bob.type("#text", "<b>hello</b>")
        await bob.press("Enter")
        for page in (ada, bob):
            await shows(page, "#events li", "bob: <b>hello</b>")
        await bob.close()
        await shows(ada, "#events li", "bob has gone")
        assert ada.errors == []
