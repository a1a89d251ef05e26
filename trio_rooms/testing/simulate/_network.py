"""The network of a simulation: connections that break where and when they are told to.

Theory of operation. Each connection is a pair of streams in memory, or a pair of local sockets: over these the server
writes without waiting, as it does over a real one, which is another way through its code. They belong to this
process, so what is sent is there at once, and nothing depends on time. Around the ends are streams that misbehave on
demand. Both ends of a pair in memory have one; of a pair of sockets only the client's, because the server
would not know the socket for one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Literal

import attrs
import trio
import trio.testing

from .._faults import FaultyStream
from ._record import Fault, Record
from ._tap import TappedStream

#: What carries connections.
Carrier = Literal["memory", "sockets"]

# What the kernel keeps for one end of a local socket; the smallest that it allows is a little more.
_SOCKET_BUFFER = 4096


class SlowStream(trio.abc.Stream):
    """Each read and each write takes its time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.delay: float = 0.0
        """Seconds. May be set."""
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """After the delay. A cancel before it is over has sent nothing."""
        await trio.sleep(self.delay)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Not a promise that the delay is over."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Received first and delayed then, as on a long way; a cancel meanwhile loses it, as the client is gone."""
        data = await self._stream.receive_some(max_bytes)
        if self.delay:
            await trio.sleep(self.delay)
        return data

    async def aclose(self) -> None:
        """Close what is below."""
        await self._stream.aclose()


@attrs.define(eq=False)
class Wire:
    """One connection's two ends, and what can be done to them."""

    link: int
    near: FaultyStream
    """The client's end."""
    slow: SlowStream
    """Around it, and what the client uses."""
    far: TappedStream | None
    """The server's end, if it can misbehave."""
    record: Record
    faulty: bool = False
    """Whether anything was done to it."""

    def touch(self, kind: str) -> None:
        """Note that from now on the client may suffer."""
        self.faulty = True
        self.record.add(Fault(kind, self.link))

    def cut(self, end: str, direction: str, after: int) -> None:
        """Break it after so many bytes; seen from one end, in one direction."""
        self.touch("cut")
        stream = self.far if end == "far" and self.far is not None else self.near
        (stream.cut_sending_at if direction == "sending" else stream.cut_receiving_at)(after)

    def trickle(self) -> None:
        """One byte at a time, in both directions."""
        self.touch("trickle")
        for stream in (self.near, self.far):
            if stream is not None:
                stream.one_byte_reads = stream.one_byte_writes = True

    def stall(self, end: str, direction: str, after: int) -> None:
        """Let nothing pass in a direction until :meth:`resume`; what is sent from here stops after so many bytes."""
        self.touch("stall")
        stream = self.far if end == "far" and self.far is not None else self.near
        if direction == "sending":
            stream.stall_sending(after)
        else:
            stream.stall_receiving()

    def clog(self, after: int) -> None:
        """Take so many bytes more of what the server sends, which may end within a frame, until :meth:`resume`."""
        if self.far is not None:
            self.stall("far", "sending", after)
        else:
            self.stall("near", "receiving", 0)

    def resume(self) -> None:
        """End every stall, and every delay."""
        self.slow.delay = 0.0
        for stream in (self.near, self.far):
            if stream is not None:
                stream.resume_sending()
                stream.resume_receiving()

    def silence(self) -> None:
        """A half-open connection: neither end hears of the other any more."""
        self.touch("silence")
        self.near.silence()
        if self.far is not None:
            self.far.silence()

    def slow_down(self, seconds: float) -> None:
        """Delay everything."""
        self.touch("slow")
        self.slow.delay = seconds


@attrs.define(eq=False)
class Network:
    """Makes connections, and hands the server's ends to whoever serves."""

    carrier: Carrier
    record: Record
    listening: Callable[[], bool]
    """Whether anybody serves."""
    accept: Callable[[trio.abc.Stream], None]
    """Takes the server's end."""
    wires: list[Wire] = attrs.field(factory=list)

    def open(self, link: int) -> Wire | None:
        """A new connection before its first byte; None if nobody listens."""
        if not self.listening():
            return None
        one: trio.abc.Stream
        other: trio.abc.Stream
        if self.carrier == "sockets":
            one, other = _socket_streams()
            far = None
        else:
            one, plain = trio.testing.memory_stream_pair()
            other = far = TappedStream(plain)
        near = FaultyStream(one)
        wire = Wire(link, near, SlowStream(near), far, self.record)
        self.wires.append(wire)
        self.accept(other)
        return wire

    def note_written(self) -> None:
        """Record what was written to each connection where that is known. No server may run any more."""
        for wire in self.wires:
            if wire.far is not None:
                self.record.add(wire.far.wrote(wire.link))

    def heal(self) -> None:
        """End all that can be ended."""
        for wire in self.wires:
            wire.resume()


def _socket_streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Both ends of a local connection, with as little as possible in between."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)
    return one, other
