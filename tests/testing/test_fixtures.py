"""The pytest fixture: in this suite, and in one that loads it as its documentation says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from trio.testing import MockClock

from trio_rooms import Manager
from trio_rooms.testing import FaultyStream, HandshakeRefused, TestClient
from trio_rooms.testing.fixtures import connect as connect

pytest_plugins = ["pytester"]

Connect = Callable[..., Awaitable[TestClient]]


def make_manager() -> Manager:
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("count", lambda conn: len(manager.connections))
    return manager


async def test_it_connects(connect: Connect, autojump_clock: MockClock) -> None:
    """A client of a manager that is served for it."""
    manager = make_manager()
    client = await connect(manager)
    assert await client.request("echo", "hi") == "hi"
    assert manager.server is not None


async def test_one_server_for_each_manager(connect: Connect, autojump_clock: MockClock) -> None:
    """Clients of one manager share a server; another manager has its own."""
    one, other = make_manager(), make_manager()
    clients = [await connect(one) for _ in range(3)]
    assert [await client.request("count") for client in clients] == [3, 3, 3]
    assert await (await connect(other)).request("count") == 1


async def test_options(connect: Connect, autojump_clock: MockClock) -> None:
    """Options are those of ``MemoryServer.connect``, and a refusal is raised as it is."""
    manager = make_manager()
    client = await connect(manager, subprotocol="trio-rooms.v1.json", wrap=FaultyStream)
    assert client.subprotocol == "trio-rooms.v1.json"
    with pytest.raises(HandshakeRefused):
        await connect(manager, path="/elsewhere")
    assert await client.request("count") == 1


async def test_after_the_server_was_shut_down(connect: Connect, autojump_clock: MockClock) -> None:
    """A test may end the server itself; what the fixture does afterwards does no harm."""
    manager = make_manager()
    client = await connect(manager)
    manager.begin_shutdown()
    await client.expect_close(1012)


SUITE = """
from trio_rooms import Manager

MANAGER = Manager()
LOG = []
MANAGER.on_disconnect(lambda conn, close: LOG.append(close.by))

async def test_first(connect, autojump_clock):
    for _ in range(2):
        await connect(MANAGER)
    assert LOG == []

def test_second():
    assert LOG == ["network"] * 2
    assert MANAGER.server is None

async def test_third(connect, autojump_clock):
    await connect(MANAGER)
    MANAGER.server._node.counters.enqueued += 1

async def test_fourth(connect, autojump_clock):
    await connect(MANAGER)
    raise LookupError("of the test")

def test_fifth():
    assert MANAGER.server is None
"""


def test_in_a_suite_of_its_own(pytester: pytest.Pytester) -> None:
    """Loaded as a plugin it closes everything after each test, and fails a test after which something is left."""
    pytester.makeconftest('pytest_plugins = ["trio_rooms.testing.fixtures"]')
    pytester.makepyfile(SUITE)
    options = ["-o", "trio_mode=true", "-W", "error", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*options, timeout=60)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) >= 3
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 2
    result.stdout.fnmatch_lines_random(["*accounted for nowhere*", "*LookupError: of the test*"])
