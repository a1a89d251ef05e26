"""The world of a run: who is in it, and how narrow it is.

Theory of operation. What goes wrong at a bound goes wrong there only, and with the defaults a run would never get to
one. So the seed draws limits that are absurdly small for some runs: an outbox of one message, one concurrent handler.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import attrs

from trio_rooms import Config, Limits

from ._network import Carrier


@attrs.frozen
class Settings:
    """Drawn for each seed."""

    clients: int
    """How many there are."""
    formats: tuple[str, ...]
    """The subprotocol of each client, by its last word; "plain" for none."""
    loyal: tuple[bool, ...]
    """Which of the clients join their rooms again by themselves when they connect."""
    library: int
    """How many clients there are besides, made with ``trio_rooms.client``."""
    returning: tuple[bool, ...]
    """Which of the clients ask for their session when they connect, where there are sessions."""
    named: bool
    """Whether clients are users, of which each has two; else they are anonymous."""
    rooms: tuple[str, ...]
    """Their names."""
    length: float
    """Virtual seconds until the last step."""
    large: int
    """Bytes of a large payload."""
    carrier: Carrier
    """What carries connections: streams in memory, or local sockets."""
    config: Config
    """Of the manager."""
    lag: float | None
    """Seconds that the broker takes; None for the one that takes none."""
    confirm: Literal["before", "with", "after"]
    """When the broker confirms: "before", "with" or "after" the delivery."""
    broker_bound: int
    """Publications that may be under way in it."""
    quick_reads: bool
    """Whether a history is read at once, ahead of what is under way, or takes its time, too."""
    capacity: int | None
    """Of each room; as what follows, see ``RoomOptions``."""
    linger: float
    """Of each room."""
    history_size: int
    """Of the rooms with history."""
    history_ttl: float
    """Of the rooms with history."""
    history_meta_ttl: float
    """Of the rooms with history."""
    presence_interval: float
    """Of the rooms with presence."""
    presence_grace: float
    """Of the rooms with presence."""
    room_hooks: bool
    """Whether the program has hooks for joins and leaves."""
    opening_hooks: bool
    """Whether it has hooks for the opening and the closing of rooms."""
    slow_hooks: bool
    """Whether hooks wait."""
    middleware: bool
    """Whether there is middleware, and an ``on_message`` hook."""


#: What the rooms of our own program are called; the part in front of the dash decides their options.
_ROOMS = ("close-a", "close-b", "newest-a", "oldest-a", "conflate-a", "conflate-b")
_WITH_PRESENCE = ("people-a",)
_WITH_HISTORY = ("stream-a", "stream-b", "cache-a", "fresh-a")


def draw_settings(rng: random.Random, *, rooms: tuple[str, ...] | None) -> Settings:
    """The settings that come next."""
    clients = rng.choice([2, 2, 3, 3, 4, 6, 10])
    return Settings(
        clients=clients,
        formats=tuple(rng.choice(["json", "json", "msgpack"]) for _ in range(clients)),
        loyal=tuple(rng.random() < 0.5 for _ in range(clients)),
        library=0 if rooms else rng.choice([0, 0, 0, 1, 2]),
        returning=tuple(rng.random() < 0.7 for _ in range(clients)),
        named=rng.random() < 0.5,
        rooms=rooms or _draw_rooms(rng),
        length=rng.choice([1.0, 3.0, 10.0]),
        large=rng.choice([300, 1500]),
        carrier=rng.choice(["memory", "sockets"]),
        config=_draw_config(rng),
        lag=rng.choice([None, None, 0.0, 0.1, 1.0]),
        confirm=rng.choice(["before", "with", "after"]),
        broker_bound=rng.choice([1, 2, 100]),
        quick_reads=rng.random() < 0.4,
        capacity=rng.choice([None, None, None, 2]),
        linger=rng.choice([0.0, 0.0, 1.0]),
        history_size=rng.choice([1, 2, 5, 50, 1000]),
        history_ttl=rng.choice([0.5, 3.0, 300.0, 300.0]),
        history_meta_ttl=rng.choice([300.0, 300.0, 300.0, 30.0]),
        presence_interval=rng.choice([0.0, 0.25, 1.0]),
        presence_grace=rng.choice([0.0, 2.0]),
        room_hooks=rng.random() < 0.7,
        opening_hooks=rng.random() < 0.4,
        slow_hooks=rng.random() < 0.3,
        middleware=rng.random() < 0.3,
    )


def _draw_rooms(rng: random.Random) -> tuple[str, ...]:
    if rng.random() < 0.2:
        return tuple(sorted([*_WITH_PRESENCE, *rng.sample([*_ROOMS, *_WITH_HISTORY], rng.choice([0, 1]))]))
    if rng.random() < 0.5:
        streams = rng.sample(_WITH_HISTORY, rng.choice([1, 2]))
        return tuple(sorted([*streams, *rng.sample(_ROOMS, rng.choice([0, 1]))]))
    return tuple(sorted(rng.sample(_ROOMS, rng.choice([1, 2, 3, 4]))))


def _draw_config(rng: random.Random) -> Config:
    small = rng.random() < 0.7

    def either(usual: Any, *narrow: Any) -> Any:
        return rng.choice([usual, *narrow]) if small else usual

    return Config(
        ping_interval=either(20.0, 1.0, 5.0),
        pong_timeout=either(20.0, 2.0, 5.0),
        write_timeout=either(10.0, 1.0),
        close_timeout=either(5.0, 1.0),
        hook_timeout=either(5.0, 1.0),
        shutdown_timeout=either(30.0, 2.0),
        position_check_interval=either(25.0, 0.5, 3.0),
        session_window=rng.choice([None, 2.0, 60.0]),
        drain_rate=either(1000.0, 2.0),
        write_buffer_size=either(65536, 1, 200),
        read_buffer_size=either(65536, 7, 200),
        limits=Limits(
            outbox_messages=either(256, 1, 2, 3, 8),
            outbox_bytes=either(1 << 20, 6000),
            inbox_messages=either(16, 1, 2),
            max_recovery=either(500, 1, 3),
            max_handlers=either(16, 1, 2),
            max_rooms_per_connection=either(128, 128, 2),
        ),
    )
