"""The dashboard in a real browser: what people see in tabs of a headless Chromium."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from browser import Browser, Page, open_browser, requires_browser
from dashboard import MAX_RUNNING, make_manager
from test_dashboard import Gates
from trio_rooms import Manager, Server, serve_rooms
from workflow import WORKFLOWS

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]

STATE = "document.querySelector('#state').dataset.state"
#: What a page shows of the execution: each node with its state, and each line of the log.
NODES = """
  Object.fromEntries([...document.querySelectorAll("[data-node]")].map((it) => [it.dataset.node, it.dataset.status]))
"""
LOG = """
  [...document.querySelectorAll("#log li")].map((it) => [Number(it.dataset.seq), it.querySelector("code").textContent])
"""
FOCUS = "(({ id, dataset }) => id || dataset.node || dataset.execution)(document.activeElement)"
BOXES = """
  [...document.querySelectorAll(".node")]
    .map((it) => it.getBoundingClientRect())
    .map(({ left, right, top }) => [left, right, top])
"""
CLIPPED = "[...document.querySelectorAll('.node b')].filter((it) => it.scrollWidth > it.clientWidth + 1).length"


@asynccontextmanager
async def open_dashboard(gates: Gates) -> AsyncIterator[tuple[Manager, Browser, str]]:
    """The dashboard, whose nodes end when the test says so, and a browser; with the page's address."""
    manager = make_manager(work=gates.work)
    async with serve_rooms(manager) as server, open_browser() as browser:
        yield manager, browser, address(server)


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


async def start(page: Page, workflow: str = "release", *, fail: bool = False) -> str:
    """Start a run by the page's form; the execution's id when its first event is shown."""
    await page.wait_for(f"{STATE} === 'open' && document.querySelector('#workflow').options.length")
    await page.evaluate(f"document.querySelector('#workflow').value = '{workflow}'")
    if await page.evaluate("document.querySelector('#fail').checked") != fail:
        await page.click("#fail")
    before = await page.evaluate("document.querySelector('#execution').textContent")
    await page.click("#start-button")
    execution_id: str = await page.wait_for(
        f"document.querySelector('#execution').textContent !== '{before}' && document.querySelector('#log li')"
        " && document.querySelector('#execution').textContent"
    )
    return execution_id


async def shows_node(page: Page, node: str, status: str) -> None:
    await page.wait_for(f"document.querySelector('[data-node={node}]')?.dataset.status === '{status}'")


async def shows_all(page: Page, count: int) -> list[Any]:
    """The log, progress included, when it has this many events; they are numbered without a gap."""
    await page.evaluate("document.querySelector('#progress').checked || document.querySelector('#progress').click()")
    await page.wait_for(f"document.querySelectorAll('#log li').length >= {count}")
    log: list[Any] = await page.evaluate(LOG)
    assert [seq for seq, _ in log] == list(range(1, count + 1))
    return log


def events_of(workflow: str) -> int:
    """How many events a run makes whose nodes all succeed: its own two, and three of each node."""
    return 2 + 3 * len(WORKFLOWS[workflow].nodes)


async def test_tabs_show_the_same_whenever_they_came() -> None:
    """Two tabs and one that comes late show the same states of nodes, and the same events in the same order."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        one = await browser.new_page(url)
        execution_id = await start(one)
        two = await browser.new_page(url)  # nobody told it which: it shows the newest
        await shows_node(two, "checkout", "running")
        await gates.finish("checkout", "build")
        for page in (one, two):
            await shows_node(page, "scan", "running")
        late = await browser.new_page(f"{url}#{execution_id}")
        await shows_node(late, "scan", "running")
        assert (
            await late.evaluate(NODES)
            == await one.evaluate(NODES)
            == {
                "checkout": "succeeded",
                "lint": "running",
                "test": "running",
                "build": "succeeded",
                "scan": "running",
                "canary": "waiting",
                "promote": "waiting",
            }
        )
        await late.shows("[data-node=test] small", "running, 50 %")
        await late.shows("#done", "2 of 7")
        await gates.finish("scan", "lint", "test", "canary", "promote")
        pages = (one, two, late)
        for page in pages:
            await page.shows("#status", "succeeded")
            await page.shows("[aria-current] small", "7/7")
        logs = [await shows_all(page, events_of("release")) for page in pages]
        assert logs[0] == logs[1] == logs[2]
        assert [page.errors for page in pages] == [[], [], []]


async def test_a_failed_node_is_shown_as_failed() -> None:
    """With its error; what comes after it as skipped, other branches as they go on, and the execution as failed."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        page = await browser.new_page(url)
        await start(page, "video", fail=True)
        await gates.finish("ingest", "probe", "hd")
        await shows_node(page, "hd", "failed")
        await page.shows("[data-node=hd] small", "failed")
        await page.shows("#announcer", "Encode 1080p failed: no space left")
        await page.shows("#log .failed span", "no space left")
        await gates.finish("sd", "audio", "stills")
        for node, status in (("sd", "succeeded"), ("package", "skipped"), ("publish", "skipped")):
            await shows_node(page, node, status)
        for selector in ("#status", "[aria-current] small", "#announcer"):
            await page.shows(selector, "failed")
        await page.click("[data-node=hd]")
        await page.shows("#only", "of Encode 1080p")
        assert [event for _, event in await page.evaluate(LOG)] == ["node.started", "node.failed"]
        assert page.errors == []


