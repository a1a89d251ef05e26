"""One wait for the sockets of many connections, and the few that are left to trio."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_rooms import Connection, Manager, serve_rooms
from trio_rooms._wire import poller as poller_module
from trio_rooms._wire.ending import GONE
from trio_rooms._wire.input import input_of
from trio_rooms._wire.plain import PlainStream
from trio_rooms._wire.poller import PolledInput, Poller, make_poller
from trio_rooms.testing import TestClient

pytestmark = [pytest.mark.sockets, pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")]

SIZE = 4


@attrs.define(eq=False)
class Reader:
    """One connection: what the poller has to do with, its peer, and what was read so far."""

    stream: PlainStream
    input: PolledInput
    peer: socket.socket
    got: list[bytes] = attrs.field(factory=list)
    ended: bool = False
    failed: bool = False

    async def read_all(self) -> None:
        """Read until the end."""
        try:
            while data := await self.input.read(SIZE):
                self.got.append(bytes(data))
        except GONE:
            self.failed = True
        else:
            self.ended = True

    def close(self) -> None:
        """Close both ends."""
        self.peer.close()
        self.stream.close()


def make_reader(poller: Poller) -> Reader:
    """A connection that nobody reads yet."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = PlainStream(ours, "")
    reader = input_of(stream, poller)
    assert isinstance(reader, PolledInput)
    return Reader(stream, reader, theirs)


