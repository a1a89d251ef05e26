"""WebSocket clients that are others' work, made to look alike: each sends and receives messages in its own way.

Those of Python differ in the frames only; those of JavaScript (tests/foreign) bring encoders of their own, too: Node's
``@msgpack/msgpack``, and in the browser the one that is written there.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import msgspec
import pytest
import trio
import websockets.exceptions
import websockets.sync.client
from trio_websocket import ConnectionClosed, WebSocketConnection

from browser import Page, open_browser
from messages import MSGPACK
from program import PATIENCE, open_websocket
from trio_rooms import Manager, Server

FOLDER = Path(__file__).parent / "foreign"

#: Marks a test that is skipped where there is no Node.js.
requires_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="no Node.js, or no npm"
)


@attrs.frozen
class Ended:
    """The connection has ended, with this close code and reason."""

    code: int
    reason: str


class Client(Protocol):
    """One open connection."""

    subprotocol: str | None
    """What the client was told that the server has selected."""

    async def say(self, message: Any) -> None:
        """Send a message in the format of the connection."""

    async def say_bytes(self, data: bytes) -> None:
        """Send a binary frame of these bytes."""

    async def hear(self) -> Any:
        """The next message: decoded, or its bytes if it is a binary frame of a JSON connection; or how it ended."""

    async def close(self, code: int, reason: str) -> None:
        """Begin to close; the end is heard."""


def encode(message: Any, subprotocol: str | None) -> str | bytes:
    """A message as a Python client sends it."""
    return msgspec.msgpack.encode(message) if subprotocol == MSGPACK else json.dumps(message)


def decode(message: str | bytes, subprotocol: str | None) -> Any:
    """What a Python client makes of what it got; text is JSON everywhere, or the test is to fail."""
    if isinstance(message, str):
        return json.loads(message)
    return msgspec.msgpack.decode(message) if subprotocol == MSGPACK else bytes(message)


@attrs.define(eq=False)
class OverTrioWebsocket:
    """trio-websocket's client."""

    ws: WebSocketConnection
    subprotocol: str | None

    async def say(self, message: Any) -> None:
        await self.ws.send_message(encode(message, self.subprotocol))

    async def say_bytes(self, data: bytes) -> None:
        await self.ws.send_message(data)

    async def hear(self) -> Any:
        try:
            return decode(await self.ws.get_message(), self.subprotocol)
        except ConnectionClosed as closed:
            return Ended(int(closed.reason.code), closed.reason.reason or "")

    async def close(self, code: int, reason: str) -> None:
        await self.ws.aclose(code, reason)


