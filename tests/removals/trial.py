"""A copy of the project in which something is removed, and the tests that are to notice."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

from removals.edits import PACKAGE, Changes

ROOT = Path(__file__).parents[2]

#: What the tests need besides the package.
NEEDED = ("tests", "docs", "examples", "benchmarks", "README.md", "CHANGELOG.md", "pyproject.toml", "noxfile.py")

#: These tell what the source looks like, and not what it does.
NO_PROOF = ("tests/test_structure.py", "tests/test_removals.py", "tests/test_readme.py", "tests/test_benchmarks.py")

#: Seconds for one round of tests, and for all of them; without what was removed, some wait for ever.
PATIENCE = 300.0
PATIENCE_FOR_ALL = 2400.0

ALL = ["tests"]

# Test functions: the likeliest, and all that are tried one by one.
_FEW, _MANY = 20, 80


@attrs.frozen
class Verdict:
    """How the tests took it: ``by`` is the one that failed, None if all passed."""

    by: str | None
    tried: str


class TrialError(Exception):
    """The tests could not be run, so that nothing is shown."""


class Copy:
    """A copy of the package and its tests in a folder, imported before the installed package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in NEEDED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
            elif source.exists():
                shutil.copy(source, folder / name)

    def set(self, changes: Changes) -> None:
        """Change some files of the package, none of the others."""
        for file in changes:
            self._write(file, changes[file])

    def reset(self, changes: Changes) -> None:
        """Undo :meth:`set`."""
        for file in changes:
            self._write(file, (PACKAGE / file).read_text(encoding="utf-8"))

    def _write(self, file: str, text: str) -> None:
        path = self.folder / PACKAGE.name / file
        path.write_text(text, encoding="utf-8")
        # Python goes by size and second, which may be the same.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def run(self, tests: list[str]) -> str | None:
        """The first of these tests that fails; None if all pass. Raises TrialError."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not long", "-p", "no:cacheprovider", *tests]
        # Coverage is of the package, not of copies that lack something.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environment = {**kept, "PYTHONPATH": str(self.folder), "CI": ""}
        environment.pop("PYTHONSAFEPATH", None)
        command += [f"--ignore={path}" for path in NO_PROOF]
        # In a session of its own, so that what the tests have started ends with them.
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=PATIENCE_FOR_ALL if tests == ALL else PATIENCE)
            except subprocess.TimeoutExpired as exc:
                if tests == ALL:
                    raise TrialError("the whole suite takes too long") from exc
                return "a test that does not end"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return None
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if process.returncode != 1 or failed is None:
            raise TrialError(f"status {process.returncode}:\n{output[-3000:]}")
        return failed[1]


def try_removal(copy: Copy, name: str, changes: Changes, *, first: tuple[str, ...] = (), whole: bool = True) -> Verdict:
    """Remove something and run tests, the likeliest first, until one fails."""
    copy.set(changes)
    try:
        for tried, tests in steps(name, changes, first=first, whole=whole):
            by = copy.run(tests)
            if by is not None:
                return Verdict(by, tried)
        return Verdict(None, "all tests" if whole else "the likely tests")
    finally:
        copy.reset(changes)


def steps(
    name: str, changes: Changes, *, first: tuple[str, ...] = (), whole: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """The rounds of tests, none of them empty."""
    functions, files = mentioning(name)
    rounds = {
        "first": [*first],
        "a few functions": functions[:_FEW],
        "namesakes": namesakes(changes),
        "functions": functions[_FEW:_MANY],
        "files": files,
    }
    yield from ((tried, tests) for tried, tests in rounds.items() if tests)
    if whole:
        yield "all", ALL


def namesakes(changes: Changes) -> list[str]:
    """The test files of the changed ones: ``tests/testing/test_client.py`` of ``testing/_client.py``."""
    paths = [Path("tests", file) for file in changes]
    names = [str(path.with_name(f"test_{path.name.removeprefix('_')}")) for path in paths]
    return [name for name in names if name in sources_of_files()]


def mentioning(name: str) -> tuple[list[str], list[str]]:
    """The test functions and the test files that mention something: its own name, and better its owner's, too."""
    words = [word for word in re.split(r"[^\w-]+|__init__", name) if word]
    own, owners = words[-1], words[:-1]
    functions = ranked(sources_of_tests(), own, owners)
    files = ranked(sources_of_files(), own, owners)
    return functions, files


def ranked(texts: dict[str, str], own: str, owners: list[str]) -> list[str]:
    """The keys of the texts with a word in them, those first that hold an owner's word, too."""

    def holds(text: str, word: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None

    found = [key for key, text in texts.items() if holds(text, own)]
    return sorted(found, key=lambda key: -sum(holds(texts[key], word) for word in owners))


@cache
def sources_of_files() -> dict[str, str]:
    """The text of each test file."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    return {path: text for path, text in found.items() if path not in NO_PROOF}


@cache
def sources_of_tests() -> dict[str, str]:
    """The text of each test function, by its id."""
    return {
        f"{path}::{node.name}": "\n".join(map(ast.unparse, [*node.decorator_list, node]))
        for path, text in sources_of_files().items()
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