@asynccontextmanager
async def readers(count: int) -> AsyncIterator[tuple[Poller, list[Reader]]]:
    """So many connections that are read, and their poller at work."""
    poller = make_poller()
    assert poller is not None
    made = [make_reader(poller) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        for reader in made:
            nursery.start_soon(reader.read_all)
        await wait_all_tasks_blocked()
        yield poller, made
        nursery.cancel_scope.cancel()
    for reader in made:
        reader.close()
    assert (len(poller.readers), len(poller._alone), len(poller._loners)) == (0, 0, 0)


async def send_alone(reader: Reader, times: int = 1) -> None:
    """Send one byte after the other, each when everybody is at rest."""
    for _ in range(times):
        reader.peer.send(b".")
        await wait_all_tasks_blocked()


def left_to_trio(poller: Poller, among: list[Reader]) -> list[int]:
    """Which of them the poller does not wake."""
    return [n for n, reader in enumerate(among) if reader.input not in poller.readers.values()]


async def test_each_gets_its_own() -> None:
    """What comes to many at a time is read by each; all that was sent, in order, and then the end."""
    async with readers(50) as (_, made):
        for n, reader in enumerate(made):
            reader.peer.send(bytes((n,)) * 10)
        await wait_all_tasks_blocked()
        assert [b"".join(reader.got) for reader in made] == [bytes((n,)) * 10 for n in range(50)]
        for reader in made:
            reader.peer.close()
        await wait_all_tasks_blocked()
        assert all(reader.ended for reader in made)


async def test_the_end_that_comes_with_the_last_bytes() -> None:
    """One event tells of both; the read that takes the bytes must not wait for another one."""
    async with readers(2) as (_, made):
        for reader in made:
            reader.peer.send(b"abc")  # less than a read takes
            reader.peer.close()
        await wait_all_tasks_blocked()
        assert [(reader.got, reader.ended) for reader in made] == [([b"abc"], True)] * 2


async def test_more_than_one_read_takes() -> None:
    """What was left of one event is read without another one; exactly as much as a read takes does no harm."""
    async with readers(1) as (_, (reader,)):
        reader.peer.send(b"abcdefghi")
        await wait_all_tasks_blocked()
        assert reader.got == [b"abcd", b"efgh", b"i"]
        reader.peer.send(b"jklm")
        await wait_all_tasks_blocked()
        reader.peer.send(b"n")
        await wait_all_tasks_blocked()
        assert reader.got[3:] == [b"jklm", b"n"]


async def test_what_was_there_before() -> None:
    """What has come before the first read is read by it, also before the poller runs."""
    poller = Poller()
    reader = make_reader(poller)
    reader.peer.send(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.read_all)
        await wait_all_tasks_blocked()
        assert reader.got == []
        nursery.start_soon(poller.run)
        await wait_all_tasks_blocked()
        assert reader.got == [b"a"]
        nursery.cancel_scope.cancel()
    reader.close()


async def test_what_comes_while_nobody_reads() -> None:
    """It is told once, remembered, and read when somebody does; a false memory costs nothing but a look."""
    async with readers(1) as (poller, _), trio.open_nursery() as nursery:
        reader = make_reader(poller)
        reader.peer.send(b"a")
        assert await reader.input.read(SIZE) == b"a"
        reader.peer.send(b"b")
        await wait_all_tasks_blocked()
        assert await reader.input.read(SIZE) == b"b"
        reader.peer.send(b"c")
        await wait_all_tasks_blocked()
        reader.stream.socket.recv(SIZE)  # behind its back, as a read does that was woken for what came before
        nursery.start_soon(reader.read_all)
        await wait_all_tasks_blocked()
        assert reader.got == []
        reader.peer.send(b"d")
        await wait_all_tasks_blocked()
        assert reader.got == [b"d"]
        nursery.cancel_scope.cancel()
        reader.close()


async def test_a_reset() -> None:
    """A connection that breaks wakes its reader, as trio would."""
    async with readers(1) as (poller, _):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        theirs = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        plain, _ = listener.socket._sock.accept()  # type: ignore[attr-defined]
        plain.setblocking(False)
        stream = PlainStream(plain, "")
        reader = input_of(stream, poller)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(GONE):
                    await reader.read(SIZE)

            await wait_all_tasks_blocked()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await theirs.aclose()
        stream.close()
        await listener.aclose()


async def test_closed() -> None:
    """A read that waits fails when the stream is closed, and so does the next; by the poller and by trio."""
    async with readers(6) as (poller, made):
        await send_alone(made[0], poller_module._TIMES_ALONE)
        assert left_to_trio(poller, made) == [0]
        for reader in made[:2]:
            reader.stream.close()
        await wait_all_tasks_blocked()
        assert [reader.failed for reader in made] == [True, True, False, False, False, False]
        assert left_to_trio(poller, made) == [0, 1]
        for reader in made[:2]:
            with pytest.raises(GONE):
                await reader.input.read(SIZE)
        for reader in made[2:]:  # the place is free
            await send_alone(reader, poller_module._TIMES_ALONE)
        assert left_to_trio(poller, made) == [0, 1, 2, 3, 4, 5]


async def test_two_tasks() -> None:
    """One task reads at a time; the one that has come first is not forgotten."""
    async with readers(1) as (_, (reader,)):
        with pytest.raises(trio.BusyResourceError):
            await reader.input.read(SIZE)
        reader.peer.send(b"a")
        await wait_all_tasks_blocked()
        assert reader.got == [b"a"]


async def test_a_number_that_is_used_again() -> None:
    """A socket that gets the number of one that was closed is woken for its own."""
    async with readers(1) as (poller, (old,)), trio.open_nursery() as nursery:
        number = old.stream.socket.fileno()
        old.peer.send(b"a")
        old.stream.close()
        new = make_reader(poller)
        assert new.stream.socket.fileno() == number
        nursery.start_soon(new.read_all)
        await wait_all_tasks_blocked()
        assert (old.got, old.failed, new.got) == ([], True, [])
        new.peer.send(b"b")
        await wait_all_tasks_blocked()
        assert new.got == [b"b"]
        nursery.cancel_scope.cancel()
        new.close()


async def test_who_comes_alone_is_left_to_trio() -> None:
    """A few talkative connections are waited for without the poller, and lose nothing by it."""
    async with readers(6) as (poller, made):
        await send_alone(made[0], poller_module._TIMES_ALONE - 1)
        assert left_to_trio(poller, made) == []
        await send_alone(made[0])
        assert left_to_trio(poller, made) == [0]
        made[0].peer.send(b"abcdefghi")
        await wait_all_tasks_blocked()
        assert b"".join(made[0].got).endswith(b".abcdefghi")
        made[0].peer.close()
        await wait_all_tasks_blocked()
        assert made[0].ended


async def test_those_who_come_in_turns() -> None:
    """Also several that take turns; of too many, the one that was left to trio first comes back, and loses nothing."""
    async with readers(6) as (poller, made):
        few = made[: poller_module._LONERS]
        for _ in range(poller_module._TIMES_ALONE):
            for reader in few:
                await send_alone(reader)
        assert left_to_trio(poller, made) == [0, 1, 2, 3]
        await send_alone(made[5], poller_module._TIMES_ALONE)
        assert left_to_trio(poller, made) == [0, 1, 2, 3, 5]
        await send_alone(made[0])  # trio waits for it still
        assert left_to_trio(poller, made) == [1, 2, 3, 5]
        await send_alone(made[0])
        assert len(made[0].got) == poller_module._TIMES_ALONE + 2
        made[0].peer.close()
        await wait_all_tasks_blocked()
        assert made[0].ended


async def test_among_many_nobody_is_left_to_trio() -> None:
    """Where more than a few take turns, or come at the same time, the poller wakes them all."""
    async with readers(6) as (poller, made):
        for _ in range(2 * poller_module._TIMES_ALONE):
            for reader in made:
                await send_alone(reader)
        for _ in range(2 * poller_module._TIMES_ALONE):
            for reader in made[:2]:
                reader.peer.send(b".")
            await wait_all_tasks_blocked()
        assert left_to_trio(poller, made) == []


READERS = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), READERS, st.integers(1, 3 * SIZE)),
        st.tuples(st.just("alone"), READERS, st.integers(1, 10)),
        st.tuples(st.just("rest"), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["pause", "end", "close"]), READERS, st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS)
