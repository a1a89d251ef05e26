"""Keepalive: a ping at every interval, and the verdict that a peer is dead.

Any bytes from the peer count as life, not only pongs. Silence counts only while we listen: not while
reading is held back by us, and not across a jump of the clock (the process was stopped, or the machine
slept), after which the peer gets one more period.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import trio

from ._wire.sink import Sink
from ._wire.transport import Transport

# Waking later than this many seconds after the appointed time means that the clock has jumped.
_JUMP = 1.0

# To wake the process costs more than a ping does. So pings are sent at so many moments of an interval only: connections
# that are pinged within some hundredths of a second share one, and even of a hundred thousand a moment has but a few.
_MOMENTS = 1024
_ROUNDING = 1e-6


def first_ping(interval: float, rng: random.Random) -> float:
    """When a connection that begins now is to be pinged for the first time, by the clock of trio.

    At a random moment of the interval: connections that began together must not ping together. The interval's first
    tenth is left out: a peer that has just begun has just been heard.
    """
    return _together(trio.current_time() + interval * rng.uniform(0.1 + 1 / _MOMENTS, 1), interval)


def _together(moment: float, interval: float) -> float:
    """The last moment until then at which pings are sent."""
    return math.floor(moment / interval * _MOMENTS + _ROUNDING) / _MOMENTS * interval


async def keep_alive(
    sink: Sink,
    transport: Transport,
    *,
    interval: float,
    timeout: float,  # noqa: ASYNC109 - a setting, not the caller's patience
    sleep_until: Callable[[float], Awaitable[object]] = trio.sleep_until,
    died: Callable[[], object] | None = None,
) -> None:
    """Ping until the peer is dead; calls ``died`` and returns within ``interval + timeout`` of its last sign of life.

    The first ping goes out at once; :func:`first_ping` tells when to begin.
    ``sleep_until`` is where to sleep, for one that does it more cheaply than trio.
    """
    silent_since = await sink.ping()
    next_ping = _together(silent_since + interval, interval)
    while True:
        wake = min(next_ping, silent_since + timeout)
        await sleep_until(wake)
        now = trio.current_time()
        if transport.last_heard >= silent_since or transport.paused:
            silent_since = math.inf
        elif now >= silent_since + timeout:
            if now - wake < _JUMP:
                if died is not None:
                    died()
                return
            silent_since = now
        if now >= next_ping:
            written = await sink.ping()
            silent_since = min(silent_since, written)
            next_ping = _together(written + interval, interval)
