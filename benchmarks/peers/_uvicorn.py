"""uvicorn for the peers that are ASGI applications: uvloop, httptools, its default WebSocket implementation."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from _common import BACKLOG, HOST, announce


class _Server(uvicorn.Server):
    """A server that says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, packages: tuple[str, ...]) -> None:
        super().__init__(config)
        self._packages = packages

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        announce(self.servers[0].sockets[0].getsockname()[1], *self._packages)


def serve(app: Any, *packages: str) -> None:
    """Serve on a free port until SIGTERM, for which uvicorn closes the connections, for at most a second."""
    config = uvicorn.Config(
        app,
        host=HOST,
        port=0,
        backlog=BACKLOG,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    _Server(config, ("uvicorn", "uvloop", "httptools", "websockets", *packages)).run()
