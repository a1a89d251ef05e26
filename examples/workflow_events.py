"""A workflow engine and who watches it: a room for each execution, typed events, a runner that belongs to the room.

``python examples/workflow_events.py --port 8080``:

    > {"action": "watch", "data": "exec_123"}
    < {"type": "node.started", "workflow_execution_id": "exec_123", "node_id": "fetch",
       "data": {"status": "running"}, "timestamp": "2025-…"}
    < {"type": "node.completed", "workflow_execution_id": "exec_123", "node_id": "fetch",
       "data": {"status": "succeeded"}, "timestamp": "2025-…"}

and so on for the nodes "transform" and "store".

The execution begins when its first watcher comes, and is cancelled when the last one goes: nobody has to see to it.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import Any, Literal

import attrs
import trio

from trio_rooms import Connection, Manager, Room, current_room

manager = Manager()

PREFIX = "workflow_"
NODES = ("fetch", "transform", "store")


@attrs.frozen(kw_only=True)
class WorkflowEvent:
    type: Literal["node.started", "node.completed"]
    workflow_execution_id: str
    node_id: str
    data: dict[str, Any] = attrs.field(factory=dict)
    timestamp: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@manager.on("watch")
async def watch(conn: Connection, execution_id: str) -> None:
    joined = await conn.join(PREFIX + execution_id)
    room = joined.room
    if "started" not in room.metadata:  # no await between this and the next line, so only one can be the first
        room.metadata["started"] = True
        room.start_soon(execute)


async def execute() -> None:
    """Run the nodes one after the other; a task of the room, and cancelled with it."""
    room = current_room()
    assert room is not None
    for node_id in NODES:
        tell(room, "node.started", node_id, status="running")
        await trio.sleep(0.05)  # the work
        tell(room, "node.completed", node_id, status="succeeded")


def tell(room: Room, event_type: Literal["node.started", "node.completed"], node_id: str, **data: str) -> None:
    """Publish a typed event to the watchers; it is encoded once, however many they are."""
    execution_id = room.name.removeprefix(PREFIX)
    event = WorkflowEvent(type=event_type, workflow_execution_id=execution_id, node_id=node_id, data=data)
    manager.broadcast_to_room(room.name, event)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
