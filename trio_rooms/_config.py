"""What can be set, with its unit, its default, what "off" is, and what happens at the bound.

Times are seconds. Everything is bounded by default; ``None`` is accepted only where the
docstring says so and then means "no bound". Values are checked when the object is made, so a
mistake shows in the line that makes it.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable
from typing import Literal

import attrs
from attrs import validators

from ._validators import count, not_negative, positive

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Peers that are proxies of one's own: a network, or "unix" for whoever connects to a Unix socket.
Proxy = Network | Literal["unix"]

KIB = 1024
MIB = 1024 * KIB

_POSITION_CHECK_INTERVAL: float | None = 40.0


def _networks(proxies: Iterable[str | Address | Network]) -> tuple[Proxy, ...]:
    """Addresses and networks as networks. ValueError for what is neither, such as a network with bits of a host."""
    if isinstance(proxies, str):
        raise ValueError(f"trusted_proxies is a sequence of addresses and networks, not {proxies!r}")
    return tuple("unix" if one == "unix" else ipaddress.ip_network(one) for one in proxies)


def _file_limit_less_reserve() -> int:
    """How many descriptors this process may open, less 64 for everything that is not a client."""
    if sys.platform == "win32":
        return 10_000
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1_000_000
    return max(1, soft - 64)


@attrs.frozen(kw_only=True)
class Limits:
    """Every bound of the server. Each has a test that sets it low and sees it bite."""

    max_connections: int = attrs.field(factory=_file_limit_less_reserve, validator=count)
    """Connections open at once, handshakes included, counted at accept. Default: the process's file limit
    less 64. Beyond it: 503 with ``Retry-After``."""

    max_connections_per_address: int | None = attrs.field(default=None, validator=validators.optional(count))
    """Connections open at once from one address, handshakes included; of IPv6 from one /64, which is what one
    customer has. Counted at accept, and behind one of ``trusted_proxies`` when the request has been read. Beyond it:
    503 with ``Retry-After``. None (default): no bound, because behind a proxy that is not declared in
    ``trusted_proxies`` all clients share its address."""

    max_pending_handshakes: int = attrs.field(default=1_000, validator=count)
    """Handshakes whose request head is not complete. Beyond it the oldest of them is dropped, so that a
    complete request is never refused for incomplete ones."""

    max_header_bytes: int = attrs.field(default=16 * KIB, validator=count)
    """Bytes of a whole request head. Beyond it: 431."""

    max_headers: int = attrs.field(default=64, validator=count)
    """Header lines of a request. Beyond it: 431."""

    max_header_line: int = attrs.field(default=8 * KIB, validator=count)
    """Bytes of one header, name and value. Beyond it: 431."""

    max_target_bytes: int = attrs.field(default=2 * KIB, validator=count)
    """Bytes of the request target. Beyond it: 414."""

    max_subprotocols: int = attrs.field(default=32, validator=count)
    """Subprotocols that a client may offer. Beyond it: 400."""

    max_message_bytes: int = attrs.field(default=64 * KIB, validator=count)
    """Bytes of one message from a client, after UTF-8. Beyond it: close 1009. It is a CPU limit too:
    64 KiB of JSON take about 3 ms to decode."""

    max_fragments: int = attrs.field(default=64, validator=count)
    """Fragments of one message. Beyond it: close 1009. Not enforced by the transport "trio-websocket"."""

    message_timeout: float = attrs.field(default=30.0, validator=positive)
    """Seconds from a message's first byte to its last, while we read. Beyond it: close 1008. Not enforced by the
    transport "trio-websocket"."""

    inbox_messages: int = attrs.field(default=16, validator=count)
    """Decoded messages that wait for their turn. At the bound nothing more is read from the socket, and
    TCP slows the peer. What one read brought is always taken whole."""

    read_ahead_bytes: int = attrs.field(default=1 * MIB, validator=count)
    """Bytes of messages that may wait for their turn, in place of ``inbox_messages`` if that is less, while a request
    to the client (``conn.request``) waits for its answer, which may stand behind them. Each is charged its length plus
    512. At the bound nothing more is read until one of them has had its turn; the answer is not found before that."""

    max_pending_asks: int = attrs.field(default=64, validator=count)
    """Requests to one client (``conn.request``) that wait for their answers. Beyond it: :exc:`TooManyAsks`."""

    max_handlers: int = attrs.field(default=16, validator=count)
    """Concurrent and streaming handlers in flight for one connection. Beyond it: ``BUSY``."""

    handler_timeout: float | None = attrs.field(default=None, validator=validators.optional(positive))
    """Seconds that one handler may take. None (default): no bound but the client's own ``timeout_ms``.
    Beyond it the handler is cancelled: ``DEADLINE_EXCEEDED``."""

    max_depth: int = attrs.field(default=32, validator=count)
    """Nesting of untyped data. Beyond it: ``BAD_MESSAGE``."""

    max_id_chars: int = attrs.field(default=64, validator=count)
    """Characters of a request id that is a string. Beyond it: ``BAD_MESSAGE``."""

    max_room_name_bytes: int = attrs.field(default=255, validator=count)
    """Bytes of a room's name in UTF-8. Beyond it: ``BAD_ROOM``."""

    max_rooms_per_connection: int = attrs.field(default=128, validator=count)
    """Rooms that one connection is in or is joining. Beyond it: ``TOO_MANY_ROOMS``."""

    max_rooms: int = attrs.field(default=100_000, validator=count)
    """Rooms that exist on this node, those whose ``on_room_close`` runs included. Beyond it: ``TOO_MANY_ROOMS``."""

    max_recovery: int = attrs.field(default=500, validator=count)
    """Publications that one join may recover, and that one ``$history`` returns. Their bytes are at most a quarter of
    ``outbox_bytes``. Beyond it: ``recovered: false``; ``$history`` returns fewer."""

    outbox_messages: int = attrs.field(default=256, validator=count)
    """Messages that wait to be written to one connection. Beyond it: the room's overflow policy."""

    outbox_bytes: int = attrs.field(default=1 * MIB, validator=count)
    """Bytes that wait to be written to one connection; each message is charged its frame plus 64 for what
    it costs us to hold. Beyond it: the room's overflow policy."""

    max_sessions: int = attrs.field(default=10_000, validator=count)
    """Sessions that are kept for clients that are away, where ``config.session_window`` is set. Beyond it: the one that
    was kept first ends, as if its time were over."""

    subscription_messages: int = attrs.field(default=256, validator=count)
    """Events that wait in one subscription of the program's, unless ``manager.subscribe`` is given another number.
    Beyond it: the overflow policy of the subscription."""

    subscription_bytes: int = attrs.field(default=1 * MIB, validator=count)
    """Bytes of JSON that wait in one subscription, 64 more for each event. Beyond it: its overflow policy."""

    session_messages: int = attrs.field(default=16, validator=count)
    """Messages that wait for ``read_json`` in ``manager.session``. At the bound dispatch waits."""


