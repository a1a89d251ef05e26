"""The dashboard's server side: a room for each execution, which is its state, its runner and its watchers in one.

What the page asks; a refusal is an error with a code:

    list   {}                 -> {"workflows": [{"id", "title"}], "executions": [Summary]}
    start  {"workflow", "fail"?} -> {"execution_id"}
    watch  {"execution_id"}   -> Snapshot
    unwatch, stop {"execution_id"} -> null

What it is told: in the room of an execution each WorkflowEvent, and in the room of the list a Summary whenever one
changes, or ``{"execution_id", "gone": true}``.

**Why a watcher misses nothing and sees nothing twice.** ``record`` and ``publish`` of an event are one step, and so are
the beginning of a membership and its snapshot: no await stands between the two. Each event is therefore either in the
snapshot, or is published to the new member. One thing is left: an event that follows the snapshot may reach the member
ahead of the reply that carries it. So events are numbered, and the page keeps what comes before the reply until it has
it, and then takes those above the snapshot's number (``run.js``). The same holds after a reconnect, which is only
another ``watch``, for a member that asks again, and with a broker that delivers later than ``publish`` returns.
"""

from __future__ import annotations

import secrets
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import trio

from runner import Work, run_until_stopped, simulated_work
from trio_rooms import ActionError, Connection, Manager, Room
from workflow import WORKFLOWS, EventType, Execution, Snapshot

PREFIX = "workflow_"
LIST = "executions"
LINGER = 600  # seconds that an execution is kept with nobody watching it
MAX_RUNNING = 4
MAX_KEPT = 20  # executions; to start another one ends the room of the oldest that is over

Json = dict[str, Any]


@attrs.frozen
class Start:
    workflow: str
    fail: bool = False


@attrs.frozen
class Which:
    execution_id: str


def make_manager(*, speed: float = 1.0, work: Work | None = None) -> Manager:
    """A manager with the dashboard's handlers and pages. ``work`` is what a node does, simulated unless given."""
    manager = Manager()
    work = work or simulated_work(speed=speed)
    # The policy of these rooms is the default, `close`: a watcher must not have gaps. One that is too slow for its
    # outbox is disconnected with 4008, comes back, and has a snapshot.
    manager.room(f"{PREFIX}*", linger=LINGER)
    # Of a line in the list only the newest state matters.
    manager.room(LIST, overflow="conflate")

    def executions() -> list[Execution]:
        return [room.metadata["execution"] for room in manager.rooms() if "execution" in room.metadata]

    def announce(execution: Execution) -> None:
        manager.broadcast_to_room(LIST, execution.summary(), key=execution.id)

    def make_place() -> None:
        """For one more execution, or an ActionError."""
        kept = sorted(executions(), key=lambda execution: execution.started_at)
        over = [execution for execution in kept if not execution.running]
        if len(kept) - len(over) >= MAX_RUNNING:
            message = f"{MAX_RUNNING} executions are running, which is the most. Wait for one, or stop it."
            raise ActionError("TOO_MANY_RUNNING", message, temporary=True)
        if len(kept) >= MAX_KEPT:
            room_of(over[0].id).close("FORGOTTEN", f"Only the last {MAX_KEPT} executions are kept.")

    def room_of(execution_id: str) -> Room:
        room = manager.get_room(PREFIX + execution_id)
        if room is None or "execution" not in room.metadata:
            raise ActionError("UNKNOWN_EXECUTION", "This execution is not kept any more.")
        return room

    @manager.on("list")
    async def list_executions(conn: Connection) -> Json:
        await conn.join(LIST)
        # No await from here: what changes from now on is published to this member, too.
        workflows = [{"id": workflow.id, "title": workflow.title} for workflow in WORKFLOWS.values()]
        return {"workflows": workflows, "executions": [execution.summary() for execution in executions()]}

    @manager.on("start")
    async def start(conn: Connection, data: Start) -> Json:
        if data.workflow not in WORKFLOWS:
            raise ActionError("UNKNOWN_WORKFLOW", f"There is no workflow {data.workflow!r}.")
        execution = Execution(f"exec_{secrets.token_hex(4)}", WORKFLOWS[data.workflow], data.fail)
        # A room opens with its first member, and its linger time keeps it when that one has gone again.
        async with conn.joined(PREFIX + execution.id) as joined:
            try:
                make_place()  # here, behind the last await: two that start at once are counted one after the other
            except ActionError:
                joined.room.close()
                raise
            joined.room.metadata |= {"execution": execution, "stop": trio.CancelScope()}
            joined.room.start_soon(execute, joined.room)
        return {"execution_id": execution.id}

    async def execute(room: Room) -> None:
        """A task of the room: it ends with the execution, at the latest with the room or the server."""
        execution: Execution = room.metadata["execution"]

        def tell(event_type: EventType, node_id: str = "", **data: Any) -> None:
            room.publish_nowait(execution.record(event_type, node_id, **data))
            if event_type != "node.progress":
                announce(execution)

        await run_until_stopped(execution, room.metadata["stop"], work, tell)

    @manager.on("watch")
    async def watch(conn: Connection, data: Which) -> Snapshot:
        room_of(data.execution_id)  # a client's word opens no room
        joined = await conn.join(PREFIX + data.execution_id)
        # No await from here: see the module's docstring.
        if "execution" not in joined.room.metadata:  # it ended in between, and this is a new room of its name
            joined.room.close()
        execution: Execution = room_of(data.execution_id).metadata["execution"]
        return execution.snapshot()

    @manager.on("unwatch")
    def unwatch(conn: Connection, data: Which) -> None:
        conn.leave(PREFIX + data.execution_id)

    @manager.on("stop")
    def stop(conn: Connection, data: Which) -> None:
        room_of(data.execution_id).metadata["stop"].cancel(reason="somebody stopped it")

    @manager.on_room_close
    def forget(room: Room) -> None:
        if "execution" in room.metadata:
            execution_id = room.metadata["execution"].id
            manager.broadcast_to_room(LIST, {"execution_id": execution_id, "gone": True}, key=execution_id)

    add_pages(manager)
    return manager


def add_pages(manager: Manager) -> None:
    here = Path(__file__).parent
    manager.page("/", here / "index.html")
    manager.page("/style.css", here / "style.css", content_type="text/css; charset=utf-8")
    # The client of the protocol is the one that the demo's chat uses.
    for script in (*sorted(here.glob("*.js")), files("trio_rooms.demo") / "client.js"):
        manager.page(f"/{script.name}", script.read_bytes(), content_type="text/javascript; charset=utf-8")
