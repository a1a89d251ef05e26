"""The positions of this node's members beside the top of their streams, now and then.

A broker can lose what it was to deliver: a connection that was down for a moment, a server that was replaced. Nobody
would notice in a room in which nothing more is published, or even if there is, as offsets may have gaps. So the node
asks the broker for the top of each room with members (Centrifugo's positioning). A lag is usual while something is on
its way; one that does not close ends the members' connections, who then recover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._node import Node
    from ._room import Room
    from ._rooms.history import Position

# Seconds for which a lag may be nothing but a delivery under way.
_PATIENCE = 10.0


async def watch_positions(node: Node) -> None:
    """Look after them until cancelled."""
    interval = node.config.position_check_interval
    if interval is None or node.delivers_at_once or not node.keeps_history:
        return
    while True:
        await trio.sleep(interval)
        behind: list[tuple[Room, Position]] = []
        for room in tuple(node.rooms.values()):
            top = await _top_if_behind(node, room, interval)
            if top is not None:
                behind.append((room, top))
        if behind:
            await trio.sleep(min(interval, _PATIENCE))
            for room, top in behind:
                if room._stream is not None and room._stream.is_behind(top):
                    room._stream.lose_members()


async def _top_if_behind(node: Node, room: Room, patience: float) -> Position | None:
    if room._stream is None or room._keep is None or not room._roster.members:
        return None
    top = None
    try:
        with trio.move_on_after(patience):
            top = (await node.broker.history(room.name, keep=room._keep, since=None, limit=0, reverse=False)).position
    except Exception as exc:
        await node.errors.report(None, exc, "the broker's history")
        return None
    return top if top is not None and room._stream.is_behind(top) else None
