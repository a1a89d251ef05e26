"""For all tests: a bound in time for each trio test, the transport, and no silent skips in CI."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import hypothesis
import pytest
import trio
from trio.testing import MockClock

import transport_default
from listeners import open_descriptors

pytest_plugins = ["trio_rooms.testing.fixtures"]

# No test is about wall-clock time, its generated examples included; and CI is to try the same ones each time.
hypothesis.settings.register_profile(
    "trio_rooms",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# `nox -s long` looks for new ones instead, many of them, and says how to repeat what it finds.
hypothesis.settings.register_profile(
    "long",
    parent=hypothesis.settings.get_profile("trio_rooms"),
    max_examples=10_000,
    derandomize=False,
    print_blob=True,
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "trio_rooms"))

#: Seconds of a MockClock. They cost nothing; without a bound a deadlock under autojump spins for ever.
VIRTUAL_LIMIT = 3600.0
REAL_LIMIT = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--transport=NAME``."""
    parser.addoption(
        "--transport",
        choices=["native", "trio-websocket"],
        help="the transport of all servers for which a test names none (default: the library's default)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Set the transport, also of the programs that tests start."""
    if name := config.getoption("transport"):
        transport_default.set_default(name)
        transport_default.set_default_of_programs(name)


def bounded(function: Callable[..., Awaitable[None]], limit: float | None) -> Callable[..., Awaitable[None]]:
    """The same function, but it raises TooSlowError when its run is not over after ``limit`` seconds."""

    @wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
        with trio.fail_after(limit or (VIRTUAL_LIMIT if virtual else REAL_LIMIT)):
            await function(*args, **kwargs)

    return wrapper


def bound_item(item: pytest.Function) -> None:
    """Bound one test, by marker ``time_limit`` or by default.

    pytest-trio takes the runner from the first ``trio`` marker, so this one bounds the fixtures, too.
    It does not look at the marker where Hypothesis calls the test: there the function itself is wrapped.
    """
    marker = item.get_closest_marker("time_limit")
    limit = marker.args[0] if marker else None
    if (hypothesis := getattr(item.obj, "hypothesis", None)) is not None:
        if iscoroutinefunction(hypothesis.inner_test):
            hypothesis.inner_test = bounded(hypothesis.inner_test, limit)
    elif iscoroutinefunction(item.obj):

        def run(function: Callable[..., Awaitable[None]], **options: Any) -> None:
            trio.run(bounded(function, limit), **options)

        item.add_marker(pytest.mark.trio(run=run), append=False)


#: Files whose outcome hangs neither on the Python nor on the transport, or takes long and hardly does. They are run by
#: the README's command, and by ``nox -s tests`` as it stands; what CI runs beside that leaves them out.
ONCE = {
    "test_benchmarks.py",
    "test_client_js.py",
    "test_crowd.py",
    "test_flood.py",
    "test_growth.py",
    "test_mutations.py",
    "test_names_in_docs.py",
    "test_readme.py",
    "test_recovery_cuts.py",
    "test_reference.py",
    "test_removals.py",
    "test_soak.py",
    "test_structure.py",
    "test_tutorial.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every trio test."""
    for item in items:
        if isinstance(item, pytest.Function):
            bound_item(item)
    for item in items:
        if item.path.name in ONCE or "browser" in item.keywords:
            item.add_marker(pytest.mark.once)


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Whatever the test does, as many descriptors are open after it as before."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def skipped(config: pytest.Config) -> list[pytest.CollectReport | pytest.TestReport]:
    """The skips that count as failures: all of them, in CI."""
    if os.environ.get("CI", "").lower() != "true":
        return []
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if reporter else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where every component has to be there (CI), a skipped test fails the run."""
    if session.exitstatus == pytest.ExitCode.OK and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say why the run failed, although no test did."""
    if reports := skipped(config):
        terminalreporter.section("SKIPPED IN CI: THE RUN FAILS", red=True, bold=True)
        for report in reports:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.write_line(f"{report.nodeid}: {reason}", red=True)
