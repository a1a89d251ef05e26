"""Making a failing run smaller: fewer kinds of steps, then fewer steps, as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from ._application import Program
from ._run import Outcome, run_plan


def shrink(outcome: Outcome, program: Program | None = None, *, runs: int = 200) -> tuple[Outcome, list[int]]:
    """A smaller run that fails one of the same checks, and the numbers of the steps that are left in it.

    Tries at most so many ``runs``. The numbers are for :meth:`Plan.only`, on the plan of the seed.
    """
    whole = outcome.plan
    checks = _checks(outcome)
    left = runs

    def fails(numbers: list[int]) -> Outcome | None:
        nonlocal left
        if left <= 0:
            return None
        left -= 1
        smaller = run_plan(whole.only(numbers), program)
        return smaller if checks & _checks(smaller) else None

    best, numbers = outcome, list(range(len(whole.steps)))
    for kind in whole.kinds:
        without = [n for n in numbers if whole.steps[n].kind != kind]
        if len(without) < len(numbers) and (smaller := fails(without)) is not None:
            best, numbers = smaller, without
    return _shrink_list(best, numbers, fails)


def _shrink_list(
    best: Outcome, numbers: list[int], fails: Callable[[list[int]], Outcome | None]
) -> tuple[Outcome, list[int]]:
    """Leave out halves, then quarters, and in the end single steps."""
    size = max(1, len(numbers) // 2)
    while True:
        start, removed = 0, False
        while start < len(numbers):
            without = numbers[:start] + numbers[start + size :]
            if (smaller := fails(without)) is not None:
                best, numbers, removed = smaller, without, True
            else:
                start += size
        if size == 1 and not removed:
            return best, numbers
        size = max(1, size // 2)


def _checks(outcome: Outcome) -> frozenset[str]:
    return frozenset(line.partition(":")[0] for line in outcome.violations)
