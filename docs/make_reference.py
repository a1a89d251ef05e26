"""Makes docs/reference.md from the docstrings: ``python docs/make_reference.py``. A test compares the two."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from public_names import MODULES, Attribute, Function, Name, attributes, is_hidden, methods, module, public

PAGE = Path(__file__).with_name("reference.md")

HEAD = """\
<!-- Made by docs/make_reference.py from the docstrings; change those, and run it. -->

# Reference

Every public name, with what its docstring promises. Times are in seconds. What is called with `await` is always a
checkpoint. Names that begin with an underscore, and modules that do, are not public.
"""

#: The sections, each with its names in the order in which one meets them.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Serving": ("Manager", "serve_rooms", "Server", "Statistics"),
    "Connections": (
        "Connection",
        "Close",
        "CloseCode",
        "Identity",
        "HandshakeRequest",
        "Headers",
        "OutboxStatistics",
        "current_connection",
    ),
    "Rooms": ("Room", "Joined", "Report", "Publication", "current_room"),
    "Messages": ("Message", "Context"),
    "Configuration": ("Config", "Limits", "RoomOptions", "PresenceOptions"),
    "Errors": (),  # the rest of the package's own
    "trio_rooms.brokers": (),
    "trio_rooms.client": (
        "open_rooms",
        "RoomsClient",
        "ClientRoom",
        "Event",
        "Gap",
        "Direct",
        "Presence",
        "Items",
        "ClientConfig",
        "ClientStatistics",
        "ClientError",
        "RequestFailed",
        "NotConfirmed",
        "RoomEnded",
        "ClientEnded",
        "StreamOverflow",
    ),
    "trio_rooms.middleware": (),
    "trio_rooms.testing": (
        "open_client",
        "serve_in_memory",
        "MemoryServer",
        "TestClient",
        "FaultyStream",
        "LaggingBroker",
        "HandshakeRefused",
        "ReplyError",
        "Closed",
        "ProtocolViolation",
        "handshake_bytes",
        "client_frame",
        "close_payload",
        "Opcode",
        "ServerFrame",
        "parse_server_frames",
    ),
    "trio_rooms.testing.simulate": (
        "simulate",
        "Program",
        "Outcome",
        "Record",
        "draw_plan",
        "Plan",
        "Step",
        "Settings",
        "run_plan",
        "shrink",
        "deterministic",
    ),
}

#: What programs do not make themselves; their constructors are nobody's business.
GIVEN = frozenset(
    {
        "ClientRoom",
        "ClientStatistics",
        "Connection",
        "Context",
        "Headers",
        "Items",
        "Joined",
        "MemoryServer",
        "Message",
        "OutboxStatistics",
        "Presence",
        "Publication",
        "Room",
        "RoomsClient",
        "Server",
        "Statistics",
    }
)

WIDTH = 100

#: A docstring's sections.
TITLES = {"Args": "Arguments", "Raises": "Raises"}


def sections() -> Iterator[tuple[str, list[Name]]]:
    """The sections with their names; every public name is in one of them, or this fails."""
    placed = {name for names in SECTIONS.values() for name in names}
    for title, names in SECTIONS.items():
        exporter = module(title if title in MODULES else MODULES[0])
        rest = [] if names else [name for name in exporter.exports if name not in placed]
        yield title, [public(name) for name in (*names, *rest)]
    everything = {name for title in MODULES for name in module(title).exports}
    shown = placed | {name for title in MODULES for name in module(title).exports if not SECTIONS.get(title)}
    assert everything <= shown, everything - shown


class Reference:
    """The page while it is made: what its headings are, and what is linked to them."""

    def __init__(self) -> None:
        self._aliases: dict[str, Name] = {}
        self._slugs: dict[str, int] = {}
        self._anchors: dict[str, str] = {}
        self._sections = list(sections())
        for title, names in self._sections:
            self._anchor(title)
            for name in names:
                self._anchors[name.name] = self._anchor(name.name)
                if isinstance(name.node, ast.ClassDef):
                    for attribute in attributes(name):
                        self._anchors[f"{name.name}.{attribute.name}"] = self._anchors[name.name]
                    for method, _ in methods(name):
                        self._anchors[f"{name.name}.{method.name}"] = self._anchor(f"{name.name}.{method.name}")

    def _anchor(self, title: str) -> str:
        """The fragment that GitHub makes of a heading; to be asked in the order of the page."""
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = self._slugs.get(slug, 0)
        self._slugs[slug] = count + 1
        return f"{slug}-{count}" if count else slug

    def text(self) -> str:
        """The whole page."""
        body = "\n".join(line for title, names in self._sections for line in self._section(title, names))
        contents = "\n".join(self._contents())
        types = "\n".join(self._types())
        return f"{HEAD}\n{contents}\n\n{body}\n{types}".rstrip() + "\n"

    def _contents(self) -> Iterator[str]:
        for title, names in self._sections:
            links = ", ".join(f"[`{name.name}`](#{self._anchors[name.name]})" for name in names)
            yield f"- **{title}**: {links}"
        yield "- [**Types in signatures**](#types-in-signatures)"

    def _section(self, title: str, names: list[Name]) -> Iterator[str]:
        yield f"## {title}\n"
        if title in MODULES:
            yield self._prose(ast.get_docstring(module(title).tree) or "") + "\n"
        if title == "Errors":
            yield self._prose((ast.get_docstring(module("trio_rooms._errors").tree) or "").partition("\n\n")[2]) + "\n"
        for name in names:
            yield from self._entry(name)

    def _entry(self, name: Name) -> Iterator[str]:
        yield f"### {name.name}\n"
        if isinstance(name.node, Function):
            yield code(self._signature(name.node, name)) + "\n"
            yield self._prose(name.doc) + "\n"
        elif isinstance(name.node, ast.Assign):
            yield code(ast.unparse(name.node)) + "\n"
            yield self._prose(name.doc) + "\n"
        else:
            yield from self._class(name)

    def _class(self, name: Name) -> Iterator[str]:
        if (constructor := self._constructor(name)) is not None:
            yield code(constructor) + "\n"
        if is_error(name):
            bases = [f"[`{base.name}`](#{self._anchors[base.name]})" for base in name.bases if not is_hidden(base)][:1]
            others = [
                f"`{ast.unparse(base)}`" for base in name.cls.bases if name.module.find(ast.unparse(base)) is None
            ]
            yield f"An error, derived from {' and '.join([*bases, *others])}.{fixed_code(name)}\n"
        yield self._prose(name.doc, name) + "\n"
        # What is said of an argument need not be said again of the attribute that keeps it.
        shown = [
            one for one in attributes(name) if one.doc or not re.search(rf"^  {one.name}: ", name.doc, re.MULTILINE)
        ]
        if shown:
            yield "Members:\n" if is_enumeration(name) else "Attributes:\n"
            yield "\n".join(f"- {self._attribute(attribute, name)}" for attribute in shown) + "\n"
        for method, owner in methods(name):
            yield f"#### {name.name}.{method.name}\n"
            yield code(self._signature(method, owner)) + "\n"
            yield self._prose(ast.get_docstring(method) or "", name) + "\n"

    def _attribute(self, attribute: Attribute, owner: Name) -> str:
        if attribute.annotation:
            kind = f" (`{quoted(self._known(attribute.annotation, owner))}`)"
        else:
            kind = "" if attribute.default is None else f" = {ast.unparse(attribute.default)}"
        text = " ".join(self._prose(attribute.doc, owner).split())
        return f"**`{attribute.name}`**{kind}{': ' + text if text else ''}"

    def _constructor(self, name: Name) -> str | None:
        if name.name in GIVEN or "Protocol" in map(ast.unparse, name.cls.bases) or is_enumeration(name):
            return None
        if name.is_value:
            fields = [attribute for attribute in attributes(name) if is_field(attribute, name)]
            arguments = ["*"] * name.keyword_only
            arguments += [f"{one.name}: {self._known(one.annotation, name)}{default(one)}" for one in fields]
            return call(name.name, arguments)
        for owner in (name, *name.bases):
            for node in owner.cls.body:
                if isinstance(node, Function) and node.name == "__init__":
                    return call(name.name, self._arguments(node, owner))
        return None

    def _signature(self, node: Function, owner: Name) -> str:
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = "" if node.returns is None else self._known(ast.unparse(node.returns), owner)
        if "asynccontextmanager" in decorators:
            prefix, returns = "def", returns.replace("AsyncIterator[", "AbstractAsyncContextManager[")
        head = "@classmethod\n" if "classmethod" in decorators else ""
        return f"{head}{prefix} {call(node.name, self._arguments(node, owner))}" + (f" -> {returns}" if returns else "")

    def _arguments(self, node: Function, owner: Name) -> list[str]:
        """The arguments as the source has them, without ``self``."""
        found = node.args
        names = found.posonlyargs + found.args
        defaults = [None] * (len(names) - len(found.defaults)) + list(found.defaults)
        shown = [self._argument(one, value, owner) for one, value in zip(names, defaults, strict=True)]
        if shown and names[0].arg in ("self", "cls"):
            del shown[0]
        if found.vararg is not None:
            shown.append("*" + self._argument(found.vararg, None, owner))
        elif found.kwonlyargs:
            shown.append("*")
        shown += [
            self._argument(one, value, owner) for one, value in zip(found.kwonlyargs, found.kw_defaults, strict=True)
        ]
        if found.kwarg is not None:
            shown.append("**" + self._argument(found.kwarg, None, owner))
        return shown

    def _argument(self, argument: ast.arg, value: ast.expr | None, owner: Name) -> str:
        kind = "" if argument.annotation is None else f": {self._known(ast.unparse(argument.annotation), owner)}"
        equals = " = " if kind else "="
        return f"{argument.arg}{kind}{'' if value is None else equals + ast.unparse(value)}"

    def _known(self, annotation: str, owner: Name) -> str:
        """An annotation as it is; what is named in it and is no public name will be explained at the end."""
        annotation = annotation.replace('"', "") if annotation.startswith('"') else annotation
        for word in re.findall(r"(?<![\w.\"'])[A-Z]\w+", annotation):
            found = owner.module.find(word)
            if found is not None and isinstance(found.node, ast.Assign) and word not in self._anchors:
                self._aliases[word] = found
        return annotation

    def _types(self) -> Iterator[str]:
        yield "## Types in signatures\n"
        done: set[str] = set()
        while rest := sorted(self._aliases.keys() - done):
            for word in rest:
                done.add(word)
                alias = self._aliases[word]
                self._known(ast.unparse(alias.node), alias)
        for word in sorted(done):
            alias = self._aliases[word]
            text = self._prose(alias.doc)
            yield code(ast.unparse(alias.node)) + "\n" + (f"\n{text}\n" if text else "")

    # Docstrings

    def _prose(self, text: str, owner: Name | None = None) -> str:
        """A docstring as Markdown."""
        return "\n\n".join(self._blocks(text, owner)).strip()

    def _blocks(self, text: str, owner: Name | None) -> Iterator[str]:
        literal = False
        for block in re.split(r"\n\s*\n", text.strip()):
            first, _, rest = block.partition("\n")
            if literal:
                yield code(dedent(block), language="")
                literal = False
            elif first.rstrip(":") in TITLES and first.endswith(":") and rest:
                yield self._listing(first.rstrip(":"), rest, owner)
            else:
                literal = block.endswith("::")
                shown = block.removesuffix("::") + (":" if literal and block != "::" else "")
                if shown:
                    yield self._inline(shown, owner)

    def _listing(self, title: str, rest: str, owner: Name | None) -> str:
        items: list[str] = []
        for line in dedent(rest).splitlines():
            if line.startswith(" ") and items:
                items[-1] += f" {line.strip()}"
            else:
                items.append(line)
        lines = [f"{TITLES[title]}:\n"]
        for item in items:
            names, colon, text = item.partition(":")
            each = [name.strip() for name in names.split(",")]
            shown = ", ".join(self._link(name, owner) if title == "Raises" else f"`{name}`" for name in each)
            lines.append(f"- {shown}{colon}{self._inline(text, owner)}")
        return "\n".join(lines)

    def _inline(self, text: str, owner: Name | None) -> str:
        """Roles and names in backticks become links where there is something to link to; other code is code."""
        pattern = r"``(.+?)``|:\w+:`~?([^`]+)`|`([^`]+)`"
        shown, end = [], 0
        for match in re.finditer(pattern, text, flags=re.DOTALL):
            literal, role, name = match.groups()
            shown.append(escaped(text[end : match.start()]))
            shown.append(self._link(role or name, owner) if literal is None else f"`{' '.join(literal.split())}`")
            end = match.end()
        shown.append(escaped(text[end:]))
        return "".join(shown)

    def _link(self, target: str, owner: Name | None) -> str:
        """``Manager.serve``, or ``serve`` in what is said about a Manager, as a link."""
        short = target.removeprefix("trio_rooms.")
        for full in (f"{owner.name}.{short}" if owner is not None else "", short):
            if full in self._anchors:
                return f"[`{short}`](#{self._anchors[full]})"
        return f"`{target}`"


def escaped(text: str) -> str:
    """Text that has no code in it, safe from Markdown."""
    return re.sub(r"([*<])", r"\\\1", text)


def is_error(name: Name) -> bool:
    """Whether it is raised."""
    bases = [name, *name.bases]
    return any(
        "Exception" in ast.unparse(base) or "Error" in ast.unparse(base) for one in bases for base in one.cls.bases
    )


def is_enumeration(name: Name) -> bool:
    """Whether its attributes are its members."""
    return "IntEnum" in map(ast.unparse, name.cls.bases)


def fixed_code(name: Name) -> str:
    """What an error of a fixed code tells clients."""
    told = {
        ast.unparse(node.targets[0]): node.value.value
        for node in name.cls.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    if "_CODE" not in told:
        return ""
    return f" Told as `{told['_CODE']}`{', temporary' if told.get('_TEMPORARY') else ''}."


def is_field(attribute: Attribute, owner: Name) -> bool:
    """Whether an attribute is a field of a value, and so an argument, and not a property."""
    return any(
        isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == attribute.name for node in owner.cls.body
    )


def default(attribute: Attribute) -> str:
    """The default of a field, as the constructor has it."""
    value = attribute.default
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "attrs.field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        if "factory" in given:
            return " = …"
        value = given.get("default")
    return "" if value is None else f" = {number(value)}"


def number(value: ast.expr) -> str:
    """A default as it is written, but for products, which are worked out."""
    text = ast.unparse(value)
    for unit, size in (("KIB", 1024), ("MIB", 1024**2)):
        if match := re.fullmatch(rf"(\d+) \* {unit}", text):
            return str(int(match[1]) * size)
    return text


def call(name: str, arguments: Iterable[str]) -> str:
    """A call, in several lines where it is long."""
    arguments = list(arguments)
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= WIDTH - 20:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"


def code(text: str, *, language: str = "python") -> str:
    """A fenced block, with the quotes that the source has."""
    text = quoted(text) if language else text
    return f"```{language}\n{text}\n```"


def quoted(text: str) -> str:
    """Python as the formatter quotes it."""
    return re.sub(r"'([^'\"]*)'", r'"\1"', text)


def dedent(text: str) -> str:
    """Without the indentation that all lines have."""
    lines = text.splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:].rstrip() for line in lines)


if __name__ == "__main__":
    PAGE.write_text(Reference().text(), encoding="utf-8")
