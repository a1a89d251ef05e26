"""The gate of ``nox -s autobahn``: what it lets pass, and what not."""

from __future__ import annotations

import pytest

from autobahn.gate import KNOWN_NON_STRICT, Case, cases_of, problems, result, summary

GOOD = {"behavior": "OK", "behaviorClose": "OK"}


def report(**change: str) -> dict[str, Case]:
    """Three cases; in the second something is different."""
    return {"1.1.1": GOOD, "6.4.9": {**GOOD, **change}, "9.9.9": GOOD}


def test_a_good_report() -> None:
    """All OK or INFORMATIONAL passes, extra cases too."""
    assert problems(report(), at_least=3) == []
    assert problems(report(behavior="INFORMATIONAL", behaviorClose="INFORMATIONAL"), at_least=2) == []


@pytest.mark.parametrize("behavior", ["FAILED", "ERROR", "UNIMPLEMENTED", "NON-STRICT", "whatever comes"])
def test_a_bad_behavior(behavior: str) -> None:
    """Any other verdict does not, a NON-STRICT one that is not known neither."""
    assert problems(report(behavior=behavior), at_least=3) == [f"6.4.9: {behavior}"]


@pytest.mark.parametrize("close", ["WRONG CODE", "UNCLEAN", "FAILED", "FAILED BY CLIENT", "NON-STRICT"])
def test_a_bad_close(close: str) -> None:
    """The closing handshake is judged apart, with no exceptions."""
    assert problems(report(behaviorClose=close), at_least=3, known_non_strict=["6.4.9"]) == [f"6.4.9: {close} close"]


def test_both_bad() -> None:
    """Each verdict is told."""
    assert problems(report(behavior="FAILED", behaviorClose="UNCLEAN"), at_least=3) == [
        "6.4.9: FAILED",
        "6.4.9: UNCLEAN close",
    ]


def test_a_verdict_that_is_missing() -> None:
    """A report without verdicts passes nothing."""
    assert problems({"1.1.1": {}}, at_least=1) == ["1.1.1: None", "1.1.1: None close"]


def test_known_non_strict() -> None:
    """A NON-STRICT case that is known passes; none is known."""
    assert problems(report(behavior="NON-STRICT"), at_least=3, known_non_strict=["6.4.9"]) == []
    assert not KNOWN_NON_STRICT


def test_too_few_cases() -> None:
    """A run that ended early, or ran nothing, does not pass."""
    assert problems(report(), at_least=4) == ["3 cases were run, 4 are expected"]
    assert problems({}, at_least=1) == ["0 cases were run, 1 are expected"]


def test_cases_of() -> None:
    """A report is about one server."""
    assert cases_of({"127.0.0.1:9001": report()}) == report()
    for index in ({}, {"a": report(), "b": report()}):
        with pytest.raises(ValueError, match="unpack"):
            cases_of(index)


def test_summary() -> None:
    """The summary counts, and names the cases that were not strict."""
    assert summary(report()) == "3 cases, 3 OK"
    assert summary(report(behavior="NON-STRICT")) == "3 cases, 2 OK, 1 NON-STRICT (6.4.9)"


def test_result() -> None:
    """What is written down counts both verdicts, and names each case that was anything but OK."""
    assert result(report(behavior="INFORMATIONAL")) == {
        "cases": 3,
        "behavior": {"OK": 2, "INFORMATIONAL": 1},
        "behaviorClose": {"OK": 3},
        "others": {"6.4.9": "INFORMATIONAL"},
    }
