"""Options of rooms by name pattern: shell globs, the first registered match wins, whole."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import attrs

from .._room_options import RoomOptions


@attrs.define(eq=False)
class Patterns:
    """An ordered list of patterns with their options."""

    _patterns: list[tuple[str, RoomOptions]] = attrs.field(factory=list)

    def add(self, pattern: str, options: RoomOptions) -> None:
        """Append a pattern; it applies to names that no earlier pattern matches."""
        self._patterns.append((pattern, options))

    def __iter__(self) -> Iterator[tuple[str, RoomOptions]]:
        """The patterns in their order."""
        return iter(self._patterns)

    @property
    def keeps_history(self) -> bool:
        """Whether any of the options asks for history."""
        return any(options.history_size for _, options in self._patterns)

    def match(self, name: str) -> RoomOptions | None:
        """The options for a name; None if no pattern matches."""
        for pattern, options in self._patterns:
            if fnmatchcase(name, pattern):
                return options
        return None
