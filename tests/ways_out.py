"""Connections that write to sockets which take what a test lets them, in each way that a sink has to write."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import Publication, Report
from trio_rooms._wire.fanout import FanOut
from trio_rooms._wire.flusher import Flusher
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.outbox import Outbox, flush_all
from trio_rooms._wire.outbox_statistics import OutboxStatistics
from trio_rooms._wire.sink import Sink, WriteTimedOut
from trio_rooms._wire.transport import Close, TransportClosed

WRITE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
WayName = Literal["flusher", "writer", "stream", "real"]


@attrs.frozen
class Bounds:
    """Of each outbox, and of a write."""

    max_messages: int
    max_bytes: int
    write_buffer_size: int


@attrs.frozen
class Nature:
    """What a socket is like."""

    takes: float = math.inf
    """So many bytes in all, until it is allowed more."""
    piece: float = math.inf
    """So many bytes at most in one write."""
    breaks_at: float = math.inf
    """After so many bytes it is broken."""


class Way(Protocol):
    """A stream to write to, seen from both ends."""

    stream: trio.abc.Stream

    def allow(self, more: float) -> None:
        """Take so many bytes more."""

    async def take_all(self) -> None:
        """Take whatever comes, up to the end."""

    def send(self, data: bytes) -> None:
        """Send as the peer; what does not arrive is lost."""

    def hang_up(self) -> None:
        """End the stream as the peer."""

    def taken(self) -> bytes:
        """All that was written."""


class NarrowSocket(socket.socket):
    """A socket that takes what it is allowed, and keeps it; what it reads comes from the peer.

    It is not writable, for the system and so for trio, while it would take nothing: then its buffer is full of junk.
    """

    def __init__(self, plain: socket.socket, peer: socket.socket, nature: Nature) -> None:
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.setblocking(False)
        self._peer = peer
        self._nature = nature
        self._allowed = nature.takes
        self._ended = False
        self.written = bytearray()
        if not self._allowed:
            self._plug()

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        assert not self._ended, "written after the end of the stream"
        if self.fileno() < 0 or len(self.written) >= self._nature.breaks_at:
            raise ConnectionResetError
        size = int(min(len(data), self._nature.piece, self._limit - len(self.written)))
        if not size:
            raise BlockingIOError
        self.written += data[:size]
        if len(self.written) == self._allowed:
            self._plug()
        return size

    def shutdown(self, how: int) -> None:
        self._ended = True
        super().shutdown(how)

    def allow(self, more: float) -> None:
        self._allowed += more
        with contextlib.suppress(OSError):  # nothing is left, or the other end is closed
            while self._peer.recv(1 << 20):
                pass

    @property
    def _limit(self) -> float:
        return min(self._allowed, self._nature.breaks_at)

    def _plug(self) -> None:
        if self._allowed < self._nature.breaks_at:
            with contextlib.suppress(BlockingIOError):
                while True:
                    super().send(bytes(1 << 16))


class SocketWay:
    """Over a :class:`NarrowSocket`."""

    def __init__(self, nature: Nature) -> None:
        near, self._peer = socket.socketpair()
        self._peer.setblocking(False)
        self._narrow = NarrowSocket(near, self._peer, nature)
        outer = trio.socket.from_stdlib_socket(socket.socket())
        outer._sock.close()  # type: ignore[attr-defined]
        outer._sock = self._narrow  # type: ignore[attr-defined]  # trio takes no socket of a class of our own
        self.stream = trio.SocketStream(outer)

    def allow(self, more: float) -> None:
        self._narrow.allow(more)

    async def take_all(self) -> None:
        await trio.lowlevel.checkpoint()
        self._narrow.allow(math.inf)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._peer.send(data)

    def hang_up(self) -> None:
        self._peer.close()

    def taken(self) -> bytes:
        return bytes(self._narrow.written)


class RealWay:
    """Over a socket as it is, with the smallest buffer that the system gives; what it takes is the system's affair."""

    def __init__(self) -> None:
        near, self._peer = trio.socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.stream = trio.SocketStream(near)
        self._read = bytearray()

    def allow(self, more: float) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read += os.read(self._peer.fileno(), int(min(more, 1 << 20)))

    async def take_all(self) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while data := await self._peer.recv(1 << 16):
                self._read += data

    def send(self, data: bytes) -> None:
        os.write(self._peer.fileno(), data)

    def hang_up(self) -> None:
        self._peer.close()

    def taken(self) -> bytes:
        return bytes(self._read)


class NarrowStream(trio.abc.HalfCloseableStream):
    """The same as a stream that is no socket, like TLS: nobody knows what it has taken of a write that did not end."""

    def __init__(self, nature: Nature) -> None:
        self.stream = self
        self._nature = nature
        self._allowed = nature.takes
        self._ended = self._closed = self._hung_up = False
        self._received = bytearray()
        self._touched = trio.Event()
        self._written = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        assert not self._ended, "written after the end of the stream"
        rest = memoryview(data)
        while rest:
            if self._closed:
                raise trio.ClosedResourceError
            if len(self._written) >= self._nature.breaks_at:
                raise trio.BrokenResourceError
            limit = min(self._allowed, self._nature.breaks_at)
            size = int(min(len(rest), self._nature.piece, limit - len(self._written)))
            self._written += rest[:size]
            rest = rest[size:]
            if not size:
                await self._touched.wait()

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._ended = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._received or self._hung_up or self._closed):
            await self._touched.wait()
        if self._closed:
            raise trio.ClosedResourceError
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def aclose(self) -> None:
        self._closed = True
        self._touch()
        await trio.lowlevel.checkpoint()

    def allow(self, more: float) -> None:
        self._allowed += more
        self._touch()

    async def take_all(self) -> None:
        await trio.lowlevel.checkpoint()
        self.allow(math.inf)

    def send(self, data: bytes) -> None:
        self._received += data
        self._touch()

    def hang_up(self) -> None:
        self._hung_up = True
        self._touch()

    def taken(self) -> bytes:
        return bytes(self._written)

    def _touch(self) -> None:
        self._touched.set()
        self._touched = trio.Event()


