"""A crowd in one room over real sockets: everybody must get every broadcast once, in order, whatever two others do.

::

    python tests/crowd.py --connections 2000 --broadcasts 100

Besides the crowd there are a member that never reads and a member whose handler raises on every message. That is done
twice, because each of the two can end in two ways:

``recovery``
  With the recovery middleware: the raiser is told ``INTERNAL`` each time and stays a member as good as any other. The
  sleeper's outbox overflows in the middle of the broadcasts: 4008.
``bare``
  Without middleware: the raiser is closed with 1011, and comes back again and again. The sleeper's outbox is large
  enough, but a write to it times out: abort.

Everybody else must notice nothing: every delivery is checked, and so are the reports, the hooks, the counts and that
nothing is left. The clients are the least that speaks WebSocket, in one process with the server. Exit status: 0, 1
after a violation, 2 if the run is not possible here.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_rooms import Close, Config, Connection, Limits, Manager, Room, Server, serve_rooms
from trio_rooms.middleware import recovery
from trio_rooms.testing import Opcode, client_frame, handshake_bytes

ROOM = "crowd"

# The publisher waits for the slowest before it is so many broadcasts ahead of it. The smallest outbox holds as many,
# and as many errors for the raiser: nobody overflows but the sleeper.
WINDOW = 32

# Of either end's socket for the sleeper; else the kernel would take megabytes for it before it is noticed.
SMALL_BUFFER = 4096

CONNECTING_AT_ONCE = 100


class Violation(Exception):
    """Something that must hold did not."""


@attrs.frozen
class Variant:
    """One of the two ways in which the culprits can end; see the module's docstring."""

    name: str
    recovers: bool
    config: Config
    sleeper_ends: str


def make_variants() -> tuple[Variant, ...]:
    """Both; made late, because the default of ``max_connections`` follows the file limit that is raised before."""
    # A sleeper answers no pings either, but these runs are about its other two ends, so the pinger is patient. What
    # the writer has taken out of the outbox counts no more: with one message in each batch the bound is met soon.
    overflow = Config(
        pong_timeout=600, write_timeout=600, write_buffer_size=1, limits=Limits(outbox_messages=2 * WINDOW)
    )
    return (
        Variant("recovery", recovers=True, config=overflow, sleeper_ends="server:4008"),
        Variant("bare", recovers=False, config=Config(pong_timeout=600), sleeper_ends="network:1006"),
    )


