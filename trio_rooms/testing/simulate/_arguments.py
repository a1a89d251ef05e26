"""What a step is about: drawn for each kind in its own way."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from ._settings import Settings

Arguments = dict[str, Any]


def draw_arguments(kind: str, rng: random.Random, settings: Settings, n: int) -> Arguments:
    """The arguments of the ``n``-th step. What it publishes is numbered from ``100 * n``, so no two are the same."""
    draw = _DRAWS.get(kind)
    return {} if draw is None else draw(rng, settings, 100 * n)


def _room(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"room": rng.choice(settings.rooms)}


def _join(rng: random.Random, settings: Settings, n: int) -> Arguments:
    arguments = _room(rng, settings, n)
    if rng.random() < 0.1:
        arguments["since"] = rng.choice(["foreign", "above", "below"])
    return arguments


def _event(rng: random.Random, settings: Settings, n: int) -> Arguments:
    arguments = {**_room(rng, settings, n), "n": n, "pad": rng.choice([0, 0, 0, 100, settings.large])}
    if rng.random() < 0.2:
        arguments["exclude"] = rng.randrange(settings.clients)
    if rng.random() < 0.4:
        arguments["key"] = rng.choice("ab")
    if rng.random() < 0.15:
        arguments["once"] = rng.choice(["once", "twice"])
    if rng.random() < 0.05:
        arguments["skip"] = True
    if rng.random() < 0.2:
        arguments["written"] = True
    return arguments


def _burst(rng: random.Random, settings: Settings, n: int) -> Arguments:
    arguments = {**_event(rng, settings, n), "count": rng.choice([1, 1, 2, 6, 20]), "turn": rng.choice([0, 1])}
    if rng.random() < 0.3:  # who shares what waits, and who does not: only a burst to more than one tells
        arguments["exclude"] = rng.randrange(settings.clients)
        for name in ("key", "once"):
            arguments.pop(name, None)
    return arguments


def _blink(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {
        **_room(rng, settings, n),
        "n": n,
        "stays": rng.choice([0, 0.25, 1]),
        "away": rng.choice([0, 0, 0.25, 1]),
    }


def _post(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {**_room(rng, settings, n), "n": n, "once": rng.choice([None, "once", "twice"])}


def _question(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {**_client(rng, settings, n), "seconds": rng.choice([0.25, 3])}


def _follow(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {
        **_room(rng, settings, n),
        "seconds": rng.choice([1, 3, 10]),
        "most": rng.choice([1, 3, 256, 256]),
        "pause": rng.choice([0, 0, 0.5]),
        "again": rng.random() < 0.6,
    }


def _several(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"rooms": rng.sample(settings.rooms, min(2, len(settings.rooms))), "n": n}


def _number(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"n": n}


def _number_in_room(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {**_room(rng, settings, n), "n": n}


def _client(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"client": rng.randrange(settings.clients), "n": n}


def _kick(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {**_room(rng, settings, n), "client": rng.randrange(settings.clients)}


def _sleep(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"seconds": rng.choice([0, 0, 0.5, 3]), "timeout_ms": rng.choice([None, None, 250, 1000])}


def _stream(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"items": rng.choice([0, 1, 5]), "pause": rng.choice([0, 0.25])}


def _history(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {**_room(rng, settings, n), "limit": rng.choice([None, 0, 1, 3]), "reverse": rng.random() < 0.3}


def _bad(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"which": rng.randrange(5)}


def _cut(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {
        "end": rng.choice(["near", "far"]),
        "direction": rng.choice(["sending", "receiving"]),
        "after": rng.choice([0, 1, rng.randrange(30), rng.randrange(600)]),
        "next": rng.random() < 0.3,
    }


def _stall(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {
        "end": rng.choice(["near", "far"]),
        "direction": rng.choice(["sending", "receiving"]),
        "after": rng.choice([0, 0, 1, 3, 40]),
        "seconds": rng.choice([0.25, 1, 4, 15]),
    }


def _clog(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"after": rng.randrange(60), "seconds": rng.choice([0.5, 1.5, 4, 7])}


def _slow(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"seconds": rng.choice([0.01, 0.3])}


def _restart(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"seconds": rng.choice([0, 0.5, 3])}


def _times(rng: random.Random, settings: Settings, n: int) -> Arguments:
    return {"times": rng.choice([1, 2, 5])}


_DRAWS: Final[dict[str, Callable[[random.Random, Settings, int], Arguments]]] = {
    "join": _join,
    "enter": _room,
    "leave": _room,
    "say": _event,
    "shout": _burst,
    "publish": _event,
    "broadcast": _burst,
    "several": _several,
    "everybody": _number,
    "echo": _number,
    "direct": _client,
    "post": _post,
    "blink": _blink,
    "status": _number_in_room,
    "ask": _number,
    "question": _question,
    "follow": _follow,
    "kick": _kick,
    "close_room": _room,
    "close_connection": _client,
    "room_task": _room,
    "sleep": _sleep,
    "beside": _sleep,
    "stream": _stream,
    "history": _history,
    "bad": _bad,
    "cut": _cut,
    "stall": _stall,
    "clog": _clog,
    "slow": _slow,
    "restart": _restart,
    "forget": _room,
    "busy": _times,
    "lose": _times,
    "veto": _times,
    "hook_crash": _times,
}
