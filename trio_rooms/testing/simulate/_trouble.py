"""What is to fail next, and the hooks that fail."""

from __future__ import annotations

from collections import Counter

import attrs

from ._record import Fault, Record


@attrs.define(eq=False)
class Trouble:
    """Failures that strike whoever comes next."""

    record: Record
    _due: Counter[str] = attrs.field(factory=Counter)

    def order(self, kind: str, times: int) -> None:
        """Let the next so many of a kind fail."""
        self._due[kind] += times

    def strikes(self, kind: str, link: int | None = None) -> bool:
        """Whether this one fails; it is noted."""
        if not self._due[kind]:
            return False
        self._due[kind] -= 1
        self.record.add(Fault(kind, link))
        return True

    def end(self) -> None:
        """Nothing fails any more."""
        self._due.clear()
