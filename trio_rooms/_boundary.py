"""The boundary around code of the program: what it may raise there, and what that means."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import trio

from ._errors import ConnectionGone


class _OwnCancellationsOnly:
    """See :func:`own_cancellations_only`."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if exc is not None and _has_stray_cancelled(exc):
            raise RuntimeError("a trio.Cancelled was raised outside of the scope that it belongs to") from exc


_THE_ONE = _OwnCancellationsOnly()


def own_cancellations_only() -> AbstractContextManager[None]:
    """Around a call of the program's code: a ``Cancelled`` that nobody's cancellation brought is an error.

    Code that keeps a ``Cancelled`` and raises it again later would otherwise silently end the nearest
    nursery: a nursery takes it for an answer to the cancel that it itself answers it with.
    """
    return _THE_ONE


def _has_stray_cancelled(error: BaseException) -> bool:
    if isinstance(error, Exception) or trio.current_effective_deadline() == -math.inf:
        return False
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        return cancelled is not None and (rest is None or isinstance(rest, Exception))
    return isinstance(error, trio.Cancelled)


def says_only_gone(error: BaseException) -> bool:
    """Whether an error, or every one of a group, is that a connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ConnectionGone)[1] is None
    return isinstance(error, ConnectionGone)
