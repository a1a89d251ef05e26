"""A guard that turns two tasks in one direction of a stream into an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import TracebackType


class Exclusive:
    """A synchronous context manager that one task at a time may be in.

    Raises:
      trio.BusyResourceError: on entry, while it is held. Waiting instead would hide the
          mistake: two readers of one stream each get half of it, in no useful order.
    """

    __slots__ = ("_held", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(f"another task is {self._what}")
        self._held = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
