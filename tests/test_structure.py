"""The shape of the package: layers, exports, docstrings, sizes.

What modules import is read from their source, so the import rules hold for modules nobody imports yet.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import attrs
import pytest

PACKAGE = "trio_rooms"

#: The public modules and what each exports, sorted; private submodules are no exports.
EXPORTS: dict[str, list[str]] = {
    "trio_rooms": [
        "ActionError",
        "AlreadyServing",
        "AskFailed",
        "AskRefused",
        "BadAnswer",
        "BadMessage",
        "BadRoom",
        "BrokerBusy",
        "Busy",
        "Close",
        "CloseCode",
        "Config",
        "Connection",
        "ConnectionGone",
        "Context",
        "DeadlineExceeded",
        "Denied",
        "DuplicateId",
        "EncodingError",
        "EntryTooLarge",
        "HandshakeRequest",
        "Headers",
        "HistoryItem",
        "HookTimeout",
        "Identity",
        "InternalError",
        "JoinError",
        "Joined",
        "Limits",
        "Manager",
        "Message",
        "MessageTooLarge",
        "NeedsV1",
        "NotServing",
        "OutboxFull",
        "OutboxStatistics",
        "Position",
        "PresenceOptions",
        "Publication",
        "Refuse",
        "Report",
        "RequestCancelled",
        "Room",
        "RoomClosed",
        "RoomEvent",
        "RoomFailed",
        "RoomFull",
        "RoomNotFound",
        "RoomOptions",
        "RoomsError",
        "Server",
        "Slice",
        "Statistics",
        "Subscription",
        "SubscriptionLost",
        "TooManyAsks",
        "TooManyRooms",
        "UnknownAction",
        "UnrecoverablePosition",
        "UsageError",
        "current_connection",
        "current_room",
        "serve_rooms",
    ],
    "trio_rooms.brokers": [
        "Broker",
        "Confirmation",
        "Deliver",
        "Keep",
        "MemoryBroker",
        "MemoryBrokerStatistics",
        "Submission",
    ],
    "trio_rooms.client": [
        "ClientConfig",
        "ClientEnded",
        "ClientError",
        "ClientRoom",
        "ClientStatistics",
        "Direct",
        "Event",
        "Gap",
        "Items",
        "NotConfirmed",
        "Presence",
        "RequestFailed",
        "RoomEnded",
        "RoomsClient",
        "StreamOverflow",
        "open_rooms",
    ],
    "trio_rooms.middleware": ["logger", "recovery"],
    "trio_rooms.testing.simulate": [
        "Outcome",
        "Plan",
        "Program",
        "Record",
        "Settings",
        "Step",
        "deterministic",
        "draw_plan",
        "run_plan",
        "shrink",
        "simulate",
    ],
    "trio_rooms.testing": [
        "Closed",
        "FaultyStream",
        "HandshakeRefused",
        "LaggingBroker",
        "MemoryServer",
        "Opcode",
        "ProtocolViolation",
        "ReplyError",
        "ServerFrame",
        "TestClient",
        "client_frame",
        "close_payload",
        "handshake_bytes",
        "open_client",
        "parse_server_frames",
        "serve_in_memory",
    ],
}

FOUNDATION = frozenset(
    {"_errors", "_config", "_room_options", "_presence_options", "_validators", "_identity", "_chance"}
)

#: What an area (a module or folder right below the package) may import besides itself. Joints, the
#: private modules that are not listed, may import everything private; USERS only what is public.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "_errors": frozenset(),
    "_identity": frozenset(),
    "_validators": frozenset(),
    "_chance": frozenset(),
    "_config": frozenset({"_errors", "_validators"}),
    "_presence_options": frozenset({"_errors", "_validators"}),
    "_room_options": frozenset({"_errors", "_presence_options", "_validators"}),
    "_wire": FOUNDATION,
    "_rooms": FOUNDATION,
    "_messages": FOUNDATION,
    "brokers": FOUNDATION | {"_rooms"},
    "middleware": FOUNDATION,
    "client": FOUNDATION | {"_rooms"},
}

#: Areas that prove that the public surface suffices.
USERS = frozenset({"testing", "cli", "demo"})

#: Known by name only, for annotations under TYPE_CHECKING; each with its reason.
KNOWN_AS_TYPES: dict[tuple[str, str], str] = {
    ("_room_options", "_connection"): "RoomOptions.authorize is called with one",
    ("_presence_options", "_connection"): "PresenceOptions.entry is called with one",
    ("_presence_options", "_room"): "and with the room, as PresenceOptions.fetch is",
    ("_rooms", "_wire"): "a publication keeps its frames, which the rooms never look into",
    ("middleware", "_onion"): "middleware is called with a Context",
    ("middleware", "_registry"): "and with a CallNext",
}

#: What testing takes that no user has, each with its reason.
NOT_FOR_USERS: dict[tuple[str, str], str] = {
    (
        "trio_rooms.testing.simulate._determinism",
        "trio_rooms._chance",
    ): "a public way to make ids and tokens that can be guessed would be a trap; a simulation needs it",
}

MAX_LINES = 400

ROOT = Path(__file__).parents[1]

#: What an example may import besides the package, the standard library and its neighbours: what the package needs
#: anyway; and its tests what tests need.
LIBRARIES = frozenset({"trio", "trio_websocket", "attrs", "msgspec", "h11"})
TEST_LIBRARIES = frozenset({"pytest"})


@attrs.frozen
class Import:
    """One imported thing: ``name`` is None where a module itself is imported."""

    target: str
    name: str | None
    types_only: bool
    when_called: bool
    line: int


@cache
def sources() -> dict[str, Path]:
    """The files of the package by their dotted module name."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join([PACKAGE, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def area(module: str) -> str:
    """``_wire`` of ``trio_rooms._wire.frames``; "" of the package itself."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def is_ours(target: str) -> bool:
    """Whether a dotted name lies in the package."""
    return target.partition(".")[0] == PACKAGE


def is_types_only(node: ast.If) -> bool:
    """Whether this is ``if TYPE_CHECKING:``."""
    return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(
    node: ast.AST, types_only: bool = False, when_called: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """All import statements below a node, and under what they stand."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, types_only, when_called
    when_called = when_called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    guarded = node.body if isinstance(node, ast.If) and is_types_only(node) else []
    for child in ast.iter_child_nodes(node):
        yield from statements(child, types_only or child in guarded, when_called)


