"""The broker of one process: delivers in the call that submits."""

from __future__ import annotations

import attrs
import trio

from .._errors import AlreadyServing, NotServing
from .._rooms.publication import Publication
from .base import Deliver, Position, Submission


@attrs.frozen
class _Done(Submission):
    """In process, submitted is confirmed."""

    async def wait(self) -> Position | None:
        await trio.lowlevel.checkpoint()
        return None


_DONE = _Done()


class MemoryBroker:
    """The default. When ``submit`` returns, every member's outbox has been asked."""

    supports: frozenset[str] = frozenset()
    """Nothing beyond carrying."""

    def __init__(self) -> None:
        self._deliver: Deliver | None = None

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled. Raises :exc:`AlreadyServing` if it does so for another manager."""
        if self._deliver is not None:
            raise AlreadyServing("this broker serves another manager")
        self._deliver = deliver
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._deliver = None

    def submit(self, publication: Publication) -> Submission:
        """Deliver at once. Raises :exc:`NotServing` unless it runs."""
        if self._deliver is None:
            raise NotServing("the broker is not running")
        self._deliver(publication, None)
        return _DONE

    async def wait_ready(self) -> None:
        """Nothing to wait for, as there is no queue; a checkpoint."""
        await trio.lowlevel.checkpoint()

    async def subscribe(self, room: str) -> None:
        """Nothing to do, as everything is local; a checkpoint."""
        await trio.lowlevel.checkpoint()

    def unsubscribe(self, room: str) -> None:
        """Nothing to do."""
