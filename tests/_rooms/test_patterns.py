"""Options of rooms by pattern."""

from __future__ import annotations

import pytest

from trio_rooms import RoomOptions
from trio_rooms._rooms.patterns import Patterns


def test_first_match_wins_whole() -> None:
    """Of two patterns that match, the one registered first decides everything; nothing is merged."""
    patterns = Patterns()
    patterns.add("chat:vip", RoomOptions(capacity=2))
    patterns.add("chat:*", RoomOptions(capacity=50, linger=9.0))
    found = patterns.match("chat:vip")
    assert found == RoomOptions(capacity=2)
    assert patterns.match("chat:42") == RoomOptions(capacity=50, linger=9.0)


def test_no_match() -> None:
    """A name that no pattern matches has no options."""
    patterns = Patterns()
    patterns.add("chat:*", RoomOptions())
    assert patterns.match("game:1") is None


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("lobby", "lobby", True),
        ("lobby", "Lobby", False),
        ("*", "anything.at/all", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("room[0-9]", "room7", True),
        ("room[!0-9]", "room7", False),
        ("chat.*", "chat.a.b", True),
        ("lobby", "lobby2", False),
    ],
)
def test_shell_globs(pattern: str, name: str, matches: bool) -> None:
    """Patterns are shell globs over the whole name, and care about case on every system."""
    patterns = Patterns()
    patterns.add(pattern, RoomOptions())
    assert (patterns.match(name) is not None) is matches
