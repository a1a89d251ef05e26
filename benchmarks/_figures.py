"""Reading results: medians, spread, and ratios taken round by round."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Results:
    """A file of results."""

    data: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file. Raises OSError and ValueError."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def about(self) -> dict[str, Any]:
        """Machine, versions, how it was measured."""
        about: dict[str, Any] = self.data["about"]
        return about

    def about_of(self, scenario: str) -> dict[str, Any]:
        """The same for one scenario, which may have been measured anew."""
        about: dict[str, Any] = self.data.get("anew", {}).get(scenario, self.about)
        return about

    def subjects(self, scenario: str) -> list[str]:
        """Those that have figures for a scenario, in the order in which they were measured."""
        return list(self.data["figures"].get(scenario, {}))

    def values(self, scenario: str, subject: str, figure: str) -> list[float | None]:
        """One value for each round, None where it failed."""
        values: list[float | None] = self.data["figures"].get(scenario, {}).get(subject, {}).get(figure, [])
        return values

    def median(self, scenario: str, subject: str, figure: str) -> float | None:
        """The median over the rounds."""
        values = [value for value in self.values(scenario, subject, figure) if value is not None]
        return statistics.median(values) if values else None

    def spread(self, scenario: str, subject: str, figure: str) -> float | None:
        """Largest less smallest, in parts of the median."""
        values = [value for value in self.values(scenario, subject, figure) if value is not None]
        median = statistics.median(values) if values else 0
        return (max(values) - min(values)) / median if median else None

    def ratio(self, this: tuple[str, str, str], other: tuple[str, str, str]) -> float | None:
        """The median of this / other over the rounds in which there are both; each is scenario, subject, figure."""
        pairs = zip(self.values(*this), self.values(*other), strict=False)
        ratios = [a / b for a, b in pairs if a is not None and b]
        return statistics.median(ratios) if ratios else None

    def cheapest(self, scenario: str, figure: str, among: list[str]) -> str | None:
        """Of some subjects the one with the smallest median, if any has one."""
        known = {name: cost for name in among if (cost := self.median(scenario, name, figure)) is not None}
        return min(known, key=known.__getitem__) if known else None
