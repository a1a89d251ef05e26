"""The dashboard's server side, in memory and in virtual time: what is told, to whom, and in which order."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dashboard import LINGER, LIST, MAX_KEPT, MAX_RUNNING, PREFIX, make_manager
from pages import check_files, refusal
from program import ROOT, run_program
from runner import NodeFailed, Progress, Work
from trio_rooms.testing import MemoryServer, ReplyError, TestClient, serve_in_memory
from workflow import WORKFLOWS, Execution, Node

Json = dict[str, Any]


@attrs.define(eq=False)
class Gates:
    """Work that is over when the test says so."""

    error: str = "no space left"
    _open: defaultdict[str, trio.Event] = attrs.field(factory=lambda: defaultdict(trio.Event))

    async def work(self, execution: Execution, node: Node, progress: Progress) -> None:
        progress(0.5)
        await self._open[node.id].wait()
        if execution.fails and node.fragile:
            raise NodeFailed(self.error)

    async def finish(self, *nodes: str) -> None:
        for node in nodes:
            self._open[node].set()
            await wait_all_tasks_blocked()


@asynccontextmanager
async def serve(work: Work | None = None) -> AsyncIterator[MemoryServer]:
    async with serve_in_memory(make_manager(work=work)) as server:
        yield server


@asynccontextmanager
async def page(server: MemoryServer) -> AsyncIterator[TestClient]:
    async with await server.connect(subprotocol="trio-rooms.v1.json") as client:
        await client.receive_json()  # $welcome
        yield client


async def start(client: TestClient, workflow: str = "release", **data: object) -> str:
    execution_id: str = (await client.request("start", {"workflow": workflow, **data}))["execution_id"]
    return execution_id


async def watch(client: TestClient, execution_id: str) -> Json:
    snapshot: Json = await client.request("watch", {"execution_id": execution_id})
    return snapshot


async def hear(client: TestClient, room: str) -> Json:
    """What is published next to a room."""
    while (message := await client.receive_json()).get("room") != room:
        pass
    data: Json = message["data"]
    return data


async def hear_all(client: TestClient, execution_id: str) -> list[Json]:
    """The events of an execution up to its last."""
    events: list[Json] = []
    while not events or events[-1]["type"] not in ("execution.completed", "execution.failed", "execution.cancelled"):
        events.append(await hear(client, PREFIX + execution_id))
    return events


def types(events: list[Json], node_id: str) -> list[str]:
    """What was told of a node, but for its progress."""
    return [event["type"] for event in events if event["node_id"] == node_id and event["type"] != "node.progress"]


def statuses(snapshot: Json) -> Counter[str]:
    return Counter(node["status"] for node in snapshot["nodes"].values())


@pytest.mark.parametrize("workflow", WORKFLOWS)
async def test_an_execution_runs_its_nodes_in_the_order_of_the_graph(workflow: str, autojump_clock: MockClock) -> None:
    """Each node starts after all that it comes after, each is completed, and the events are numbered without a gap."""
    async with serve() as server, page(server) as client:
        execution_id = await start(client, workflow)
        snapshot = await watch(client, execution_id)
        events = snapshot["events"] + await hear_all(client, execution_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert {event["workflow_execution_id"] for event in events} == {execution_id}
        assert events[0]["type"] == "execution.started"
        assert events[-1]["type"] == "execution.completed"
        place = {(event["type"], event["node_id"]): event["seq"] for event in events}
        for node in WORKFLOWS[workflow].nodes:
            assert types(events, node.id) == ["node.started", "node.completed"]
            for before in node.after:
                assert place["node.completed", before] < place["node.started", node.id]


async def test_whoever_comes_whenever_has_each_event_once(autojump_clock: MockClock) -> None:
    """With events at every turn of the scheduler, a watcher's snapshot and what it is told after it are the whole."""
    turns = 30  # fewer events in all than an outbox holds: whatever the transport, nobody is too slow

    async def work(execution: Execution, node: Node, progress: Progress) -> None:
        for turn in range(turns):
            await trio.lowlevel.checkpoint()
            progress(turn / turns)

    seen: list[int] = []

    async def come(server: MemoryServer, execution_id: str, after: int) -> None:
        async with page(server) as client:
            for _ in range(after):
                await trio.lowlevel.checkpoint()
            snapshot = await watch(client, execution_id)
            first = snapshot["summary"]["seq"] + 1
            assert snapshot["events"][-1]["seq"] == first - 1
            told = [] if snapshot["summary"]["status"] == "succeeded" else await hear_all(client, execution_id)
            assert [event["seq"] for event in told] == list(range(first, first + len(told)))
            seen.append(len(told))

    async with serve(work) as server, page(server) as client:
        execution_id = await start(client)
        async with trio.open_nursery() as nursery:
            for after in range(0, 200, 5):
                nursery.start_soon(come, server, execution_id, after)
    assert len(set(seen)) > 10, "they came at different times"


