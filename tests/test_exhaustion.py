"""When the process has run out of something: of descriptors in a process of its own, of what its broker needs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

from hall import hall
from program import run_program
from trio_rooms import Connection, Manager, Publication, Room
from trio_rooms.brokers import MemoryBroker, Submission
from trio_rooms.testing import Closed, HandshakeRefused, ReplyError, TestClient

SERVE = """
import logging
import resource
from trio_rooms import Config, Limits, Manager

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.basicConfig()
manager = Manager(config=Config(limits=Limits({limits})))

@manager.on("errors")
def errors(conn):
    return manager.server.statistics().accept_errors

manager.run(port=0, on_listening=lambda server: print(server.url, flush=True))
"""


@pytest.mark.sockets
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors to lower")
@pytest.mark.parametrize(("limits", "errors"), [("", False), ("max_connections=1_000", True)])
async def test_few_descriptors(limits: str, errors: bool, tmp_path: Path) -> None:
    """X1: with 64 descriptors, of 200 clients most are turned away, in a few words; the server recovers, and ends well.

    By default there are no more places than descriptors, and nothing fails at all.
    """
    script = tmp_path / "serve.py"
    script.write_text(SERVE.format(limits=limits))
    turned_away = trio.Event()
    count = 0

    async def wait_for_end(stream: trio.SocketStream) -> None:
        nonlocal count
        async with stream:
            with suppress(trio.BrokenResourceError):  # a reset is an end, too
                while await stream.receive_some():
                    pass
            count += 1
            if count >= 200 - 64:
                turned_away.set()

    async with run_program(script) as program:
        address = urlsplit(await program.line())
        assert address.port is not None
        dial = (str(address.hostname), address.port)

        async def connect() -> TestClient:
            return await TestClient.connect(await trio.open_tcp_stream(*dial), host=address.netloc)

        client = await connect()
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(wait_for_end, await trio.open_tcp_stream(*dial))
            await turned_away.wait()
            assert (await client.request("errors") > 0) is errors
            nursery.cancel_scope.cancel()
        await client.close()
        await client.aclose()
        late = await let_in(connect)
        assert await late.request("errors") >= errors
        program.process.send_signal(signal.SIGTERM)
        await late.expect_close(1012)
        await late.aclose()
        assert await program.process.wait() == 0
    assert program.stderr.decode().count("\n") <= 2, program.stderr.decode()


async def let_in(connect: Callable[[], Awaitable[TestClient]]) -> TestClient:
    """Knock until the door opens; what turned others away takes a moment to be over."""
    while True:
        try:
            return await connect()
        except (HandshakeRefused, Closed, OSError, trio.BrokenResourceError):
            await trio.lowlevel.checkpoint()


class PoorBroker(MemoryBroker):
    """The broker of one process, in which one step fails for want of something."""

    def __init__(self, place: str, error: Exception) -> None:
        super().__init__()
        self.place = place
        self.error: Exception | None = error
        self.taken = 0

    def fail(self, place: str) -> None:
        if place == self.place and self.error is not None:
            raise self.error

    def submit(self, publication: Publication) -> Submission:
        self.fail("submit")
        self.taken += 1
        if self.place == "wait" and self.error is not None:
            return self  # type: ignore[return-value] - what waits is the broker itself
        return super().submit(publication)

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        self.fail("wait")

    async def subscribe(self, room: str) -> None:
        await trio.lowlevel.checkpoint()
        self.fail("subscribe")


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "no memory")])
@pytest.mark.parametrize("place", ["submit", "wait", "subscribe"])
async def test_a_poor_broker(place: str, error: Exception, autojump_clock: MockClock) -> None:
    """X4: where the broker raises, that operation fails, and ends nobody but its caller; the next one succeeds."""
    broker = PoorBroker(place, error)
    manager = Manager(broker=broker)
    failed: list[BaseException] = []
    manager.on_error(lambda conn, exc: failed.append(exc))

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)

    @manager.on("publish")
    async def publish(conn: Connection, room: str) -> None:
        await found(manager, room).publish("published")

    async with hall(manager) as served:
        culprit, member = await served.enter(), await served.enter()
        if place == "subscribe":
            with pytest.raises(ReplyError, match="INTERNAL"):
                await culprit.client.request("join", "r")
        broker.error, kept = None, broker.error
        for guest in (culprit, member):
            await guest.client.request("join", "r")
        broker.error = kept
        if place != "subscribe":
            with pytest.raises(ReplyError, match="INTERNAL"):
                await culprit.client.request("publish", "r")
            await culprit.client.expect_close(1011)
            # The program's own call is told what it was.
            with pytest.raises(type(error)):
                await found(manager, "r").publish("not published")
        assert failed == [error]
        broker.error = None
        report = await found(manager, "r").publish("published")
        assert report.enqueued == len(found(manager, "r").members)
        assert await member.client.receive_json() == "published"
        assert len(manager.connections) == 1 + (place == "subscribe")


def found(manager: Manager, name: str) -> Room:
    """A room that exists."""
    room = manager.get_room(name)
    assert room is not None
    return room