def origin(node: ast.ImportFrom, module: str) -> str:
    """The absolute name behind the ``from`` of a statement in ``module``."""
    if not node.level:
        return node.module or ""
    is_package = sources()[module].name == "__init__.py"
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def imports(module: str) -> Iterator[Import]:
    """What a module imports, each name that is itself a module of the package as that module."""
    for node, types_only, when_called in statements(tree(module)):
        for alias in node.names:
            if isinstance(node, ast.Import):
                target, name = alias.name, None
            else:
                target, name = origin(node, module), alias.name
                if f"{target}.{name}" in sources():
                    target, name = f"{target}.{name}", None
            yield Import(target, name, types_only, when_called, node.lineno)


def imports_of_ours(module: str) -> Iterator[Import]:
    """What a module imports from other areas of the package."""
    for found in imports(module):
        if is_ours(found.target) and area(found.target) != area(module):
            yield found


def in_areas(names: frozenset[str] | set[str]) -> list[str]:
    """The modules of some areas."""
    return [module for module in sources() if area(module) in names]


def test_the_rules_find_what_they_are_about() -> None:
    """The parts, the joints and the importer of trio_websocket are where the rules below look for them."""
    for part in ("_wire", "_rooms", "_messages", "brokers", "testing"):
        assert in_areas({part}), part
    assert "trio_rooms._wire.over_trio_websocket" in sources()
    assert "trio_rooms._messages.codec" in sources()


@pytest.mark.parametrize("module", in_areas(set(MAY_IMPORT)))
def test_layers(module: str) -> None:
    """Parts know nothing of each other nor of the joints; brokers and middleware only what is below them."""
    here = area(module)
    for found in imports_of_ours(module):
        there = area(found.target)
        if found.types_only and (here, there) in KNOWN_AS_TYPES:
            continue
        assert there in MAY_IMPORT[here], f"line {found.line}: {here} imports {found.target}"


def test_every_exception_to_the_layers_is_used() -> None:
    """KNOWN_AS_TYPES lists nothing that no module needs any more."""
    used = {
        (area(module), area(found.target))
        for module in sources()
        for found in imports_of_ours(module)
        if found.types_only
    }
    assert set(KNOWN_AS_TYPES) <= used


@pytest.mark.parametrize("module", in_areas(USERS))
def test_users_import_only_public_names(module: str) -> None:
    """Testing, command and demo are written with what every user has."""
    for found in imports_of_ours(module):
        path = [*found.target.split(".")[1:], *([found.name] if found.name else [])]
        if (module, found.target) in NOT_FOR_USERS:
            continue
        assert not any(part.startswith("_") for part in path), f"line {found.line}: {'.'.join(path)} is private"
        if found.name is not None and found.target in EXPORTS:
            assert found.name in EXPORTS[found.target], f"line {found.line}: {found.target} exports no {found.name}"


