"""The client that the web pages share, in Chromium: a fake WebSocket, and timers that only the test lets pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from browser import Page, open_browser
from trio_rooms import serve_rooms
from trio_rooms.demo import make_manager

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
    bufferedAmount = 0;
    say(message) { this.onmessage({ data: JSON.stringify(message) }); }
    open() { this.readyState = 1; this.onopen?.(); }
    welcome(data = {}) { this.readyState = 1; this.say({ action: "$welcome", data: { connection: "c", ...data } }); }
    asked(action) { return this.sent.findLast((message) => message.action === action); }
    async reply(action, data) { this.say({ id: this.asked(action).id, data }); await settled(); }
    publish(offset, data) { this.say({ room: "r", offset, data }); }
    end(code, reason = "") { this.readyState = 3; this.onclose({ code, reason }); }
  };
  Math.random = () => 0.5;
  let now = 0;
  Date.now = () => now;
  window.setTimeout = (act, ms) => (timers.set(++lastTimer, { act, ms }), lastTimer);
  let look;
  window.setInterval = (act) => (look = act);
  window.clearTimeout = (id) => timers.delete(id);
  Object.defineProperty(navigator, "onLine", { get: () => online });
  const pass = () => { const [[id, { act, ms }]] = timers; timers.delete(id); act(); return ms; };
  const last = () => sockets.at(-1);
  const settled = async () => { for (let i = 0; i < 20; i++) await null; };
  // A page that shows what it has got: each state that it has loaded, then the publications.
  const heard = [];
  let load = async () => {};
  const hooks = {
    load: (why) => (heard.push(why.recovered), load(why)),
    publication: (data) => heard.push(data),
    presence: (users, { came, went }) => heard.push([...users].map(([user, { length }]) => [user, length]), came, went),
    failed: ({ code }) => heard.push(code),
  };
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
