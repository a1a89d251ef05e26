"""Runs an execution: a task for each node in one nursery, waiting for each other by events, all ending together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from workflow import Execution, Node

Tell = Callable[..., None]  # (event_type, node_id="", **data)
Progress = Callable[[float], None]
Work = Callable[[Execution, Node, Progress], Awaitable[None]]

STEPS = 5


class NodeFailed(Exception):
    """A node could not do its work; the message is shown to whoever watches."""


async def run(execution: Execution, work: Work, tell: Tell) -> None:
    """Run all nodes, each when those it comes after have succeeded; returns when nothing of it is left.

    A node that fails has those behind it skipped, and the other branches go on. A cancel from outside passes through.
    """
    over = {node.id: trio.Event() for node in execution.workflow.nodes}

    async def run_node(node: Node) -> None:
        for before in node.after:
            await over[before].wait()
        if all(execution.nodes[before].status == "succeeded" for before in node.after):
            await do(node)
        else:
            tell("node.skipped", node.id)
        over[node.id].set()

    async def do(node: Node) -> None:
        tell("node.started", node.id, progress=0.0)
        began = trio.current_time()
        try:
            await work(execution, node, lambda progress: tell("node.progress", node.id, progress=round(progress, 2)))
        except NodeFailed as exc:
            tell("node.failed", node.id, error=str(exc))
        else:
            tell("node.completed", node.id, seconds=round(trio.current_time() - began, 2))

    tell("execution.started")
    async with trio.open_nursery() as nursery:
        for node in execution.workflow.nodes:
            nursery.start_soon(run_node, node)
    failed = any(node.status == "failed" for node in execution.nodes.values())
    tell("execution.failed" if failed else "execution.completed")


async def run_until_stopped(execution: Execution, stop: trio.CancelScope, work: Work, tell: Tell) -> None:
    """As :func:`run`, but when ``stop`` is cancelled, what was not over is told to be cancelled."""
    with stop:
        await run(execution, work, tell)
    if stop.cancelled_caught:
        for node_id, node in execution.nodes.items():
            if node.status in ("waiting", "running"):
                tell("node.cancelled", node_id)
        tell("execution.cancelled")


def simulated_work(*, speed: float) -> Work:
    """Work that only takes its time, a node's ``seconds`` divided by ``speed``."""

    async def work(execution: Execution, node: Node, progress: Progress) -> None:
        for step in range(1, STEPS + 1):
            await trio.sleep(node.seconds / STEPS / speed)
            if execution.fails and node.fragile and step > STEPS / 2:
                raise NodeFailed(f"exit status 1 in step {step} of {STEPS}")
            if step < STEPS:
                progress(step / STEPS)

    return work
