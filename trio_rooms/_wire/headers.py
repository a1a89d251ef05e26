"""The headers of a request: immutable, looked up without regard to case, held compactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import final

import attrs

Pairs = tuple[tuple[bytes, bytes], ...]

_CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})


def _lower_names(pairs: Iterable[tuple[bytes, bytes]]) -> Pairs:
    return tuple((bytes(name).lower(), bytes(value)) for name, value in pairs)


@final
@attrs.frozen(eq=False, repr=False, weakref_slot=False)
class Headers(Mapping[str, str]):
    """Request headers by name, in any case: ``headers["user-agent"]``.

    Values are decoded as latin-1, which never fails: real clients send bytes above 0x7F in headers such as
    ``User-Agent``. A header that was sent several times is joined with ", " (RFC 9110 section 5.3), cookies with
    "; " (RFC 9113 section 8.2.3); :meth:`getlist` gives the single values. Names are iterated in lower case, in
    the order in which they first came.

    One tuple of pairs is all that is kept, since it lives as long as the connection; a look-up walks it, and
    ``limits.max_headers`` bounds its length.
    """

    raw: Pairs = attrs.field(default=(), converter=_lower_names)
    """The pairs of lower-case name and value as they came, in their order."""

    def getlist(self, name: str) -> list[str]:
        """Each value that was sent under this name, in order; empty if there is none."""
        key = _encode(name)
        return [value.decode("latin-1") for other, value in self.raw if other == key]

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return ("; " if name.lower() == "cookie" else ", ").join(values)

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


def _encode(name: str) -> bytes:
    # A name outside latin-1 is in no request: it has to miss, not to raise UnicodeEncodeError.
    return name.lower().encode("latin-1", "replace")


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