def absolute_imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """The module of each import in a file outside of the package, and the name that is taken from it."""
    for node, *_ in statements(ast.parse(path.read_text(encoding="utf-8"))):
        for alias in node.names:
            if isinstance(node, ast.Import):
                yield alias.name, None
            elif not node.level:
                yield node.module or "", alias.name


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_examples_use_only_public_names(path: Path) -> None:
    """An example is written with what the package exports, and needs nothing that does not come with it."""
    neighbours = {other.stem for other in path.parent.glob("*.py")}
    others = LIBRARIES | neighbours | (TEST_LIBRARIES if path.name.startswith("test_") else frozenset())
    for module, name in absolute_imports(path):
        if is_ours(module):
            assert name in EXPORTS.get(module, ()), f"{module} exports no {name}"
        else:
            assert module.partition(".")[0] in sys.stdlib_module_names | others, f"{module} has to be installed"
    attributes = [node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    assert not [name for name in attributes if name.startswith("_") and not name.endswith("__")]


def test_no_import_cycles() -> None:
    """Modules can be imported in an order in which each finds what it needs."""
    graph = {
        module: {
            found.target
            for found in imports(module)
            if found.target in sources() and not found.types_only and not found.when_called
        }
        - {module}
        for module in sources()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" imports ".join(reversed(cycle.args[1])))


def test_only_one_module_knows_trio_websocket() -> None:
    """The transport that is built on trio-websocket is its only importer."""
    importers = {
        module
        for module in sources()
        for found in imports(module)
        if found.target.partition(".")[0] == "trio_websocket"
    }
    assert importers == {"trio_rooms._wire.over_trio_websocket"}


@pytest.mark.parametrize("module", [*in_areas({"_rooms"}), "trio_rooms._messages.codec"])
def test_logic_without_await(module: str) -> None:
    """Rooms and formats never wait, so that a fan-out cannot be interrupted."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    lines = [node.lineno for node in ast.walk(tree(module)) if isinstance(node, waits)]
    assert not lines


@pytest.mark.parametrize("module", sources())
def test_size(module: str) -> None:
    """A module is one concept and can be read in one go."""
    assert len(sources()[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def public_names(module: ModuleType) -> list[str]:
    """What a module exports."""
    return sorted(
        name
        for name, value in vars(module).items()
        # The __future__ import leaves a name in every module, too.
        if not name.startswith("_") and not isinstance(value, ModuleType | type(annotations))
    )


@pytest.mark.parametrize("module", EXPORTS)
def test_exports(module: str) -> None:
    """The public names are exactly the ones that were decided on."""
    assert public_names(importlib.import_module(module)) == EXPORTS[module]


def test_public_modules() -> None:
    """Each public folder of the package is in EXPORTS, but for the demo, which is a program."""
    folders = {module for module, path in sources().items() if path.name == "__init__.py"}
    assert {module for module in folders if "._" not in module} - {"trio_rooms.demo"} == set(EXPORTS)


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that a class has from this package, and its constructor."""
    for base in inspect.getmro(cls):
        if not is_ours(base.__module__):
            continue
        for name, value in vars(base).items():
            member = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            member = member.fget if isinstance(member, property) else member
            ours = inspect.isroutine(member) and is_ours(getattr(member, "__module__", None) or "")
            if ours and (name == "__init__" or not name.startswith("_")):
                yield f"{cls.__name__}.{name}", member


def documented() -> Iterator[tuple[str, object]]:
    """Every public function, class, method and property."""
    for name in EXPORTS:
        module = importlib.import_module(name)
        for export in public_names(module):
            value = getattr(module, export)
            if inspect.isclass(value):
                yield f"{name}.{export}", value
                yield from ((f"{name}.{member}", function) for member, function in public_members(value))
            elif inspect.isroutine(value):
                yield f"{name}.{export}", value


def test_public_names_are_documented() -> None:
    """Every public class, function, method and property has a docstring of its own."""
    missing = [name for name, value in documented() if not name.endswith(".__init__") and not value.__doc__]
    assert not missing


def unannotated(function: object) -> list[str]:
    """The parameters without annotation, "return" among them."""
    assert callable(function)
    signature = inspect.signature(function)
    bare = [
        parameter.name
        for position, parameter in enumerate(signature.parameters.values())
        if parameter.annotation is parameter.empty and not (position == 0 and parameter.name in {"self", "cls"})
    ]
    return bare + ["return"] * (signature.return_annotation is signature.empty)


def test_public_names_are_annotated() -> None:
    """Every public function, method, property and constructor has a whole signature."""
    missing = {
        name: bare for name, value in documented() if not inspect.isclass(value) and (bare := unannotated(value))
    }
    assert not missing


def test_options_are_documented() -> None:
    """Each field of Config, Limits, RoomOptions and ClientConfig is followed by a docstring."""
    modules = ("trio_rooms._config", "trio_rooms._room_options", "trio_rooms.client._config")
    classes = [node for module in modules for node in tree(module).body if isinstance(node, ast.ClassDef)]
    fields = [
        (f"{cls.name}.{ast.unparse(field.target)}", after)
        for cls in classes
        for field, after in zip(cls.body, [*cls.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
    ]
    assert fields
    bare = [
        name for name, after in fields if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]
    assert not bare


def test_each_test_states_its_behaviour() -> None:
    """Each test has a docstring that begins with a sentence."""
    bare = [
        f"{path.name}::{node.name}"
        for path in Path(__file__).parent.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not (ast.get_docstring(node) or "").split("\n\n")[0].strip().endswith((".", "?", "!"))
    ]
    assert not bare