async def test_a_run_can_be_stopped_by_anybody() -> None:
    """The other tab's button stops it: both show what was not over as cancelled, and nothing is left to stop."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        one, two = await browser.new_page(url), await browser.new_page(url)
        await start(one)
        await two.click("#executions button")
        await gates.finish("checkout")
        await shows_node(two, "lint", "running")
        await two.click("#stop")
        for page in (one, two):
            await shows_node(page, "promote", "cancelled")
            await shows_node(page, "checkout", "succeeded")
            await page.wait_for("document.querySelector('#stop').hidden")
        assert one.errors == two.errors == []


async def test_a_press_during_which_the_list_is_drawn_is_a_click() -> None:
    """An execution of the list goes on between the press and the release: it is selected."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        page, other = await browser.new_page(url), await browser.new_page(url)
        await start(page)
        await other.shows("#executions .count", "0/7")

        async def go_on() -> None:
            await gates.finish("checkout")
            await other.shows("#executions .count", "1/7")

        await other.click("#executions .count", held=go_on)
        await shows_node(other, "checkout", "succeeded")
        assert page.errors == other.errors == []


async def test_a_tab_without_network_catches_up() -> None:
    """What happened meanwhile is there when it is back, each event once."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        page, other = await browser.new_page(url), await browser.new_page(url)
        await start(page)
        await page.set_offline(True)
        await page.wait_for(f"{STATE} === 'offline'")
        await page.shows("#banner", "You are offline")
        await gates.finish("checkout", "lint")
        await other.click("#executions button")
        await shows_node(other, "lint", "succeeded")
        await shows_node(page, "checkout", "running")
        await page.set_offline(False)
        await shows_node(page, "lint", "succeeded")
        await page.wait_for("document.querySelector('#banner').hidden")
        await gates.finish("test", "build", "scan", "canary", "promote")
        await page.shows("#status", "succeeded")
        assert await shows_all(page, events_of("release")) == await shows_all(other, events_of("release"))


async def test_a_restart_of_the_server_is_survived() -> None:
    """The page says that the server restarts, comes back by itself, and works; it tells that the old run is gone."""
    async with open_browser() as browser:
        async with serve_rooms(make_manager(work=Gates().work)) as server:
            one, two = await browser.new_page(address(server)), await browser.new_page(address(server))
            await start(one)
            await two.click("#executions button")
            await shows_node(two, "checkout", "running")
            assert one.errors == two.errors == []
        for page in (one, two):
            await page.wait_for(f"{STATE} === 'waiting' || {STATE} === 'connecting'")
            await page.shows("#banner", "The server is restarting.")
            assert await page.evaluate("document.querySelector('#start-button').disabled")
        gates = Gates()
        async with serve_rooms(make_manager(work=gates.work), port=server.port):
            for page in (one, two):
                await page.shows("#banner", "This execution is not kept any more.")
                await page.wait_for(f"{STATE} === 'open' && !document.querySelector('#executions button')")
            await start(one, "report")
            await two.click("#executions button")
            await gates.finish("stock")
            for page in (one, two):
                await shows_node(page, "stock", "succeeded")
                await page.wait_for("document.querySelector('#banner').hidden")


async def test_the_close_code_decides_whether_the_page_comes_back() -> None:
    """A slow consumer's 4008 brings it back to the present state; 4500 and above is an end, with a button."""
    gates = Gates()
    async with open_dashboard(gates) as (manager, browser, url):
        page = await browser.new_page(url)
        await start(page)
        (conn,) = manager.connections.values()
        conn.close(4008, "too slow")
        await conn.wait_closed()
        await gates.finish("checkout")
        await shows_node(page, "checkout", "succeeded")
        (conn,) = manager.connections.values()
        conn.close(4600, "go away")
        await conn.wait_closed()
        await page.shows("#banner", "The server has ended the connection: go away")
        assert await page.evaluate(STATE) == "ended"
        assert not manager.connections
        await page.click("#retry")
        await page.wait_for(f"{STATE} === 'open'")
        assert page.errors == []


async def test_a_refused_start_is_shown() -> None:
    """The server's refusal stands beside the button, and goes with the next try."""
    async with open_dashboard(Gates()) as (_, browser, url):
        page = await browser.new_page(url)
        for _ in range(MAX_RUNNING):
            await start(page)
        await page.click("#start-button")
        await page.shows("#start-problem", f"{MAX_RUNNING} executions are running, which is the most.")
        await page.click("#stop")
        await page.wait_for("document.querySelector('#stop').hidden")
        await start(page)
        await page.wait_for("document.querySelector('#start-problem').hidden")
        assert page.errors == []


