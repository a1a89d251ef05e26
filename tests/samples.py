"""Objects of the kinds that can be encoded and are no builtins."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import attrs


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int


@attrs.frozen
class Named:
    name: str