@attrs.frozen(kw_only=True)
class Config:
    """Settings of a :class:`Manager`; frozen, so what serves cannot change under it."""

    ping_interval: float = attrs.field(default=20.0, validator=positive)
    """Seconds between pings, whether the connection is idle or not."""

    pong_timeout: float = attrs.field(default=20.0, validator=positive)
    """Seconds after a ping's write within which anything must have been heard from the peer. A dead peer
    is noticed within ``ping_interval + pong_timeout``."""

    read_buffer_size: int = attrs.field(default=64 * KIB, validator=count)
    """The most bytes asked of the socket in one read. Not a limit of a message."""

    write_buffer_size: int = attrs.field(default=64 * KIB, validator=count)
    """The most bytes joined into one batch of writes (one message at least); a ping waits for one batch at
    most. Not a limit of a message."""

    max_connections_per_room: int | None = attrs.field(default=None, validator=validators.optional(count))
    """Capacity of rooms whose options do not set one. None (default): no bound but ``max_connections``."""

    handshake_timeout: float = attrs.field(default=10.0, validator=positive)
    """Seconds from accept to upgrade, in total. An incomplete head: 408; a slow ``authenticate``: 503."""

    write_timeout: float = attrs.field(default=10.0, validator=positive)
    """Seconds that one write may take. Beyond it the connection is aborted: a torn frame cannot be mended."""

    close_timeout: float = attrs.field(default=5.0, validator=positive)
    """Seconds for the closing handshake, and for what the peer had sent before its close. Then: abort."""

    hook_timeout: float = attrs.field(default=5.0, validator=positive)
    """Seconds that one hook may take, and that all hooks together may take after the connection has ended."""

    shutdown_timeout: float = attrs.field(default=30.0, validator=not_negative)
    """Seconds that a drain may take before everything that is left is cancelled. 0: no drain."""

    drain_rate: float = attrs.field(default=1_000.0, validator=positive)
    """Closes per second during a drain, spread at random over the window that this takes (at most half of
    ``shutdown_timeout``), so that clients do not come back all at once."""

    session_window: float | None = attrs.field(default=None, validator=validators.optional(positive))
    """Seconds after a connection's end within which its client can come back and have its session restored; see
    ``docs/sessions.md``. None (default): there are no sessions. Only for clients of a v1 format."""

    position_check_interval: float | None = attrs.field(
        default=_POSITION_CHECK_INTERVAL, validator=validators.optional(positive)
    )
    """Seconds between looks at whether the members of rooms with history have come as far as the broker. A lag that
    is still there 10 s later, or after so many seconds if they are fewer, ends their connections with 4010, so that
    they recover: shorter than what the broker takes to deliver, it ends them for nothing. None: never. The broker of
    one process, which delivers at once, is not asked."""

    trusted_proxies: tuple[Proxy, ...] = attrs.field(default=(), converter=_networks)
    """Addresses and networks of your own proxies, such as ``("10.0.0.0/8", "::1")``, and "unix" for whoever connects
    to a Unix socket. Where the peer of the socket is one of them, the client's address is taken from
    ``X-Forwarded-For``: of at most 100 entries, read from the right, the first that is no such proxy. Empty (default):
    no header is believed."""

    rooms: Literal["any", "declared"] = attrs.field(default="any", validator=validators.in_(("any", "declared")))
    """"any" (default): every valid name is a room. "declared": only names that match a pattern given to
    ``manager.room``; others are ``ROOM_NOT_FOUND``."""

    limits: Limits = attrs.field(factory=Limits, validator=validators.instance_of(Limits))
    """Every bound; see :class:`Limits`."""