async def test_a_snapshot_is_the_state_that_the_events_add_up_to(autojump_clock: MockClock) -> None:
    """Who comes late is shown what is over, what runs and how far it is, with the graph and the events so far."""
    gates = Gates()
    async with serve(gates.work) as server, page(server) as client, page(server) as late:
        execution_id = await start(client)
        await gates.finish("checkout", "lint")
        snapshot = await watch(late, execution_id)
        assert snapshot["summary"]["status"] == "running"
        assert (snapshot["summary"]["done"], snapshot["summary"]["total"]) == (2, 7)
        assert snapshot["nodes"]["lint"] == {"status": "succeeded", "progress": 1.0, "error": None}
        assert snapshot["nodes"]["test"] == {"status": "running", "progress": 0.5, "error": None}
        assert snapshot["nodes"]["scan"] == {"status": "waiting", "progress": 0.0, "error": None}
        assert [node["id"] for node in snapshot["graph"]] == [node.id for node in WORKFLOWS["release"].nodes]
        await gates.finish("test")
        assert (await hear(late, PREFIX + execution_id))["type"] == "node.completed"


async def test_a_failed_node_ends_only_what_comes_after_it(autojump_clock: MockClock) -> None:
    """It is told with its error, those behind it are skipped, other branches go on, and the execution has failed."""
    gates = Gates()
    async with serve(gates.work) as server, page(server) as client:
        execution_id = await start(client, "video", fail=True)
        await watch(client, execution_id)
        await gates.finish(*(node.id for node in WORKFLOWS["video"].nodes))
        events = await hear_all(client, execution_id)
        (failed,) = [event for event in events if event["type"] == "node.failed"]
        assert (failed["node_id"], failed["data"]) == ("hd", {"error": "no space left"})
        assert types(events, "package") == types(events, "publish") == ["node.skipped"]
        assert events[-1]["type"] == "execution.failed"
        snapshot = await watch(client, execution_id)
        assert statuses(snapshot) == {"succeeded": 5, "failed": 1, "skipped": 2}
        assert snapshot["nodes"]["hd"] == {"status": "failed", "progress": 0.5, "error": "no space left"}


async def test_stopping_cancels_all_that_is_not_over(autojump_clock: MockClock) -> None:
    """What ran or waited is told to be cancelled, what was over stays, and another execution goes on."""
    gates = Gates()
    async with serve(gates.work) as server, page(server) as client:
        other, execution_id = await start(client), await start(client)
        await gates.finish("checkout")
        await watch(client, execution_id)
        await client.request("stop", {"execution_id": execution_id})
        events = await hear_all(client, execution_id)
        assert [event["type"] for event in events] == ["node.cancelled"] * 6 + ["execution.cancelled"]
        assert statuses(await watch(client, execution_id)) == {"succeeded": 1, "cancelled": 6}
        assert statuses(await watch(client, other)) == {"succeeded": 1, "running": 3, "waiting": 3}


async def test_simulated_work_fails_where_it_is_asked_to(autojump_clock: MockClock) -> None:
    """The work that the example comes with tells its progress, and a fragile node fails in the midst of it."""
    async with serve() as server, page(server) as client:
        execution_id = await start(client, "report", fail=True)
        events = [*(await watch(client, execution_id))["events"], *await hear_all(client, execution_id)]
        assert types(events, "sessions") == ["node.started", "node.failed"]
        shares = [event["data"]["progress"] for event in events if event["type"] == "node.progress"]
        assert set(shares) == {0.2, 0.4, 0.6, 0.8}


async def test_what_is_refused(autojump_clock: MockClock) -> None:
    """Unknown names and wrong data are refused with a code, and open no room."""
    async with serve() as server, page(server) as client:
        assert (await refusal(client, "start", {"workflow": "../etc"})).code == "UNKNOWN_WORKFLOW"
        wrong = await refusal(client, "start", {"workflow": "release", "fail": "yes"})
        assert wrong.code == "BAD_MESSAGE"
        assert "$.fail" in wrong.message
        for action in ("watch", "stop"):
            for name in ("exec_0", "", "*", LIST):
                assert (await refusal(client, action, {"execution_id": name})).code == "UNKNOWN_EXECUTION"
        assert (await refusal(client, "$join", {"room": LIST})).code == "DENIED"
        assert not server.manager.rooms()


