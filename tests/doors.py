"""Real sockets to a server: clients with and without manners, and what is left at its door."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
import trio.testing
import trio_websocket

from trio_rooms import Config, Manager, Server, serve_rooms
from trio_rooms.testing import TestClient


def make_manager(config: Config | None = None) -> Manager:
    """An echo."""
    manager = Manager(config=config)
    manager.handle_message("echo", lambda conn, message: message.data)
    return manager


async def dial(server: Server, *, receive_buffer: int | None = None) -> trio.SocketStream:
    """A connection, before any byte. The kernel keeps about so many bytes for a client that does not read."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await sock.connect(("127.0.0.1", server.port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def connect(server: Server, **options: Any) -> TestClient:
    """A client over a real socket, with the Host header that a real one sends."""
    stream = await dial(server)
    return await TestClient.connect(stream, host=f"127.0.0.1:{server.port}", **options)


async def ask(server: Server, request: bytes) -> bytes:
    """Send bytes, and read to the end."""
    stream = await dial(server)
    async with stream:
        await stream.send_all(request)
        return await read_to_end(stream)


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end of a stream; a reset raises."""
    return b"".join([bytes(chunk) async for chunk in stream])


async def empty(server: Server, *, but: int = 0) -> None:
    """Wait until only so many connections are left at the door; the kernel takes its time."""
    await trio.testing.wait_all_tasks_blocked(0.01)  # until those that wait in the backlog have come in
    while server._arrivals.open > but:
        await trio.testing.wait_all_tasks_blocked(0.01)


def reset(stream: trio.SocketStream) -> None:
    """Close with a reset instead of a FIN."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def callers_server(manager: Manager, **options: Any) -> AsyncGenerator[int, None]:
    """The program's own trio-websocket server, whose requests it hands over; its port. Options as of ``serve``."""
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[], **options) as server:
        serve = partial(trio_websocket.serve_websocket, manager.handle_connection, "127.0.0.1", 0, ssl_context=None)
        theirs = await nursery.start(serve)
        yield theirs.port
        server.begin_shutdown()
        await server.wait_closed()
        nursery.cancel_scope.cancel()
    server.assert_quiescent()
