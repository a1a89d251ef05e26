"""The accept loop with scripted listeners on a virtual clock, and with real sockets in a process out of descriptors."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from listeners import open_descriptors
from trio_rooms._accept import accept_forever
from trio_rooms._listening import open_listeners

LOGGER = logging.getLogger("test_accept")
DEADLINE = 10
needs_rlimit = pytest.mark.skipif(sys.platform == "win32", reason="no limit of descriptors to lower")


@attrs.define(eq=False)
class ScriptedListener(trio.abc.Listener[trio.abc.Stream]):
    """Raises or returns, in turn, what it was made with; then waits for ever."""

    script: list[OSError | trio.abc.Stream]
    closed: bool = False

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self.script:
            await trio.sleep_forever()
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Seen:
    """What an accept loop did."""

    errors: int = 0
    served: list[trio.abc.Stream] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    failed: trio.Event = attrs.field(factory=trio.Event)

    async def handle(self, stream: trio.abc.Stream) -> None:
        self.served.append(stream)
        self.times.append(trio.current_time())
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(b"served")

    def count_error(self) -> None:
        self.errors += 1
        self.failed.set()


@asynccontextmanager
async def accepting(listener: trio.abc.Listener[Any]) -> AsyncGenerator[Seen, None]:
    """The loop runs inside the block; what it accepted is closed behind it."""
    seen = Seen()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await accept_forever(listener, seen.handle, nursery, errors=seen.count_error, logger=LOGGER)

        nursery.start_soon(run)
        try:
            yield seen
        finally:
            nursery.cancel_scope.cancel()
    for stream in seen.served:
        await trio.aclose_forcefully(stream)


def failure(code: int) -> OSError:
    """The error that the system reports with this errno."""
    return OSError(code, os.strerror(code))


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Inside the block this process can open ``count`` more descriptors."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What is limited is the number of a descriptor: a bound above all that are open, and what is free below it taken.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + count + 2, hard))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def listener() -> AsyncGenerator[trio.SocketListener, None]:
    """Listens on a loopback address."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


@pytest.mark.usefixtures("no_leak")
async def test_serves_and_stops(autojump_clock: trio.testing.MockClock) -> None:
    """Each connection gets its handler; a cancel closes the listener and leaves no descriptor."""
    ends = [trio.testing.memory_stream_pair() for _ in range(3)]
    listener = ScriptedListener([server for _, server in ends])
    with trio.fail_after(DEADLINE):
        async with accepting(listener) as seen:
            for client, _ in ends:
                assert await client.receive_some() == b"served"
            assert not listener.closed
    assert seen.served == [server for _, server in ends]
    assert seen.errors == 0
    assert listener.closed


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
async def test_turns_away(code: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """X1: without descriptors the client that waits is accepted and closed at once, and accepting goes on."""
    unlucky, unlucky_server = trio.testing.memory_stream_pair()
    client, server = trio.testing.memory_stream_pair()
    with trio.fail_after(DEADLINE):
        async with accepting(ScriptedListener([failure(code), unlucky_server, server])) as seen:
            start = trio.current_time()
            assert await unlucky.receive_some() == b""
            assert await client.receive_some() == b"served"
            assert trio.current_time() == start
    assert seen.served == [server]
    assert seen.errors == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert os.strerror(code) in caplog.text


@pytest.mark.usefixtures("no_leak")
async def test_pauses_when_turning_away_fails(autojump_clock: trio.testing.MockClock) -> None:
    """X1: when even the spare descriptor does not help, accepting goes on after a pause."""
    client, server = trio.testing.memory_stream_pair()
    with trio.fail_after(DEADLINE):
        async with accepting(ScriptedListener([failure(errno.EMFILE), failure(errno.EMFILE), server])) as seen:
            start = trio.current_time()
            assert await client.receive_some() == b"served"
            assert seen.times[0] - start == pytest.approx(0.1)
    assert seen.errors == 1


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.ENOMEM])
async def test_short_of_memory(code: int, autojump_clock: trio.testing.MockClock) -> None:
    """X1: a descriptor does not help against want of memory, so the client is kept and served after a pause."""
    client, server = trio.testing.memory_stream_pair()
    with trio.fail_after(DEADLINE):
        async with accepting(ScriptedListener([failure(code), failure(code), server])) as seen:
            start = trio.current_time()
            assert await client.receive_some() == b"served"
            assert seen.times[0] - start == pytest.approx(0.2)
    assert seen.errors == 2


@pytest.mark.usefixtures("no_leak")
async def test_client_gone_before_it_is_turned_away(autojump_clock: trio.testing.MockClock) -> None:
    """Accepting with the spare descriptor does not wait for a client for long."""
    listener = ScriptedListener([failure(errno.EMFILE)])
    with trio.fail_after(DEADLINE):
        async with accepting(listener):
            await trio.testing.wait_all_tasks_blocked()
            without_spare = open_descriptors()
            await trio.sleep(1)
            assert open_descriptors() == without_spare + 1


@pytest.mark.usefixtures("no_leak")
async def test_cancelled_while_turning_away(autojump_clock: trio.testing.MockClock) -> None:
    """A cancel between giving the spare descriptor up and having it back leaves none open."""
    listener = ScriptedListener([failure(errno.EMFILE)])
    with trio.fail_after(DEADLINE):
        async with accepting(listener):
            await trio.testing.wait_all_tasks_blocked()
            assert not listener.script
    assert listener.closed


