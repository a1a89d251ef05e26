"""Clients behind a proxy that cuts, stalls and half-closes: each gets everything once and in order, or the word.

::

    python tests/storm.py --seconds 60

Fifty clients (``trio_rooms.client``, half of them in MessagePack) follow one room over real sockets, through a proxy
that does something bad to each connection after some seconds (``TROUBLES`` in rough_proxy.py), while two hundred events
a second are published. Then the proxy calms down, and each client must come to an event of that time. What it saw
between two gaps that it was told of must be exactly what was published: no event twice, none missing, none in another
order. Exit status: 0, or 1 after a violation.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from typing import Any

import attrs
import trio

from crowd import Violation, leaves, raise_file_limit
from rough_proxy import RoughProxy
from trio_rooms import Config, Connection, Limits, Manager, Server, serve_rooms
from trio_rooms.client import ClientConfig, ClientStatistics, Gap, open_rooms

ROOM = "storm"

#: Seconds within which everybody has everything, once the proxy is calm.
CALM = 60.0

#: So that silence is noticed soon.
CLIENT = ClientConfig(ping_interval=2.0, pong_timeout=2.0, backoff_base=0.2, backoff_most=2.0, handshake_timeout=4.0)


@attrs.define(eq=False)
class Witness:
    """What one client saw."""

    name: str
    last: int | None = None
    """The number of the last event; None behind a gap, where any may come."""
    events: int = 0
    gaps: int = 0
    lowest: int = 0
    """Below which no event may come, gap or not."""
    statistics: ClientStatistics | None = None

    def see(self, number: int) -> None:
        if number < self.lowest or (self.last is not None and number != self.last + 1):
            raise Violation(f"{self.name}: {number} came behind {self.last}, at least {self.lowest} was to come")
        self.last, self.lowest = number, number + 1
        self.events += 1

    def miss(self) -> None:
        self.last = None
        self.gaps += 1


class Storm:
    """The server, the proxy, the clients and what they saw."""

    def __init__(self, options: argparse.Namespace) -> None:
        silent = logging.getLogger("storm")
        silent.setLevel(logging.CRITICAL + 1)
        self.options, self.rng = options, random.Random(options.seed)
        limits = Limits(outbox_bytes=4 * 1024 * 1024, max_recovery=1500)
        config = Config(ping_interval=2.0, pong_timeout=2.0, write_timeout=4.0, limits=limits)
        self.manager = Manager(config=config, logger=silent)
        self.manager.room(ROOM, authorize=let_in, history_size=options.history, history_bytes=4 * 1024 * 1024)
        self.witnesses = [Witness(f"client {number}") for number in range(options.clients)]
        self.published = 0
        self.last: int | None = None
        """From this event on the weather is good."""

    async def run(self) -> None:
        """Everything; raises Violation."""
        async with serve_rooms(self.manager) as server:
            proxy = RoughProxy(server.port, self.rng, self.options.lifetime)
            async with trio.open_nursery() as nursery:
                await nursery.start(proxy.run)
                nursery.start_soon(self._publish)
                async with trio.open_nursery() as clients:
                    for number, witness in enumerate(self.witnesses):
                        form = "msgpack" if number % 2 else "json"
                        clients.start_soon(self._follow, witness, proxy.port, form)
                    await trio.sleep(self.options.seconds)
                    proxy.calm_down()
                    self.last = self.published
                    clients.cancel_scope.deadline = trio.current_time() + CALM
                nursery.cancel_scope.cancel()
        server.assert_quiescent()
        print(self.table(server, proxy), flush=True)
        self.check()

    async def _publish(self) -> None:
        begin = trio.current_time()
        while True:
            while self.published < (trio.current_time() - begin) * self.options.rate:
                self.manager.broadcast_to_room(ROOM, self.published)
                self.published += 1
            await trio.sleep(0.005)

    async def _follow(self, witness: Witness, port: int, form: Any) -> None:
        async with (
            open_rooms(f"ws://127.0.0.1:{port}/ws", format=form, config=CLIENT) as client,
            client.room(ROOM) as room,
        ):
            async for event in room:
                if isinstance(event, Gap):
                    witness.miss()
                    continue
                witness.see(event.data)
                if self.last is not None and event.data >= self.last:
                    witness.statistics = client.statistics()
                    return

    def check(self) -> None:
        """Raise Violation if somebody did not come to the end, or if the storm was none."""
        if late := [witness for witness in self.witnesses if witness.statistics is None]:
            raise Violation(f"not at the end, {self.last}: {late}")
        connections = [one.statistics.connections for one in self.witnesses if one.statistics is not None]
        if max(connections) < 2:
            raise Violation("nobody was ever cut")
        if sum(connections) - len(connections) <= sum(witness.gaps for witness in self.witnesses):
            raise Violation("nobody ever recovered")

    def table(self, server: Server, proxy: RoughProxy) -> str:
        """What happened, for people."""
        statistics = server.statistics()
        there = [one.statistics for one in self.witnesses if one.statistics is not None]
        rows = {
            "published": f"{self.published:,}",
            "received": f"{sum(witness.events for witness in self.witnesses):,} by {len(self.witnesses)} clients",
            "connections": f"{sum(one.connections for one in there):,}",
            "not recovered": f"{sum(witness.gaps for witness in self.witnesses):,}, and told so",
            "troubles": ", ".join(f"{name} {count:,}" for name, count in sorted(proxy.happened.items())),
            "ends": ", ".join(f"{end} {count:,}" for end, count in sorted(statistics.closes.items())),
        }
        return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


async def let_in(conn: Connection, room: str, data: Any) -> bool:
    """Everybody may follow."""
    return True


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of bad weather (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200, help="events a second (default: %(default)s)")
    parser.add_argument("--lifetime", type=float, default=4, help="seconds until a trouble (default: %(default)s)")
    parser.add_argument("--history", type=int, default=3000, help="events that are kept (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of what the proxy does")
    options = parser.parse_args()
    raise_file_limit(6 * options.clients + 200)
    print(f"seed {options.seed}", flush=True)
    held = True
    try:
        trio.run(Storm(options).run)
    except* (Violation, AssertionError) as group:
        print("VIOLATED", *leaves(group), sep="\n  ")
        held = False
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
