"""What README.md and docs/ promise: the code runs, the typed conversation goes as printed, links and tables are right.

Every block of Python is a program or a test of its own and is run as one, in a process of its own, with warnings as
errors. A block behind ``<!-- not run -->`` is not. What is a file of a page that begins in an empty folder is run by
tests/test_tutorial.py; the signatures in docs/reference.md are no programs.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

import trio_rooms
from limit_tables import metrics_of, table_of
from markdown import PAGES, assert_as_printed, fences, fragments
from program import ROOT, open_websocket, run_program
from trio_rooms import ActionError, Config, JoinError, Limits, PresenceOptions, Statistics
from trio_rooms._counters import Limited
from trio_rooms._wire.head import Reason

REFERENCE = ROOT / "docs" / "reference.md"

NOT_RUN = 0

PORT = "port=8080"


@attrs.frozen
class Block:
    """Some Python in a page."""

    page: Path
    line: int
    code: str
    run: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def is_test(self) -> bool:
        return "async def test_" in self.code

    @property
    def is_server(self) -> bool:
        """Whether it would run until it is stopped, on a port that may be taken."""
        return PORT in self.code

    def write(self, folder: Path) -> Path:
        """The block as a file; its server takes any port."""
        path = folder / ("test_block.py" if self.is_test else "block.py")
        path.write_text(self.code.replace(PORT, "port=0"), encoding="utf-8")
        return path


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for fence in () if page == REFERENCE else fences(page):
            if fence.language == "python" and fence.file is None:
                yield Block(page, fence.line, fence.text, run=fence.comment != "not run")


BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if block.run]
TESTS = [block for block in RUN if block.is_test]
SERVERS = [block for block in RUN if block.is_server]
SCRIPTS = [block for block in RUN if block not in TESTS and block not in SERVERS]


def test_what_is_run() -> None:
    """Blocks of each kind were found, each is of one kind, and as many are left out as was decided."""
    assert len(BLOCKS) - len(RUN) == NOT_RUN
    assert TESTS
    assert SCRIPTS
    assert len(SERVERS) == 1
    assert len(TESTS) + len(SERVERS) + len(SCRIPTS) == len(RUN)
    # Blocks that are files are the walk's, see test_tutorial.py.
    files = sum(fence.language == "python" and fence.file is not None for page in PAGES for fence in fences(page))
    marked = sum(page.read_text(encoding="utf-8").count("```py") for page in PAGES if page != REFERENCE)
    assert marked == len(BLOCKS) + files


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_script(block: Block, tmp_path: Path) -> None:
    """A block that is neither test nor server runs to its end."""
    finish("-W", "error", block.write(tmp_path), folder=tmp_path)


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_test(block: Block, tmp_path: Path) -> None:
    """A block with tests passes under pytest and pytest-trio, with no configuration but trio_mode."""
    output = finish("-m", "pytest", "-W", "error", "-o", "trio_mode=true", block.write(tmp_path), folder=tmp_path)
    names = [node.name for node in ast.parse(block.code).body if isinstance(node, ast.AsyncFunctionDef)]
    (passed,) = re.findall(r"=+ (\d+) passed in ", output)  # and nothing else: neither skipped nor deselected
    assert int(passed) >= sum(name.startswith("test_") for name in names)


def finish(*arguments: str | Path, folder: Path) -> str:
    """Run Python to the end, which must be a good one; what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.sockets
async def test_the_first_conversation(tmp_path: Path) -> None:
    """The README's server answers the README's conversation as the README prints it."""
    lines = re.findall(r"^    ([<>]) (\{.*\})$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [direction for direction, _ in lines].count(">") >= 3
    async with run_program(SERVERS[0].write(tmp_path)) as program, open_websocket(await program.line()) as ws:
        for direction, text in lines:
            if direction == ">":
                await ws.send_message(text)
            else:
                assert_as_printed(json.loads(await ws.get_message()), json.loads(text))
        # Whatever was sent unprinted stands before the answer to this.
        await ws.send_message('{"action": "$leave", "data": {"room": "kitchen"}, "id": "end"}')
        assert json.loads(await ws.get_message())["id"] == "end"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Each relative link leads to a file, and where it has a fragment, to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = page.parent / path if path else page
        assert found.is_file(), target
        assert not fragment or fragment in fragments(found), target


def test_every_page_is_listed() -> None:
    """The README's list has each page of docs/ once, so that whoever begins there finds it."""
    listed = (ROOT / "README.md").read_text(encoding="utf-8").partition("## More\n")[2]
    found = re.findall(r"\]\(docs/([\w-]+\.md)\)", listed)
    assert sorted(found) == sorted(page.name for page in PAGES if page.parent.name == "docs")


@pytest.mark.parametrize("cls", [Limits, Config, PresenceOptions])
def test_tables_of_defaults(cls: type[attrs.AttrsInstance]) -> None:
    """docs/security.md has each field of Limits, Config and PresenceOptions once, in order, with its default."""
    documented = [(name.strip("`"), default) for name, default, *_ in table_of(cls)]
    assert documented == [(field.name, printed_default(field)) for field in attrs.fields(cls)]


def printed_default(field: attrs.Attribute[Any]) -> str:
    """How the tables show a default."""
    if field.name == "max_connections":
        return "file limit - 64"
    if field.name == "limits":
        return ""
    return "none" if field.default is None else str(field.default)


def library_codes() -> set[str]:
    """The codes of the library's errors."""
    # JoinError is raised by way of its subclasses only.
    fixed: list[Callable[[], ActionError]] = [
        value
        for value in vars(trio_rooms).values()
        if isinstance(value, type) and issubclass(value, ActionError) and value not in (ActionError, JoinError)
    ]
    return {make().code for make in fixed}


def test_metrics() -> None:
    """Each limit has a metric, which is a field of Statistics, with a label of its fixed set where it has labels."""
    labels = {
        "handshakes_rejected": set(get_args(Reason)),
        "errors_told": library_codes(),
        "limited": set(get_args(Limited)),
        "closes": {"server:4008"},
        **{field.name: {None} for field in attrs.fields(Statistics) if field.type == "int"},
    }
    documented = [
        metric
        for cls in (Limits, Config, PresenceOptions)
        for metrics in metrics_of(cls).values()
        for metric in metrics
    ]
    for metric in documented:
        assert metric.label in labels[metric.field], metric
    assert all(metrics_of(Limits).values())
    assert {metric.label for metric in documented if metric.field == "limited"} == labels["limited"]


def test_numbers_in_the_readme() -> None:
    """The bounds that the README speaks of are the defaults."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    limits = Limits()
    mebibytes, rest = divmod(limits.outbox_bytes, 2**20)
    assert rest == 0
    assert f"by {limits.outbox_messages} messages and {mebibytes} MiB unless you say otherwise" in readme


def test_error_codes() -> None:
    """docs/protocol.md lists each code of the library's errors."""
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = text.partition("## Error codes\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z_0-9]+)`", section)) == library_codes()