class Bare:
    """A format without an envelope."""

    def publication(self, publication: Publication) -> Frame:
        return make_frame(publication.data, text=True)


@attrs.define(eq=False)
class Member:
    """A connection with no more than its tasks for reading and writing, and a peer."""

    name: str
    way: Way
    sink: Sink
    transport: NativeTransport
    close: Close | None = None
    cut_off: bool = False
    """Whether a write was cancelled, perhaps."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @property
    def outbox(self) -> Outbox:
        return self.sink.outbox

    @property
    def taken(self) -> bytes:
        return self.way.taken()

    @property
    def statistics(self) -> OutboxStatistics:
        return self.outbox.statistics()

    async def run(self) -> None:
        """From the first byte to the last, as a connection does it."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                try:
                    await self.sink.run(self.transport)
                except TransportClosed as exc:
                    self._end(exc.close)
                except WriteTimedOut:
                    self.cut_off = True
                    self._end(Close(1006, "", "network"))
                nursery.cancel_scope.cancel()
        self.sink.discard()
        close = self.close or Close(1000)
        with trio.move_on_after(CLOSE_TIMEOUT):
            if close.by != "network":
                await self.transport.close(close.code, "")
        await self.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                await self.transport.receive()
        except TransportClosed as exc:
            self._end(exc.close)
            self.sink.discard()

    def finish(self) -> None:
        """End it behind the data."""
        self._end(Close(1000))
        self.sink.finish()

    def discard(self) -> None:
        """End it ahead of the data, as for a peer that is too slow."""
        self._end(Close(4008))
        self.sink.discard()

    def cancel(self) -> None:
        """End it in whatever it does."""
        self._end(Close(1001))
        self.cut_off = True
        self._scope.cancel()

    def _end(self, close: Close) -> None:
        self.close = self.close or close


class Hall:
    """Members, rooms, and the way that all of them write in."""

    def __init__(self, way: WayName, natures: Sequence[Nature], bounds: Bounds) -> None:
        # Without a flusher a sink leaves everything to its writer.
        self.flusher = Flusher(flush_all)
        form = Bare()
        self._fan_out = FanOut(self.flusher, bounds.max_messages, bounds.max_bytes, bounds.write_buffer_size)
        self.rooms: dict[str, dict[str, Outbox]] = {}
        self.members: list[Member] = []
        for n, nature in enumerate(natures):
            out = self._way(way, nature)
            sink = Sink(
                form,
                max_messages=bounds.max_messages,
                max_bytes=bounds.max_bytes,
                write_buffer_size=bounds.write_buffer_size,
                write_timeout=WRITE_TIMEOUT,
                flusher=None if way == "writer" else self.flusher,
            )
            transport = NativeTransport(
                out.stream,
                trailing=b"",
                max_message_bytes=1000,
                max_fragments=10,
                message_timeout=math.inf,
                read_buffer_size=4096,
                before_read=trio.lowlevel.checkpoint,
            )
            self.members.append(Member(str(n), out, sink, transport))

    def _way(self, way: WayName, nature: Nature) -> Way:
        if way == "real":
            return RealWay()
        return NarrowStream(nature) if way == "stream" else SocketWay(nature)

    def join(self, room: str, member: Member) -> None:
        self.rooms.setdefault(room, {})[member.name] = member.outbox

    def leave(self, room: str, member: Member) -> None:
        outboxes = self.rooms[room]
        if member.name in outboxes:
            outboxes.pop(member.name).stand_apart(outboxes)

    def publish(self, publication: Publication) -> Report:
        assert publication.room is not None
        outboxes = self.rooms[publication.room]
        if publication.delivery is None:
            outcome = self._fan_out.put_all(publication, outboxes, publication.exclude)
        else:
            outcome = self._fan_out.put_watched(publication, outboxes, publication.exclude, publication.delivery)
        for name in outcome.closed:
            self.members[int(name)].discard()
        return Report(True, outcome.enqueued, outcome.dropped, len(outcome.closed), outcome.displaced)

    async def run(self, program: Callable[[Hall], Awaitable[None]]) -> None:
        """Run the flusher and all members while ``program`` does; then all finish, and the peers hang up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.flusher.run)
            async with trio.open_nursery() as connections:
                for member in self.members:
                    connections.start_soon(member.run)
                await wait_all_tasks_blocked()
                await program(self)
                await wait_all_tasks_blocked()
                for member in self.members:
                    connections.start_soon(member.way.take_all)
                    member.finish()
                await wait_all_tasks_blocked()
                for member in self.members:
                    member.way.hang_up()
            nursery.cancel_scope.cancel()


def in_one_way(
    way: WayName, program: Callable[[Hall], Awaitable[None]], natures: Sequence[Nature], bounds: Bounds
) -> list[Member]:
    """Run a program; a hang ends with the virtual clock."""
    return trio.run(_bounded, way, program, natures, bounds, clock=MockClock(autojump_threshold=0))


async def _bounded(
    way: WayName, program: Callable[[Hall], Awaitable[None]], natures: Sequence[Nature], bounds: Bounds
) -> list[Member]:
    hall = Hall(way, natures, bounds)
    with trio.fail_after(1000):
        await hall.run(program)
    return hall.members
