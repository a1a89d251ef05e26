"""How long to wait before the next attempt to connect."""

from __future__ import annotations

from typing import Final

from .. import _chance

#: A server may ask for more time than ``backoff_most``, but not for ever. In seconds.
_MOST_ADVICE: Final = 600.0


class Backoff:
    """Exponential, with full jitter: clients that were cut off together do not come back together."""

    def __init__(self, base: float, most: float, *, attempt: int = 0) -> None:
        self._base = base
        self._most = most
        self._attempt = attempt
        self._random = _chance.generator()

    @property
    def ceiling(self) -> float:
        """The most seconds that the next delay can be."""
        return min(self._most, self._base * 2.0 ** min(self._attempt, 64))

    def lasted(self, seconds: float) -> None:
        """A connection was open for so long. One that ends at once, again and again, is no reason to begin anew."""
        if seconds >= self.ceiling:
            self._attempt = 0

    def delay(self) -> float:
        """Seconds to wait; longer with every call."""
        ceiling = self.ceiling
        self._attempt += 1
        return self._random.uniform(0, ceiling)


def bounded(seconds: float) -> float:
    """What a server asks for, within reason."""
    return min(max(seconds, 0.0), _MOST_ADVICE)
