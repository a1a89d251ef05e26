"""The boundary around code of the program: what it may raise there, and what that means."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from types import CoroutineType, NoneType
from typing import Any, Final, TypeGuard

import trio

from ._errors import ConnectionGone

_NOT_AWAITABLE: Final = frozenset((NoneType, bool, int, float, str, dict, list))


class _OwnCancellationsOnly:
    """See :func:`own_cancellations_only`."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if exc is not None:
            refuse_stray(exc)


_THE_ONE = _OwnCancellationsOnly()


def own_cancellations_only() -> AbstractContextManager[None]:
    """Around a call of the program's code: a ``Cancelled`` that nobody's cancellation brought is an error.

    Code that keeps a ``Cancelled`` and raises it again later would otherwise silently end the nearest
    nursery: a nursery takes it for an answer to the cancel that it itself answers it with.
    """
    return _THE_ONE


def refuse_stray(error: BaseException) -> None:
    """As :func:`own_cancellations_only`, for an error that was caught and will be raised again."""
    if _has_stray_cancelled(error):
        raise RuntimeError("a trio.Cancelled was raised outside of the scope that it belongs to") from error


def _has_stray_cancelled(error: BaseException) -> bool:
    if isinstance(error, Exception) or trio.current_effective_deadline() == -math.inf:
        return False
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        return cancelled is not None and (rest is None or isinstance(rest, Exception))
    return isinstance(error, trio.Cancelled)


def is_awaitable(result: object) -> TypeGuard[Awaitable[Any]]:
    """Whether what a function of the program returned is to be awaited. Quick about what most of them return."""
    kind = type(result)
    return kind is CoroutineType or (kind not in _NOT_AWAITABLE and inspect.isawaitable(result))


def says_only_gone(error: BaseException) -> bool:
    """Whether an error, or every one of a group, is that a connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ConnectionGone)[1] is None
    return isinstance(error, ConnectionGone)
