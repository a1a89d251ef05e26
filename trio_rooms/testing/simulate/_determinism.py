"""One seed in the place of all chance: trio's scheduler, and what the library draws.

Theory of operation. Trio shuffles the tasks that can run, and has no public switch for it. There are two private names
for the sake of Hypothesis: a flag by which it sorts each batch before it shuffles, and the generator that it shuffles
with. This module is the only one that touches them; where they are gone it raises at once, for a simulation that is
not deterministic proves nothing. Everything random of the library comes from one place, which is seeded, too.

Not covered: real sockets to other processes, threads, and what a program draws from ``random`` or iterates over a set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio._core._run as _run

from trio_rooms import _chance


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Within the block every ``trio.run``, and all that the library draws, follows from ``seed``.

    For simulations only: ids and tokens that are made in it can be guessed. Use it with a
    ``trio.testing.MockClock``, or the clock is one more source of chance. Not for several threads at a time.
    Raises RuntimeError if this version of trio lacks what it takes.
    """
    run: Any = _run
    try:
        allowed, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    except AttributeError as exc:
        raise RuntimeError(f"this version of trio cannot be made deterministic: {exc}") from exc
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    try:
        with _chance.seeded(seed):
            yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        run._r.setstate(state)