async def test_no_more_than_so_many_run_at_once(autojump_clock: MockClock) -> None:
    """At the bound a start is refused for now, also when many start at once, and leaves no room behind."""
    gates = Gates()
    outcomes: list[str] = []

    async def try_to_start(client: TestClient) -> None:
        try:
            await start(client)
            outcomes.append("started")
        except ReplyError as error:
            outcomes.append(f"{error.code}, for now" if error.temporary else error.code)

    async with serve(gates.work) as server, page(server) as one, page(server) as two, page(server) as three:
        ids = [await start(one) for _ in range(MAX_RUNNING - 1)]
        async with trio.open_nursery() as nursery:
            for client in (one, two, three):
                nursery.start_soon(try_to_start, client)
        assert sorted(outcomes) == ["TOO_MANY_RUNNING, for now", "TOO_MANY_RUNNING, for now", "started"]
        assert len(server.manager.rooms()) == MAX_RUNNING
        await one.request("stop", {"execution_id": ids[0]})
        await wait_all_tasks_blocked()
        await start(two)


async def test_the_oldest_that_is_over_makes_room(autojump_clock: MockClock) -> None:
    """At the bound of those kept the oldest that is over is forgotten: its watcher and the list are told."""
    gates = Gates()
    await gates.finish(*(node.id for node in WORKFLOWS["release"].nodes))
    async with serve(gates.work) as server, page(server) as client, page(server) as lister:
        ids = []
        for _ in range(MAX_KEPT):
            ids.append(await start(client))
            await wait_all_tasks_blocked()
        await watch(client, ids[0])
        assert len((await lister.request("list"))["executions"]) == MAX_KEPT
        await start(client)
        while (message := await client.receive_json()).get("action") != "$closed":
            pass
        assert (message["data"]["room"], message["data"]["code"]) == (PREFIX + ids[0], "FORGOTTEN")
        while not (line := await hear(lister, LIST)).get("gone"):
            assert line["execution_id"] not in ids
        assert line == {"execution_id": ids[0], "gone": True}
        assert (await refusal(client, "watch", {"execution_id": ids[0]})).code == "UNKNOWN_EXECUTION"


async def test_an_execution_goes_on_unwatched_and_is_kept_for_a_while(autojump_clock: MockClock) -> None:
    """Nobody has to watch; what is over can be looked at until the linger time has passed, and then it is gone."""
    async with serve() as server:
        async with page(server) as client:
            execution_id = await start(client)
        await trio.sleep(LINGER / 2)
        async with page(server) as client:
            assert (await watch(client, execution_id))["summary"]["status"] == "succeeded"
        await trio.sleep(LINGER - 1)
        async with page(server) as client:
            assert len((await client.request("list"))["executions"]) == 1
            assert await hear(client, LIST) == {"execution_id": execution_id, "gone": True}
            assert (await client.request("list"))["executions"] == []
            assert (await refusal(client, "watch", {"execution_id": execution_id})).code == "UNKNOWN_EXECUTION"


async def test_the_list_follows(autojump_clock: MockClock) -> None:
    """Who has asked for the list is told when a state changes, and not of each step of progress."""
    gates = Gates()

    async def work(execution: Execution, node: Node, progress: Progress) -> None:
        for share in (0.2, 0.4, 0.6):
            await trio.sleep(1)
            progress(share)
        await gates.work(execution, node, progress)

    async with serve(work) as server, page(server) as client, page(server) as other:
        listed = await client.request("list")
        assert [workflow["id"] for workflow in listed["workflows"]] == list(WORKFLOWS)
        assert listed["executions"] == []
        execution_id = await start(other)
        await trio.sleep(4)  # longer than the steps take
        line = await hear(client, LIST)
        if line["seq"] == 1:  # or the next has replaced it
            line = await hear(client, LIST)
        assert (line["execution_id"], line["done"], line["total"], line["status"]) == (execution_id, 0, 7, "running")
        assert line["seq"] == 2
        await client.receive_nothing(1)
        await gates.finish("checkout")
        while (line := await hear(client, LIST))["seq"] < 10:
            pass
        assert (line["done"], line["status"]) == (1, "running")
        assert (await other.request("list"))["executions"] == [line]


async def test_the_page_and_all_that_it_loads_are_served(autojump_clock: MockClock) -> None:
    """Every file that the page names is there with its type, and nothing is loaded from elsewhere."""
    async with serve() as server:
        await check_files(server, "client.js", "elements.js", "graph.js", "run.js")


@pytest.mark.sockets
async def test_the_program() -> None:
    """Started from anywhere it prints where it is, and a signal ends it at once, whatever runs."""
    async with run_program(ROOT / "examples" / "dashboard", "--port", "0", "--speed", "0.01") as program:
        url = await program.line()
        assert url.startswith("http://127.0.0.1:")
        assert await program.stop(signal.SIGTERM) == 0
    assert program.stderr == b""
