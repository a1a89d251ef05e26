"""Who a request comes from, where proxies that we trust stand in front of us. No I/O.

Theory of operation. Each proxy appends the address that it was called from to ``X-Forwarded-For``, behind what was in
it already, which is whatever its client has sent. So only the right end of the list is known to be true, and as far to
the left as those who wrote it are trusted: the list is walked from the right, and the first address that is not a
proxy of ours is the client's. What cannot be read ends the walk at the last address that could.

``Forwarded`` (RFC 7239) is not read: a proxy that writes one of the two headers passes the other one on as its client
has sent it, and then nobody vouches for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import final

import attrs

from .._config import Address, Proxy
from .request import HandshakeRequest

# More of them than a chain of proxies has; a list of any length costs no more than this.
_MAX_HOPS = 100

# The longest address is IPv6 with IPv4 in it; then brackets and a port.
_LONGEST = 45 + len("[]:65535")

_IPV4_WITH_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_IPV6_IN_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")


@final
class Proxies:
    """The proxies that are trusted: networks, and "unix" for whoever connects to a Unix socket."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, proxies: Iterable[Proxy]) -> None:
        trusted = tuple(proxies)
        self._networks = [one for one in trusted if not isinstance(one, str)]
        self._unix = "unix" in trusted

    def trusts(self, peer: str | None, *, unix: bool) -> bool:
        """Whether the peer of a socket is one of them. ``peer`` is its address, None if it has none."""
        if peer is None:
            return unix and self._unix
        address = parse_address(peer)
        return address is not None and self._has(address)

    def see_through(self, request: HandshakeRequest, *, unix: bool = False) -> HandshakeRequest:
        """The request with the client's address as the remote one, as far as it is known."""
        if not self.trusts(request.remote, unix=unix):
            return request
        remote, port = request.remote, request.remote_port
        forwarded = request.headers.get("x-forwarded-for", "")
        for entry in reversed(forwarded.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]):
            hop = _parse_hop(entry.strip())
            if hop is None:
                break
            remote, port = str(hop[0]), hop[1]
            if not self._has(hop[0]):
                break
        return attrs.evolve(request, remote=remote, remote_port=port)

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """The address that a text stands for, IPv4 where it is that within IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _parse_hop(entry: str) -> tuple[Address, int | None] | None:
    """Address and port of one entry; None for what is neither, such as "unknown"."""
    if len(entry) > _LONGEST or "%" in entry:  # behind which there may be anything
        return None
    port = None
    match = _IPV4_WITH_PORT.fullmatch(entry) or _IPV6_IN_BRACKETS.fullmatch(entry)
    if match is not None:
        entry = match[1]
        port = int(match[2]) if match[2] else None
    address = parse_address(entry)
    return None if address is None or (port or 0) > 65535 else (address, port)