async def test_whatever_comes_when(steps: list[tuple[str, int, int]]) -> None:
    """Each reader gets what was sent to it, all and in order, and the end; also one that pauses now and then."""
    async with readers(0) as (poller, _), trio.open_nursery() as nursery:
        made = [make_reader(poller) for _ in range(6)]
        scopes = [trio.CancelScope() for _ in made]
        sent = [b""] * 6

        async def read(n: int) -> None:
            with scopes[n]:
                await made[n].read_all()

        for n in range(6):
            nursery.start_soon(read, n)
        for what, n, amount in steps:
            reader = made[n]
            for number in range(amount if what == "alone" else 1):
                if what in ("send", "alone") and reader.peer.fileno() >= 0 and not reader.failed:
                    data = bytes(number + i for i in range(amount))
                    reader.peer.send(data)
                    sent[n] += data
                if what in ("rest", "alone"):
                    await wait_all_tasks_blocked()
            if what == "pause":
                scopes[n].cancel()
                await wait_all_tasks_blocked()
                scopes[n] = trio.CancelScope()
                nursery.start_soon(read, n)
            elif what == "end":
                reader.peer.close()
            elif what == "close":
                await wait_all_tasks_blocked()
                reader.stream.close()
                reader.failed = True
        for reader in made:
            reader.peer.close()
        await wait_all_tasks_blocked()
        assert [b"".join(reader.got) for reader in made] == sent
        assert all(reader.ended or reader.failed for reader in made)
        for reader in made:
            reader.close()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
async def test_a_server(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """A server waits by it where there is epoll, and else by trio; nothing of it is left at the end."""
    monkeypatch.setattr(sys, "platform", platform)
    manager = Manager()

    @manager.on("echo")
    async def echo(conn: Connection, data: str) -> str:
        return data

    async with serve_rooms(manager, port=0, transport="native") as server:
        poller = server._node.poller
        assert (poller is not None) is (platform == "linux")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            client = await TestClient.connect(stream)
            assert await client.request("echo", "a") == "a"
            assert poller is None or len(poller.readers) == 1
    assert poller is None or not poller.readers
    server.assert_quiescent()


async def test_what_is_left_is_told() -> None:
    """A socket that is still waited for at the end of a server is named."""
    async with serve_rooms(Manager(), port=0) as server:
        pass
    poller = server._node.poller
    assert poller is not None
    server.assert_quiescent()
    with socket.socket() as plain:
        poller.readers[3] = PolledInput(plain, poller)
        with pytest.raises(AssertionError, match="1 sockets"):
            server.assert_quiescent()
