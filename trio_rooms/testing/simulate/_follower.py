"""Tasks of the program that follow a room: each begins where the one before it has stopped, or anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from trio_rooms import Manager, NotServing, Position, SubscriptionLost

from ._record import Followed, Received, Record, Unfollowed


@attrs.define(eq=False)
class Followers:
    """Those of a run."""

    manager: Manager
    record: Record
    _count: int = 0
    _positions: dict[str, Position] = attrs.field(factory=dict)

    async def follow(self, args: Mapping[str, Any]) -> None:
        """Follow a room for a while, and note what comes."""
        self._count += 1
        number, room = self._count, args["room"]
        since = self._positions.get(room) if args["again"] else None
        why, dropped, displaced = "left", 0, 0
        try:
            with trio.move_on_after(args["seconds"]):
                async with self.manager.subscribe(room, since=since, max_messages=args["most"]) as events:
                    self.record.add(
                        Followed(
                            number,
                            room,
                            "close",
                            _told(since),
                            events.recovered,
                            _told(events.position),
                            args["pause"],
                            args["most"],
                        )
                    )
                    try:
                        async for event in events:
                            self.record.add(Received(number, event.data, _told(event.position)))
                            await trio.sleep(args["pause"])
                        why = "ended"
                    finally:
                        dropped, displaced = events.dropped, events.displaced
                        if events.position is not None:
                            self._positions[room] = events.position
        except SubscriptionLost:
            why = "lost"
        except NotServing:
            why = "gone"
        finally:
            self.record.add(Unfollowed(number, why, dropped, displaced))


def _told(position: Position | None) -> tuple[int, str] | None:
    return None if position is None else (position.offset, position.epoch)
