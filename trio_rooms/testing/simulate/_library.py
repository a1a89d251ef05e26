"""Clients of a run that are made with ``trio_rooms.client``: they are in rooms, and write down what they are given.

The others look at every byte; these trust the library to come back, to go on where they were, and to say what is lost.
What becomes of their connections is drawn from the seed, and not a part of the plan's steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from trio_rooms.client import ClientEnded, Gap, RequestFailed, RoomEnded, RoomsClient, open_rooms

from ._network import Network, Wire
from ._record import Given, Record
from ._settings import Settings


@attrs.define(eq=False)
class LibraryClient:
    """One of them."""

    number: int
    seed: int
    settings: Settings
    path: str
    network: Network
    record: Record
    next_link: Callable[[], int]
    over: trio.Event = attrs.field(factory=trio.Event)
    """Set when it is to leave."""
    _healed: bool = False
    _wire: Wire | None = None

    async def run(self) -> None:
        """Be in some of the rooms, over connections that break, until it is to leave."""
        rng = random.Random(f"library {self.seed} {self.number}")
        rooms = [room for room in self.settings.rooms if rng.random() < 0.7]
        user = f"&user=user-{self.number // 2}" if self.settings.named else ""
        url = f"ws://test{self.path}?library={self.number}{user}"
        async with (
            open_rooms(url, format=rng.choice(["json", "msgpack"]), connect=self._connect) as client,
            trio.open_nursery() as nursery,
        ):
            for room in rooms:
                nursery.start_soon(self._stay_in, client, room)
            nursery.start_soon(self._break, rng)
            await self.over.wait()
            nursery.cancel_scope.cancel(reason="the run is over")

    def heal(self) -> None:
        """Nothing happens to its connections any more; the one that it has is replaced."""
        self._healed = True

    async def _connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self._wire = self.network.open(self.next_link())
        if self._wire is None:
            raise OSError("nobody listens")
        return self._wire.slow

    async def _stay_in(self, client: RoomsClient, name: str) -> None:
        try:
            async with client.room(name) as room:
                async for item in room:
                    if isinstance(item, Gap):
                        self.record.add(Given(self.number, name, gap=item.reason))
                    else:
                        at = None if item.position is None else (item.position.offset, item.position.epoch)
                        self.record.add(Given(self.number, name, item.data, at))
        except (RequestFailed, RoomEnded, ClientEnded):
            self.record.add(Given(self.number, name, gap="over"))

    async def _break(self, rng: random.Random) -> None:
        for _ in range(rng.choice([0, 1, 3, 6])):
            await trio.sleep(rng.choice([0, 0.25, 1, 2]))
            if self._wire is not None and not self._healed:
                end, direction = rng.choice(["near", "far"]), rng.choice(["sending", "receiving"])
                self._wire.cut(end, direction, rng.choice([0, 1, rng.randrange(30), rng.randrange(600)]))
