"""The public names of the package as its source has them: signatures, docstrings, attributes, and what they inherit.

Read from the syntax trees, so that it is the same on every Python, and nothing is imported.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "trio_rooms"

MODULES = (
    "trio_rooms",
    "trio_rooms.brokers",
    "trio_rooms.client",
    "trio_rooms.middleware",
    "trio_rooms.testing",
    "trio_rooms.testing.simulate",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One file of the package."""

    def __init__(self, name: str) -> None:
        self.name = name
        folder = ROOT.joinpath(*name.split("."))
        self.is_package = folder.is_dir()
        self.path = folder / "__init__.py" if self.is_package else folder.with_suffix(".py")
        self.text = self.path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self._imports = {
            alias.asname or alias.name: (self._origin(node), alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)

    @property
    def exports(self) -> list[str]:
        """The names that the module imports to export them, in the order of its source."""
        return [name for name, (origin, _) in self._imports.items() if origin.startswith(f"{PACKAGE}.")]

    def find(self, name: str) -> Name | None:
        """Where a name that is used in this module is defined, if that is in the package."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | Function) and node.name == name:
                return Name(name, self, node)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return Name(name, self, node)
        origin, original = self._imports.get(name, ("", ""))
        return module(origin).find(original) if origin.split(".")[0] == PACKAGE else None

    def comment_above(self, node: ast.stmt) -> str:
        """The ``#:`` comment of a definition."""
        lines = self.text.splitlines()[: node.lineno - 1]
        found: list[str] = []
        while lines and lines[-1].startswith("#:"):
            found.insert(0, lines.pop()[2:].strip())
        return " ".join(found)


@cache
def module(name: str) -> Module:
    """The module of that dotted name."""
    return Module(name)


class Name:
    """A class, a function or a type alias of the package."""

    def __init__(self, name: str, where: Module, node: ast.ClassDef | Function | ast.Assign) -> None:
        self.name = name
        self.module = where
        self.node = node

    @property
    def doc(self) -> str:
        """The docstring, or what stands in its place above an alias."""
        if isinstance(self.node, ast.Assign):
            return self.module.comment_above(self.node)
        return ast.get_docstring(self.node) or ""

    @property
    def cls(self) -> ast.ClassDef:
        """The definition of what is a class."""
        assert isinstance(self.node, ast.ClassDef), self.name
        return self.node

    @property
    def bases(self) -> list[Name]:
        """The classes of the package that it is derived from, nearest first."""
        found = []
        for base in self.cls.bases:
            name = self.module.find(ast.unparse(base))
            if name is not None:
                found += [name, *name.bases]
        return found

    @property
    def decorators(self) -> str:
        """The decorators in one text."""
        assert not isinstance(self.node, ast.Assign)
        return " ".join(ast.unparse(decorator) for decorator in self.node.decorator_list)

    @property
    def is_value(self) -> bool:
        """Whether its fields are its constructor's arguments."""
        return "attrs." in self.decorators or "msgspec.Struct" in map(ast.unparse, self.cls.bases)

    @property
    def keyword_only(self) -> bool:
        """Whether these are passed by name only."""
        return "kw_only=True" in self.decorators


class Attribute:
    """An attribute or a property of a class; ``default`` is that of a field."""

    def __init__(self, name: str, annotation: ast.expr | None, doc: str, default: ast.expr | None = None) -> None:
        self.name = name
        self.annotation = "" if annotation is None else ast.unparse(annotation)
        self.doc = doc
        self.default = default


def is_public(name: str) -> bool:
    """Whether a name has no leading underscore."""
    return not name.startswith("_")


def described(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Each statement with the string behind it, which is its docstring."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = inspect.cleandoc(after.value.value)
        yield node, text


def methods(name: Name) -> Iterator[tuple[Function, Name]]:
    """The public methods as the source has them, each with the class that has it; those of private bases first."""
    for owner in (*(base for base in name.bases if is_hidden(base)), name):
        for node in owner.cls.body:
            if isinstance(node, Function) and is_public(node.name) and not is_property(node) and not is_overload(node):
                yield node, owner


def is_hidden(name: Name) -> bool:
    """Whether a class is exported nowhere, so that what it has is shown where it is inherited."""
    return not any(name.name in module(exporter).exports for exporter in MODULES)


def attributes(name: Name) -> Iterator[Attribute]:
    """Fields, properties, those of private bases, too, members of an enumeration, and what ``__init__`` sets."""
    seen: set[str] = set()  # a property may have a setter
    for node, text in described(name.cls.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_public(node.target.id):
            if "ClassVar" not in ast.unparse(node.annotation):
                yield Attribute(node.target.id, node.annotation, text, node.value)
        elif isinstance(node, ast.Assign) and is_public(ast.unparse(node.targets[0])):
            yield Attribute(ast.unparse(node.targets[0]), None, text, node.value)
        elif isinstance(node, Function) and node.name == "__init__":
            yield from _set_in(node)
        elif isinstance(node, Function) and is_public(node.name) and is_property(node) and node.name not in seen:
            seen.add(node.name)
            yield Attribute(node.name, node.returns, ast.get_docstring(node) or "")
    for base in filter(is_hidden, name.bases):
        for inherited in base.cls.body:
            if isinstance(inherited, Function) and is_public(inherited.name) and is_property(inherited):
                yield Attribute(inherited.name, inherited.returns, ast.get_docstring(inherited) or "")


def is_property(node: Function) -> bool:
    """Whether it is read, or set, without a call."""
    return any(ast.unparse(decorator).endswith(("property", ".setter")) for decorator in node.decorator_list)


def is_overload(node: Function) -> bool:
    """Whether it only says how the method below it may be called."""
    return any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)


def _set_in(constructor: Function) -> Iterator[Attribute]:
    arguments = {
        argument.arg: argument.annotation for argument in [*constructor.args.args, *constructor.args.kwonlyargs]
    }
    for node, text in described(constructor.body):
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if not isinstance(target, ast.Attribute) or not is_public(target.attr):
            continue
        annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
        if annotation is None and isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            annotation = arguments.get(node.value.id)
        yield Attribute(target.attr, annotation, text)


def members(name: Name) -> set[str]:
    """Every public attribute and method that one may name, inherited ones included."""
    found = {attribute.name for owner in (name, *name.bases) for attribute in attributes(owner)}
    return found | {node.name for owner in (name, *name.bases) for node, _ in methods(owner)}


def public(name: str) -> Name:
    """A public name of the package, wherever it is exported."""
    for exporter in MODULES:
        if name in module(exporter).exports:
            found = module(exporter).find(name)
            assert found is not None
            return found
    raise LookupError(name)
