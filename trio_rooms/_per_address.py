"""How many connections one address may have open."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import final

from ._admission import Ticket
from ._wire.proxies import parse_address


@final
class PerAddress:
    """Counts the connections of each address; addresses without any are not kept."""

    __slots__ = ("_addresses", "_connections", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: Counter[str] = Counter()
        self._addresses: dict[Ticket, str] = {}

    def __len__(self) -> int:
        """How many addresses are known."""
        return len(self._connections)

    def is_full(self, address: str | None) -> bool:
        """Whether an address may have no further connection. One that has no address is never held back."""
        return address is not None and self._connections[_counted_as(address)] >= self._limit

    def take(self, ticket: Ticket, address: str | None) -> bool:
        """Count a connection under its address; False if that is full. One that is counted already stays as it is."""
        if address is None or ticket in self._addresses:
            return True
        if self.is_full(address):
            return False
        counted_as = _counted_as(address)
        self._connections[counted_as] += 1
        self._addresses[ticket] = counted_as
        return True

    def release(self, ticket: Ticket) -> None:
        """The connection is over. Idempotent, and does nothing for one that was not counted."""
        counted_as = self._addresses.pop(ticket, None)
        if counted_as is not None:
            self._connections[counted_as] -= 1
            if not self._connections[counted_as]:
                del self._connections[counted_as]


def _counted_as(address: str) -> str:
    """One customer of IPv6 has 2**64 addresses and more, which are counted as one."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)
