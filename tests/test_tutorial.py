"""docs/tutorial.md, walked from an empty folder to its end; and every other page that has a terminal in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import open_browser, requires_browser
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


def terminal(text: str, name: str | None = None) -> Fence:
    return Fence(TUTORIAL, 1, "console", text, None, None if name is None else f"terminal: {name}")


@pytest.mark.parametrize(
    "shown",
    [
        "$ printf 'one\\ntwo\\n'\none\ntwo\n",
        "$ printf 'one\\ntwo\\n'\no…\n…\n",
        "$ printf 'one\\ntwo\\nthree\\n'\n…\nthree\n",
        '$ echo \'< {"id": 1, "data": ["abc"]}\'\n< {"id":1,"data":["a…"]}\n',
        "$ true\n$ echo one\none\n",
    ],
)
async def test_what_is_as_shown(shown: str, tmp_path: Path) -> None:
    """A terminal that shows what is printed passes; an ellipsis stands for anything, and alone for any lines."""
    async with open_walk(tmp_path) as walk:
        await walk.go([terminal(shown)])


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ("$ echo one\ntwo\n", "the page shows 'two', there was 'one'"),
        ("$ echo one\none\ntwo\n", "the page shows 'two'; it printed"),
        ("$ printf 'one\\ntwo\\n'\none\n", "more was printed"),
        ("$ echo one\n…\ntwo\n", "the page shows 'two'; it printed"),
        ('$ echo \'< {"id": 1}\'\n< {"id":2}\n', "there was"),
        ("$ false\n", "status 1"),
        ("$ false\n$ true\n", "status 1"),
    ],
)
async def test_what_is_not_as_shown(shown: str, problem: str, tmp_path: Path) -> None:
    """A terminal that shows something else fails, and so does a command that does."""
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match=problem), flatten_subgroups=True):
        async with open_walk(tmp_path) as walk:
            await walk.go([terminal(shown)])


async def test_a_terminal_with_a_name(tmp_path: Path) -> None:
    """Its command goes on while others run, is typed to, is interrupted, and need not be known to have ended."""
    async with open_walk(tmp_path) as walk:
        walk.write("echo.py", "while True:\n    print('<', input())\n")
        await walk.go(
            [
                terminal('$ python echo.py\n> {"a": 1}\n< {"a": 1}\n', "echo"),
                terminal("$ echo meanwhile\nmeanwhile\n"),
                terminal('> {"a": 2}\n< {"a": 2}\n', "echo"),
            ]
        )


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
        await walk.go([terminal(START, "server")])
        url = f"http://127.0.0.1:{walk.port}/"
        ada, bob = await browser.new_page(url), await browser.new_page(url)
        for page, name, shown in ((ada, "ada", "here: ada"), (bob, "bob", "here: ada, bob")):
            await page.type("#name", name)
            await page.press("Enter")
            await page.shows("#events li", shown)
        await bob.type("#text", "<b>hello</b>")
        await bob.press("Enter")
        for page in (ada, bob):
            await page.shows("#events li", "bob: <b>hello</b>")
        await bob.close()
        await ada.shows("#events li", "bob has gone")
        assert ada.errors == []
