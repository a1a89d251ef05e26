"""The script of ``nox -s removals``: its table knows all that can be removed, and what survives is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from removals.__main__ import differences
from removals.edits import PACKAGE, Changes, EditError, Ignored, Rewrite, Unparsed, Unread, Unregistered
from removals.options import removable
from removals.table import FIRST, REMOVALS
from removals.trial import Copy, mentioning, steps, try_removal


def test_the_table_is_whole() -> None:
    """Each setting, limit, hook, option of a public function and of the command has an entry, and nothing else."""
    assert differences() == []
    assert FIRST.keys() <= REMOVALS.keys()
    assert len(set(removable())) == len(removable())


@pytest.mark.parametrize(
    "name",
    [
        "Config.ping_interval",
        "Limits.max_depth",
        "RoomOptions.linger",
        "Registrar.on_connect",
        "Manager.serve(port)",
        "serve_rooms(path)",
        "LaggingBroker.__init__(delay)",
        "trio-rooms --port",
    ],
)
def test_the_table_is_of_all_kinds(name: str) -> None:
    """What is removable is found in every place where there is something."""
    assert name in removable()


@pytest.mark.parametrize("missing", ["Limits.max_depth", "Registrar.on_connect", "trio-rooms --port"])
def test_a_missing_entry_is_told(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something new without an entry, and an entry whose thing is gone, are errors of the table."""
    monkeypatch.setitem(REMOVALS, "Limits.gone", Unread())
    monkeypatch.delitem(REMOVALS, missing)
    assert [line.partition(" has ")[0] for line in differences()] == [missing, "tests/removals/table.py"]
    assert "Limits.gone" in differences()[1]


@pytest.mark.parametrize("name", REMOVALS)
def test_each_edit(name: str) -> None:
    """Each edit changes something of the package, which still compiles."""
    changes = REMOVALS[name].changes(name)
    assert changes
    for file, text in changes.items():
        assert text != (PACKAGE / file).read_text(encoding="utf-8")
        compile(text, file, "exec")


def body(changes: Changes, function: str) -> list[str]:
    """The statements of a function in what is changed, without the docstring."""
    (text,) = changes.values()
    (node,) = [node for node in ast.walk(ast.parse(text)) if getattr(node, "name", None) == function]
    return [ast.unparse(statement) for statement in node.body[1:]]  # type: ignore[attr-defined]


def test_unread() -> None:
    """Wherever a setting is read, its default stands."""
    changes = Unread().changes("Limits.max_rooms")
    assert list(changes) == ["_node.py"]
    assert "limits.max_rooms" not in changes["_node.py"]
    assert ">= [100000][0]:" in changes["_node.py"]
    with pytest.raises(EditError):
        Unread().changes("Limits.__class__")


def test_ignored() -> None:
    """A parameter is its default, whatever is given."""
    changes = Ignored().changes("Connection.close(code)")
    assert body(changes, "close")[0] == "code = 1000"


def test_unregistered() -> None:
    """A decorator gives the function back, and does nothing with it."""
    assert body(Unregistered("hook").changes("Registrar.on_connect"), "on_connect")[0] == "return hook"


def test_unparsed() -> None:
    """An option of the command is its default."""
    assert "options.tune_gc = True" in body(Unparsed().changes("trio-rooms --no-tune-gc"), "main")


@pytest.mark.parametrize("old", ["import", "not there at all"])
def test_rewrite_is_exact(old: str) -> None:
    """A text that does not stand in its file just once is an error: the code has moved on."""
    with pytest.raises(EditError):
        Rewrite("cli.py", old, "").changes("x")


def test_a_copy(tmp_path: Path) -> None:
    """The tests run against the copy: they pass, and fail with the removal, which is undone behind them."""
    copy = Copy(tmp_path)
    name, tests = "Headers.get(default)", ("tests/_wire/test_headers.py",)
    assert copy.run([*tests]) is None
    changes = REMOVALS[name].changes(name)
    verdict = try_removal(copy, name, changes, first=tests, whole=False)
    assert verdict.tried == "first"
    assert verdict.by is not None
    assert verdict.by.startswith("tests/_wire/test_headers.py::")
    for file in changes:
        assert (copy.folder / "trio_rooms" / file).read_text() == (PACKAGE / file).read_text()


class Fake(Copy):
    """A copy without files, in which the tests of some rounds fail."""

    def __init__(self, *, failing: str | None) -> None:
        self.failing = failing
        self.changed = False
        self.ran: list[list[str]] = []

    def set(self, changes: Changes) -> None:
        self.changed = True

    def reset(self, changes: Changes) -> None:
        self.changed = False

    def run(self, tests: list[str]) -> str | None:
        assert self.changed
        self.ran.append(tests)
        return self.failing if self.failing in tests else None


def test_a_survivor() -> None:
    """What no round of tests notices survives; each was tried, the whole suite last."""
    copy = Fake(failing=None)
    assert try_removal(copy, "Limits.max_rooms", {}).by is None
    assert copy.ran == [tests for _, tests in steps("Limits.max_rooms", {})]
    assert copy.ran[-1] == ["tests"]
    assert not copy.changed


def test_the_first_round_that_fails_is_enough() -> None:
    """Nothing more is run once a test has failed."""
    copy = Fake(failing="tests/test_rooms.py")
    verdict = try_removal(copy, "Limits.max_rooms", {}, first=("tests/test_rooms.py",))
    assert (verdict.by, verdict.tried) == ("tests/test_rooms.py", "first")
    assert copy.ran == [["tests/test_rooms.py"]]
    assert not copy.changed


def test_namesakes() -> None:
    """The test file of a changed file is among the first rounds."""
    rounds = dict(steps("TestClient.close(code)", {"testing/_client.py": "", "cli.py": "", "_log.py": ""}))
    assert rounds["namesakes"] == ["tests/testing/test_client.py", "tests/test_cli.py"]


def test_likely_tests() -> None:
    """Tests that mention a name stand in the first rounds, those that mention its owner in front."""
    functions, files = mentioning("Connection.close(reason)")
    assert len(functions) > 10
    assert "tests/test_endings.py" in files
    assert not any("test_structure" in path for path in (*functions, *files))
