"""What the tables of docs/security.md say of limits and settings."""

from __future__ import annotations

import re
from functools import cache

import attrs

from program import ROOT
from trio_rooms import Limits, PresenceOptions, Statistics


def rows(page: str, *columns: str) -> list[list[str]]:
    """The cells of the one table in a page that has these columns."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    head = re.escape(f"| {' | '.join(columns)} |\n")
    (table,) = re.findall(rf"^{head}\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]


def table_of(cls: type[attrs.AttrsInstance]) -> list[list[str]]:
    """The table of Limits, of PresenceOptions, or of Config."""
    if cls is Limits:
        return rows("security.md", "limit", "default", "unit", "reaction", "metric")
    if cls is PresenceOptions:
        return rows("security.md", "option", "default", "unit", "reaction", "metric")
    return rows("security.md", "setting", "default", "unit", "meaning", "metric")


@attrs.frozen
class Metric:
    """A field of the statistics, and the label if it has labels."""

    field: str
    label: str | None

    def value(self, statistics: Statistics) -> int:
        """What it counts now."""
        found = getattr(statistics, self.field)
        return int(found if self.label is None else found.get(self.label, 0))


@cache
def metrics_of(cls: type[attrs.AttrsInstance]) -> dict[str, list[Metric]]:
    """For each field of Limits, PresenceOptions or Config the metrics that are documented to count it."""
    return {
        name.strip("`"): [
            Metric(field, label or None) for field, label in re.findall(r"`(\w+)(?:\{([\w:]+)\})?`", cell)
        ]
        for name, *_, cell in table_of(cls)
    }
