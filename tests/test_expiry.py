"""The end of sessions: when, why, and ``on_session_expired`` exactly once for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from hall import record, settle
from returning import V1, WINDOW, make_manager, visit
from trio_rooms import Close, Connection, Limits, Manager
from trio_rooms.testing import TestClient, serve_in_memory


@attrs.define(eq=False)
class Ends:
    """What ``on_session_expired`` was called with, and when."""

    calls: list[tuple[str, str | None, dict[str, Any]]] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    takes: Callable[[], float] = lambda: 0

    async def __call__(self, session_id: str, user: str | None, metadata: dict[str, Any]) -> None:
        self.calls.append((session_id, user, metadata))
        self.times.append(trio.current_time())
        await trio.sleep(self.takes())

    @property
    def ids(self) -> list[str]:
        return [call[0] for call in self.calls]


def make(**options: Any) -> tuple[Manager, Ends]:
    manager = make_manager(**options)
    ends = Ends()
    manager.on_session_expired(ends)
    return manager, ends


async def test_by_time(autojump_clock: MockClock) -> None:
    """Once, when the window after the connection's end has passed, with what was kept."""
    manager, ends = make()
    async with serve_in_memory(manager) as memory:
        first = await visit(memory, user="ada")
        await first.client.request("keep", {"name": "Ada"})
        first.conn.metadata["else"] = 1
        await trio.sleep(5)
        await first.lose()
        lost = trio.current_time()
        await trio.sleep(WINDOW - 1)
        assert ends.calls == []
        assert memory.server.statistics().sessions_kept == 1
        await trio.sleep(10)
        assert ends.calls == [(first.conn.session_id, "ada", {"name": "Ada"})]
        assert ends.times == [lost + WINDOW]
        statistics = memory.server.statistics()
        assert (statistics.sessions_kept, statistics.sessions_expired) == (0, 1)
        assert not (await visit(memory, first.token, user="ada")).conn.restored
        await trio.sleep(3 * WINDOW)
    assert ends.ids.count(str(first.conn.session_id)) == 1


async def test_each_return_begins_a_new_window(autojump_clock: MockClock) -> None:
    """A session may last for ever, as long as its client comes back in time."""
    manager, ends = make()
    async with serve_in_memory(manager) as memory:
        found = await visit(memory)
        for _ in range(4):
            await found.lose()
            await trio.sleep(WINDOW - 0.1)
            found = await visit(memory, found.token)
            assert found.conn.restored
        assert ends.calls == []
        await found.lose()
        await trio.sleep(WINDOW + 1)
        assert ends.ids == [found.conn.session_id]


@pytest.mark.parametrize("for_good", [False, True])
async def test_behind_the_hooks_of_all_its_connections(for_good: bool, autojump_clock: MockClock) -> None:
    """One that comes and goes while ``on_disconnect`` of the one before runs does not end the session sooner."""
    manager, ends = make(session_window=2.0)
    done: list[float] = []

    @manager.on_disconnect
    async def on_disconnect(conn: Connection, close: Close) -> None:
        await trio.sleep(4)
        conn.metadata["left"] = "late"
        conn.keep("left")
        done.append(trio.current_time())

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.client.aclose()
        await settle()
        again = await memory.connect(subprotocol=V1)
        await again.send_action("$session", {"session": first.token}, id=1)
        await trio.sleep(0.5)
        if for_good:
            for conn in manager.connections.values():
                conn.close(4500)
        await again.aclose()
        await trio.sleep(20)
        assert len(done) == 1  # on_connect of the other one was never called
        assert ends.calls == [(first.conn.session_id, None, {"left": "late"})]
        assert ends.times == [done[0] + (0.0 if for_good else 2.0)]


async def test_in_the_order_in_which_they_were_kept(autojump_clock: MockClock) -> None:
    """Each at its own time, also where one of them has come back meanwhile."""
    manager, ends = make()
    async with serve_in_memory(manager) as memory:
        visits = [await visit(memory) for _ in range(4)]
        for number in (2, 0, 3, 1):
            await visits[number].lose()
            await trio.sleep(1)
        await visit(memory, visits[2].token)
        await trio.sleep(WINDOW + 1)
        assert ends.ids == [visits[number].conn.session_id for number in (0, 3, 1)]
        assert ends.times == [WINDOW + 1, WINDOW + 2, WINDOW + 3]


async def test_at_the_very_moment_it_is_over(autojump_clock: MockClock) -> None:
    """What has expired is not restored, also while its hook waits for slow ones."""
    manager, ends = make()
    ends.takes = lambda: 3
    async with serve_in_memory(manager) as memory:
        visits = [await visit(memory) for _ in range(40)]
        for one in visits:
            await one.lose()
        await trio.sleep(WINDOW)
        await settle()
        assert (len(ends.calls), memory.server.statistics().sessions_kept) == (32, 8)
        assert not (await visit(memory, visits[-1].token)).conn.restored
        await trio.sleep(10)
        # Of those whose hooks run side by side, trio decides which begins first.
        assert {*ends.ids[:32]} == {one.conn.session_id for one in visits[:32]}
        assert {*ends.ids[32:]} == {one.conn.session_id for one in visits[32:]}
        assert ends.times == [WINDOW] * 32 + [WINDOW + 3] * 8


CLOSES: list[tuple[str, Any, bool]] = [
    ("by the client", 1000, True),
    ("by the client", 1001, False),
    ("by the client", 4999, False),
    ("by the server", 1000, True),
    ("by the server", 1008, True),
    ("by the server", 4500, True),
    ("by the server", 4999, True),
    ("by the server", 1001, False),
    ("by the server", 1011, False),
    ("by the server", 1012, False),
    ("by the server", 3000, False),
    ("by the server", 4000, False),
    ("by the server", 4499, False),
]


