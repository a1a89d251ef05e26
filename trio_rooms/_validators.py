"""Checks of what can be set; a mistake shows in the line that makes it."""

from __future__ import annotations

from typing import Any

import attrs


def positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{attribute.name} is a positive number, not {value!r}")


def not_negative(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{attribute.name} is a number of at least 0, not {value!r}")


def count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} is a whole number of at least 1, not {value!r}")


def whole(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """A whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} is a whole number of at least 0, not {value!r}")


def flag_or_function(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """True, False, or what decides at each time."""
    if not isinstance(value, bool) and not callable(value):
        raise TypeError(f"{attribute.name} is a bool or a function, not {value!r}")