async def test_logs_once_a_minute(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """X1: every failure is counted, one a minute is logged, with the number of the others."""
    client, server = trio.testing.memory_stream_pair()
    with trio.fail_after(1_000):
        async with accepting(ScriptedListener([*(failure(errno.ENOMEM) for _ in range(1_801)), server])) as seen:
            assert await client.receive_some() == b"served"
    assert seen.errors == 1_801
    assert len(caplog.records) in (3, 4)  # three minutes, but for rounding
    assert "(0 more" in caplog.messages[0]
    assert all("(599 more" in message or "(600 more" in message for message in caplog.messages[1:])


@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("script", [[errno.EINVAL], [errno.EMFILE, errno.EINVAL]])
async def test_other_errors_propagate(script: list[int], autojump_clock: trio.testing.MockClock) -> None:
    """An error that means something else comes out, and the listener is closed."""
    listener = ScriptedListener([failure(code) for code in script])
    with trio.fail_after(DEADLINE), pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Invalid")):
        async with accepting(listener):
            await trio.sleep_forever()
    assert listener.closed


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_broken_before_accepted() -> None:
    """H2: a client that resets while it waits in the backlog does not disturb the next one."""
    with trio.fail_after(DEADLINE):
        (listener,) = await open_listeners("127.0.0.1", 0)
        address = listener.socket.getsockname()
        with socket.create_connection(address) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        async with accepting(listener), await trio.open_tcp_stream(*address) as client:
            assert await client.receive_some() == b"served"


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_a_crowd_in_the_backlog(listener: trio.SocketListener) -> None:
    """Of many clients that wait each is served, and knows as little of the others as if it had come alone."""
    address = listener.socket.getsockname()
    with trio.fail_after(DEADLINE):
        clients = [await trio.open_tcp_stream(*address) for _ in range(50)]
        async with accepting(listener) as seen:
            for client in clients:
                assert await client.receive_some() == b"served"
                await client.aclose()
            assert len(seen.served) == 50
            late = await trio.open_tcp_stream(*address)
            assert await late.receive_some() == b"served"
            await late.aclose()


@pytest.mark.sockets
async def test_listener_closed_by_others(listener: trio.SocketListener) -> None:
    """Closing the listener ends the loop with ClosedResourceError, as it ends accept."""
    with trio.fail_after(DEADLINE), pytest.RaisesGroup(trio.ClosedResourceError):
        async with accepting(listener):
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
            await trio.sleep_forever()


@pytest.mark.sockets
@needs_rlimit
async def test_flood_without_descriptors(listener: trio.SocketListener, caplog: pytest.LogCaptureFixture) -> None:
    """X1: out of descriptors, those who find no place are told so at once; afterwards all is as before."""
    clients = [socket.socket() for _ in range(40)]
    outcomes: list[bytes] = []

    async def ask(sock: socket.socket) -> None:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as client:
            await client.socket.connect(listener.socket.getsockname())
            outcomes.append(await client.receive_some())
            # Descriptors must not become free before everybody has had an answer.
            if len(outcomes) == len(clients):
                nursery.cancel_scope.cancel()
            await trio.sleep_forever()

    with trio.fail_after(DEADLINE):
        async with accepting(listener) as seen:
            await trio.testing.wait_all_tasks_blocked()
            with descriptors_left(10):
                async with trio.open_nursery() as nursery:
                    for sock in clients:
                        nursery.start_soon(ask, sock)
            assert sorted(outcomes) == [b""] * 30 + [b"served"] * 10
            assert seen.errors == 30
            assert len(caplog.records) == 1
            async with await trio.open_tcp_stream(*listener.socket.getsockname()) as late:
                assert await late.receive_some() == b"served"


@pytest.mark.sockets
@needs_rlimit
@pytest.mark.parametrize("tls", [False, True])
async def test_keeps_the_spare_while_nobody_waits(
    tls: bool, listener: trio.SocketListener, caplog: pytest.LogCaptureFixture
) -> None:
    """X1: an idle server without descriptors keeps its spare one, stays silent, and turns away who comes then."""
    layered = trio.SSLListener(listener, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) if tls else listener
    client, first = (trio.socket.socket() for _ in range(2))
    with trio.fail_after(DEADLINE), client, first:
        async with accepting(layered) as seen:
            await trio.testing.wait_all_tasks_blocked()
            with descriptors_left(1):
                # It has the loop call accept again, without a descriptor and with nobody waiting.
                await first.connect(listener.socket.getsockname())
                await trio.testing.wait_all_tasks_blocked()
                assert len(seen.served) == 1
                assert seen.errors == 0
                with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                    os.open(os.devnull, os.O_RDONLY)
                await client.connect(listener.socket.getsockname())
                assert await client.recv(1) == b""
                assert seen.errors == 1
                assert len(caplog.records) == 1


@pytest.mark.sockets
@needs_rlimit
async def test_starts_without_a_spare(listener: trio.SocketListener) -> None:
    """X1: a loop that began without any descriptor serves as soon as there are some, and then has a spare one."""
    with trio.fail_after(DEADLINE), trio.socket.socket() as client, trio.socket.socket() as next_client:
        await client.connect(listener.socket.getsockname())
        with ExitStack() as exhausted:
            exhausted.enter_context(descriptors_left(0))
            async with accepting(listener) as seen:
                await seen.failed.wait()
                exhausted.close()
                assert await client.recv(6) == b"served"
                with descriptors_left(0):
                    await next_client.connect(listener.socket.getsockname())
                    assert await next_client.recv(6) == b""
