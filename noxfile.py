"""Every check of the project: plain ``nox`` runs them all.

What a session needs, and the Python versions, are read from pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests", "tests_min", "tests_oracle", "coverage", "examples"]
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
# A missing interpreter is a skip that the summary shows, also where CI is set.
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)

# What flake8-async does not check; all else is on, the optional ASYNC900, 911 and 913 too.
# ASYNC910 wants a checkpoint on every path of every async function. Ours promise it where they are public,
#   and tests assert it there; inside, a fast path that does not wait is wanted.
# ASYNC912 calls the scope around a loop or an `if` uncancellable, because the body may not run at all.
# ASYNC114 feeds ASYNC113 with the bare names of functions that take task_status; with `run` among them,
#   113 would then object to every start_soon(x.run).
UNCHECKED = "ASYNC114,ASYNC910,ASYNC912"
# Handlers, hooks and fakes have to be async, with or without an await; a handler may be an async generator, which
# the library closes where its task ends (ASYNC900, ASYNC911).
UNCHECKED_IN_TESTS = f"{UNCHECKED},ASYNC124,ASYNC900,ASYNC911"


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group."""
    return nox.project.dependency_groups(PYPROJECT, name)


def lowest(requirement: str) -> str:
    """``name >= 1.2`` as ``name==1.2``; a requirement without a lower bound is an error."""
    parsed = Requirement(requirement)
    (bound,) = [specifier.version for specifier in parsed.specifier if specifier.operator == ">="]
    return f"{parsed.name}=={bound}"


