"""What a seed may do much of: situations that need several things at once, which chance alone brings together rarely.

Theory of operation. A mistake that shows only where a broker loses a delivery in the midst of a burst, to a room with a
history that somebody follows, is met in one of some thousand runs that draw each of these for itself. So part of the
seeds has a theme: the kinds of steps that it takes are on, and more of them are done than of the others, in a world
that suits it. All else is drawn as ever, and may disturb.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from trio_rooms import Config

from ._settings import Settings


@attrs.frozen
class Theme:
    """One of them."""

    kinds: Mapping[str, int]
    """Kinds of steps that are on, and how often they are drawn beside the others."""
    suit: Callable[[random.Random, Settings], Settings]
    """Makes a world suitable."""


def _crowd(rng: random.Random, settings: Settings) -> Settings:
    """Many who wait for the same, over sockets: they share what waits for them."""
    clients = rng.choice([3, 4, 6])
    return attrs.evolve(
        settings,
        clients=clients,
        formats=(rng.choice(["json", "msgpack"]),) * clients,
        loyal=tuple(rng.random() < 0.5 for _ in range(clients)),
        returning=tuple(rng.random() < 0.7 for _ in range(clients)),
        rooms=_some(rng, "close-a", "close-b", "newest-a", "people-a"),
        carrier="sockets",
        config=_with_outbox(settings.config, rng.choice([8, 256])),
        lag=None,
        capacity=None,
    )


def _holes(rng: random.Random, settings: Settings) -> Settings:
    """Streams of which something is lost, and more comes behind it."""
    return attrs.evolve(_streams(rng, settings), lag=rng.choice([0.1, 0.1, 1.0]), broker_bound=100)


def _followed(rng: random.Random, settings: Settings) -> Settings:
    """Streams so busy that who comes, comes in the midst of a burst."""
    return attrs.evolve(_streams(rng, settings), length=rng.choice([1.0, 3.0]), lag=0.1, broker_bound=100)


def _away(rng: random.Random, settings: Settings) -> Settings:
    """Clients that come back to their sessions, and recover."""
    return attrs.evolve(
        _streams(rng, settings),
        returning=(True,) * settings.clients,
        config=attrs.evolve(settings.config, session_window=60.0),
        lag=rng.choice([None, 0.1, 1.0]),
    )


def _clogged(rng: random.Random, settings: Settings) -> Settings:
    """Connections that stop in the middle of a frame, and go on while the server gives them up."""
    return attrs.evolve(
        settings,
        carrier="memory",
        rooms=_some(rng, "close-a", "close-b", "stream-a"),
        config=attrs.evolve(_with_outbox(settings.config, rng.choice([2, 3, 8])), close_timeout=5.0),
        lag=None,
    )


def _conflated(rng: random.Random, settings: Settings) -> Settings:
    """Two rooms with events of the same keys, which one of them replaces, and clients in both that are slow to read."""
    return attrs.evolve(
        settings,
        rooms=("close-a", "conflate-a"),
        length=1.0,
        carrier="memory",
        config=_with_outbox(settings.config, 256),
        lag=None,
        capacity=None,
    )


def _streams(rng: random.Random, settings: Settings) -> Settings:
    """Rooms that keep what they have for longer than the run."""
    return attrs.evolve(
        settings,
        rooms=_some(rng, "stream-a", "stream-b"),
        history_size=rng.choice([5, 50, 1000]),
        history_ttl=300.0,
        history_meta_ttl=300.0,
    )


def _some(rng: random.Random, *rooms: str) -> tuple[str, ...]:
    """One or two of these."""
    return tuple(sorted(rng.sample(rooms, rng.choice([1, 2]))))


def _with_outbox(config: Config, messages: int) -> Config:
    return attrs.evolve(config, limits=attrs.evolve(config.limits, outbox_messages=messages))


#: All of them.
THEMES: Final[Mapping[str, Theme]] = {
    "crowd": Theme({"broadcast": 20, "post": 12, "shout": 8, "kick": 4, "leave": 8, "join": 8, "say": 6}, _crowd),
    "holes": Theme({"broadcast": 12, "follow": 8, "lose": 6, "publish": 8, "join": 8, "say": 6}, _holes),
    "followed": Theme({"broadcast": 20, "follow": 16, "join": 8}, _followed),
    "away": Theme({"blink": 12, "say": 8, "history": 6, "join": 8, "drop": 3}, _away),
    "conflated": Theme({"broadcast": 30, "publish": 15, "clog": 15, "join": 10}, _conflated),
    "clogged": Theme({"clog": 10, "broadcast": 14, "close_connection": 3, "join": 8, "say": 6}, _clogged),
}

# Of so many seeds one has a given theme.
_RARITY: Final = 14


def draw_theme(rng: random.Random) -> Theme | None:
    """That of a seed; most have none."""
    names = [*THEMES, *[""] * (_RARITY - len(THEMES))]
    return THEMES.get(rng.choice(names))
