"""Z1: clients come and go over real sockets, some of them badly, for minutes; memory must not grow and nothing be left.

::

    python tests/soak.py --minutes 10

Each client lives for some seconds: it joins one of the rooms, asks, publishes and leaves again; at one step of a
hundred it does something bad instead (``FAULTS``). Half of them speak v1 and have sessions, to many of which they come
back, and half of the rooms have history and presence, all for seconds only. A guest who behaves stays all the
time, and must get every answer.
After a warm-up the resident memory of the process, which holds both ends, may rise by ``--slope`` at most; when the
clients have gone, as many objects of the library's classes exist as before the first came; after ``serve`` nothing is
left and the books balance. Exit status: 0, or 1 after a violation.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import random
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from statistics import median

import trio
from trio.testing import wait_all_tasks_blocked

from crowd import Peer, Violation, leaves, raise_file_limit
from trio_rooms import Close, Config, Connection, Limits, Manager, PresenceOptions, Server, serve_rooms
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import Opcode, client_frame, handshake_bytes

ROOMS = 20
FAULT = 0.01  # of each step
STEPS = 5  # of a life, on average
ACTIONS = ("echo", "echo", "echo", "echo", "say")  # what is said goes to 25, whose ends are all in this process
KEPT = 2.0  # seconds, for which whatever outlives its connection or room does so
KEEPING = "keeping-"  # how the names of rooms begin that have history and presence
V1 = "trio-rooms.v1.json"
PAUSE = 1.0  # seconds between two steps, on average
WARM_UP = 30.0  # seconds; until then each client has been there a few times

#: What a client does at a bad step; the server is to take each for what it is.
FAULTS = ("reset", "torn", "violation", "crash", "deaf", "half a handshake")

#: What a fault, or the server's answer to it, does to the client's end.
ENDS = (Violation, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Soak:
    """The program that is served, its clients, and what was measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        silent = logging.getLogger("soak")
        silent.setLevel(logging.CRITICAL + 1)  # each crash is logged with its traceback
        self.options, self.rng = options, random.Random(options.seed)
        config = Config(
            ping_interval=2,
            pong_timeout=2,
            handshake_timeout=3,
            session_window=KEPT,
            limits=Limits(outbox_messages=64),
        )
        self.broker = MemoryBroker()
        self.manager = Manager(config=config, broker=self.broker, logger=silent)
        self.balance: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.samples: list[tuple[float, float]] = []
        self.answers = 0
        self.joins = 0
        self._register()

    def _register(self) -> None:
        manager, balance = self.manager, self.balance
        manager.on_connect(lambda conn: balance.update(connected=1, sessions=bool(conn.session_id) - conn.restored))
        manager.on_disconnect(lambda conn, close: balance.update(connected=-1))
        manager.on_join_room(lambda conn, room: balance.update(joined=1))
        manager.on_leave_room(lambda conn, room, reason: balance.update(joined=-1))
        manager.on_session_expired(lambda session, user, metadata: balance.update(sessions=-1))
        manager.on_user_online(lambda room, user: balance.update(online=1))
        manager.on_user_offline(lambda room, user: balance.update(online=-1))
        manager.room(
            f"{KEEPING}*",
            authorize=let_in,
            history_size=50,
            history_ttl=KEPT,
            history_meta_ttl=KEPT,
            presence=PresenceOptions(grace=KEPT),
        )
        manager.handle_message("echo", lambda conn, message: message.data)

        @manager.on("join")
        async def join(conn: Connection, room: str) -> None:
            await conn.join(room)
            self.joins += 1

        @manager.on("say")
        def say(conn: Connection, data: str) -> None:
            for room in conn.rooms:
                manager.broadcast_to_room(room, {"said": data})
                if room.startswith(KEEPING):
                    conn.set_presence(room, {"said": len(data)})

        @manager.on("crash")
        def crash(conn: Connection) -> None:
            raise RuntimeError("as asked")

    async def run(self) -> None:
        """Everything; raises Violation."""
        async with serve_rooms(self.manager) as server:
            await self._first(server)
            before = our_objects()
            async with trio.open_nursery() as nursery:
                for number in range(self.options.clients):
                    nursery.start_soon(self._churn, server, number)
                nursery.start_soon(self._stay, server)
                await self._measure()
                nursery.cancel_scope.cancel()
            await self._gone(server)
            if left := our_objects() - before:
                raise Violation(f"more objects than before: {dict(left)}")
        server.assert_quiescent()
        print(self.table(server), flush=True)
        self.check(server)

    async def _first(self, server: Server) -> None:
        """A life of each kind, so that whatever is made once has been made."""
        async with trio.open_nursery() as nursery:
            for fault in FAULTS:
                nursery.start_soon(self._live_badly, server, fault)
            for room in ("room-0", f"{KEEPING}0"):
                nursery.start_soon(self._visit, server, room)
        await self._gone(server)

    async def _visit(self, server: Server, room: str) -> None:
        async with Peer.connect(server.port, "the first", subprotocol=V1) as peer:
            await peer.send(action="join", data=room)
            for _ in range(3):
                await peer.send(action="say", data="hello")
            await trio.sleep(PAUSE)

    async def _gone(self, server: Server) -> None:
        """Wait until nobody is there, and what is kept of those who were has had its time."""
        await gone(server)
        with trio.fail_after(60):
            while self._keeps(server):  # noqa: ASYNC110 - nothing tells when the last of it has gone
                await trio.sleep(0.1)

    def _keeps(self, server: Server) -> bool:
        statistics = server.statistics()
        return bool(statistics.sessions_kept or statistics.rooms or self.broker.statistics().streams)

    async def _live_badly(self, server: Server, fault: str) -> None:
        with suppress(*ENDS):
            async with Peer.connect(server.port, "the first") as peer:
                await self._misbehave(peer, server, fault)

    async def _churn(self, server: Server, number: int) -> None:
        """Life after life; the first ones begin one after the other."""
        await trio.sleep(self.rng.uniform(0, PAUSE * STEPS))
        subprotocol = V1 if number % 2 else None
        session: str | None = None
        while True:  # noqa: ASYNC913 - to connect is a checkpoint
            with suppress(*ENDS):
                async with Peer.connect(server.port, f"client {number}", subprotocol=subprotocol) as peer:
                    if subprotocol is not None:
                        session = await begin_session(peer, session)
                    await self._live(peer, server)

    async def _live(self, peer: Peer, server: Server) -> None:
        """Join, then step by step; what comes is read between two steps."""
        room = self.rng.randrange(ROOMS)
        await peer.send(action="join", data=f"{KEEPING if room % 2 else 'room-'}{room}")
        while self.rng.random() > 1 / STEPS:
            with trio.move_on_after(self.rng.expovariate(1 / PAUSE)):
                await until_closed(peer)
                return
            if self.rng.random() < FAULT:
                await self._misbehave(peer, server, self.rng.choice(FAULTS))
                return
            await peer.send(action=self.rng.choice(ACTIONS), data="x" * self.rng.randrange(500), id=1)
        # 1001, unlike 1000, leaves a session to come back to.
        code = self.rng.choice([b"\x03\xe8", b"\x03\xe9"])
        await peer.stream.send_all(client_frame(Opcode.CLOSE, code, mask="random"))

    async def _misbehave(self, peer: Peer, server: Server, fault: str) -> None:
        self.faults[fault] += 1
        if fault == "reset":
            peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault == "torn":
            await peer.stream.send_all(client_frame(Opcode.TEXT, b"torn", mask="random")[:7])
        elif fault == "violation":
            await peer.stream.send_all(client_frame(Opcode.TEXT, b"not masked", mask=None))
        elif fault == "crash":
            await peer.send(action="crash")
            await until_closed(peer)
        elif fault == "deaf":
            await trio.sleep(5)  # longer than a ping and its pong
        else:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(handshake_bytes()[:40])
                await trio.sleep(PAUSE)

    async def _stay(self, server: Server) -> None:
        """The guest who behaves: each of its questions is answered, whatever the others do."""
        async with Peer.connect(server.port, "the guest") as peer:
            while True:
                if await peer.request("echo") != {"id": "echo", "data": None}:
                    raise Violation("the guest got the answer to something else")
                self.answers += 1
                await trio.sleep(PAUSE / 10)

    async def _measure(self) -> None:
        """Note the resident memory once a second, behind the warm-up and until the time is over."""
        await trio.sleep(self.options.warm_up)
        begin = trio.current_time()
        while (passed := (trio.current_time() - begin) / 60) < self.options.minutes:
            self.samples.append((passed, resident_mib()))
            await trio.sleep(1)

    def check(self, server: Server) -> None:
        """Raise Violation if the books do not balance, or memory has grown."""
        statistics = server.statistics()
        if any(self.balance.values()):
            raise Violation(f"hooks do not balance: {dict(self.balance)}")
        if not self.joins or not statistics.sessions_restored or not statistics.presence_pushes:
            raise Violation("nobody has been in a room, has come back to a session, or was told who is there")
        if statistics.accepted != sum(statistics.closes.values()):
            raise Violation(f"{statistics.accepted} were accepted, but {dict(statistics.closes)}")
        # Of a crash that was asked for in the last moment nothing may have come.
        if not 0 < statistics.handler_errors <= self.faults["crash"]:
            raise Violation(f"{statistics.handler_errors} errors, but {self.faults['crash']} crashes")
        if slope(self.samples) > self.options.slope:
            raise Violation(f"memory has grown by {slope(self.samples):.2f} MiB a minute")

    def table(self, server: Server) -> str:
        """What happened, for people."""
        statistics = server.statistics()
        first, *_, last = [mib for _, mib in self.samples]
        rows = {
            "connections": f"{statistics.accepted:,}",
            "joins": f"{self.joins:,}",
            "messages": f"{statistics.messages_received:,} received, {statistics.written:,} written",
            "faults": ", ".join(f"{fault} {count:,}" for fault, count in sorted(self.faults.items())),
            "ends": ", ".join(f"{end} {count:,}" for end, count in sorted(statistics.closes.items())),
            "sessions": f"{statistics.sessions_restored:,} restored, {statistics.sessions_expired:,} expired",
            "presence": f"{statistics.presence_pushes:,} pushes",
            "the guest": f"{self.answers:,} answers",
            "memory": f"{first:.0f} to {last:.0f} MiB, {slope(self.samples):+.2f} MiB a minute",
        }
        return "\n".join(f"{name:<12} {value}" for name, value in rows.items())


