"""The positions of this node's members beside the ends of their streams, now and then.

A broker can lose what it was to deliver: a connection that was down for a moment, a server that was replaced. It says
so with what it delivers next (``publication.after``), but in a room in which nothing more is published nobody would
notice. So the node asks the broker for what stands behind the position of each room with members (Centrifugo's
positioning). There is something as long as it is on its way; if it does not come, the members' connections are ended,
and they recover. Who waits for the delivery of a publication that was confirmed long ago is told that it will not come.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from ._node import Node
    from ._room import Room
    from ._room_stream import RoomStream
    from ._rooms.history import Position

# Seconds for which a lag may be nothing but a delivery under way.
_PATIENCE = 10.0


@attrs.frozen
class _Lag:
    """Members that have not got what there is."""

    stream: RoomStream
    position: Position
    """How far they have come."""
    missing: float
    """The first offset after it; infinity if that has gone, or is of another epoch."""


async def watch_positions(node: Node) -> None:
    """Look after them until cancelled."""
    interval = node.config.position_check_interval
    if interval is None or node.delivers_at_once:
        return
    while True:
        await trio.sleep(interval)
        node.carrier.give_up(confirmed_before=trio.current_time() - interval)
        if lags := await _lags(node, interval):
            await trio.sleep(min(interval, _PATIENCE))
            for lag in lags:
                if lag.stream.position == lag.position:
                    lag.stream.lose_members(before=lag.missing)


async def _lags(node: Node, patience: float) -> list[_Lag]:
    """Of all rooms, or, if the broker fails, of those that it was asked about before it did."""
    lags: list[_Lag] = []
    try:
        for room in tuple(node.rooms.values()):
            position = None if room._stream is None or not room._roster.members else room._stream.position
            if position is not None:
                with trio.fail_after(patience):
                    lag = await _lag(node, room, position)
                if lag is not None:
                    lags.append(lag)
    except Exception as exc:
        await node.errors.report(None, exc, "the broker's history")
    return lags


async def _lag(node: Node, room: Room, position: Position) -> _Lag | None:
    assert room._stream is not None
    assert room._keep is not None
    part = await node.broker.history(room.name, keep=room._keep, since=position, limit=1, reverse=False)
    if part.complete and not part.publications:
        return None
    return _Lag(room._stream, position, part.publications[0].offset if part.complete else math.inf)
