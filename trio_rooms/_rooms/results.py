"""Results by key, for a time and bounded in number: what idempotency needs."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.define(eq=False)
class Results(Generic[T]):
    """A map whose entries go after ``ttl`` seconds, and the oldest when there are more than ``bound``."""

    ttl: float
    bound: int
    _entries: dict[Hashable, tuple[float, T]] = attrs.field(factory=dict)  # in the order in which they go
    forgotten: int = 0
    """Entries that went before their time."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> T | None:
        """The entry of a key, if there is one and its time is not over."""
        found = self._entries.get(key)
        return None if found is None or found[0] <= now else found[1]

    def put(self, key: Hashable, result: T, now: float) -> None:
        """Keep a result from now on."""
        self.expire(now)
        self._entries.pop(key, None)
        self._entries[key] = (now + self.ttl, result)
        if len(self._entries) > self.bound:
            del self._entries[next(iter(self._entries))]
            self.forgotten += 1

    @property
    def due(self) -> float:
        """When the oldest entry goes; infinity if there is none."""
        return next(iter(self._entries.values()))[0] if self._entries else math.inf

    def expire(self, now: float) -> None:
        """Let go of what is over."""
        while self._entries:
            key, (over, _) = next(iter(self._entries.items()))
            if over > now:
                return
            del self._entries[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()
