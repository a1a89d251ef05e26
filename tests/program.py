"""A server program in a process of its own, started and stopped as a user does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

ROOT = Path(__file__).parent.parent

# For the system, not for the programs: how long a machine under load may take to start Python or to end it.
PATIENCE = 30


@attrs.define(eq=False)
class Program:
    """A running program; ``stdout`` and ``stderr`` grow as it writes."""

    process: trio.Process
    stdout: bytes = b""
    stderr: bytes = b""
    _written: trio.Event = attrs.field(factory=trio.Event, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    async def line(self, index: int = 0) -> str:
        """A line of its output, by default the first; what it prints first is where it listens."""
        while self.stdout.count(b"\n") <= index:
            if self._ended:
                raise AssertionError(f"no line of output; on standard error: {self.stderr.decode()}")
            await self._written.wait()
        return self.stdout.decode().splitlines()[index]

    async def stop(self, signum: signal.Signals) -> int:
        """Send it a signal, and return the status with which it ends."""
        self.process.send_signal(signum)
        return await self.process.wait()

    async def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            self._tell(self.stdout + bytes(data))
        self._ended = True
        self._tell(self.stdout)

    def _tell(self, stdout: bytes) -> None:
        self.stdout = stdout
        self._written.set()
        self._written = trio.Event()

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.stderr += bytes(data)


@asynccontextmanager
async def run_program(*arguments: str | Path) -> AsyncIterator[Program]:
    """Run Python with these arguments, warnings being errors; it is killed if it still runs at the block's end."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    program = Program(process)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program._read_stdout)
            nursery.start_soon(program._read_stderr)
            try:
                yield program
            finally:
                if process.poll() is None:
                    process.kill()
                with trio.move_on_after(PATIENCE, shield=True):
                    await process.wait()


@asynccontextmanager
async def open_websocket(url: str, *subprotocols: str | None) -> AsyncIterator[WebSocketConnection]:
    """As trio-websocket's ``open_websocket_url``, which leaves its socket open where the server is the one to close."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with (
        await trio.open_tcp_stream(parts.hostname, parts.port) as stream,
        trio.open_nursery() as nursery,
        await wrap_client_stream(
            nursery,
            stream,
            parts.netloc,
            parts.path + f"?{parts.query}" * bool(parts.query),
            subprotocols=[name for name in subprotocols if name],
        ) as ws,
    ):
        yield ws
