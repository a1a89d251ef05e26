"""Ending a program by signal: the first one drains, an impatient Ctrl-C cuts the drain short."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio


async def run_until_signalled(serve: Callable[[], Awaitable[object]], begin_shutdown: Callable[[], object]) -> None:
    """Run ``serve()`` to its end, and have SIGINT and SIGTERM bring that about; returns when ``serve`` has.

    The first SIGINT or SIGTERM calls ``begin_shutdown``, which must make ``serve`` return in its own time and may
    be called before ``serve`` is up. A second SIGINT cancels ``serve``. A further SIGTERM changes nothing, as
    supervisors like to repeat it. Without a signal nothing is called.

    An exception of ``serve`` or ``begin_shutdown`` leaves in an exception group. The signals' former handlers are
    back when this function ends. RuntimeError outside the main thread, where Python cannot receive signals.
    """
    signals = [signal.SIGINT]
    if hasattr(signal, "SIGTERM"):
        signals.append(signal.SIGTERM)
    # A scope of its own: the watcher goes on while a cancelled serve cleans up. A signal that nobody took would be
    # raised once more at the end of the block, there with its default effect.
    serving = trio.CancelScope()
    with trio.open_signal_receiver(*signals) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, received, begin_shutdown, serving)
            with serving:
                await serve()
            nursery.cancel_scope.cancel(reason="serve has returned")


async def _watch(received: AsyncIterator[int], begin_shutdown: Callable[[], object], serving: trio.CancelScope) -> None:
    interrupts = 0
    draining = False
    async for signum in received:
        if signum == signal.SIGINT:
            interrupts += 1
        if interrupts >= 2:
            serving.cancel(reason="interrupted again")
        elif not draining:
            draining = True
            begin_shutdown()