@pytest.mark.parametrize(("who", "code", "ends_it"), CLOSES)
async def test_by_a_close(who: str, code: int, ends_it: bool, autojump_clock: MockClock) -> None:
    """A close for good ends the session at once, after ``on_disconnect``; after any other it can be restored."""
    manager, ends = make()
    log: list[str] = []

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        await trio.sleep(1)
        log.append(f"disconnected after {len(ends.calls)} sessions")

    async with serve_in_memory(manager) as memory:
        found = await visit(memory)
        if who == "by the client":
            await found.client.close(code)
        else:
            found.conn.close(code)
            await found.client.expect_close(code)
        await found.client.aclose()
        await found.conn.wait_closed()
        assert ends.ids == ([found.conn.session_id] if ends_it else [])
        assert log == ["disconnected after 0 sessions"]
        assert (await visit(memory, found.token)).conn.restored is not ends_it


async def test_by_too_many(autojump_clock: MockClock) -> None:
    """The one that was kept first goes, and its hook runs before the connection that pushed it out is over."""
    manager, ends = make(limits=Limits(max_sessions=2))
    ends.takes = lambda: 2
    async with serve_in_memory(manager) as memory:
        visits = [await visit(memory) for _ in range(3)]
        for one in visits:
            await one.client.aclose()
            await settle()
        assert ends.ids == [visits[0].conn.session_id]
        begin = trio.current_time()
        await visits[2].conn.wait_closed()
        assert trio.current_time() == begin + 2


async def test_by_the_end_of_serve(autojump_clock: MockClock) -> None:
    """All of them, those of connections that the shutdown closes, too; once each."""
    manager, ends = make()
    async with serve_in_memory(manager) as memory:
        visits = [await visit(memory) for _ in range(50)]
        for one in visits[:25]:
            await one.lose()
        assert ends.calls == []
    assert sorted(ends.ids) == sorted(str(one.conn.session_id) for one in visits)


async def test_they_live_until_serve_ends(autojump_clock: MockClock) -> None:
    """A drain ends connections one by one; their sessions end with the last."""
    manager, ends = make()
    clients: list[TestClient] = []

    @manager.on("busy")
    async def busy(conn: Connection) -> None:
        await trio.sleep(20)

    async with serve_in_memory(manager) as memory:
        clients = [(await visit(memory)).client for _ in range(2)]
        await clients[0].send_action("busy")
        await settle()
        memory.server.begin_shutdown()
        await clients[1].expect_close(1012, skip_messages=True)
        await clients[1].aclose()
        await settle()
        assert ends.calls == []
        await clients[0].expect_close(1012, skip_messages=True)
        await clients[0].aclose()
    assert (len(ends.calls), ends.times) == (2, [20, 20])


@pytest.mark.parametrize("cancelled", [False, True])
async def test_hooks_that_hang_at_the_end_of_serve(cancelled: bool, autojump_clock: MockClock) -> None:
    """They have ``hook_timeout`` together, and each is called; then serve ends."""
    manager, ends = make(hook_timeout=3)
    ends.takes = lambda: 1000
    log = record(manager)
    with trio.CancelScope() as scope:
        async with serve_in_memory(manager) as memory:
            visits = [await visit(memory) for _ in range(100)]
            for one in visits:
                await one.lose()
            if cancelled:
                scope.cancel()
    assert trio.current_time() == 3
    assert sorted(ends.ids) == sorted(str(one.conn.session_id) for one in visits)
    assert [entry[1] for entry in log if entry[0] == "error"] == ["HookTimeout"] * 100


async def test_a_hook_that_raises(autojump_clock: MockClock) -> None:
    """It is reported, and the others run."""
    manager = make_manager()
    log = record(manager)

    @manager.on_session_expired
    def broken(*args: object) -> None:
        raise ValueError("broken")

    ends = Ends()
    manager.on_session_expired(ends)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.lose()
        await trio.sleep(WINDOW + 1)
    assert ends.ids == [first.conn.session_id]
    assert [entry for entry in log if entry[0] == "error"] == [("error", "ValueError", None)]


async def test_an_on_connect_that_fails_has_begun(autojump_clock: MockClock) -> None:
    """Then the program knows of the session, and is told of its end, once."""
    manager, ends = make()
    manager.on_connect(lambda conn: conn.close(4500))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1)
        await client.send_action("$session")
        await client.expect_close(4500, skip_messages=True)
        await client.aclose()
    assert len(ends.calls) == 1


async def test_quiescence_names_sessions(autojump_clock: MockClock) -> None:
    """While there are some, they are left."""
    async with serve_in_memory(make_manager()) as memory:
        found = await visit(memory)
        await found.lose()
        with pytest.raises(AssertionError, match=f"session '{found.conn.session_id}'"):
            memory.server.assert_quiescent()


@pytest.mark.parametrize("users", [1, 1000])
async def test_memory_is_flat_for_an_hour(users: int, autojump_clock: MockClock) -> None:
    """However many clients come, stay for a while, and do not come back: what is kept is what the window holds."""
    manager, ends = make(limits=Limits(max_sessions=50))
    counts = []
    async with serve_in_memory(manager) as memory:
        sessions = memory.server._node.sessions
        assert sessions is not None
        for number in range(500):
            found = await visit(memory, user=f"user{number % users}")
            await found.join(f"open-{number}")
            await found.lose()
            await trio.sleep(7)
            counts.append((sessions.kept, len(sessions.all), len(sessions._of_digest), len(sessions.due)))
        assert set(counts[20:]) == {(8, 8, 8, 0)}
        assert len(ends.calls) == 492
