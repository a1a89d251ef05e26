"""Themes of seeds: what they are made of, and that they are drawn."""

from __future__ import annotations

import random

import pytest

from trio_rooms.testing.simulate import draw_plan
from trio_rooms.testing.simulate._plan import KINDS
from trio_rooms.testing.simulate._settings import draw_settings
from trio_rooms.testing.simulate._themes import THEMES, draw_theme


@pytest.mark.parametrize("name", THEMES)
def test_a_theme(name: str) -> None:
    """Its kinds are known, and the world that it makes is whole: each client is something."""
    theme = THEMES[name]
    assert set(theme.kinds) <= set(KINDS)
    for seed in range(20):
        rng = random.Random(seed)
        settings = theme.suit(rng, draw_settings(rng, rooms=None))
        assert len(settings.formats) == len(settings.loyal) == len(settings.returning) == settings.clients
        assert settings.rooms


def test_how_often() -> None:
    """Each is met, and more than half of the seeds have none."""
    drawn = [draw_theme(random.Random(seed)) for seed in range(500)]
    assert all(theme in drawn for theme in THEMES.values())
    assert drawn.count(None) > 250


def test_the_kinds_of_a_theme_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though half of all kinds is off; and not in the plan of a program of one's own, which has no such actions."""
    theme = THEMES["away"]
    monkeypatch.setattr("trio_rooms.testing.simulate._plan.draw_theme", lambda rng: theme)
    for seed in range(10):
        assert set(theme.kinds) <= set(draw_plan(seed).kinds)
        assert "blink" not in draw_plan(seed, speak=lambda rng: ("say", 1), rooms=("kitchen",)).kinds