class Peer:
    """A client that frames and unframes, and nothing else."""

    def __init__(self, stream: trio.SocketStream, name: str) -> None:
        self.stream = stream
        self.name = name
        self._buffer = bytearray()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, port: int, name: str, *, receive_buffer: int | None = None, subprotocol: str | None = None
    ) -> AsyncIterator[Peer]:
        """Connect and shake hands; the end of the block drops the connection."""
        sock = trio.socket.socket()
        with sock:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await sock.connect(("127.0.0.1", port))
            peer = cls(trio.SocketStream(sock), name)
            await peer._shake_hands(f"127.0.0.1:{port}", subprotocol)
            yield peer

    async def _shake_hands(self, host: str, subprotocol: str | None) -> None:
        await self.stream.send_all(handshake_bytes(host=host, subprotocol=subprotocol))
        while b"\r\n\r\n" not in self._buffer:
            await self._read()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Violation(f"{self.name} was refused: {bytes(head)!r}")

    async def send(self, **message: object) -> None:
        """Send one message."""
        await self.stream.send_all(client_frame(Opcode.TEXT, json.dumps(message).encode(), mask="random"))

    async def receive(self) -> Any:
        """The next message, or a :class:`Close`. Pings are answered, a close as well."""
        while True:
            while (frame := take_frame(self._buffer)) is None:
                await self._read()
            opcode, payload = frame
            if opcode == Opcode.TEXT:
                return json.loads(payload)
            if opcode == Opcode.CLOSE:
                await self.stream.send_all(client_frame(Opcode.CLOSE, payload, mask="random"))
                return Close(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            if opcode != Opcode.PING:
                raise Violation(f"{self.name} got a frame with opcode {opcode}")
            await self.stream.send_all(client_frame(Opcode.PONG, payload, mask="random"))

    async def request(self, action: str) -> Any:
        """Ask where nothing else can come before the reply."""
        await self.send(action=action, id=action)
        reply = await self.receive()
        if not isinstance(reply, dict) or reply.get("id") != action:
            raise Violation(f"{self.name} got {reply!r} in answer to {action!r}")
        return reply

    async def _read(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise Violation(f"{self.name}: end of file with {len(self._buffer)} bytes of a frame")
        self._buffer += data


def take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take a whole frame from the head of the buffer, if there is one: final and unmasked, as servers send it."""
    if len(buffer) < 2:
        return None
    first, size, start = buffer[0], buffer[1], 2
    if first & 0xF0 != 0x80 or size & 0x80:
        raise Violation(f"not the head of a frame from a server: {bytes(buffer[:8])!r}")
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(buffer) < start:
            return None
        size = int.from_bytes(buffer[2:start], "big")
    if len(buffer) < start + size:
        return None
    payload = bytes(buffer[start : start + size])
    del buffer[: start + size]
    return first & 0xF, payload


class Hall:
    """The program that is served, and what it sees."""

    def __init__(self, variant: Variant) -> None:
        # Every raise is logged with its traceback; a run makes hundreds, on purpose.
        silent = logging.getLogger("crowd")
        silent.setLevel(logging.CRITICAL + 1)
        middleware = [recovery()] if variant.recovers else []
        self.manager = Manager(config=variant.config, logger=silent, middleware=middleware)
        self.joins = self.leaves = self.raised = self.errors = 0
        self.ends: Counter[tuple[str, str]] = Counter()
        self.sleeper: Connection | None = None
        for action in ("join", "sleep", "raise"):
            self.manager.handle_message(action, getattr(self, f"_{action}"))
        self.manager.handle_message("echo", lambda conn: {"echo": True})
        self.manager.on_leave_room(self._left)
        self.manager.on_disconnect(self._disconnected)
        self.manager.on_error(self._failed)

    async def _join(self, conn: Connection) -> None:
        conn.metadata.setdefault("role", "crowd")
        await conn.join(ROOM)
        self.joins += 1

    async def _sleep(self, conn: Connection) -> None:
        conn.metadata["role"] = "sleeper"
        self.sleeper = conn
        await self._join(conn)

    async def _raise(self, conn: Connection) -> None:
        conn.metadata["role"] = "raiser"
        self.raised += 1
        raise RuntimeError("as always")

    def _left(self, conn: Connection, room: Room, reason: str) -> None:
        self.leaves += 1

    def _disconnected(self, conn: Connection, close: Close) -> None:
        self.ends[conn.metadata["role"], f"{close.by}:{close.code}"] += 1

    def _failed(self, conn: Connection | None, error: BaseException) -> None:
        self.errors += 1


@attrs.define(eq=False)
class Run:
    """One run of one variant."""

    variant: Variant
    connections: int
    broadcasts: int
    size: int
    hall: Hall = attrs.field(init=False)
    deliveries: int = 0
    replies: int = 0
    comebacks: int = 0
    told: Counter[str] = attrs.field(factory=Counter)
    latencies: list[float] = attrs.field(factory=list)
    _seen: list[int] = attrs.field(init=False)
    _complete: int = -1
    """The last broadcast that everybody has done with."""
    _progress: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    _sleeper_may_wake: trio.Event = attrs.field(factory=trio.Event)
    _raiser_may_stop: bool = False
    _raiser_stopped: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.hall = Hall(self.variant)
        self._seen = [0] * self.broadcasts

    async def run(self) -> Server:
        """Everything. Raises a group of :exc:`Violation`."""
        cramped = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        roomy = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        # What is accepted inherits it.
        cramped.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        async with trio.open_nursery() as clients:
            async with serve_rooms(self.hall.manager, listeners=[roomy, cramped]) as server:
                port, cramped_port = (port for _, port in server.addresses)
                await clients.start(self._sleep, cramped_port)
                limiter = trio.CapacityLimiter(CONNECTING_AT_ONCE)
                async with trio.open_nursery() as arriving:
                    for number in range(self.connections):
                        arriving.start_soon(self._arrive, clients, port, number, limiter)
                raiser = self._raise_and_stay if self.variant.recovers else self._raise_and_come_back
                await clients.start(raiser, port)
                await self._broadcast_all()
                await self._settle()
            # The crowd was told 1012, and is gone.
            self._sleeper_may_wake.set()
        self._check(server)
        return server

    async def _sleep(self, port: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with Peer.connect(port, "the sleeper", receive_buffer=SMALL_BUFFER) as peer:
            await peer.request("sleep")
            task_status.started()
            await self._sleeper_may_wake.wait()

    async def _arrive(self, clients: trio.Nursery, port: int, number: int, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await clients.start(self._attend, port, number)

    async def _attend(self, port: int, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """One of the crowd: everything once, in order, and in between a request that is answered."""
        async with Peer.connect(port, f"member {number}") as peer:
            await peer.request("join")
            task_status.started()
            expected = 0
            # Spread, so that there are requests at all times.
            asks_at = number % self.broadcasts
            while not isinstance(message := await peer.receive(), Close):
                if message == {"id": number, "data": {"echo": True}}:
                    self.replies += 1
                    continue
                if message.get("seq") != expected:
                    raise Violation(f"{peer.name} got {message!r:.200}, not broadcast {expected}")
                self._delivered(expected, message["at"])
                if expected == asks_at:
                    await peer.send(action="echo", id=number)
                expected += 1
            self.told[f"{message.code} after {expected}"] += 1

    def _delivered(self, seq: int, at: float) -> None:
        self.deliveries += 1
        self.latencies.append(trio.current_time() - at)
        self._done_with(seq)

    def _done_with(self, seq: int) -> None:
        """A member has done with a broadcast; a raiser that stays has when it was told its error."""
        self._seen[seq] += 1
        if self._seen[seq] == self.connections + self.variant.recovers:
            self._complete = seq
            self._progress.unpark_all()

    async def _raise_and_stay(self, port: int, *, task_status: trio.TaskStatus[None]) -> None:
        """A raiser who is told each time, and is a member as good as any."""
        async with Peer.connect(port, "the raiser") as peer:
            await peer.request("join")
            task_status.started()
            expected = failures = 0
            while not isinstance(message := await peer.receive(), Close):
                if message == {"id": failures, "error": INTERNAL}:
                    self._done_with(failures)
                    failures += 1
                elif message.get("seq") == expected:
                    await peer.send(action="raise", id=expected)
                    expected += 1
                else:
                    raise Violation(f"{peer.name} got {message!r:.200}, not broadcast {expected} or error {failures}")
                if failures == self.broadcasts:
                    self._raiser_stopped.set()
        same((expected, failures, message.code), (self.broadcasts, self.broadcasts, 1012), "what the raiser was told")

    async def _raise_and_come_back(self, port: int, *, task_status: trio.TaskStatus[None]) -> None:
        """A raiser who is thrown out each time."""
        while not self._raiser_may_stop:
            async with Peer.connect(port, "the raiser") as peer:
                await peer.request("join")
                if self.comebacks == 0:
                    task_status.started()
                self.comebacks += 1
                await peer.send(action="raise", id="r")
                told = [await peer.receive()]
                while not isinstance(told[-1], Close):
                    told.append(await peer.receive())
                answers = [message for message in told[:-1] if "seq" not in message]
                same(answers, [{"id": "r", "error": INTERNAL}], "what the raiser was told")
                same(told[-1], Close(1011, "internal error"), "how the raiser was closed")
        self._raiser_stopped.set()

    async def _broadcast_all(self) -> None:
        padding = "x" * self.size
        closed = 0
        for seq in range(self.broadcasts):
            while self._complete < seq - WINDOW:
                await self._progress.park()
            room = self.hall.manager.get_room(ROOM)
            assert room is not None
            members = len(room.members)
            report = self.hall.manager.broadcast_to_room(ROOM, {"seq": seq, "at": trio.current_time(), "pad": padding})
            closed += report.closed
            if not report.final or report.dropped or report.enqueued + report.closed != members:
                raise Violation(f"broadcast {seq} to {members} members: {report}")
            await trio.lowlevel.checkpoint()
        if closed != (self.variant.sleeper_ends == "server:4008"):
            raise Violation(f"broadcasts closed {closed} members")

    async def _settle(self) -> None:
        """Wait until everybody has everything and the sleeper is out."""
        while self._complete < self.broadcasts - 1:
            await self._progress.park()
        assert self.hall.sleeper is not None
        await self.hall.sleeper.wait_closed()
        self._raiser_may_stop = True
        await self._raiser_stopped.wait()

    def _check(self, server: Server) -> None:
        """What can be known only after the end."""
        hall, statistics = self.hall, server.statistics()
        recovers = self.variant.recovers
        raisers = {("raiser", "server:1012"): 1} if recovers else {("raiser", "server:1011"): self.comebacks}
        guests = self.connections + 1 + sum(raisers.values())
        same(self.deliveries, self.connections * self.broadcasts, "deliveries")
        same(self.replies, self.connections, "replies")
        same(dict(self.told), {f"1012 after {self.broadcasts}": self.connections}, "what the crowd was told at the end")
        ends = {("crowd", "server:1012"): self.connections, ("sleeper", self.variant.sleeper_ends): 1, **raisers}
        same(dict(hall.ends), ends, "on_disconnect")
        same((hall.joins, hall.leaves), (guests, guests), "joins and on_leave_room")
        same(hall.raised, self.broadcasts if recovers else self.comebacks, "raises")
        same((hall.errors, statistics.handler_errors), (hall.raised, hall.raised), "on_error and handler_errors")
        same(dict(statistics.errors_told), {"INTERNAL": hall.raised}, "errors told")
        counted: Counter[str] = Counter()
        for (_, end), count in ends.items():
            counted[end] += count
        same(dict(statistics.closes), dict(counted), "closes")
        same((statistics.accepted, dict(statistics.handshakes_rejected)), (guests, {}), "handshakes")
        if not statistics.discarded:
            raise Violation("nothing was discarded, so the sleeper was not asleep")
        try:
            server.assert_quiescent()
        except AssertionError as exc:
            raise Violation(str(exc)) from exc


INTERNAL = {"code": "INTERNAL", "message": "internal error", "temporary": False}


def same(found: object, expected: object, what: str) -> None:
    """Raise :exc:`Violation` unless equal."""
    if found != expected:
        raise Violation(f"{what}: {found!r}, not {expected!r}")


def raise_file_limit(descriptors: int) -> None:
    """Have so many descriptors, or exit with 2."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < descriptors:
        print(f"{descriptors} file descriptors are needed, {hard} may be had", file=sys.stderr)
        raise SystemExit(2)
    if soft != resource.RLIM_INFINITY and soft < descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


async def bounded(run: Run, seconds: float) -> Server:
    """The run, or TooSlowError: a delivery that is missing is waited for in vain."""
    with trio.fail_after(seconds):
        return await run.run()


def table(run: Run, server: Server, seconds: float) -> str:
    """What was measured, for people."""
    latencies = sorted(run.latencies)
    statistics = server.statistics()
    rows = {
        "variant": run.variant.name,
        "connections": f"{run.connections:,} and a sleeper and a raiser",
        "deliveries": f"{run.deliveries:,} of {run.connections * run.broadcasts:,}, each once and in order",
        "latency": f"median {1000 * latencies[len(latencies) // 2]:.0f} ms, worst {1000 * latencies[-1]:.0f} ms",
        "the sleeper": f"{run.variant.sleeper_ends}, {statistics.discarded} messages discarded",
        "the raiser": f"{run.hall.raised} exceptions, {run.comebacks or 1} connections",
        "ends": ", ".join(f"{end} {count:,}" for end, count in sorted(statistics.closes.items())),
        "time": f"{seconds:.1f} s",
    }
    return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--broadcasts", type=int, default=100)
    parser.add_argument("--size", type=int, default=1024, help="bytes of padding in each broadcast")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each run")
    parser.add_argument("--variant", choices=["recovery", "bare"], help="default: one after the other")
    options = parser.parse_args()
    # Both ends of every connection are here.
    raise_file_limit(2 * options.connections + 200)
    for variant in make_variants():
        if options.variant in (None, variant.name):
            run = Run(variant, options.connections, options.broadcasts, options.size)
            if not show(run, options.timeout):
                return 1
    return 0


def show(run: Run, timeout: float) -> bool:
    """Do a run and print what came of it; whether all held."""
    started = time.perf_counter()
    try:
        server = trio.run(bounded, run, timeout)
    except* (Violation, trio.TooSlowError) as group:
        print(f"{run.variant.name}: VIOLATED after {run.deliveries:,} deliveries", *leaves(group)[:20], sep="\n  ")
        held = False
    else:
        print(table(run, server, time.perf_counter() - started), end="\n\n", flush=True)
        held = True
    return held


def leaves(group: BaseExceptionGroup[Exception]) -> list[str]:
    """The texts of all violations."""
    return [
        text
        for exc in group.exceptions
        for text in (leaves(exc) if isinstance(exc, BaseExceptionGroup) else [f"{type(exc).__name__}: {exc}"])
    ]


if __name__ == "__main__":
    sys.exit(main())