async def test_all_can_be_done_with_the_keyboard() -> None:
    """Tab leads through form, list, nodes and log, in this order; Enter and Space do what a click does."""
    gates = Gates()
    async with open_dashboard(gates) as (_, browser, url):
        page = await browser.new_page(url)
        await page.wait_for(f"{STATE} === 'open' && document.querySelector('#workflow').options.length")
        for expected in ("workflow", "fail", "start-button"):
            await page.press("Tab")
            assert await page.evaluate(FOCUS) == expected
        await page.press("Enter")
        await shows_node(page, "checkout", "running")
        stops = []
        while (stops or [""])[-1] != "log":
            await page.press("Tab")
            stops.append(await page.evaluate(FOCUS))
        execution_id = await page.evaluate("document.querySelector('#execution').textContent")
        nodes = ["checkout", "lint", "test", "build", "scan", "canary", "promote"]
        assert stops == [execution_id, "stop", *nodes, "progress", "log"]
        await page.evaluate("document.querySelector('[data-node=checkout]').focus()")
        await page.press(" ")
        await page.wait_for("document.querySelector('[data-node=checkout]').ariaPressed === 'true'")
        await gates.finish("checkout")
        await shows_node(page, "lint", "running")
        assert await page.evaluate(FOCUS) == "checkout", "what is drawn anew keeps the focus"
        assert page.errors == []


async def test_nothing_has_to_be_scrolled_sideways() -> None:
    """In a window of any width all nodes are in view; without width for them they stand from top to bottom."""
    async with open_dashboard(Gates()) as (_, browser, url):
        page = await browser.new_page(url)
        ids = [await start(page, workflow) for workflow in WORKFLOWS]
        for width, down in (
            (320, True),
            (390, True),
            (768, True),
            (1024, True),
            (1130, True),
            (1250, False),
            (1600, False),
        ):
            await page.resize(width, 800, mobile=width < 500)
            for execution_id in ids:
                await page.click(f"[data-execution={execution_id}]")
                await page.shows("#execution", execution_id)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
                boxes = await page.evaluate(BOXES)
                assert all(0 <= left < right <= width for left, right, _ in boxes)
                assert await page.evaluate(CLIPPED) == 0
                (_, right, top), (left, _, below) = boxes[0], boxes[-1]
                assert top < below if down else right < left
        assert page.errors == []


MERGE = """
(async () => {
  const { Run } = await import("/run.js");
  const event = (seq, type = "node.progress", node_id = "a") => ({ seq, type, node_id, data: { progress: seq / 10 } });
  const snapshot = (seq) => ({
    summary: { seq, title: "A", status: "running", started_at: "2026-01-01T00:00:00Z" },
    graph: [{ id: "a", title: "a", after: [] }],
    nodes: { a: { status: "running", progress: seq / 10, error: null } },
    events: Array.from({ length: seq }, (_, i) => event(i + 1)),
  });
  const run = new Run("exec_1");
  run.expect();
  const heard = [4, 5, 6].map((seq) => run.hear(event(seq)));
  run.begin(snapshot(5));
  heard.push(run.hear(event(6)), run.hear(event(7)));
  let gap = "";
  try { run.hear(event(9)); } catch (error) { gap = error.message; }
  run.expect();
  run.begin(snapshot(2));
  const again = run.seq;
  run.hear(event(3, "execution.completed", ""));
  const seqs = run.events.map(({ seq }) => seq);
  return { heard, gap, again, seqs, status: run.status, progress: run.nodes.a.progress };
})()
"""


async def test_a_snapshot_and_events_are_merged() -> None:
    """Early events count above the snapshot's number, none counts twice, a gap is an error, a snapshot is the state."""
    async with open_dashboard(Gates()) as (_, browser, url):
        page = await browser.new_page(url)
        assert await page.evaluate(MERGE) == {
            "heard": [False, False, False, False, True],
            "gap": "exec_1: event 9 follows 7",
            "again": 2,
            "seqs": [1, 2, 3],
            "status": "succeeded",
            "progress": 0.2,
        }


async def test_what_an_error_says_is_only_text() -> None:
    """Markup in what a node failed with is shown as it is and does nothing."""
    text = '<img src=x onerror="window.harmed = true">'
    gates = Gates(error=text)
    async with open_dashboard(gates) as (_, browser, url):
        page = await browser.new_page(url)
        await start(page, "report", fail=True)
        await gates.finish("visits", "sessions")
        await page.shows("#log .failed span", text)
        await page.shows("#announcer", text)
        assert await page.evaluate("document.querySelector('main img')") is None
        assert not await page.evaluate("window.harmed")
        assert page.errors == []
