"""One task does what several want."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio


@attrs.define(eq=False)
class _Flight:
    over: trio.Event = attrs.field(factory=trio.Event)
    landed: bool = False
    error: Exception | None = None


@attrs.define(eq=False)
class SingleFlight:
    """Of those who come while one is at it, none does it again: they share its outcome."""

    _flight: _Flight | None = None

    async def run(self, function: Callable[[], Awaitable[None]]) -> None:
        """Call ``function``, or wait for who does; raises what it raises. Who is cancelled is followed by another."""
        await trio.lowlevel.checkpoint()
        while self._flight is not None:
            flight = self._flight
            await flight.over.wait()
            if flight.error is not None:
                raise flight.error
            if flight.landed:
                return
        flight = self._flight = _Flight()
        try:
            await function()
            flight.landed = True
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            self._flight = None
            flight.over.set()
