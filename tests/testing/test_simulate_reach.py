"""That the simulation comes to where mistakes could be: what it never does, it finds nothing in."""

from __future__ import annotations

from itertools import count

from trio_rooms.testing.simulate import Outcome, simulate
from trio_rooms.testing.simulate._plan import KINDS
from trio_rooms.testing.simulate._record import Called, Ended

#: The close codes that a run can bring. Those of clients that break the protocol are the fuzzers', which send bytes.
CODES = {1000, 1001, 1006, 1011, 1012, 4001, 4008, 4010, 4501}


def codes_of(outcome: Outcome) -> set[int]:
    """The codes with which connections ended, as clients and ``on_disconnect`` were told."""
    told = {int(called.detail[0]) for _, called in outcome.record.of(Called) if called.hook == "on_disconnect"}
    return told | {ended.code for _, ended in outcome.record.of(Ended)}


def test_everything_is_met() -> None:
    """Z2: within 200 seeds every kind of step is tried, and every close code seen, of which most are rare."""
    codes, kinds = set(CODES), set(KINDS)
    for seed in count():
        assert seed < 200, (codes, kinds)
        outcome = simulate(seed)
        codes -= codes_of(outcome)
        kinds -= {step.kind for step in outcome.plan.steps}
        if not codes and not kinds:
            break
