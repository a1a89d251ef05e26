"""Python's cyclic garbage collector, for the time in which a server is the whole program.

Theory of operation. A collection stops the program while it looks at containers, young ones often, all of them now
and then. In a server nearly all containers live long: what was imported, and the objects of connections. So it
looks at the same ones again and again, hardly ever finds garbage, and every client waits meanwhile. Two settings
help. ``gc.freeze`` takes out of every later collection what is there at the start. Higher thresholds make
collections rarer; garbage in cycles, if the program makes any, then lives longer, and memory grows by that.

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
_THRESHOLDS: Final = (20_000, 20, 50)


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
    """Freeze what is there, garbage excepted, and raise the thresholds; none is lowered.

    A first threshold of 0 means that the program has switched collections off; then they stay off.
    """
    gc.collect()  # frozen garbage would stay for ever
    gc.freeze()
    current = gc.get_threshold()
    if current[0]:
        gc.set_threshold(*[max(pair) for pair in zip(current, _THRESHOLDS, strict=True)])
