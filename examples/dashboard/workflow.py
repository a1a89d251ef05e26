"""What is run and what is told about it: workflows, their events, and the state that the events add up to.

Nothing in here waits or knows of a connection. ``Execution.record`` is the one place where state changes, and it
changes by an event only: whoever has a snapshot and the events after it has the state. The page does the same in
``run.js``.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

import attrs

EVENTS_KEPT = 400  # of one execution, for the log of who comes late; the longest workflow here makes about 80

Status = Literal["waiting", "running", "succeeded", "failed", "skipped", "cancelled"]
EventType = Literal[
    "execution.started",
    "execution.completed",
    "execution.failed",
    "execution.cancelled",
    "node.started",
    "node.progress",
    "node.completed",
    "node.failed",
    "node.skipped",
    "node.cancelled",
]

STATUS: dict[str, Status] = {
    "started": "running",
    "progress": "running",
    "completed": "succeeded",
    "failed": "failed",
    "skipped": "skipped",
    "cancelled": "cancelled",
}


@attrs.frozen
class Node:
    """A step of a workflow; it begins when all that it comes after has succeeded."""

    id: str
    title: str
    after: tuple[str, ...] = ()
    seconds: float = 2.0
    fragile: bool = False  # fails in an execution that is asked to fail


@attrs.frozen
class Workflow:
    """A graph of nodes, each listed behind those it comes after."""

    id: str
    title: str
    nodes: tuple[Node, ...]


@attrs.frozen(kw_only=True)
class WorkflowEvent:
    type: EventType
    workflow_execution_id: str
    node_id: str = ""  # empty where the event is the execution's own
    data: dict[str, Any] = attrs.field(factory=dict)
    timestamp: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    seq: int  # 1, 2, 3, ... within the execution


@attrs.frozen
class NodeState:
    status: Status = "waiting"
    progress: float = 0.0
    error: str | None = None


@attrs.frozen
class Summary:
    """A line in the list of executions."""

    execution_id: str
    title: str
    status: Status
    done: int  # nodes that succeeded
    total: int
    started_at: datetime
    seq: int


@attrs.frozen
class Snapshot:
    """All that a page needs to go on from: the state after the event ``summary.seq``."""

    summary: Summary
    graph: tuple[Node, ...]
    nodes: dict[str, NodeState]
    events: tuple[WorkflowEvent, ...]  # the last ones, up to and with that event


@attrs.define(eq=False)
class Execution:
    """One run of a workflow."""

    id: str
    workflow: Workflow
    fails: bool = False  # whether its fragile nodes are to fail
    started_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    status: Status = "waiting"
    seq: int = 0
    nodes: dict[str, NodeState] = attrs.field(init=False)
    events: deque[WorkflowEvent] = attrs.field(factory=lambda: deque(maxlen=EVENTS_KEPT), init=False)

    def __attrs_post_init__(self) -> None:
        self.nodes = {node.id: NodeState() for node in self.workflow.nodes}

    @property
    def running(self) -> bool:
        return self.status in ("waiting", "running")

    def record(self, event_type: EventType, node_id: str = "", **data: Any) -> WorkflowEvent:
        """Make the next event and change the state by it."""
        self.seq += 1
        event = WorkflowEvent(type=event_type, workflow_execution_id=self.id, node_id=node_id, data=data, seq=self.seq)
        self.events.append(event)
        status = STATUS[event_type.partition(".")[2]]
        if node_id:
            progress = 1.0 if status == "succeeded" else data.get("progress", self.nodes[node_id].progress)
            self.nodes[node_id] = NodeState(status, progress, data.get("error"))
        else:
            self.status = status
        return event

    def summary(self) -> Summary:
        done = sum(node.status == "succeeded" for node in self.nodes.values())
        total = len(self.nodes)
        return Summary(self.id, self.workflow.title, self.status, done, total, self.started_at, self.seq)

    def snapshot(self) -> Snapshot:
        """A copy: it stays as it is while the execution goes on."""
        return Snapshot(self.summary(), self.workflow.nodes, dict(self.nodes), tuple(self.events))


WORKFLOWS = {
    workflow.id: workflow
    for workflow in (
        Workflow(
            "release",
            "Release",
            (
                Node("checkout", "Check out", (), 1.2),
                Node("lint", "Lint", ("checkout",), 1.6),
                Node("test", "Test", ("checkout",), 4.5),
                Node("build", "Build image", ("checkout",), 3.2),
                Node("scan", "Scan image", ("build",), 2.2, fragile=True),
                Node("canary", "Canary", ("lint", "test", "scan"), 2.6),
                Node("promote", "Promote", ("canary",), 1.4),
            ),
        ),
        Workflow(
            "report",
            "Nightly report",
            (
                Node("orders", "Orders", (), 2.4),
                Node("stock", "Stock", (), 1.8),
                Node("visits", "Visits", (), 3.4),
                Node("join", "Join", ("orders", "stock"), 1.6),
                Node("sessions", "Sessions", ("visits",), 1.8, fragile=True),
                Node("aggregate", "Aggregate", ("join", "sessions"), 2.4),
                Node("charts", "Charts", ("aggregate",), 1.8),
                Node("tables", "Tables", ("aggregate",), 1.2),
                Node("send", "Send", ("charts", "tables"), 1.0),
            ),
        ),
        Workflow(
            "video",
            "Video",
            (
                Node("ingest", "Ingest", (), 1.6),
                Node("probe", "Probe", ("ingest",), 0.8),
                Node("hd", "Encode 1080p", ("probe",), 5.0, fragile=True),
                Node("sd", "Encode 480p", ("probe",), 2.8),
                Node("audio", "Audio", ("probe",), 1.8),
                Node("stills", "Stills", ("probe",), 1.2),
                Node("package", "Package", ("hd", "sd", "audio"), 1.6),
                Node("publish", "Publish", ("package", "stills"), 1.0),
            ),
        ),
    )
}
