"""Clients of a run that are made with ``trio_rooms.client``: they are in rooms, and write down what they are given.

The others look at every byte; these trust the library to come back, to go on where they were, and to say what is lost.
What becomes of their connections is drawn from the seed, and not a part of the plan's steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from trio_rooms.client import ClientEnded, ClientRoom, Gap, RequestFailed, RoomEnded, RoomsClient, open_rooms

from ._network import Network, Wire
from ._record import Given, Record, Rested
from ._settings import Settings

# Virtual seconds until it must be where it wants to be: more than it waits before an attempt; and between looks.
_PATIENCE = 90.0
_LOOK = 0.25


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
    _client: RoomsClient | None = None
    _rooms: dict[str, ClientRoom | None] = attrs.field(factory=dict)
    """Those that it wants to be in, as soon as it has been."""

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
            self._client = client
            self._rooms = dict.fromkeys(rooms)
            for room in rooms:
                nursery.start_soon(self._stay_in, client, room)
            nursery.start_soon(self._break, rng)
            await self.over.wait()
            nursery.cancel_scope.cancel(reason="the run is over")

    def heal(self) -> None:
        """Nothing happens to its connections any more; the one that it has is replaced if anything has."""
        self._healed = True
        if self._wire is not None and self._wire.faulty:
            self._wire.cut("near", "receiving", 0)

    async def settle(self) -> tuple[tuple[str, ...], str | None]:
        """Wait until it is in its rooms; in which of them it is, and over which connection. Recorded."""
        with trio.move_on_after(_PATIENCE):
            while any(room is None or not room.joined for room in self._rooms.values()):  # noqa: ASYNC110
                await trio.sleep(_LOOK)  # there is no event for it
        joined = tuple(name for name, room in self._rooms.items() if room is not None and room.joined)
        missing = tuple(name for name in self._rooms if name not in joined)
        self.record.add(Rested(self.number, joined, missing))
        return joined, self.connection

    @property
    def connection(self) -> str | None:
        """The id of its connection, if it has one."""
        return None if self._client is None else self._client.connection_id

    async def _connect(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self._wire = self.network.open(self.next_link())
        if self._wire is None:
            raise OSError("nobody listens")
        return self._wire.slow

    async def _stay_in(self, client: RoomsClient, name: str) -> None:
        try:
            async with client.room(name) as room:
                self._rooms[name] = room
                async for item in room:
                    if isinstance(item, Gap):
                        self.record.add(Given(self.number, name, gap=item.reason))
                    else:
                        at = None if item.position is None else (item.position.offset, item.position.epoch)
                        self.record.add(Given(self.number, name, item.data, at))
        except (RequestFailed, RoomEnded, ClientEnded):
            self._rooms.pop(name, None)
            self.record.add(Given(self.number, name, gap="over"))

    async def _break(self, rng: random.Random) -> None:
        for _ in range(rng.choice([0, 1, 3, 6])):
            await trio.sleep(rng.choice([0, 0.25, 1, 2]))
            if self._wire is not None and not self._healed:
                end, direction = rng.choice(["near", "far"]), rng.choice(["sending", "receiving"])
                self._wire.cut(end, direction, rng.choice([0, 1, rng.randrange(30), rng.randrange(600)]))
