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
        """Call ``function``, or wait for who does. Who is cancelled is followed by another.

        Raises what it raises; of those who waited, each gets another one like it, whose cause that is.
        """
        await trio.lowlevel.checkpoint()
        while self._flight is not None:
            flight = self._flight
            await flight.over.wait()
            if flight.error is not None:
                raise _another(flight.error) from flight.error
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
            del flight  # the traceback of its error has this frame


def _another(error: Exception) -> Exception:
    """One that says the same. The same one would collect the tracebacks and contexts of all tasks that raise it."""
    another = type(error).__new__(type(error), *error.args)
    another.__dict__.update(error.__dict__)
    return another
