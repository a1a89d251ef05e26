"""A listener without sockets: what is dialled in one task is accepted in another."""

from __future__ import annotations

import math
import os

import pytest
import trio
import trio.testing


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts streams given to :meth:`dial`; raises what is given to :meth:`fail`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream | Exception](math.inf)
        self.closed = False

    def dial(self) -> trio.abc.Stream:
        """The client's end of a new connection."""
        ours, theirs = trio.testing.memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours

    def fail(self, error: Exception) -> None:
        """Let ``accept`` raise."""
        self._send.send_nowait(error)

    async def accept(self) -> trio.abc.Stream:
        accepted = await self._receive.receive()
        if isinstance(accepted, Exception):
            raise accepted
        return accepted

    async def aclose(self) -> None:
        self.closed = True
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()


needs_dev_fd = pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="nothing lists the open descriptors")


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/dev/fd"))
