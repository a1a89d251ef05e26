"""Signals to a process that serves over real sockets: what its clients see, how it exits, and what it prints."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from program import Program, run_program
from trio_rooms.testing import Closed, TestClient

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.time_limit(60),
]

#: Told by "who" how long to work; "hold" shields itself; everything that is left is cancelled after 20 s.
SERVE = """
import trio
from trio_rooms import Config, Manager

manager = Manager(config=Config(shutdown_timeout=20, close_timeout=5, ping_interval={ping}, pong_timeout={ping}))

@manager.on_connect
async def connected(conn):
    await conn.join("lobby")

@manager.on_disconnect
def disconnected(conn, close):
    print("disconnect", close.code, flush=True)

@manager.on("echo")
def echo(conn, data: object):
    return data

@manager.on("work")
async def work(conn, data: float):
    manager.broadcast_to_room("lobby", {{"working": True}})
    await trio.sleep(data)
    return "done"

manager.run(port=0, on_listening=lambda server: print(server.url, flush=True))
print("after run", flush=True)
"""


@attrs.define(eq=False)
class Served:
    """A program that serves, and clients of it."""

    program: Program
    host: str
    port: int

    async def connect(self) -> TestClient:
        stream = await trio.open_tcp_stream(self.host, self.port)
        return await TestClient.connect(stream, host=f"{self.host}:{self.port}")

    async def request_work(self, seconds: float) -> TestClient:
        """A client whose request is in work."""
        client = await self.connect()
        await client.send_action("work", seconds, id=1)
        assert await client.receive_json() == {"working": True}
        return client

    def send(self, signum: signal.Signals) -> None:
        self.program.process.send_signal(signum)

    async def wait(self) -> int:
        return await self.program.process.wait()

    def check_silence(self) -> None:
        """It has said goodbye, and nothing went wrong."""
        assert self.program.stderr == b""
        assert self.program.stdout.splitlines()[-1] == b"after run"


@asynccontextmanager
async def serving(*, ping: float = 20) -> AsyncGenerator[Served, None]:
    """The program, in a process of its own, listening."""
    async with run_program("-c", SERVE.format(ping=ping)) as program:
        url = urlsplit(await program.line())
        assert url.hostname is not None
        assert url.port is not None
        yield Served(program, url.hostname, url.port)


async def read_to_the_end(client: TestClient, ends: list[tuple[object, int]]) -> None:
    """The last reply and the close code."""
    last: object = None
    while True:
        try:
            message = await client.receive_json()
        except Closed as closed:
            await client.aclose()
            ends.append((last, closed.code))
            return
        if "id" in message:
            last = message["data"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_one_signal_drains(signum: signal.Signals) -> None:
    """D4: SIGTERM or SIGINT under load: replies in flight arrive, everybody gets 1012, exit status 0, no traceback."""
    ends: list[tuple[object, int]] = []
    async with serving() as served:
        async with trio.open_nursery() as nursery:
            idle = [await served.connect() for _ in range(10)]
            busy = [await served.request_work(1) for _ in range(5)]
            for client in (*idle, *busy):
                nursery.start_soon(read_to_the_end, client, ends)
            served.send(signum)
        assert await served.wait() == 0
    assert sorted(ends, key=str) == sorted([("done", 1012)] * 5 + [(None, 1012)] * 10, key=str)
    served.check_silence()
    assert served.program.stdout.count(b"disconnect 1012") == 15


async def test_load_while_it_drains() -> None:
    """D4: clients that send without pause are answered in order up to some request, and then closed with 1012."""
    counts: list[int] = []
    running: list[TestClient] = []
    async with serving() as served:

        async def load(client: TestClient) -> None:
            i = 0
            try:
                while True:
                    assert await client.request("echo", i) == i
                    i += 1
                    if i == 10:
                        running.append(client)
                    if len(running) == 10:
                        running.clear()
                        served.send(signal.SIGTERM)
            except Closed:
                counts.append(i)
            await client.expect_close(1012)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(load, await served.connect())
        assert await served.wait() == 0
    assert len(counts) == 10
    assert min(counts) >= 10
    served.check_silence()


async def test_term_twice() -> None:
    """D4: a second SIGTERM changes nothing: supervisors like to repeat it."""
    ends: list[tuple[object, int]] = []
    async with serving() as served:
        client = await served.request_work(1)
        idle = await served.connect()
        served.send(signal.SIGTERM)
        await read_to_the_end(idle, ends)  # the drain has begun
        served.send(signal.SIGTERM)
        await read_to_the_end(client, ends)
        assert await served.wait() == 0
    assert ends == [(None, 1012), ("done", 1012)]
    served.check_silence()


async def test_int_twice() -> None:
    """D4: a second SIGINT cancels at once: no reply for who is busy, but a close frame, hooks, and no traceback."""
    ends: list[tuple[object, int]] = []
    async with serving() as served:
        client = await served.request_work(3600)
        idle = await served.connect()
        served.send(signal.SIGINT)
        await read_to_the_end(idle, ends)  # the drain has begun
        with trio.fail_after(10):
            served.send(signal.SIGINT)
            await read_to_the_end(client, ends)
            assert await served.wait() == 0
    assert ends == [(None, 1012), (None, 1012)]
    served.check_silence()


async def test_new_clients_after_the_signal() -> None:
    """D4: after SIGTERM nobody new is let in: refused, or answered 503 if the connection was open already."""
    async with serving() as served:
        busy = await served.request_work(2)
        early = await trio.open_tcp_stream(served.host, served.port)
        idle = await served.connect()  # so the one before it was accepted
        served.send(signal.SIGTERM)
        await idle.expect_close(1012, skip_messages=True)
        await idle.aclose()
        with pytest.raises(OSError, match=r"all attempts to connect|refused"):
            await trio.open_tcp_stream(served.host, served.port)
        await early.send_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await early.receive_some()).startswith(b"HTTP/1.1 503 ")
        await early.aclose()
        assert (await busy.receive_json())["data"] == "done"
        await busy.expect_close(1012)
        await busy.aclose()
        assert await served.wait() == 0
    served.check_silence()


async def test_kill() -> None:
    """D4: SIGKILL: clients see the end of the stream, and new ones are refused."""
    async with serving() as served:
        client = await served.connect()
        assert await client.request("echo", 1) == 1
        served.send(signal.SIGKILL)
        assert await served.wait() == -signal.SIGKILL
        await client.expect_close(1006)
        await client.aclose()
        with pytest.raises(OSError, match=r"all attempts to connect|refused"):
            await trio.open_tcp_stream(served.host, served.port)


async def test_stop_and_continue() -> None:
    """D4: a process that was stopped for longer than a peer may be silent does not blame its peers when it goes on."""
    async with serving(ping=0.5) as served:
        client = await served.connect()
        with trio.move_on_after(0.7):
            await client.receive()
        served.send(signal.SIGSTOP)
        newcomer = await trio.open_tcp_stream(served.host, served.port)  # the kernel answers for the process
        await trio.sleep(3)
        served.send(signal.SIGCONT)
        assert await client.request("echo", "still here") == "still here"
        late = await TestClient.connect(newcomer, host=f"{served.host}:{served.port}")
        assert await late.request("echo", "welcome") == "welcome"
        async with trio.open_nursery() as nursery:
            for one in (client, late):
                nursery.start_soon(one.receive_nothing, 1.5)
        for one in (client, late):
            await one.close()
            await one.aclose()
        served.send(signal.SIGTERM)
        assert await served.wait() == 0
    served.check_silence()


async def test_a_taken_port() -> None:
    """A port in use ends the program with status 1 and the reason on standard error, not with silence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        source = f"from trio_rooms import Manager; Manager().run(port={taken.getsockname()[1]})"
        async with run_program("-c", source) as program:
            assert await program.process.wait() == 1
    assert b"in use" in program.stderr
