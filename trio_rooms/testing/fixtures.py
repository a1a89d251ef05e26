"""A pytest fixture; load it with ``pytest_plugins = ["trio_rooms.testing.fixtures"]`` in conftest.py.

``connect`` opens clients to any manager and serves managers as needed, for the length of a test::

    async def test_echo(connect, autojump_clock):
        client = await connect(manager)
        assert await client.request("echo", "hi") == "hi"
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_rooms import Manager

from ._client import TestClient
from ._serve import MemoryServer, serve_in_memory


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[TestClient]]]:
    """``await connect(manager, **options)``: a connected client; all is closed, and quiescent, after the test."""
    servers: dict[Manager, MemoryServer] = {}
    clients: list[TestClient] = []
    test_over = trio.Event()

    async def serve(manager: Manager, *, task_status: trio.TaskStatus[MemoryServer]) -> None:
        # In a task of its own: a test and its fixture are different tasks, and a nursery must be left where it was
        # entered.
        async with serve_in_memory(manager) as server:
            task_status.started(server)
            await test_over.wait()

    async with trio.open_nursery() as nursery:

        async def open_connection(manager: Manager, **options: Any) -> TestClient:
            if manager not in servers:
                servers[manager] = await nursery.start(serve, manager)
            client = await servers[manager].connect(**options)
            clients.append(client)
            return client

        yield open_connection
        for client in clients:
            await client.aclose()
        test_over.set()
