"""Managers whose rooms keep a history, for tests of recovery."""

from __future__ import annotations

from typing import Any, Literal

from followers import Follower
from hall import Hall
from trio_rooms import Config, Connection, Limits, Manager, Report

Confirm = Literal["before", "with", "after"]

CONFIRM: list[Confirm] = ["before", "with", "after"]


async def allow(conn: Connection, room: str, data: Any) -> bool:
    return True


def history_manager(broker: Any = None, *, size: int = 10, limits: Limits | None = None, **options: Any) -> Manager:
    """A manager whose rooms keep a history and let everybody join."""
    # Clients that do not read are not ended for it.
    config = Config(ping_interval=1e6, pong_timeout=1e6, limits=limits or Limits())
    manager = Manager(config=config, broker=broker)
    manager.room("*", authorize=allow, history_size=size, **options)
    return manager


async def missed(served: Hall, follower: Follower, number: int) -> None:
    """The follower joins and goes, and so many events are published; the room is kept open by nobody."""
    guest = await served.enter(v1=True)
    await follower.join(guest.client)
    await guest.client.close()
    for one in range(1, number + 1):
        served.manager.broadcast_to_room("r", one)


async def publish(served: Hall, room: str, event: object) -> Report:
    """Publish to a room whether or not it exists, and wait until it was delivered."""
    return await served.manager.publish(room, event)
