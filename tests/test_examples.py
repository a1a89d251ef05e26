"""Each example, run as a user runs it: a process of its own, a client of another library, a signal at the end.

The conversation is the one that the example's docstring shows; how it is written there says `conversations`.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import ConnectionRejected

from conversations import Conversation, Step, converse, expect_close, overlooked, printed, steps
from program import PATIENCE, ROOT, Program, open_websocket, run_program

EXAMPLES = ROOT / "examples"
#: Programs; the others among the examples are tests.
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("test_"))

#: Examples with a ``main`` of their own, which sees to signals itself.
OWN_MAIN = ["beside_http.py", "client.py", "own_listener.py", "own_websocket_server.py", "publishing.py"]

More = Callable[[Conversation, Program, list[Step]], Awaitable[None]]


def doc_of(name: str) -> str:
    """The docstring of an example."""
    return ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8")), clean=False) or ""


@asynccontextmanager
async def run_example(name: str, *options: str) -> AsyncIterator[tuple[Program, str]]:
    """Start an example on a free port; with its URL."""
    async with run_program(EXAMPLES / name, "--port", "0", *options) as program:
        url = await program.line()
        assert re.fullmatch(r"ws://127\.0\.0\.1:[1-9]\d*/ws", url)
        yield program, url


def assert_output(program: Program, expected: list[str], *, free: str = "never") -> None:
    """Behind its URL the program, which has ended, has printed these lines, and no traceback.

    Lines that begin with ``free`` may stand anywhere, in their order.
    """
    assert "Traceback" not in program.stderr.decode()
    found = program.stdout.decode().splitlines()[1:]
    found, expected = (sorted(lines, key=lambda line: line.startswith(free)) for lines in (found, expected))
    pattern = "\n".join(map(re.escape, expected)).replace("…", ".+")
    assert re.fullmatch(pattern, "\n".join(found)), found


async def as_printed(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """The conversation as it is in the docstring, and nothing more."""
    await talk.hold(conversation)
    await talk.assert_complete()


async def minimal(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """And a second member."""
    await talk.hold(conversation)
    await talk.say({"action": "subscribe", "data": {"room_id": "kitchen"}, "id": "x"}, "other")
    assert await talk.hear("other") == {"id": "x", "data": {"status": "subscribed", "room": "kitchen"}}
    await talk.say({"action": "say", "data": "hello"}, "other")
    assert await talk.hear("other") == await talk.hear()
    await talk.assert_complete()


async def advanced(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """And its error."""
    await talk.hold(conversation)
    await talk.say({"action": "unsubscribe", "data": {"room_id": "workflow_123"}})
    error = {"code": "NOT_SUBSCRIBED", "message": "not subscribed to workflow_123", "temporary": False}
    assert await talk.hear() == {"error": error}
    await talk.assert_complete()


async def configuration(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """And the size of a message: one that is as long as may be, and one that is a byte longer."""
    await as_printed(talk, program, conversation)
    message = '{"action": "join", "data": "lobby", "id": 9}'
    await talk.hold([Step("bob", "send", message.ljust(16 * 1024))])
    assert await talk.hear("bob") == {"id": 9, "data": {"members": 2, "of": 100}}
    await talk.hold([Step("bob", "send", message.ljust(16 * 1024 + 1)), Step("bob", "closed", "1009")])


async def workflow_events(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """All events of an execution, in order and as they were typed; a watcher that comes later does not restart it."""
    await talk.hold(conversation)
    await talk.say({"action": "watch", "data": "exec_123"}, "late")
    events = [await talk.hear() for _ in range(4)]
    assert [(event["type"], event["node_id"], event["data"]["status"]) for event in events] == [
        (f"node.{event}", node, status)
        for node in ("transform", "store")
        for event, status in (("started", "running"), ("completed", "succeeded"))
    ]
    assert {event["workflow_execution_id"] for event in events} == {"exec_123"}
    times = [datetime.fromisoformat(event["timestamp"]) for event in events]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)
    del talk.clients["late"]  # it may or may not have come in time for the last events
    await talk.assert_complete()


async def publishing(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """Readings and averages in one order, each average behind its reading."""
    await talk.hold(conversation[:1])
    readings: list[float] = []
    averages: list[float] = []
    while len(averages) < 5:
        heard = await talk.hear()
        if "reading" in heard:
            readings.append(heard["reading"])
        elif readings:  # the average of the reading before the first may come first
            averages.append(heard["average"])
            assert averages[-1] <= readings[-1] / 2
    assert readings == [readings[0] + number / 2 for number in range(len(readings))]
    assert averages == [averages[0] + number / 4 for number in range(len(averages))]


async def shutdown(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """A shutdown by hand while a handler is in flight: both replies, in either order, and then the end."""
    save, stop, *replies, closed, _hang = conversation
    await talk.hold([save, stop])
    heard = [await talk.hear() for _ in replies]
    assert sorted(heard, key=lambda reply: reply["id"]) == [json.loads(reply.text) for reply in reversed(replies)]
    await talk.hold([closed])


async def beside_http(talk: Conversation, program: Program, conversation: list[Step]) -> None:
    """The other service has what the handler in flight needs, also when the shutdown has begun."""
    *ask, approved = conversation
    http = await program.line(1)
    assert await fetch(http, "GET", "/health") == (200, {"status": "serving", "connections": 0})
    await talk.hold(ask)
    assert await fetch(http, "POST", "/approve/2") == (404, None)
    assert await fetch(http, "GET", "/approve/1") == (404, None)
    program.process.send_signal(signal.SIGTERM)
    assert await program.line(2) == "draining"
    assert await fetch(http, "GET", "/health") == (200, {"status": "draining", "connections": 1})
    assert await fetch(http, "POST", "/approve/1") == (200, {"approved": "1"})
    await talk.hold([approved])


async def fetch(url: str, method: str, path: str) -> tuple[int, Any]:
    """One HTTP request by the standard library: status, and body from JSON."""
    parts = urlsplit(url)
    assert parts.hostname is not None

    def blocking() -> tuple[int, Any]:
        http = HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        with closing(http):
            http.request(method, path)
            response = http.getresponse()
            return response.status, json.load(response)

    return await trio.to_thread.run_sync(blocking)


#: What is more to say than the docstring shows.
MORE: dict[str, More] = {
    "advanced.py": advanced,
    "beside_http.py": beside_http,
    "configuration.py": configuration,
    "minimal.py": minimal,
    "publishing.py": publishing,
    "shutdown.py": shutdown,
    "workflow_events.py": workflow_events,
}

#: Who is not told 1012 at the end: a client that is no client of the library's.
OTHERS = {"own_websocket_server.py": {"old"}}


#: Whose conversation is about the end, and begins it.
STOPPED = {"beside_http.py", "shutdown.py"}


def runs() -> list[tuple[str, signal.Signals]]:
    """Each program once; one of each kind is interrupted, too."""
    return [
        *((name, signal.SIGTERM) for name in PROGRAMS),
        *((name, signal.SIGINT) for name in ["minimal.py", *OWN_MAIN] if name not in STOPPED),
    ]


@pytest.mark.sockets
@pytest.mark.parametrize(("name", "signum"), runs())
async def test_example(name: str, signum: signal.Signals) -> None:
    """D4: an example does what its docstring shows, and a signal drains it: 1012, status 0, no traceback."""
    doc = doc_of(name)
    async with run_example(name) as (program, url), converse(url) as talk:
        await MORE.get(name, as_printed)(talk, program, steps(doc))
        async with trio.open_nursery() as nursery:
            for who, ws in talk.clients.items():
                if who not in OTHERS.get(name, ()):
                    nursery.start_soon(partial(expect_close, ws, 1012, skip_messages=True))
            assert await (program.process.wait() if name in STOPPED else program.stop(signum)) == 0
    # When a room closes has no place in the order of a connection's hooks.
    assert_output(program, printed(doc), free="on_room_close")


@pytest.mark.parametrize("name", PROGRAMS)
def test_docstring(name: str) -> None:
    """An example says how it is run, and shows a conversation, of which no line is overlooked."""
    doc = doc_of(name)
    assert not [line for line in overlooked(doc) if not line.startswith("    curl ")]
    assert f"``python examples/{name} --port 8080" in doc
    assert {step.kind for step in steps(doc)} >= {"send", "receive"}


@pytest.mark.sockets
async def test_advanced_logs() -> None:
    """The advanced example's logger has what its hooks and the logger middleware say."""
    async with run_example("advanced.py") as (program, url):
        async with converse(url) as talk:
            await advanced(talk, program, steps(doc_of("advanced.py")))
        assert await program.stop(signal.SIGTERM) == 0
    log = program.stderr.decode()
    for pattern in (
        r"client (\S+) connected from 127\.0\.0\.1\n",
        r"client \S+ joins room 'workflow_123'\n",
        r"'ping' ok in \d+\.\d ms\n",
        r"'unsubscribe' NOT_SUBSCRIBED in \d+\.\d ms\n",
        r"client \S+ disconnected after \d+\.\d s: 1000 by peer\n",
    ):
        assert re.search(pattern, log), pattern


