"""The client that the web pages share, in Chromium: a fake WebSocket, and timers that only the test lets pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from browser import Page, open_browser, requires_browser
from trio_rooms import serve_rooms
from trio_rooms.demo import make_manager

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

PRELUDE = """
  const { RoomsClient } = await import("/client.js");
  const sockets = [];
  const timers = new Map();
  const states = [];
  let lastTimer = 0;
  let online = true;
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 0;
    sent = [];
    constructor(url, protocol) { Object.assign(this, { url, protocol }); sockets.push(this); }
    send(text) { this.sent.push(JSON.parse(text)); }
    close() { this.closed = true; }
    say(message) { this.onmessage({ data: JSON.stringify(message) }); }
    welcome() { this.readyState = 1; this.say({ action: "$welcome", data: { connection: "c" } }); }
    end(code, reason = "") { this.readyState = 3; this.onclose({ code, reason }); }
  };
  Math.random = () => 0.5;
  Date.now = () => 0;
  window.setTimeout = (act, ms) => (timers.set(++lastTimer, { act, ms }), lastTimer);
  window.clearTimeout = (id) => timers.delete(id);
  Object.defineProperty(navigator, "onLine", { get: () => online });
  const pass = () => { const [[id, { act, ms }]] = timers; timers.delete(id); act(); return ms; };
  const last = () => sockets.at(-1);
  const client = new RoomsClient("ws://server/ws");
  client.addEventListener("state", ({ detail }) => states.push(detail.state));
  client.connect();
"""


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    async with serve_rooms(make_manager()) as server, open_browser() as browser:
        yield await browser.new_page(f"http://127.0.0.1:{server.port}/")


async def run(page: Page, script: str) -> Any:
    """What a script returns that is given a client and its fakes."""
    return await page.evaluate(f"(async () => {{ {PRELUDE} {script} }})()")


async def test_it_comes_back_with_jitter() -> None:
    """A random share of a bound that doubles up to 20 s and begins anew with a welcome."""
    script = """
      const waits = [];
      for (let i = 0; i < 8; i++) { last().end(1006); waits.push(pass()); }
      last().welcome();
      last().end(4008);
      waits.push(pass());
      return [last().protocol, sockets.length, waits];
    """
    async with open_page() as page:
        waits = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 250]
        assert await run(page, script) == ["trio-rooms.v1.json", 10, waits]


async def test_a_drain_says_when_to_come_back() -> None:
    """What the server asked for is the wait, once; until the close the connection is used as before."""
    script = """
      last().welcome();
      last().say({ action: "$drain", data: { reconnect_in_ms: 7300 } });
      const reply = client.request("echo", "still here");
      last().say({ id: last().sent[0].id, data: "yes" });
      const answer = await reply;
      last().end(1012);
      const waits = [pass()];
      last().end(1006);
      waits.push(pass());
      return [answer, waits, states];
    """
    async with open_page() as page:
        states = ["connecting", "open", "draining", "waiting", "connecting", "waiting", "connecting"]
        assert await run(page, script) == ["yes", [7300, 250], states]


async def test_the_close_code_decides() -> None:
    """4500 to 4999 is the end, also when the network goes and comes; any other code is a reason to come back."""
    script = """
      const after = {};
      for (const code of [1000, 1001, 1011, 1012, 4499, 5000, 4500, 4999]) {
        client.connect();
        last().welcome();
        last().end(code, "because");
        after[code] = states.at(-1);
      }
      dispatchEvent(new Event("offline"));
      dispatchEvent(new Event("online"));
      const count = sockets.length;
      client.connect();
      return [after, states.at(-2), sockets.length - count];
    """
    async with open_page() as page:
        back = dict.fromkeys(("1000", "1001", "1011", "1012", "4499", "5000"), "waiting")
        assert await run(page, script) == [back | {"4500": "ended", "4999": "ended"}, "ended", 1]


async def test_without_network_it_waits_for_it() -> None:
    """Offline it tries nothing; when there is a network again it connects at once, also from a wait."""
    script = """
      last().welcome();
      online = false;
      dispatchEvent(new Event("offline"));
      const offline = [states.at(-1), timers.size, last().closed];
      online = true;
      dispatchEvent(new Event("online"));
      last().end(1006);
      dispatchEvent(new Event("online"));
      return [offline, sockets.length, states.at(-1), timers.size];
    """
    async with open_page() as page:
        assert await run(page, script) == [["offline", 0, True], 3, "connecting", 0]


async def test_requests_are_answered_or_fail() -> None:
    """By the reply, an error with its code, the loss of the connection, or 10 s without an answer, which ends it."""
    script = """
      const outcome = (promise) => promise.catch(({ code, message, temporary }) => [code, message, temporary]);
      const early = await outcome(client.request("a"));
      last().welcome();
      const asked = [outcome(client.request("b")), outcome(client.request("c"))];
      last().say({ id: 2, error: { code: "DENIED", message: "no", temporary: false } });
      last().say({ id: 1, data: { fine: true } });
      last().say({ id: 3, data: "nobody asked" });
      const lost = outcome(client.request("d"));
      const old = last();
      const ms = pass();
      const told = [early, ...await Promise.all(asked), await lost];
      pass();
      old.say({ action: "$welcome", data: {} });
      old.end(4600);
      return [told.map((one) => Array.isArray(one) ? [one[0], one[2]] : one), ms, old.closed, states.at(-1)];
    """
    async with open_page() as page:
        told = [["NOT_CONNECTED", True], {"fine": True}, ["DENIED", False], ["NOT_CONFIRMED", True]]
        assert await run(page, script) == [told, 10_000, True, "connecting"]
        assert page.errors == []
