"""What the pages name exists: attributes and methods, settings and limits, options of the command, words of the code.

Looked at is what stands in backticks outside of fenced blocks, which are run instead (test_readme.py,
test_tutorial.py). On the pages for those who come from elsewhere the left column is theirs.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trio
import trio.testing

from markdown import PAGES, code_spans
from program import ROOT
from public_names import MODULES, members, module, public
from trio_rooms.cli import make_parser

#: What an object of a class is called in the pages and in their code.
CALLED = {
    "broker": "Broker",
    "client": "TestClient",
    "config": "Config",
    "conn": "Connection",
    "ctx": "Context",
    "identity": "Identity",
    "joined": "Joined",
    "limits": "Limits",
    "manager": "Manager",
    "memory": "MemoryServer",
    "message": "Message",
    "report": "Report",
    "request": "HandshakeRequest",
    "room": "Room",
    "server": "Server",
}

#: On a page that is about something else, the same words are other things.
CALLED_ON = {
    "client.md": {"client": "RoomsClient", "event": "Event", "room": "ClientRoom"},
    "reference.md": {"client": "RoomsClient"},
}

#: Words that no code has, and why a page has them.
NOT_OURS = {
    "handle_out": "Phoenix has it, and we have not",
    "http_host": "nginx's",
    "proxy_add_x_forwarded_for": "nginx's",
    "proxy_read_timeout": "nginx's",
    "proxy_set_header": "nginx's",
    "on_outage": "docs/design.md says why it is not there",
}

CODE = ("trio_rooms", "examples", "benchmarks", "docs", "noxfile.py", "pyproject.toml")


def spans(page: Path) -> list[str]:
    """The page's code in backticks, without that of other libraries."""
    return code_spans(page, without_left_column=page.name.startswith("coming-from"))


def named(page: Path) -> Iterator[tuple[str, str, str]]:
    """Each ``manager.serve`` and ``Config.ping_interval`` of a page: the text, the class, the member."""
    classes = {name: name for exporter in MODULES for name in module(exporter).exports if name[0].isupper()}
    owners = (
        CALLED
        | CALLED_ON.get(page.name, {})
        | {name: name for name in classes if isinstance(public(name).node, ast.ClassDef)}
    )
    for span in spans(page):
        code = re.sub(r'"[^"]*"', '""', span)
        for owner, member in re.findall(r"(?<![\w./-])(\w+)\.([a-z]\w*)\b(?!/)", code):
            if owner in owners and member not in {"js", "py"}:
                yield f"{owner}.{member} in `{span}`", owners[owner], member


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_members_exist(page: Path) -> None:
    """An attribute or method that a page names is one of its class."""
    assert not [text for text, cls, member in named(page) if member not in members(public(cls))]


def test_members_are_found() -> None:
    """The test above looks at something: the README and the guide name dozens."""
    found = {(cls, member) for page in PAGES for _, cls, member in named(page)}
    assert {("Manager", "broadcast_to_room"), ("Connection", "join"), ("Limits", "max_handlers")} <= found
    assert ("Connection", "write_json") in {(cls, member) for _, cls, member in named(ROOT / "docs/coming-from-go.md")}
    assert len(found) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_arguments_exist(page: Path) -> None:
    """An argument that a page passes to ``Config``, ``Limits``, ``serve_rooms`` or the like is one of it."""
    unknown = [
        f"{argument} of {call} in `{span}`"
        for span in spans(page)
        for call, arguments in re.findall(r"\b([\w.]+)\(([^()]*)\)", span)
        for argument in re.findall(r"(?<![\w.])([a-z_]+)=(?!=)", arguments)
        if (known := arguments_of(call)) is not None and argument not in known
    ]
    assert not unknown


def arguments_of(call: str) -> set[str] | None:
    """The arguments that something public takes; None if it is not known, or takes any."""
    owner, _, member = call.rpartition(".")
    if not owner:
        return _arguments_of_a_name(member) if any(member in module(one).exports for one in MODULES) else None
    cls = CALLED.get(owner, owner)
    if not any(cls in module(one).exports for one in MODULES):
        return None
    name = public(cls)
    for where in (name, *name.bases):
        for node in where.cls.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == member:
                return _arguments_in(node)
    return None


def _arguments_of_a_name(name: str) -> set[str] | None:
    found = public(name)
    if isinstance(found.node, ast.FunctionDef | ast.AsyncFunctionDef):
        return _arguments_in(found.node)
    if not isinstance(found.node, ast.ClassDef):
        return None
    if found.is_value:
        return members(found)
    constructors = [node for node in found.cls.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    return _arguments_in(constructors[0]) if constructors else None


def _arguments_in(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str] | None:
    if node.args.kwarg is not None:
        return None
    return {argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a command and of the commands in it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for sub in action.choices.values() for option in options(sub)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_exist(page: Path) -> None:
    """An option that a page gives the command is one of it; any other is one of some command of the project."""
    lines = re.findall(r"trio-rooms (?:serve|demo)\b[^`\n]*", page.read_text(encoding="utf-8"))
    assert set(options_in(lines)) <= options(make_parser())
    assert set(options_in(spans(page))) <= options_of_commands()


def options_in(lines: list[str]) -> list[str]:
    """The options in some lines."""
    return [option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)]


def options_of_commands() -> set[str]:
    """The options of all commands of the project, those for its tests included."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    of_tests = re.findall(r'\.add_argument\("(--[a-z-]+)"', tests)
    return {word.strip('"') for word in words() if word.startswith('"--')}.union(of_tests)


@cache
def words() -> set[str]:
    """Every word with an underscore in the code of the project, and every option, in its quotes; and trio's names."""
    files = [
        path
        for place in CODE
        for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        if path.suffix in {".py", ".js", ".toml", ".c", ".go"}
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    trios = {name for one in (trio, trio.lowlevel, trio.lowlevel.TrioToken, trio.testing) for name in dir(one)}
    return trios.union(re.findall(r'[A-Za-z]\w*_\w+|"--[a-z-]+"', code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_exist(page: Path) -> None:
    """A name such as ``hook_timeout`` that stands alone, or within other code, is somewhere in the code."""
    found = {word for span in spans(page) for word in re.findall(r"(?<![\w./-])[a-z]+(?:_[a-z0-9]+)+\b", span)}
    assert found <= words() | NOT_OURS.keys()


def test_what_is_not_ours_is_still_named() -> None:
    """NOT_OURS lists nothing that no page names any more, and nothing that is ours by now."""
    found = {word for page in PAGES for span in code_spans(page) for word in NOT_OURS if word in span}
    assert found == NOT_OURS.keys()
    assert not words() & NOT_OURS.keys()
