"""The verdict over a report of Autobahn's cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

#: The report of one case, as far as it is looked at here.
Case = Mapping[str, object]

#: None: what is valid before a violation is answered, and a violation is told at the first byte that shows it.
KNOWN_NON_STRICT: Final[frozenset[str]] = frozenset()

_PASSED: Final = frozenset({"OK", "INFORMATIONAL"})


def cases_of(index: Mapping[str, Mapping[str, Case]]) -> Mapping[str, Case]:
    """The cases of a report's ``index.json``, by their number. ValueError unless it is about one server."""
    (cases,) = index.values()
    return cases


def problems(
    cases: Mapping[str, Case], *, at_least: int, known_non_strict: Collection[str] = KNOWN_NON_STRICT
) -> list[str]:
    """What is wrong with a report, one line each; none means that it passes.

    Each case has two verdicts, one over what was answered and one over the closing handshake.
    """
    found = []
    if len(cases) < at_least:
        found.append(f"{len(cases)} cases were run, {at_least} are expected")
    for name, case in cases.items():
        behavior, close = case.get("behavior"), case.get("behaviorClose")
        if behavior not in _PASSED and not (behavior == "NON-STRICT" and name in known_non_strict):
            found.append(f"{name}: {behavior}")
        if close not in _PASSED:
            found.append(f"{name}: {close} close")
    return found


def result(cases: Mapping[str, Case]) -> dict[str, object]:
    """What is written down of a report: how many cases of each verdict, and which ones were anything but OK."""
    return {
        "cases": len(cases),
        "behavior": dict(Counter(str(case.get("behavior")) for case in cases.values())),
        "behaviorClose": dict(Counter(str(case.get("behaviorClose")) for case in cases.values())),
        "others": {name: case.get("behavior") for name, case in cases.items() if case.get("behavior") != "OK"},
    }


def summary(cases: Mapping[str, Case]) -> str:
    """How many cases there were, how many of each verdict, and which ones were NON-STRICT."""
    counts = Counter(str(case.get("behavior")) for case in cases.values())
    parts = [f"{len(cases)} cases", *(f"{count} {behavior}" for behavior, count in counts.most_common())]
    lax = [name for name, case in cases.items() if case.get("behavior") == "NON-STRICT"]
    return ", ".join(parts) + (f" ({', '.join(lax)})" if lax else "")
