"""The request heads that browsers and WebSocket libraries send, parsed in a few microseconds. No I/O.

Theory of operation. h11 takes a quarter of what a whole connect costs. So a head that is *usual* is parsed right
here: a GET of HTTP/1.1 with lines that end in CR LF, names that are tokens (RFC 9110 section 5.1), values without
control characters, one ``Host`` and no body. Each head that is anything else is h11's, whose verdict counts, and no
rule about such heads is written twice: what is parsed here means the same to h11, and a test compares them.
"""

from __future__ import annotations

import re
from typing import Final

Fields = list[tuple[bytes, bytes]]

# Each part ends with a byte that cannot be in it, so a match takes linear time.
_USUAL: Final = re.compile(
    rb"GET ([!-~]+) HTTP/1\.1(\r\n(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
)
# Of a usual head. A run of blanks is looked at twice at most: no time that grows with its square.
_FIELD: Final = re.compile(rb"([^:\r\n]+):[ \t]*((?:[^ \t\r]+(?:[ \t]+[^ \t\r]+)*)?)[ \t]*\r\n")
# With a body, or more than one Host, a head may be refused; that is left to h11.
_HOST: Final = b"\nhost:"
_LENGTH: Final = b"\ncontent-length:"
_ENCODING: Final = b"\ntransfer-encoding:"


def parse_usual(head: bytes) -> tuple[bytes, Fields] | None:
    """The target of a usual head and its header fields, names in lower case; None if it is not usual."""
    match = _USUAL.fullmatch(head)
    if match is None:
        return None
    target, block = match.groups()
    names = block.lower()
    if names.count(_HOST) != 1 or _LENGTH in names or _ENCODING in names:
        return None
    return target, [(name.lower(), value) for name, value in _FIELD.findall(block)]
