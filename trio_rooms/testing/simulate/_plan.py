"""What is to happen in a run, all of it drawn from the seed before the run begins.

Theory of operation. A plan is a list of steps, each with its time, so that a failing run can be made smaller by leaving
steps out. A program that does a little of everything hardly ever does much of one thing; so each seed switches
about half of all kinds of steps off (swarm testing); some have a theme besides, of which they do much (see
``_themes``). Times are few and coarse: steps at the same moment race.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from ._arguments import draw_arguments
from ._settings import Settings, draw_settings
from ._themes import draw_theme

#: What clients do, and how often beside each other.
CLIENT_STEPS: Final[dict[str, int]] = {
    "join": 8,
    "enter": 3,
    "leave": 4,
    "say": 10,
    "shout": 6,
    "echo": 4,
    "sleep": 3,
    "beside": 4,
    "stream": 2,
    "cancel": 4,
    "history": 3,
    "post": 4,
    "status": 2,
    "ask": 2,
    "bad": 1,
    "crash": 1,
    "hang_up": 2,
    "drop": 2,
    "blink": 2,
}

#: What the program does by itself.
SERVER_STEPS: Final[dict[str, int]] = {
    "publish": 8,
    "broadcast": 8,
    "several": 3,
    "everybody": 2,
    "direct": 2,
    "question": 3,
    "follow": 3,
    "kick": 2,
    "close_room": 1,
    "close_connection": 1,
    "room_task": 1,
    "restart": 1,
}

#: What is broken on purpose.
FAULTS: Final[dict[str, int]] = {
    "cut": 4,
    "stall": 3,
    "clog": 2,
    "silence": 1,
    "trickle": 2,
    "slow": 2,
    "kill": 1,
    "busy": 2,
    "veto": 2,
    "hook_crash": 1,
    "forget": 2,
    "lose": 2,
}

#: Those faults that strike one connection.
OF_CONNECTIONS: Final = frozenset({"cut", "stall", "clog", "silence", "trickle", "slow"})

#: All kinds of steps.
KINDS: Final = (*CLIENT_STEPS, *SERVER_STEPS, *FAULTS)

# Without these nothing is seen; they are off in few seeds only.
_BASIC = frozenset({"join", "say", "publish", "broadcast"})


@attrs.frozen
class Step:
    """One thing that happens."""

    at: float
    """Virtual seconds after the beginning."""
    kind: str
    """What happens."""
    client: int | None
    """Who does it, or suffers it; None for the program itself."""
    args: Mapping[str, Any] = attrs.field(factory=dict)
    """What it is about."""

    def __str__(self) -> str:
        who = "program" if self.client is None else f"client {self.client}"
        return f"{self.at:7.2f} {who}: {self.kind} {dict(self.args)}"


@attrs.frozen
class Plan:
    """All that a run depends on."""

    seed: int
    """What it was drawn from, and what decides the rest."""
    settings: Settings
    """The world."""
    steps: tuple[Step, ...]
    """What is to happen, in the order of their times."""
    kinds: tuple[str, ...]
    """The kinds that are on."""

    def without(self, kinds: Iterable[str]) -> Plan:
        """The same plan, but no steps of these kinds."""
        off = frozenset(kinds)
        steps = tuple(step for step in self.steps if step.kind not in off)
        return attrs.evolve(self, steps=steps, kinds=tuple(kind for kind in self.kinds if kind not in off))

    def only(self, numbers: Iterable[int]) -> Plan:
        """The same plan with only the steps of these numbers, by their place in this one."""
        return attrs.evolve(self, steps=tuple(self.steps[n] for n in sorted(numbers) if n < len(self.steps)))


#: Makes the messages of a user's own program: an action and its data.
Speak = Callable[[random.Random], tuple[str, Any]]


def draw_plan(seed: int, *, speak: Speak | None = None, rooms: tuple[str, ...] | None = None) -> Plan:
    """The plan of a seed. With ``speak`` clients send those messages instead of ours, to the rooms given."""
    rng = random.Random(f"plan {seed}")
    settings = draw_settings(rng, rooms=rooms)
    foreign = speak is not None
    theme = None if foreign else draw_theme(rng)
    on = [kind for kind in KINDS if (kind in _BASIC and rng.random() < 0.9) or rng.random() < 0.5]
    if foreign:
        on = [kind for kind in on if kind in _FOR_ANY_PROGRAM]
    weights = {**CLIENT_STEPS, **SERVER_STEPS, **FAULTS}
    if theme is not None:
        settings = theme.suit(rng, settings)
        weights.update(theme.kinds)
        on = [kind for kind in KINDS if kind in on or kind in theme.kinds]
    if theme is None and not foreign:
        settings = _with_plain(seed, settings)
    if speak is not None:
        weights["speak"] = 15
        on.append("speak")
    if not on:
        on = ["join"]
    number = rng.choice([5, 20, 40, 80] if theme is None else [20, 40, 80])
    times = sorted(round(rng.random() * settings.length * 4) / 4 for _ in range(number))
    kinds = rng.choices(on, [weights[kind] for kind in on], k=number)
    joins = [
        Step(0.0, "join", client, {"room": room})
        for client in range(settings.clients)
        for room in settings.rooms
        if rng.random() < 0.6
    ]
    steps = [
        _draw_step(rng, settings, n, at, kind, speak) for n, (at, kind) in enumerate(zip(times, kinds, strict=True), 1)
    ]
    if "join" in on:
        steps = [*joins, *steps]
    return Plan(seed, settings, tuple(steps), tuple(on))


def _with_plain(seed: int, settings: Settings) -> Settings:
    """Some clients ask for no subprotocol. Drawn apart, because most runs have none."""
    rng = random.Random(f"plain {seed}")
    share = rng.choice([0.0, 0.0, 0.0, 0.3, 0.7])
    formats = tuple("plain" if rng.random() < share else one for one in settings.formats)
    return attrs.evolve(settings, formats=formats)


# What makes sense whatever the program is.
_FOR_ANY_PROGRAM = frozenset(
    "join leave bad hang_up drop publish broadcast kick close_room close_connection restart".split()
    + "cut stall clog silence trickle slow kill busy forget lose".split()
)


def _draw_step(rng: random.Random, settings: Settings, n: int, at: float, kind: str, speak: Speak | None) -> Step:
    by_client = kind in CLIENT_STEPS or kind in OF_CONNECTIONS or kind == "speak"
    client = rng.randrange(settings.clients) if by_client else None
    if speak is not None and kind == "speak":
        action, data = speak(rng)
        return Step(at, kind, client, {"action": action, "data": data})
    return Step(at, kind, client, draw_arguments(kind, rng, settings, n))