def run_tests(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> None:
    """Run the tests against the installed package: safe path keeps the checkout off ``sys.path``."""
    session.run("python", "-m", *command, *session.posargs, env={"PYTHONSAFEPATH": "1", **(env or {})})


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format; flake8-async for the rules that ruff lacks."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("flake8-async", f"--disable={UNCHECKED}", *python_files("trio_rooms"))
    session.run("flake8-async", f"--disable={UNCHECKED_IN_TESTS}", *python_files("tests", "examples"))


def python_files(*folders: str) -> list[str]:
    """The Python files below some folders; flake8-async takes no folders."""
    return sorted(str(path) for folder in folders for path in Path(folder).rglob("*.py"))


@nox.session
def typing(session: nox.Session) -> None:
    """The package is strictly typed, and so is all that its users see."""
    # With pytest, because the package contains a fixture.
    session.install(".", *group("typing"), *group("tests"))
    session.run("mypy", "--strict", "trio_rooms")
    # Elsewhere, because pyright would take the checkout before the installed package.
    with session.chdir(session.create_tmp()):
        session.run("pyright", "--verifytypes", "trio_rooms", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests against the built wheel."""
    session.install(".", *group("tests"))
    run_tests(session, "pytest")


@nox.session(python=PYTHONS[0])
def tests_min(session: nox.Session) -> None:
    """The tests with the oldest Python and the lowest versions that pyproject.toml admits, without generated ones.

    They are measured for ``coverage``.
    """
    pins = [lowest(requirement) for requirement in PYPROJECT["project"]["dependencies"]]
    session.install(".", *pins, *group("tests"))
    run_tests(session, "coverage", "run", "-m", "pytest", "-m", "not long and not once")


@nox.session
def long(session: nox.Session) -> None:
    """The tests marked ``long``, with 10,000 generated examples each; not a part of plain ``nox``."""
    session.install(".", *group("tests"))
    # One test takes longer than the threads are given before pytest dumps them.
    patience = ("-o", "faulthandler_timeout=3600")
    run_tests(session, "pytest", "-m", "long", *patience, env={"HYPOTHESIS_PROFILE": "long"})


@nox.session
def tests_oracle(session: nox.Session) -> None:
    """The tests over the transport that is not the default, whose bytes and close codes are others' work."""
    session.install(".", *group("tests"))
    # The generated ones compare the transports anyway.
    run_tests(session, "pytest", "-m", "not long and not once", "--transport=trio-websocket")


@nox.session(reuse_venv=False)
def examples(session: nox.Session) -> None:
    """Each example, copied elsewhere, starts and stops with nothing installed but the wheel and what it asks for."""
    script = Path("tests/start_examples.py").absolute()
    with TemporaryDirectory() as folder:
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ".")
        (wheel,) = Path(folder).glob("*.whl")
        session.install(str(wheel))
        copies = shutil.copytree("examples", Path(folder, "examples"))
        # Without the safe path, as the script finds its helper beside it; the checkout is not on its path either way.
        with session.chdir(folder):
            session.run("python", "-W", "error", str(script), str(copies))


@nox.session
def autobahn(session: nox.Session) -> None:
    """Autobahn's cases against the native transport; not a part of plain ``nox``. Quick: ``-- --quick plain``."""
    session.install(".", *group("autobahn"))
    session.run("python", "tests/autobahn", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def soak(session: nox.Session) -> None:
    """Clients come and go for ten minutes, and nothing may grow; not a part of plain ``nox``. ``-- --minutes 1``."""
    session.install(".", *group("tests"))
    session.run("python", "-W", "error", "tests/soak.py", *session.posargs)


@nox.session
def storm(session: nox.Session) -> None:
    """Clients behind a proxy that cuts, stalls and half-closes, for a minute; a short one is among the tests."""
    session.install(".", *group("tests"))
    session.run("python", "-W", "error", "tests/storm.py", *session.posargs)


@nox.session
def flood(session: nox.Session) -> None:
    """An hour of virtual time of rooms, users, sessions and keys that clients make up; a short one is a test."""
    session.install(".", *group("tests"))
    session.run("python", "-W", "error", "tests/flood.py", *session.posargs)


@nox.session
def removals(session: nox.Session) -> None:
    """Each option, hook and limit is removed, and a test must fail; takes an hour, and is not a part of plain ``nox``.

    ``-- Limits max_depth``: only those with one of these words in their names.
    """
    session.install(".", *group("tests"))
    session.run("python", "tests/removals", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def simulate(session: nox.Session) -> None:
    """20,000 seeds of the simulation; not a part of plain ``nox``. ``-- --count 1000 --first 500000``."""
    session.install(".")
    arguments = session.posargs or ("--count", "20000", "--processes", str(os.cpu_count() or 1))
    session.run("python", "-m", "trio_rooms.testing.simulate", *arguments, env={"PYTHONSAFEPATH": "1"})


@nox.session
def mutations(session: nox.Session) -> None:
    """Mistakes are made in the library, and the simulation must find each; not a part of plain ``nox``."""
    session.install(".", *group("tests"))
    session.run("python", "tests/mutations", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Random and mutated requests and frames; not a part of plain ``nox``. ``-- --cases 200000 --seed N``."""
    session.install(".", *group("tests"))
    # No safe path: a script finds its neighbours, and in its folder there is no package.
    session.run("python", "tests/fuzz.py", *session.posargs)


@nox.session
def screenshots(session: nox.Session) -> None:
    """The pictures of the web pages in docs/, anew; not a part of plain ``nox``. Needs Chromium."""
    session.install(".", *group("tests"))
    session.run("python", "tests/screenshots.py")


@nox.session
def bench(session: nox.Session) -> None:
    """A short measurement beside the C floor and the peers; not a part of plain ``nox``. See docs/performance.md."""
    session.install(".")
    session.run("python", "-m", "benchmarks", "--quick", "--goals", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Make the pages and pictures that are made from the source; the tests fail while one is out of date."""
    session.install("attrs")
    for script in ("make_reference.py", "make_task_tree.py"):
        session.run("python", f"docs/{script}")


@nox.session
def coverage(session: nox.Session) -> None:
    """What ``tests_min`` covered, in this and earlier runs; fails below the bound."""
    session.install(*group("tests"))
    session.run("coverage", "combine")
    session.run("coverage", "report")
