"""How something is removed from the source: each edit gives the files that it changes, or raises EditError."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

import attrs

import trio_rooms
from removals.options import REGISTRAR, SETTINGS, actions, functions

PACKAGE = Path(trio_rooms.__path__[0])

#: The names under which the package holds its settings.
HOLDERS = {
    "Config": {"config"},
    "Limits": {"limits", "_limits"},
    "RoomOptions": {"options"},
    "PresenceOptions": {"_settings"},
    "ClientConfig": {"settings", "_settings"},
}

#: The changed files: their path below the package, and their new text.
Changes = dict[str, str]


class EditError(Exception):
    """What is to be edited is not there: the table is behind the code."""


class Edit(Protocol):
    """Takes something out of the package."""

    def changes(self, name: str) -> Changes:
        """The changed files when ``name`` is removed. Raises EditError."""
        ...


@attrs.frozen
class Unread:
    """A setting has its default wherever it is read, so that what was set makes no difference."""

    def changes(self, name: str) -> Changes:
        owner, _, field = name.partition(".")
        default = f"[{default_of(owner, field)}][0]"  # no constant: Python warns where one is called
        changed = {}
        for path, attributes in attributes_read().items():
            if places := [node for node in attributes if reads(node, HOLDERS[owner], field)]:
                source = path.read_text(encoding="utf-8")
                changed[str(path.relative_to(PACKAGE))] = replace(source, places, default)
        if not changed:
            raise EditError(f"{name} is read nowhere")
        return changed


@attrs.frozen
class Ignored:
    """A parameter has its default, whatever the caller says."""

    def changes(self, name: str) -> Changes:
        owner, _, parameter = name.removesuffix(")").partition("(")
        path, node = definition(functions()[owner])
        return insert(path, node, f"{parameter} = {default_in(node.args, parameter)}")


@attrs.frozen
class Unregistered:
    """What a program registers is taken, and forgotten."""

    returning: str = "None"

    def changes(self, name: str) -> Changes:
        path, node = definition(vars(REGISTRAR)[name.partition(".")[2]])
        return insert(path, node, f"return {self.returning}")


@attrs.frozen
class Unparsed:
    """An option of the command has its default, whatever the command line says."""

    def changes(self, name: str) -> Changes:
        action = actions()[name.split()[-1]]
        parsed = "options = make_parser().parse_args(argv)"
        return Rewrite("cli.py", parsed, f"{parsed}\n    options.{action.dest} = {action.default!r}").changes(name)


@attrs.frozen
class Rewrite:
    """A text that stands in a file just once becomes another; for what the other edits cannot say."""

    file: str
    old: str
    new: str

    def changes(self, name: str) -> Changes:
        source = (PACKAGE / self.file).read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise EditError(f"{name}: {self.old!r} stands {source.count(self.old)} times in {self.file}, not once")
        return {self.file: source.replace(self.old, self.new)}


def default_of(owner: str, field: str) -> str:
    """The default of a setting, as an expression."""
    (cls,) = [cls for cls in SETTINGS if cls.__name__ == owner]
    default = getattr(cls(), field)
    return f'__import__("trio_rooms").{field.title()}()' if attrs.has(type(default)) else repr(default)


@cache
def attributes_read() -> dict[Path, list[ast.Attribute]]:
    """Where any attribute is read, but for what defines the settings, and what holds others to them."""
    return {
        path: [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        ]
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("_config.py", "_room_options.py", "_presence_options.py")
        and path.parent.name != "simulate"
    }


def reads(node: ast.Attribute, holders: set[str], field: str) -> bool:
    """Whether this is the reading of a field: ``config.limits.max_headers``, ``self._limits.max_headers``."""
    held = node.value
    holder = held.attr if isinstance(held, ast.Attribute) else getattr(held, "id", "")
    return node.attr == field and holder in holders


def replace(source: str, places: list[ast.Attribute], text: str) -> str:
    """The source with each of these expressions replaced; columns of ast are bytes."""
    lines = source.encode().splitlines(keepends=True)
    for node in sorted(places, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        first, last = node.lineno - 1, node.end_lineno - 1
        joined = lines[first][: node.col_offset] + text.encode() + lines[last][node.end_col_offset :]
        lines[first : last + 1] = [joined]
    return b"".join(lines).decode()


def definition(function: object) -> tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Where a function is defined."""
    code = inspect.unwrap(function).__code__
    path = Path(code.co_filename)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node, *node.decorator_list], key=lambda part: part.lineno)
            if first.lineno == code.co_firstlineno:
                return path, node
    raise EditError(f"{code.co_qualname} is not found in {path}")


def default_in(arguments: ast.arguments, name: str) -> str:
    """The default of a parameter, as it is written."""
    return dict(defaults(arguments))[name]


def defaults(arguments: ast.arguments) -> Iterator[tuple[str, str]]:
    """The parameters that have a default, and what it is."""
    positional = [*arguments.posonlyargs, *arguments.args]
    for argument, value in zip(reversed(positional), reversed(arguments.defaults), strict=False):
        yield argument.arg, ast.unparse(value)
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if value is not None:
            yield argument.arg, ast.unparse(value)


def insert(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef, statement: str) -> Changes:
    """Put a statement in front of a function's body, behind the docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        raise EditError(f"{node.name} has no body")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A decorated definition begins with its decorators.
    first = min([body[0], *getattr(body[0], "decorator_list", [])], key=lambda part: part.lineno)
    lines.insert(first.lineno - 1, f"{' ' * body[0].col_offset}{statement}\n")
    return {str(path.relative_to(PACKAGE)): "".join(lines)}
