"""A pytest fixture; load it with ``pytest_plugins = ["trio_rooms.testing.fixtures"]`` in conftest.py.

``connect`` opens clients to any manager and serves managers as needed, for the length of a test::

    async def test_echo(connect, autojump_clock):
        client = await connect(manager)
        assert await client.request("echo", "hi") == "hi"
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from trio_rooms import Manager

from ._client import TestClient
from ._serve import MemoryServer, serve_in_memory


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[TestClient]]]:
    """``await connect(manager, **options)``: a connected client; all is closed, and quiescent, after the test."""
    servers: dict[Manager, MemoryServer] = {}
    async with AsyncExitStack() as stack:

        async def open_connection(manager: Manager, **options: Any) -> TestClient:
            if manager not in servers:
                servers[manager] = await stack.enter_async_context(serve_in_memory(manager))
            client = await servers[manager].connect(**options)
            stack.push_async_callback(client.aclose)
            return client

        yield open_connection
