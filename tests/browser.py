"""Drives a headless Chromium over the Chrome DevTools Protocol, for tests that need a real browser.

One WebSocket leads to the browser; every page is a session of its own on it ("flat" sessions),
so an answer is found by its id and an event by its ``sessionId``. Nothing here polls from
Python: conditions are watched inside the page, where a MutationObserver sees the change.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

#: CDP messages carry whole screenshots; trio-websocket's 1 MiB would cut them off.
MAX_CDP_MESSAGE = 64 * 1024 * 1024
START_TIMEOUT = 60
STOP_TIMEOUT = 10

FLAGS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --no-default-browser-check --disable-background-networking --disable-component-update --disable-sync
    --disable-default-apps --disable-extensions --disable-breakpad --disable-background-timer-throttling
    --disable-backgrounding-occluded-windows --disable-renderer-backgrounding --mute-audio --hide-scrollbars
    --remote-debugging-port=0
""".split()

WATCH = """
new Promise((resolve, reject) => {
  const stop = () => { observer.disconnect(); clearInterval(timer); };
  const check = () => {
    try {
      const value = (%s);
      if (value) { stop(); resolve(value); }
    } catch (error) { stop(); reject(error); }
  };
  const observer = new MutationObserver(check);
  const timer = setInterval(check, 50);  // for what is no change of the document, such as a scroll position
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  check();
})
"""

CENTRE = """
(() => {
  const found = document.querySelector(%s);
  if (!found) throw new Error("nothing matches " + %s);
  found.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
  const box = found.getBoundingClientRect();
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
})()
"""


class BrowserError(Exception):
    """The browser answered a command with an error, or has gone."""


class PageError(Exception):
    """JavaScript threw while it was evaluated; the text is the error and its stack."""


