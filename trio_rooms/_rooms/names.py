"""Which names a room may have. No normalisation: two names are the same room if their bytes are the same."""

from __future__ import annotations

import unicodedata

# Meaningful to brokers (Redis patterns, NATS subjects) or to shells; never in a room's name.
_RESERVED = frozenset("*>?[]\\ ")

# Line and paragraph separators, and characters that turn the direction of the text around them: a name
# with these shows in a log or a page as something it is not.
_DECEPTIVE = frozenset("\u2028\u2029\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def why_not_a_room(name: object, *, max_bytes: int) -> str | None:
    """None for a valid name, else a text that says what is wrong and is fit to be sent to a client."""
    if not isinstance(name, str):
        return "a room's name is a string"
    if not name:
        return "a room's name is not empty"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "a room's name is valid Unicode"
    if size > max_bytes:
        return f"a room's name has at most {max_bytes} bytes"
    if name.startswith("$"):
        return "names with a leading $ are the library's"
    if "" in name.split("."):
        return "a room's name has no empty part between dots"
    if not _RESERVED.isdisjoint(name) or (not _is_plain(name) and any(map(_is_forbidden, name))):
        return "the room's name holds a character that is not allowed"
    return None


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable()


def _is_forbidden(character: str) -> bool:
    return character in _DECEPTIVE or unicodedata.category(character) == "Cc"
