"""One run: the world is made, the steps are done, everything heals, and all must come to rest.

Theory of operation. The steps of each client are done by a task of its own, those of the program each by its own task
at its time. When the last is over nothing fails any more; each client gets a sound connection and joins its rooms
again, and a beacon is published to each room, which all that are in it must see. Who is closed in doing so (an
outbox of one message may be full at any time) tries again, a few times. In the end clients leave, the server is shut
down, and nothing may be left.
"""

from __future__ import annotations

from functools import partial

import trio

from trio_rooms import Manager

from ._application import Application, Program
from ._broker import Watch, WatchedBroker
from ._director import Director
from ._follower import Followers
from ._hooks import Hooks, link_of
from ._host import Host
from ._library import LibraryClient
from ._link import Link
from ._network import Network
from ._plan import Plan
from ._player import Player
from ._publisher import Publisher, Say
from ._record import Beacon, Finished, Healed, Record
from ._trouble import Trouble

# Virtual seconds after which a run has come to nothing.
_LIMIT = 3600.0
# Times that clients try to come to rest, and how long everybody is left alone before each beacon.
_ROUNDS = 5
_PAUSE = 5.0


class World:
    """All that is in a run, put together for one plan."""

    def __init__(self, plan: Plan, record: Record, program: Program | None) -> None:
        self._plan = plan
        self._record = record
        settings = plan.settings
        watch = Watch(record)
        self._trouble = Trouble(record)
        self._hooks = Hooks(record, settings, self._trouble)
        self._broker = WatchedBroker(settings, watch, refuse=partial(self._trouble.strikes, "busy"))
        self._manager = self._make_manager(program)
        self._publisher = self._make_publisher(self._manager)
        self._path = "/ws" if program is None else program.path
        watch.manager = self._manager
        self._hooks.register(self._manager)
        self._host = Host(self._manager, record, self._hooks, path=self._path)
        self._network = Network(settings.carrier, record, self._host.listening, self._host.accept)
        self._players: list[Player] = []
        self._library: list[LibraryClient] = []
        self._links = 0

    def _make_manager(self, program: Program | None) -> Manager:
        if program is not None:
            return program.make_manager(self._broker, self._plan.settings.config)
        return Application(self._plan.settings, self._broker, self._make_publisher).manager

    def _make_publisher(self, manager: Manager) -> Publisher:
        return Publisher(manager, self._record, self._hooks.conns.get)

    async def run(self) -> None:
        """The whole run, within a bound of virtual time."""
        before = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(_LIMIT):
            async with trio.open_nursery() as nursery:
                await nursery.start(self._host.run)
                async with trio.open_nursery() as clients:
                    self._make_players(clients)
                    await self._do_steps()
                    await self._come_to_rest()
                    await trio.sleep(self._broker.busy_for)  # who has published waits for it
                    for client in self._library:
                        client.over.set()
                    for player in self._players:
                        if player.link is not None:
                            await player.link.hang_up()
                self._host.end()
        self._network.note_written()
        self._record.add(Finished(trio.lowlevel.current_statistics().tasks_living, before))

    def _make_players(self, nursery: trio.Nursery) -> None:
        settings = self._plan.settings
        for number in range(settings.clients):
            is_plain = settings.formats[number] == "plain"
            self._players.append(
                Player(
                    number,
                    "" if is_plain else f"trio-rooms.v1.{settings.formats[number]}",
                    settings.loyal[number],
                    settings.returning[number] and settings.config.session_window is not None and not is_plain,
                    f"user-{number // 2}" if settings.named else "",
                    self._path,
                    self._network,
                    self._record,
                    nursery,
                    self._next_link,
                    lambda: self._hooks.serve,
                    self._link_of,
                )
            )

        for number in range(settings.library):
            client = LibraryClient(
                number, self._plan.seed, settings, self._path, self._network, self._record, self._next_link
            )
            self._library.append(client)
            nursery.start_soon(client.run)

    def _next_link(self) -> int:
        self._links += 1
        return self._links

    def _link_of(self, client: int) -> int | None:
        link = self._players[client].link
        return None if link is None else link.number

    async def _do_steps(self) -> None:
        began = trio.current_time()
        director = Director(
            self._manager,
            self._host,
            self._publisher,
            self._trouble,
            self._broker,
            Followers(self._manager, self._record),
            self._record,
            self._link_of,
            self._hooks.conns.get,
        )
        async with trio.open_nursery() as nursery:
            for player in self._players:
                steps = [step for step in self._plan.steps if step.client == player.number]
                nursery.start_soon(player.play, steps)
            for step in self._plan.steps:
                if step.client is None:
                    nursery.start_soon(director.do_at, began + step.at, step)

    async def _come_to_rest(self) -> None:
        """Heal, and see that everybody gets where it wants to be."""
        self._trouble.end()
        if self._broker.lagging is not None:
            self._broker.lagging.losing = 0
        for player in self._players:
            player.heal()
        for client in self._library:
            client.heal()
        for number in range(_ROUNDS):
            self._network.heal()
            await trio.sleep(_PAUSE)  # what was on its way to fail has failed by then
            await self._host.serving.wait()
            self._record.add(Healed(number))
            if await self._settle(number):
                return

    async def _settle(self, number: int) -> bool:
        """One round; whether all clients have lasted it."""
        places: dict[str, list[Link]] = {}
        links = []
        for player in self._players:
            settled = await player.settle()
            if settled is not None:
                link, rooms = settled
                links.append(link)
                for room in rooms:
                    places.setdefault(room, []).append(link)
        guests: dict[str, list[int]] = {}
        connections = []
        for client in self._library:
            joined, connection = await client.settle()
            connections.append(connection)
            for name in joined:
                guests.setdefault(name, []).append(client.number)
        for index, room in enumerate(dict.fromkeys([*places, *guests])):
            n = -100 * number - index - 1
            await trio.sleep(_PAUSE)
            members = tuple(link.number for link in places.get(room, ()))
            self._record.add(Beacon(n, room, members, self._present(room), tuple(guests.get(room, ()))))
            await self._publisher.publish(Say(room, n))
        await trio.sleep(_PAUSE)
        # A client of the library that has come back meanwhile may have missed one, and was told so.
        lasted = connections == [client.connection for client in self._library]
        return lasted and len(links) == len(self._players) and all(link.usable for link in links)

    def _present(self, name: str) -> tuple[tuple[str, int | None], ...]:
        room = self._manager.get_room(name)
        members = () if room is None else room.members
        return tuple((conn.identity.user or conn.id, link_of(conn)) for conn in members)
