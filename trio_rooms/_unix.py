"""Listening on a Unix socket, whose file is there exactly as long as somebody listens.

Theory of operation. ``bind`` makes a file and nothing removes it, so a program that was killed leaves one behind, on
which the next ``bind`` fails. Such a file is removed if it is a socket, nobody answers there, and it still is the same
one after that was asked; what is anything else is never touched. At the end our own file is removed before we stop to
listen: from then on another server may have put its own there, and would lose it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from typing import final

import trio

from ._errors import UsageError

# What trio takes for TCP.
_BACKLOG = 65535


@final
class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """Listens at a path; made by :func:`open_unix_listener`."""

    __slots__ = ("_identity", "listener", "path")

    def __init__(self, listener: trio.SocketListener, path: str) -> None:
        self.listener = listener
        """The listener of the socket itself."""
        self.path = os.path.abspath(path)
        """Where its file is; absolute, as a program may change its directory."""
        self._identity = _identity(self.path)

    async def accept(self) -> trio.SocketStream:
        """See ``trio.abc.Listener``."""
        return await self.listener.accept()

    async def aclose(self) -> None:
        """Remove the file if it still is ours, and stop to listen. Idempotent."""
        self._remove_file()
        await self.listener.aclose()

    def _remove_file(self) -> None:
        identity, self._identity = self._identity, None
        if identity is not None and _identity(self.path) == identity:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def open_unix_listener(path: str | os.PathLike[str]) -> UnixListener:
    """Listen on a Unix socket at ``path``. Its permissions are what the process's umask leaves.

    Raises OSError if it cannot be made, with ``EADDRINUSE`` where somebody listens at the path already, and also where
    there is a file that is no socket. Raises UsageError for what is not the path of a file, and on systems without
    Unix sockets.
    """
    name = os.fsdecode(path)
    if sys.platform == "win32":
        raise UsageError("there are no Unix sockets on this system")
    if not name or "\0" in name:
        raise UsageError(f"unix_path is the path of a file, not {path!r}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        _bind(listening, name)
        listening.listen(_BACKLOG)
        return UnixListener(trio.SocketListener(trio.socket.from_stdlib_socket(listening)), name)
    except BaseException:
        listening.close()
        raise


def _bind(listening: socket.socket, path: str) -> None:
    try:
        listening.bind(path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE or not _removed_stale(path):
            # bind does not say of which path it speaks, and of one that is too long it has no number to give.
            raise OSError(exc.errno or errno.ENAMETOOLONG, exc.strerror or str(exc), path) from exc
        listening.bind(path)


def _removed_stale(path: str) -> bool:
    """Remove the file of a server that is no more; False if it is not known to be one."""
    found = _identity(path)
    if found is None or not _is_refused(path) or _identity(path) != found:
        return False
    os.unlink(path)
    return True


def _is_refused(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a backlog that is full must not hold us: somebody is there
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False


def _identity(path: str) -> tuple[int, int, int] | None:
    """What tells the socket at a path from another one that takes its place; None if there is none.

    The number of a removed file is given to the next one on many file systems, so the time is part of it.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns) if stat.S_ISSOCK(found.st_mode) else None
