"""Opening a client."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio

from ._client import RoomsClient
from ._config import ClientConfig
from ._connect import Connect, make_dialer
from ._formats import FORMATS
from ._handlers import Handler


@asynccontextmanager
async def open_rooms(
    url: str,
    *,
    format: Literal["json", "msgpack"] = "json",
    headers: Sequence[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
    connect: Connect | None = None,
    handlers: Mapping[str, Handler] | None = None,
    config: ClientConfig | None = None,
) -> AsyncIterator[RoomsClient]:
    """``async with open_rooms("ws://localhost:8080/ws") as client:`` is connected for the length of the block.

    Entering the block waits for nothing: whatever needs the connection waits for it, and ``client.wait_open`` does only
    that. A server that cannot be reached is tried again and again; whoever does not want to wait bounds the time.
    Leaving the block says goodbye, with 1000, and leaves nothing behind, after ``close_timeout`` at the latest. As
    with every nursery, exceptions come out in an exception group.

    Args:
      url: ``ws://`` or ``wss://``, with path and query.
      format: the wire format.
      headers: sent with each upgrade, such as a token.
      ssl_context: for ``wss``; None (default) is ``ssl.create_default_context()``.
      connect: an async function that opens a stream to the server; OSError means that it failed. None (default): TCP,
        and TLS for ``wss``. With it, host and scheme of the URL open nothing.
      handlers: functions by action, as with ``client.on``, but there before the first message can come.
      config: times and bounds.

    Raises ValueError if the URL, the format or a header is none.
    """
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    settings = ClientConfig() if config is None else config
    dialer = make_dialer(url, FORMATS[format], headers, ssl_context, connect)
    async with trio.open_nursery() as nursery:
        client = RoomsClient(dialer, settings, nursery)
        for action, handler in (handlers or {}).items():
            client.on(action)(handler)
        nursery.start_soon(client._run)
        try:
            yield client
        finally:
            with trio.move_on_after(settings.close_timeout, shield=True):
                await client._close()
            client._scope.cancel()
            nursery.cancel_scope.cancel()
