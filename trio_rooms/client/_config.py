"""The settings of a client: every time and every bound."""

from __future__ import annotations

from typing import Final

import attrs

from .._validators import count, positive

MIB: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Settings of :func:`open_rooms`. Times are in seconds."""

    ping_interval: float = attrs.field(default=20.0, validator=positive)
    """Seconds from one answered ping to the next."""

    pong_timeout: float = attrs.field(default=20.0, validator=positive)
    """Seconds after a ping within which anything must have been heard. Beyond it the server is taken for dead, and
    the client connects anew; so that takes at most ``ping_interval + pong_timeout``."""

    handshake_timeout: float = attrs.field(default=10.0, validator=positive)
    """Seconds for one attempt to connect: name lookup, TCP, TLS and upgrade. Beyond it: the next attempt."""

    write_timeout: float = attrs.field(default=10.0, validator=positive)
    """Seconds that one write may take. Beyond it the connection is given up: a torn frame cannot be mended."""

    close_timeout: float = attrs.field(default=2.0, validator=positive)
    """Seconds for the closing handshake, when the block is left and when the server closes. Then: the stream is
    closed anyway."""

    backoff_base: float = attrs.field(default=0.5, validator=positive)
    """The most seconds before the first attempt to connect anew; doubled with each attempt that fails."""

    backoff_most: float = attrs.field(default=20.0, validator=positive)
    """The most seconds before any attempt, but for one whose time the server has named."""

    max_message_bytes: int = attrs.field(default=4 * MIB, validator=count)
    """Bytes of one message from the server (of text: characters). Beyond it the connection is closed with 1009, and
    made anew."""

    send_messages: int = attrs.field(default=256, validator=count)
    """Messages that wait to be written. At the bound requests wait for a place; answers to the server may take as many
    again, beyond which the connection is given up. ``$join``, ``$leave`` and ``$cancel`` always have a place: there are
    no more of them than the program has rooms and requests."""

    buffer_messages: int = attrs.field(default=1_024, validator=count)
    """Events that wait in one room, items in one streamed reply, and messages in ``client.receive``, until they are
    asked for. Beyond it: the room is left, and joined anew once its events are taken (see :class:`Gap`); the
    streamed reply fails with :exc:`StreamOverflow`; the message is dropped, counted, and told by a :class:`Gap`."""

    buffer_bytes: int = attrs.field(default=4 * MIB, validator=count)
    """Bytes of those (of text: characters). Beyond it: the same. One message is always taken."""

    max_handlers: int = attrs.field(default=16, validator=count)
    """Handlers that run at once. Beyond it a request of the server is answered ``BUSY``, and a message for a handler
    is dropped and counted."""
