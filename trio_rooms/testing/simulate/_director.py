"""What the program does by itself in a run, and what fails on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import trio

from trio_rooms import Connection, Manager

from ._broker import WatchedBroker
from ._follower import Followers
from ._host import Host
from ._plan import Step
from ._publisher import Publisher, Say
from ._record import Fault, Record
from ._trouble import Trouble


@attrs.frozen(eq=False)
class Director:
    """Does the steps that are no client's."""

    manager: Manager
    host: Host
    publisher: Publisher
    trouble: Trouble
    broker: WatchedBroker
    followers: Followers
    record: Record
    link_of: Callable[[int], int | None]
    """The link of a client."""
    conn_of: Callable[[int], Connection | None]
    """The connection of a link."""

    async def do_at(self, at: float, step: Step) -> None:
        """Do a step at its time."""
        await trio.sleep_until(at)
        if step.kind == "kill":
            self.record.add(Fault("kill"))
            self.host.kill()
        elif step.kind == "restart":
            self.record.add(Fault("restart"))
            self.host.restart(step.args["seconds"])
        elif step.kind == "hook_crash":
            for kind in ("hook_crash", "leave_hook_crash", "opening_crash"):
                self.trouble.order(kind, step.args["times"])
        elif step.kind == "forget":
            self.record.add(Fault(f"forget {step.args['room']}"))
            self.broker.store.forget(step.args["room"])
        elif step.kind == "lose":
            if self.broker.lagging is not None:
                self.record.add(Fault("lose"))
                self.broker.lagging.losing += step.args["times"]
        elif step.kind == "follow":
            await self.followers.follow(step.args)
        elif step.kind == "question":
            link = self.link_of(step.args["client"])
            conn = None if link is None else self.conn_of(link)
            if conn is not None:
                await self.publisher.ask(conn, step.args["n"], step.args["seconds"])
        elif step.kind in ("busy", "veto"):
            self.trouble.order(step.kind, step.args["times"])
        elif step.kind in ("publish", "broadcast", "several", "everybody"):
            await self._publish(step)
        else:
            self._interfere(step)

    async def _publish(self, step: Step) -> None:
        args = step.args
        exclude = args.get("exclude")
        link = None if exclude is None else self.link_of(exclude)
        options = {name: args[name] for name in ("pad", "key", "once", "skip", "written") if name in args}
        say = Say(args.get("room", ""), args["n"], exclude=link, **options)
        if step.kind == "publish":
            await self.publisher.publish(say)
        elif step.kind == "broadcast":
            for index in range(args["count"]):
                # Of many in a row every other one is for all, so that those who share and those who do not take turns.
                excluded = say.exclude if index % 2 == args["turn"] else None
                one = msgspec.structs.replace(say, n=say.n + index, exclude=excluded)
                self.publisher.broadcast((say.room,), one)
        else:
            self.publisher.broadcast(tuple(args.get("rooms", ())), say)

    def _interfere(self, step: Step) -> None:
        args: Any = step.args
        room = self.manager.get_room(args["room"]) if "room" in args else None
        link = self.link_of(args["client"]) if "client" in args else None
        conn = None if link is None else self.conn_of(link)
        if step.kind == "close_room" and room is not None:
            room.close()
        elif step.kind == "room_task" and room is not None:
            room.start_soon(_fail_soon)
        elif link is None or conn is None:
            return
        elif step.kind == "direct":
            self.publisher.send(link, args["n"])
        elif step.kind == "kick" and room is not None:
            room.kick(conn)
        elif step.kind == "close_connection":
            self.record.add(Fault("close", link))
            conn.close(4001, "told to")


async def _fail_soon() -> None:
    await trio.sleep(0.125)
    raise RuntimeError("this task was told to fail")
