"""The server of a run: it is begun, shut down, killed and begun again."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_rooms import Manager, NotServing, Server, serve_rooms

from ._hooks import Hooks
from ._record import Record, Served


class Host:
    """Serves one manager, one server after the other, until :meth:`end`."""

    def __init__(self, manager: Manager, record: Record, hooks: Hooks, *, path: str) -> None:
        self._manager = manager
        self._record = record
        self._hooks = hooks
        self._path = path
        self._connections: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self._pause = 0.0
        self._ended = False
        self.serving: trio.Event = trio.Event()
        """Set while a server takes connections."""

    async def run(  # noqa: ASYNC128 - task_status is handed on
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve, and serve again after each end, until there is to be no more."""
        started: Callable[[], None] | None = task_status.started
        while not self._ended:
            self._stop = trio.Event()
            await self._serve(started)
            started = None
            self._hooks.serve += 1
            if not self._ended:
                await trio.sleep(self._pause)

    async def _serve(self, started: Callable[[], None] | None) -> None:
        server: Server | None = None
        with trio.CancelScope() as self._scope:
            async with (
                trio.open_nursery() as nursery,
                serve_rooms(self._manager, listeners=[], path=self._path) as server,
            ):
                self._connections = nursery
                self.serving.set()
                if started is not None:
                    started()
                await self._stop.wait()
                self.serving = trio.Event()
        self._connections = None
        if self.serving.is_set():  # it was killed
            self.serving = trio.Event()
        if server is not None:
            self._record.add(
                Served(self._hooks.serve, self._scope.cancelled_caught, server.statistics(), _problem(server))
            )

    def listening(self) -> bool:
        """Whether there is a server."""
        return self._connections is not None and not self._scope.cancel_called and self._manager.server is not None

    def accept(self, stream: trio.abc.Stream) -> None:
        """Have the server's end of a connection served."""
        assert self._connections is not None
        self._connections.start_soon(self._handle, stream)

    async def _handle(self, stream: trio.abc.Stream) -> None:
        try:
            await self._manager.handle_connection(stream)
        except NotServing:
            pass  # it ended between the accept and this
        finally:
            await trio.aclose_forcefully(stream)  # also where the task was cancelled before it began

    def restart(self, seconds: float) -> None:
        """Shut down with a drain, and serve again ``seconds`` after that."""
        self._pause = seconds
        self._stop.set()

    def kill(self) -> None:
        """Cancel the server, as if its program ended in the middle of everything."""
        self._pause = 0.25
        self._scope.cancel(reason="killed")

    def end(self) -> None:
        """Shut down for good."""
        self._ended = True
        self._stop.set()


def _problem(server: Server) -> str | None:
    try:
        server.assert_quiescent()
    except AssertionError as exc:
        return str(exc)
    return None