async def test_a_wrong_configuration() -> None:
    """A setting that makes no sense ends the configuration example before it listens, with the setting's name."""
    async with run_program(EXAMPLES / "configuration.py", "--port", "0", "--ping-interval", "0") as program:
        assert await program.process.wait() == 1
    assert not program.stdout
    assert "ValueError: ping_interval is a positive number, not 0.0" in program.stderr.decode()


@pytest.mark.sockets
@pytest.mark.parametrize("query", ["", "?token=guessed"])
async def test_authentication(query: str) -> None:
    """The middleware example refuses who has no token before the upgrade, and its program goes on."""
    async with run_example("custom_middleware.py") as (program, url):
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected, check=lambda exc: exc.status_code == 401)):
            async with open_websocket(url + query):
                pass
        assert await program.stop(signal.SIGTERM) == 0
    assert_output(program, [])


@pytest.mark.sockets
async def test_the_deadline_of_a_shutdown() -> None:
    """The shutdown example cuts off a handler that does not finish, and still closes with 1012."""
    hang = steps(doc_of("shutdown.py"))[-1]
    async with run_example("shutdown.py", "--shutdown-timeout", "0.1") as (program, url), converse(url) as talk:
        await talk.hold([hang])
        await talk.assert_complete()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_close, await talk.client(), 1012)
            assert await program.stop(signal.SIGTERM) == 0
    assert_output(program, ["cut off", "{'server:1012': 1}"])