@attrs.define(eq=False)
class OverWebsockets:
    """The client of the websockets library, in threads."""

    ws: websockets.sync.client.ClientConnection
    subprotocol: str | None

    async def say(self, message: Any) -> None:
        await trio.to_thread.run_sync(self.ws.send, encode(message, self.subprotocol))

    async def say_bytes(self, data: bytes) -> None:
        await trio.to_thread.run_sync(self.ws.send, data)

    async def hear(self) -> Any:
        try:
            return decode(await trio.to_thread.run_sync(self.ws.recv, PATIENCE), self.subprotocol)
        except websockets.exceptions.ConnectionClosed as closed:
            return Ended(closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else Ended(1006, "")

    async def close(self, code: int, reason: str) -> None:
        await trio.to_thread.run_sync(self.ws.close, code, reason)


@attrs.define(eq=False)
class OverJavaScript:
    """A Talker of tests/foreign/talker.mjs; ``call`` is a method of it, its arguments and its result as in JSON."""

    call: Callable[..., Any]
    subprotocol: str | None

    async def say(self, message: Any) -> None:
        await self.call("say", _tagged(message))

    async def say_bytes(self, data: bytes) -> None:
        await self.call("sayBytes", _tagged(data))

    async def hear(self) -> Any:
        event = await self.call("hear")
        if "close" in event:
            code, reason, clean = event["close"]
            assert clean
            return Ended(code, reason)
        return _untagged(event["message"])

    async def close(self, code: int, reason: str) -> None:
        await self.call("close", code, reason)


def _tagged(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _tagged(one) for key, one in value.items()}
    return [_tagged(one) for one in value] if isinstance(value, list) else value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        return {key: _untagged(one) for key, one in value.items()}
    return [_untagged(one) for one in value] if isinstance(value, list) else value


#: Opens connections with one kind of client.
Open = Callable[[str | None], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def by_trio_websocket(server: Server, _: Path) -> AsyncIterator[Open]:
    """trio-websocket's client."""

    @asynccontextmanager
    async def connect(subprotocol: str | None) -> AsyncIterator[Client]:
        async with open_websocket(server.url, subprotocol) as ws:
            yield OverTrioWebsocket(ws, ws.subprotocol)

    yield connect


@asynccontextmanager
async def by_websockets(server: Server, _: Path) -> AsyncIterator[Open]:
    """The client of the websockets library, with what it offers by default: compression, which is declined."""

    @asynccontextmanager
    async def connect(subprotocol: str | None) -> AsyncIterator[Client]:
        subprotocols: Any = None if subprotocol is None else [subprotocol]
        stack = ExitStack()

        def enter() -> websockets.sync.client.ClientConnection:
            connection = websockets.sync.client.connect(server.url, subprotocols=subprotocols, proxy=None)
            return stack.enter_context(connection)

        ws = await trio.to_thread.run_sync(enter)
        try:
            yield OverWebsockets(ws, ws.subprotocol)
        finally:
            with trio.CancelScope(shield=True):  # its close has a timeout of its own
                await trio.to_thread.run_sync(stack.close)

    yield connect


@asynccontextmanager
async def by_node(server: Server, folder: Path) -> AsyncIterator[Open]:
    """Node's ws, which npm installs into ``folder`` unless it is there."""

    @asynccontextmanager
    async def connect(subprotocol: str | None) -> AsyncIterator[Client]:
        async with run_node(folder) as call:
            yield OverJavaScript(call, await call("open", server.url, subprotocol))

    await install(folder)
    yield connect


async def install(folder: Path) -> None:
    """What the client for Node needs, at the versions of its lock file."""
    for source in (FOLDER / "talker.mjs", *(FOLDER / "node").iterdir()):
        shutil.copy(source, folder)
    if (folder / "node_modules").exists():
        return
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = await trio.run_process(command, cwd=folder, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install: {done.stderr.decode(errors='replace')[-300:]}")


@asynccontextmanager
async def run_node(folder: Path) -> AsyncIterator[Callable[..., Any]]:
    """The client in a process of its own, and how its methods are called."""
    process = await trio.lowlevel.open_process(
        ["node", "client.mjs"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    unread = b""

    async def call(method: str, *arguments: object) -> Any:
        nonlocal unread
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(json.dumps([method, *arguments]).encode() + b"\n")
        while b"\n" not in unread:
            chunk = await process.stdout.receive_some()
            assert chunk, "the client for Node has ended"
            unread += chunk
        line, unread = unread.split(b"\n", 1)
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    try:
        yield call
    finally:
        process.kill()
        with trio.move_on_after(PATIENCE, shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


PAGE = b"""<!doctype html><link rel="icon" href="data:,"><script type="module">
import { Talker } from "/talker.mjs";
import * as msgpack from "/msgpack.mjs";
window.talker = new Talker(WebSocket, msgpack);
</script>"""


def serve_pages(manager: Manager) -> None:
    """Register what the browser loads."""
    manager.page("/", PAGE)
    for name in ("talker.mjs", "msgpack.mjs"):
        manager.page(f"/{name}", FOLDER / name, content_type="text/javascript")


@asynccontextmanager
async def by_chromium(server: Server, _: Path) -> AsyncIterator[Open]:
    """The WebSocket of a browser, in a page of the server's own."""

    @asynccontextmanager
    async def connect(subprotocol: str | None) -> AsyncIterator[Client]:
        page = await browser.new_page(f"http://127.0.0.1:{server.port}/")
        await page.wait_for("window.talker")
        call = partial(_call_in, page)
        yield OverJavaScript(call, await call("open", server.url, subprotocol))
        assert page.errors == []

    async with open_browser() as browser:
        yield connect


async def _call_in(page: Page, method: str, *arguments: object) -> Any:
    return await page.evaluate(f"(async () => (await talker.{method}(...{json.dumps(arguments)})) ?? null)()")
