"""To await something, and to be told when it has to wait.

Most handlers, hooks and middleware never wait for anything: what they are for is done in their first step. Whoever
calls them can be spared what only matters while they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def watched(awaited: Coroutine[Any, Any, T], on_wait: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await a coroutine; the first time that it waits, if it does, ``on_wait`` is called before the task stops.

    Everything runs in the calling task, so what the coroutine opens there, scopes and nurseries, is nested as ever.
    """
    try:
        trap = awaited.send(None)
        on_wait()
        while True:
            try:
                outcome = yield trap
            except BaseException as exc:  # noqa: ASYNC103 - what trio, or who closes this generator, throws is the coroutine's
                trap = awaited.throw(exc)
            else:
                trap = awaited.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
