"""Python's cyclic garbage collector, for the time in which a server is the whole program.

Theory of operation. A collection stops the program while it looks at containers, young ones often, all of them now
and then. In a server nearly all containers live long: what was imported, and the objects of connections. So it
looks at the same ones again and again, hardly ever finds garbage, and every client waits meanwhile. Two settings
help. ``gc.freeze`` takes out of every later collection what is there at the start. Higher thresholds make young
and full collections rarer; garbage in cycles, if the program makes any, then lives longer, and memory grows by that.
A middle collection looks at all that has come since the last one, and in a storm of new connections all of that
lives: one after twenty young ones would stop the program for a fifth of a second, so it comes after two.

Both are settings of the process. They belong to whoever owns it: to ``Manager.run`` and the command, never to
an import or to ``serve``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# New containers before a young collection, young collections before a middle one, middle ones before a full one.
# Python's own are 700 or 2000, 10, 10.
_THRESHOLDS: Final = (10_000, 2, 500)


@contextmanager
def restored() -> Iterator[None]:
    """Put the thresholds back at the block's end, however that comes, and unfreeze all that is frozen by then.

    Python does not tell what was frozen before: it is unfrozen, too.
    """
    before = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def tune() -> None:
    """Freeze what is there, garbage excepted, and set the thresholds, unless the program has raised the first one.

    A first threshold of 0 means that the program has switched collections off; then they stay off.
    """
    gc.collect()  # frozen garbage would stay for ever
    gc.freeze()
    if 0 < gc.get_threshold()[0] < _THRESHOLDS[0]:
        gc.set_threshold(*_THRESHOLDS)