def slope(samples: list[tuple[float, float]]) -> float:
    """By how much the second number of a pair rises with the first: the median over all pairs of pairs.

    Unlike a line of least squares it makes little of a single step, and a leak is none.
    """
    pairs = combinations(samples, 2)
    return median((later - earlier) / (end - begin) for (begin, earlier), (end, later) in pairs)


async def let_in(conn: Connection, room: str, data: object) -> bool:
    """Everybody may be in each room again."""
    return True


async def begin_session(peer: Peer, token: str | None) -> str:
    """Come back to a session, if there is one; the token of the next time."""
    await peer.send(action="$session", data={} if token is None else {"session": token})
    told = await peer.receive()
    if not isinstance(told, dict) or told.get("action") != "$welcome":
        raise Violation(f"{peer.name} got {told!r} and no welcome")
    return str(told["data"]["session"])


async def until_closed(peer: Peer) -> None:
    """Read, and answer what is to be answered, up to the server's close frame."""
    while not isinstance(await peer.receive(), Close):
        pass


async def gone(server: Server) -> None:
    """Wait until nobody is at the door, on the way out either; who is deaf takes a ping and a pong."""
    with trio.fail_after(60):
        while True:
            await wait_all_tasks_blocked(0.1)  # also for those who were connected, but not accepted yet
            if not server._arrivals.open:
                return


def our_objects() -> Counter[str]:
    """How many objects of the library's classes there are, by class."""
    gc.collect()
    classes = (type(thing) for thing in gc.get_objects())
    return Counter(cls.__qualname__ for cls in classes if cls.__module__.partition(".")[0] == "trio_rooms")


def resident_mib() -> float:
    """The memory that this process holds for what it uses, as Linux tells it; what is free is given back before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what the clients do")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds (default: %(default)s)")
    parser.add_argument("--slope", type=float, default=1.0, help="MiB a minute that are allowed (default: %(default)s)")
    options = parser.parse_args()
    # Both ends of every connection are here.
    raise_file_limit(2 * options.clients + 200)
    print(f"seed {options.seed}", flush=True)
    soak = Soak(options)
    held = True
    try:
        trio.run(soak.run)
    except* (Violation, AssertionError, trio.TooSlowError) as group:
        print("VIOLATED", *leaves(group), sep="\n  ")
        held = False
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