def find_browser() -> str | None:
    """The path of a Chromium: ``$CHROMIUM``, or the first of its usual names on the path."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if name and (path := shutil.which(name))), None)


#: Marks a test (or, as ``pytestmark``, a module) that is skipped where no Chromium is found.
requires_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium found; $CHROMIUM may name one")


@attrs.frozen
class ConsoleMessage:
    """What a page wrote to its console, or the browser on its behalf (failed loads, refused scripts)."""

    level: str
    text: str


@attrs.define(eq=False)
class Browser:
    """A running browser; see :func:`open_browser`."""

    _ws: WebSocketConnection
    _waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = attrs.field(factory=dict, init=False)
    _pages: dict[str, Page] = attrs.field(factory=dict, init=False)
    _last_id: int = attrs.field(default=0, init=False)

    async def call(self, method: str, /, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one CDP command and return its result; raise BrowserError where it fails."""
        self._last_id = number = self._last_id + 1
        self._waiting[number], answers = trio.open_memory_channel[dict[str, Any]](1)
        command = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        try:
            await self._ws.send_message(json.dumps(command))
            answer = await answers.receive()
        except (ConnectionClosed, trio.EndOfChannel) as exc:
            raise BrowserError(f"the browser has gone ({method})") from exc
        finally:
            self._waiting.pop(number).close()
            answers.close()
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def new_page(self, url: str) -> Page:
        """Open a tab, load ``url`` in it, and return when it has loaded."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, target["targetId"], attached["sessionId"])
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        # Without it only the newest tab counts as focused and the others' input is put off.
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        await page.goto(url)
        return page

    async def _read(self) -> None:
        try:
            while True:
                message = json.loads(await self._ws.get_message())
                if waiting := self._waiting.get(message.get("id")):
                    waiting.send_nowait(message)
                elif page := self._pages.get(message.get("sessionId")):
                    page._on_event(message["method"], message["params"])
        except ConnectionClosed:
            for waiting in self._waiting.values():
                waiting.close()


@attrs.define(eq=False)
class Page:
    """One tab. ``console`` holds all that it has said so far."""

    browser: Browser
    target: str
    session: str
    console: list[ConsoleMessage] = attrs.field(factory=list, init=False)

    @property
    def errors(self) -> list[str]:
        """The texts of the console's errors, uncaught exceptions included."""
        return [message.text for message in self.console if message.level == "error"]

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send one CDP command to this page; as :meth:`Browser.call`."""
        return await self.browser.call(method, session=self.session, **params)

    async def goto(self, url: str) -> None:
        """Load ``url`` and return when it has loaded; raise BrowserError where it cannot be had."""
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"{url}: {answer['errorText']}")
        await self.wait_for("document.readyState === 'complete'")

    async def close(self) -> None:
        """Close the tab, as its cross does."""
        await self.browser.call("Target.closeTarget", targetId=self.target)

    async def evaluate(self, expression: str) -> Any:
        """The value (as JSON) of a JavaScript expression; a promise is awaited. Raises PageError."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if details := answer.get("exceptionDetails"):
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def wait_for(self, condition: str, *, seconds: float = 20) -> Any:
        """Wait until a JavaScript expression is truthy, and return it; AssertionError when it never is."""
        with trio.move_on_after(seconds):
            return await self.evaluate(WATCH % condition)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"never true: {condition}\n--- the page:\n{text}")

    async def shows(self, selector: str, text: str) -> None:
        """Wait until something that matches contains this text."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        await self.wait_for(f"{found}.some((it) => it.textContent.includes({json.dumps(text)}))")

    async def click(self, selector: str, *, held: Callable[[], Awaitable[None]] | None = None) -> None:
        """Press and release the left button over the middle of the first match; ``held`` is awaited in between."""
        quoted = json.dumps(selector)
        where = await self.evaluate(CENTRE % (quoted, quoted))
        await self.call("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **where)
        if held is not None:
            await held()
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **where)

    async def type(self, selector: str, text: str) -> None:
        """Click on a field and enter ``text`` into it."""
        await self.click(selector)
        await self.call("Input.insertText", text=text)

    async def press(self, key: str = "Enter") -> None:
        """Press and release one key, named as in ``KeyboardEvent.key``, where the focus is."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowDown": 40}.get(key, 0)
        stroke = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **stroke, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **stroke)

    async def resize(self, width: int, height: int, *, scale: float = 1, mobile: bool = False) -> None:
        """Give the page a window of this many CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    async def prefer(self, **features: str) -> None:
        """Set media features, such as ``color_scheme="dark"`` for ``prefers-color-scheme``."""
        wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=wanted)

    async def screenshot(self, path: str | Path, width: int, height: int, *, scale: float = 1) -> None:
        """Write a PNG of the page in a window of this size."""
        await self.resize(width, height, scale=scale)
        await self.call("Page.bringToFront")
        shot = await self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    async def set_offline(self, offline: bool) -> None:
        """Cut the page off from the network, or bring it back; ``navigator.onLine`` and its events follow."""
        unlimited = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.call("Network.emulateNetworkConditions", offline=offline, **unlimited)

    def _on_event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            text = " ".join(str(arg.get("value", arg.get("description", ""))) for arg in params["args"])
            self.console.append(ConsoleMessage(params["type"], text))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.console.append(ConsoleMessage("error", text))
        elif method == "Log.entryAdded":
            entry = params["entry"]
            self.console.append(ConsoleMessage(entry["level"], f"{entry['text']} {entry.get('url', '')}"))


async def _read_url(stderr: trio.abc.ReceiveStream) -> str:
    """The address that the browser says it listens on, in the first lines that it writes."""
    said = b""
    while not (said.endswith(b"\n") and b"DevTools listening on " in said):
        chunk = await stderr.receive_some()
        if not chunk:
            raise BrowserError(f"the browser did not start: {said.decode(errors='replace')}")
        said += chunk
    return said.split(b"DevTools listening on ")[1].split()[0].decode()


async def _discard(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


async def _end(process: trio.Process) -> None:
    """End the browser and its helpers: ask first, then kill whatever of the group is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(STOP_TIMEOUT / 2):
            await process.wait()


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A fresh Chromium with a profile of its own; both are gone when the block ends, however it ends."""
    path = find_browser()
    if path is None:
        raise BrowserError("no Chromium found")
    with tempfile.TemporaryDirectory(prefix="trio-rooms-browser-", ignore_cleanup_errors=True) as profile:
        start = partial(trio.lowlevel.open_process, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True)
        process = await start([path, *FLAGS, f"--user-data-dir={profile}", "about:blank"])
        assert process.stderr is not None
        try:
            with trio.fail_after(START_TIMEOUT):
                url = await _read_url(process.stderr)
            async with trio.open_nursery() as nursery:
                # A full pipe would stop the browser.
                nursery.start_soon(_discard, process.stderr)
                async with open_websocket_url(url, max_message_size=MAX_CDP_MESSAGE, disconnect_timeout=2) as ws:
                    browser = Browser(ws)
                    nursery.start_soon(browser._read)
                    yield browser
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(STOP_TIMEOUT + 1, shield=True):
                await _end(process)
                await process.stderr.aclose()
