"""The headers of a request: immutable, looked up without regard to case, held compactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar, final, overload

import attrs

T = TypeVar("T")

#: Names and values of headers.
Pairs = tuple[tuple[bytes, bytes], ...]

_CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
_NOT_PRINTABLE = re.compile(rb"[^\x20-\x7e\t\n\0]")


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One block: a line feed before each name, which no header may hold, and a zero between name and value."""
    lines = [b"\n%b\0%b" % (bytes(name).lower(), bytes(value)) for name, value in pairs]
    block = b"".join(lines)
    if block.count(b"\n") != len(lines):
        raise ValueError("a header holds a line feed")  # RFC 9110 section 5.5
    return block


@final
@attrs.frozen(eq=False, repr=False, weakref_slot=False)
class Headers(Mapping[str, str]):
    """Request headers by name, in any case: ``headers["user-agent"]``.

    Values are decoded as latin-1, which never fails: real clients send bytes above 0x7F in headers such as
    ``User-Agent``. A header that was sent several times is joined with ", " (RFC 9110 section 5.3), cookies with
    "; " (RFC 9113 section 8.2.3); :meth:`getlist` gives the single values. Names are iterated in lower case, in
    the order in which they first came.

    They live as long as the connection, so one block of bytes is all that is kept, and a look-up searches it:
    ``limits.max_header_bytes`` bounds its length.
    """

    _block: bytes = attrs.field(default=b"", converter=_joined, alias="raw")

    @property
    def raw(self) -> Pairs:
        """The pairs of lower-case name and value as they came, in their order."""
        lines = self._block.split(b"\n")[1:]
        return tuple((name, value) for name, _, value in (line.partition(b"\0") for line in lines))

    @property
    def printable(self) -> bool:
        """Whether all of it is printable ASCII, blanks and tabs included."""
        block = self._block
        return _NOT_PRINTABLE.search(block) is None and block.count(b"\0") == block.count(b"\n")

    def getlist(self, name: str) -> list[str]:
        """Each value that was sent under this name, in order; empty if there is none."""
        block, key = self._block, _key(name)
        values = []
        start = block.find(key)
        while start >= 0:
            start += len(key)
            end = block.find(b"\n", start)
            if end < 0:
                values.append(block[start:].decode("latin-1"))
                break
            values.append(block[start:end].decode("latin-1"))
            start = block.find(key, end)
        return values

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return self._join(name, values)

    def _join(self, name: str, values: list[str]) -> str:
        if len(values) == 1:
            return values[0]
        return ("; " if name.lower() == "cookie" else ", ").join(values)

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, /, default: T) -> str | T: ...
    def get(self, key: str, /, default: T | None = None) -> str | T | None:
        """The value of a header, or ``default``; what is missing costs no exception."""
        values = self.getlist(key)
        return self._join(key, values) if values else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._block

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in dict(self.raw))

    def __len__(self) -> int:
        return len(dict(self.raw))

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        # Requests end up in logs; credentials must not.
        shown = {
            name.decode("latin-1"): "[hidden]" if name in _CREDENTIALS else self[name.decode("latin-1")]
            for name in dict(self.raw)
        }
        return f"Headers({shown!r})"


@lru_cache(maxsize=128)  # each handshake looks for the same few names
def _key(name: str) -> bytes:
    # A name outside latin-1 is in no request: it has to miss, not to raise UnicodeEncodeError.
    return b"\n%b\0" % name.lower().encode("latin-1", "replace")


def parse_cookies(headers: Mapping[str, str]) -> dict[str, str]:
    """The cookies of a request by name; never raises, in time linear in the header's length.

    Values are as sent, without surrounding double quotes and without percent-decoding. Parts without ``=`` or
    without a name are left out. Of two cookies with one name the first counts: user agents put the one with the
    more specific path first (RFC 6265 section 5.4).
    """
    cookies: dict[str, str] = {}
    for part in headers.get("cookie", "").split(";"):
        name, equals, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name:
            continue
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        cookies.setdefault(name, value)
    return cookies
