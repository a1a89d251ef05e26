"""Listening and accepting, also when the process has run out of file descriptors.

``accept`` needs a descriptor for the new connection. When the process has none left, it fails and the client
stays in the backlog: it believes that it is connected, and waits. So the loop keeps one descriptor spare. When
``accept`` fails, the spare one is given up, the client is accepted with it and closed at once, and a new spare
one is opened: the client learns that it is refused, and may try another server or come back later.

Where the listener is a socket, and nothing but a socket, the loop accepts from it by itself: all clients that wait, up
to a number, between two checkpoints.

Linux looks for a descriptor before it looks into the backlog, so ``accept`` also fails while nobody waits. Then the
spare one must be kept: to wait without it, for a client, would be to lose it to whoever opens a file first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import trio

from ._listening import below, socket_listener
from ._wire.plain import PlainStream

# accept(2): what the process (EMFILE), the system (ENFILE) or its memory cannot give just now.
_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Those where closing one descriptor lets the next accept succeed.
_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

# What is about the client that was to be accepted, and not about us; accept(2) wants it to be passed over.
_OF_CLIENT = frozenset(
    (
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,  # a firewall
        errno.EPROTO,
        errno.ETIMEDOUT,
    )
)

# So many handshakes may begin between two checkpoints; each takes about as long as a few messages.
_BATCH = 16

_PAUSE = 0.1  # seconds without accepting when a client could not even be turned away
_LOG_INTERVAL = 60.0  # seconds from one report of refused clients to the next
_TASK_NAME = "trio_rooms connection"


async def accept_forever(
    listener: trio.abc.Listener[trio.abc.Stream],
    handle: Callable[[trio.abc.Stream], Awaitable[object]],
    handler_nursery: trio.Nursery,
    *,
    errors: Callable[[], None],
    logger: logging.Logger | logging.LoggerAdapter[Any],
) -> NoReturn:
    """Accept connections and start ``handle(stream)`` for each in ``handler_nursery``; runs until cancelled.

    ``handle`` owns the stream and must close it; what it raises ends ``handler_nursery``. The listener is closed
    when this function ends, for whatever reason; connections that were accepted go on.

    For want of descriptors or memory a connection is refused or accepted later, and ``errors`` is called once for
    each ``accept`` that failed so. The first failure is logged, later ones at most once a minute.

    Raises whatever else the listener raises: OSError, or ClosedResourceError when somebody closed the listener.
    (A connection that broke before it was accepted is no error, and skipped.)
    """
    scarcity = _Scarcity(errors, logger)
    accept = _accepting(listener)
    with _Spare() as spare:
        async with listener:
            while True:
                try:
                    streams = await accept()
                except OSError as exc:
                    if exc.errno not in _CAPACITY:
                        raise
                    if await _waited_for_client(listener):
                        continue
                    scarcity.report(exc)
                    if not (exc.errno in _DESCRIPTORS and await _turn_away(listener, spare)):
                        await trio.sleep(_PAUSE)
                        spare.refill()
                else:
                    for stream in streams:
                        # With a name, as trio would make a string for each task.
                        handler_nursery.start_soon(handle, stream, name=_TASK_NAME)


def _accepting(listener: trio.abc.Listener[trio.abc.Stream]) -> Callable[[], Awaitable[Sequence[trio.abc.Stream]]]:
    """What accepts one client or several. Always a checkpoint; raises as the listener does, and a cancel loses none."""
    lowest = below(listener)
    if isinstance(lowest, trio.SocketListener) and sys.platform != "win32":
        plain = getattr(lowest.socket, "_sock", None)
        if isinstance(plain, socket.socket):
            return _Batches(plain).accept

    async def accept_one() -> Sequence[trio.abc.Stream]:
        return (await listener.accept(),)

    return accept_one


class _Batches:
    """Accepts whoever waits at a listening socket."""

    __slots__ = ("_all_accepted", "_socket")

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._all_accepted = True

    async def accept(self) -> Sequence[trio.abc.Stream]:
        if not self._all_accepted:
            await trio.lowlevel.checkpoint()
            if batch := self._accept_batch():
                return batch
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            if batch := self._accept_batch():
                return batch

    def _accept_batch(self) -> list[trio.abc.Stream]:
        """Accept without waiting. Of an error only the first client can tell; what comes later is for the next call."""
        batch: list[trio.abc.Stream] = []
        self._all_accepted = False
        while len(batch) < _BATCH:
            try:
                client, address = self._socket.accept()
            except BlockingIOError:
                self._all_accepted = True
                break
            except OSError as exc:
                if exc.errno in _OF_CLIENT:
                    continue
                self._check_open()
                if not batch:
                    raise
                break
            client.setblocking(False)
            batch.append(PlainStream(client, address))
        return batch

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("the listener was closed")


class _Spare:
    """A descriptor kept for bad times; closed when the ``with`` block ends. It may be missing for a while."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd: int | None = None

    def __enter__(self) -> _Spare:
        self.refill()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.spend()

    def spend(self) -> bool:
        """Give the descriptor up; False if there is none."""
        fd, self._fd = self._fd, None
        if fd is None:
            return False
        os.close(fd)
        return True

    def refill(self) -> None:
        """Have a descriptor again, if the system gives one."""
        if self._fd is None:
            with contextlib.suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY)


class _Scarcity:
    """Counts each failure and logs few of them: an attacker chooses how many there are."""

    __slots__ = ("_errors", "_logger", "_next_log", "_silent")

    def __init__(self, errors: Callable[[], None], logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._errors = errors
        self._logger = logger
        self._next_log = -math.inf
        self._silent = 0

    def report(self, exc: OSError) -> None:
        self._errors()
        now = trio.current_time()
        if now < self._next_log:
            self._silent += 1
            return
        self._logger.error("cannot accept connections: %s (%d more since the last report)", exc, self._silent)
        self._next_log = now + _LOG_INTERVAL
        self._silent = 0


async def _waited_for_client(listener: trio.abc.Listener[Any]) -> bool:
    """If it is known that nobody waits in the backlog, wait for somebody, and say so."""
    lowest = socket_listener(listener)
    if lowest is None or lowest.socket.is_readable():
        return False
    await trio.lowlevel.wait_readable(lowest.socket)
    return True


async def _turn_away(listener: trio.abc.Listener[trio.abc.Stream], spare: _Spare) -> bool:
    """Accept one client with the spare descriptor and close it; False if even that did not work."""
    if not spare.spend():
        return False
    try:
        # A deadline, as the client may be gone or taken by another process that shares the socket.
        with trio.move_on_after(_PAUSE):
            stream = await listener.accept()
            await trio.aclose_forcefully(stream)
            return True
    except OSError as exc:
        # Somebody was quicker to take the descriptor.
        if exc.errno not in _CAPACITY:
            raise
    finally:
        spare.refill()
    return False
