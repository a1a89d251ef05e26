"""The positions of this node's members beside the top of their streams, now and then.

A broker can lose what it was to deliver: a connection that was down for a moment, a server that was replaced. Nobody
would notice in a room in which nothing more is published, or even if there is, as offsets may have gaps. So the node
asks the broker for the top of each room with members (Centrifugo's positioning). A lag is usual while something is on
its way; one that does not close ends the members' connections, who then recover. Tasks of the program that follow a
room are looked after likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from ._node import Node
    from ._room_options import Keep
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
        behind = [
            (follower, top) for follower in _followers(node) if (top := await _top_if_behind(node, follower, interval))
        ]
        if behind:
            await trio.sleep(min(interval, _PATIENCE))
            for follower, top in behind:
                if follower.is_behind(top):
                    follower.lose()


@attrs.frozen
class _Follower:
    """Who follows the stream of a room: its members here, or a task of the program."""

    room: str
    keep: Keep
    is_behind: Callable[[Position], bool]
    lose: Callable[[], None]


def _followers(node: Node) -> list[_Follower]:
    return [
        *(
            _Follower(room.name, room._keep, room._stream.is_behind, room._stream.lose_members)
            for room in node.rooms.values()
            if room._stream is not None and room._keep is not None and room._roster.members
        ),
        *(
            _Follower(one.room, one._keep, one._is_behind, one._lose)
            for one in node.subscriptions.all()
            if one._keep is not None
        ),
    ]


async def _top_if_behind(node: Node, follower: _Follower, patience: float) -> Position | None:
    top = None
    try:
        with trio.move_on_after(patience):
            part = await node.broker.history(follower.room, keep=follower.keep, since=None, limit=0, reverse=False)
            top = part.position
    except Exception as exc:
        await node.errors.report(None, exc, "the broker's history")
        return None
    return top if top is not None and follower.is_behind(top) else None