@pytest.mark.sockets
async def test_another_path_of_the_callers_server() -> None:
    """A trio-websocket server of one's own decides what is at its other paths."""
    async with run_example("own_websocket_server.py") as (program, url):
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected, check=lambda exc: exc.status_code == 404)):
            async with open_websocket(url + "/elsewhere"):
                pass
        assert await program.stop(signal.SIGTERM) == 0
    assert_output(program, [])


def test_tests_for_users(tmp_path: Path) -> None:
    """The tests among the examples pass under pytest, beside the examples and in any other folder."""
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", folder]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout
    count = sum(path.read_text(encoding="utf-8").count("\nasync def test_") for path in folder.glob("test_*.py"))
    assert count
    assert f"{count} passed" in done.stdout


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "coming-from-go.md", EXAMPLES / "README.md"], ids=lambda page: page.name
)
def test_every_example_is_listed(page: Path) -> None:
    """Each example is in the table of the Go document's sections, and in the list of examples."""
    linked = re.findall(r"\[([\w.]+)\]\((?:\.\./examples/)?\1[)/]", page.read_text(encoding="utf-8"))
    folders = {path.parent.name for path in EXAMPLES.glob("*/__main__.py")}
    assert set(linked) == folders | {path.name for path in EXAMPLES.glob("*.py")}


#: The sections of the Go document that have Go code, and how many pieces.
SECTIONS = {
    "Quick Start: Minimal Example": 1,
    "Quick Start: Advanced Example": 1,
    "Configuration: Manager Configuration": 2,
    "Connection Management: Connection Wrapper": 1,
    "Room Management: Rooms/Channels": 1,
    "Message Routing: Registering Handlers": 1,
    "Message Routing: Message Handler Signature": 1,
    "Built-in Middleware: Logger": 1,
    "Built-in Middleware: Recovery": 1,
    "Custom Middleware": 1,
    "Lifecycle Hooks": 1,
    "Broadcasting: Broadcast Patterns": 3,
    "Broadcasting: Event Structure": 1,
    "Integration: Fiber Integration": 1,
    "Integration: With pkg/http Integration": 1,
    "Graceful Shutdown": 1,
}


def test_every_section_has_an_example() -> None:
    """Each piece of code in the Go document has an example, which exists."""
    text = (ROOT / "docs" / "coming-from-go.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([^|]+) \| (\d+) \| \[.+\]\(.+\) \|$", text, re.MULTILINE)
    assert {section: int(count) for section, count in listed} == SECTIONS
