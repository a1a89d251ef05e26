"""The positions of this node's members beside the ends of their streams, now and then.

A broker can lose what it was to deliver: a connection that was down for a moment, a server that was replaced. It says
so with what it delivers next (``publication.after``), but in a room in which nothing more is published nobody would
notice. So the node asks the broker for what stands behind the position of each room with members (Centrifugo's
positioning). There is something as long as it is on its way; if it does not come, the members' connections are ended,
and they recover. Tasks of the program that follow a room are looked after likewise. And who waits for the delivery of a
publication that was confirmed long ago is told that it will not come.
"""

from __future__ import annotations

import math
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

# So many failures in one round are the broker's, and not a room's; and so is one that takes long.
_MAX_FAILURES = 3


@attrs.frozen
class _Follower:
    """Who follows the stream of a room: its members here, or a task of the program."""

    room: str
    keep: Keep
    position: Callable[[], Position | None]
    """How far all of them have come."""
    lose: Callable[[float], None]
    """Tell those that have not come as far as an offset that they have missed something."""


@attrs.frozen
class _Lag:
    """There is something behind the position of a follower."""

    follower: _Follower
    position: Position
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
                if lag.follower.position() == lag.position:
                    lag.follower.lose(lag.missing)


async def _lags(node: Node, patience: float) -> list[_Lag]:
    """Of all followers but those about whom the broker fails; where it does so again and again, of those before."""
    lags: list[_Lag] = []
    failures: list[Exception] = []
    for follower in _followers(node):
        lag = None
        try:
            with trio.fail_after(patience):
                lag = await _lag(node, follower)
        except Exception as exc:
            failures.append(exc)
        if lag is not None:
            lags.append(lag)
        if len(failures) == _MAX_FAILURES or (failures and isinstance(failures[-1], trio.TooSlowError)):
            break
    if failures:
        await node.errors.report(None, failures[0], "the broker's history")  # once a round
    return lags


def _followers(node: Node) -> list[_Follower]:
    return [
        *(
            _Follower(room.name, room._keep, room._stream.get_position, room._stream.lose_members)
            for room in node.rooms.values()
            if room._stream is not None and room._keep is not None and room._roster.members
        ),
        *(
            _Follower(one.room, one._keep, one._get_top, one._lose_before)
            for one in node.subscriptions.all()
            if one._keep is not None
        ),
    ]


async def _lag(node: Node, follower: _Follower) -> _Lag | None:
    position = follower.position()
    if position is None:
        return None
    part = await node.broker.history(follower.room, keep=follower.keep, since=position, limit=1, reverse=False)
    if part.complete and not part.publications:
        return None
    return _Lag(follower, position, part.publications[0].offset if part.complete else math.inf)
