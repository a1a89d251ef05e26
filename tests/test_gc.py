"""The garbage collector under ``run`` and the command; nothing else of the library touches it."""

from __future__ import annotations

import gc
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from program import run_program
from trio_rooms import Manager, Server, serve_rooms
from trio_rooms.testing import TestClient, open_client

# To be told from Python's own, on each of its versions, and from what `run` sets.
LOWER = (650, 9, 8)
TUNED = (10_000, 2, 500)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Thresholds that are ours, and nothing frozen; Python's own afterwards."""
    before = gc.get_threshold()
    gc.unfreeze()  # some Pythons begin with frozen objects
    gc.set_threshold(*LOWER)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def run(look: Callable[[], object], **options: bool) -> None:
    """Run a manager, look when it listens, and stop it."""

    def listening(server: Server) -> None:
        look()
        signal.raise_signal(signal.SIGINT)

    Manager().run(port=0, on_listening=listening, **options)


def state() -> tuple[tuple[int, int, int], bool]:
    """The thresholds, and whether anything is frozen."""
    return gc.get_threshold(), gc.get_freeze_count() > 0


def test_run_tunes_it() -> None:
    """While ``run`` serves, what was there is frozen and the thresholds are raised; then all is as before."""
    seen: list[object] = []
    run(lambda: seen.append(state()))
    assert seen == [(TUNED, True)]
    assert state() == (LOWER, False)


def test_run_leaves_it_alone() -> None:
    """With ``tune_gc=False`` nothing is touched, neither at the start nor at the end."""
    seen: list[object] = []

    def look() -> None:
        seen.append(state())
        gc.set_threshold(800)
        gc.freeze()

    run(look, tune_gc=False)
    assert seen == [(LOWER, False)]
    assert gc.get_threshold()[0] == 800
    assert gc.get_freeze_count() > 0


def test_run_that_fails() -> None:
    """However ``run`` ends, the program finds the collector as it was."""

    def fail() -> None:
        assert state() == (TUNED, True)
        raise LookupError

    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        run(fail)
    assert state() == (LOWER, False)


@pytest.mark.parametrize(
    ("own", "then"), [((50_000, 5, 100), (50_000, 5, 100)), ((0, 10, 10), (0, 10, 10))], ids=["higher", "off"]
)
def test_thresholds_of_the_program(own: tuple[int, int, int], then: tuple[int, int, int]) -> None:
    """Who has raised the first threshold keeps all three, and who has switched the collector off keeps it so."""
    seen: list[object] = []
    gc.set_threshold(*own)
    run(lambda: seen.append(gc.get_threshold()))
    assert seen == [then]
    assert gc.get_threshold() == own


def test_garbage_is_not_frozen() -> None:
    """What is garbage at the start is collected, since frozen it would stay."""

    class Node:
        pass

    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    gone = weakref.ref(node)
    gc.disable()
    try:
        del node
        assert gone() is not None
        run(lambda: None)
        assert gone() is None
    finally:
        gc.enable()


async def test_serve_does_not_touch_it(autojump_clock: object) -> None:
    """``serve``, in whatever way, is part of a program that owns its collector."""
    async with serve_rooms(Manager(), listeners=[]):
        assert state() == (LOWER, False)
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    async with open_client(manager) as client:
        assert await client.request("echo", 1) == 1
        assert state() == (LOWER, False)
    assert state() == (LOWER, False)


async def test_imports_do_not_touch_it() -> None:
    """Importing the library, its command included, changes nothing of the process."""
    source = """
import gc
def state():
    return gc.get_threshold(), gc.get_freeze_count(), gc.isenabled(), len(gc.callbacks)
before = state()
import trio_rooms.cli, trio_rooms.demo, trio_rooms.middleware, trio_rooms.testing
print(state() == before)
"""
    async with run_program("-c", source) as program:
        assert await program.line() == "True"
        assert await program.process.wait() == 0


PROGRAM = """
import gc
from trio_rooms import Manager

gc.set_threshold(650, 9, 8)
gc.unfreeze()
manager = Manager()

@manager.on("state")
def state(conn):
    return [gc.get_threshold(), gc.get_freeze_count() > 0]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process")
@pytest.mark.sockets
@pytest.mark.parametrize(
    ("options", "expected"), [([], [list(TUNED), True]), (["--no-tune-gc"], [list(LOWER), False])], ids=["on", "off"]
)
async def test_the_command(
    options: list[str], expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command tunes the collector of its process, unless it is told not to."""
    (tmp_path / "collected.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    async with run_program("-m", "trio_rooms", "serve", "collected:manager", "--port", "0", *options) as program:
        url = urlsplit((await program.line()).split()[-1])
        assert url.hostname is not None
        assert url.port is not None
        stream = await trio.open_tcp_stream(url.hostname, url.port)
        async with await TestClient.connect(stream, host=url.netloc) as client:
            assert await client.request("state") == expected
        assert await program.stop(signal.SIGINT) == 0
