"""Results by key, for a time."""

from __future__ import annotations

import math

from trio_rooms._rooms.results import Results


def test_kept_for_a_time() -> None:
    """A result is there until its time is over."""
    results: Results[str] = Results(300.0, 10)
    assert results.due == math.inf
    results.put("key", "first", 0.0)
    assert results.get("key", 299.9) == "first"
    assert results.get("key", 300.0) is None
    assert results.get("other", 0.0) is None
    assert results.due == 300.0


def test_a_newer_result_takes_the_place() -> None:
    """Put again, a key has the newer result, and its time begins anew."""
    results: Results[str] = Results(300.0, 10)
    results.put("key", "first", 0.0)
    results.put("other", "other", 100.0)
    results.put("key", "second", 200.0)
    assert results.get("key", 499.0) == "second"
    assert len(results) == 2
    assert results.due == 400.0


def test_expire() -> None:
    """What is over goes, with the next put or when asked to."""
    results: Results[int] = Results(300.0, 10)
    for number in range(5):
        results.put(number, number, number * 100.0)
    assert len(results) == 3
    results.expire(650.0)
    assert len(results) == 1
    assert results.forgotten == 0
    results.clear()
    assert len(results) == 0


def test_bound() -> None:
    """Beyond the bound the oldest goes before its time, and that is counted."""
    results: Results[int] = Results(300.0, 10)
    for number in range(1000):
        results.put(number, number, 0.0)
        assert len(results) <= 10
    assert results.forgotten == 990
    assert results.get(989, 0.0) is None
    assert [results.get(number, 0.0) for number in range(990, 1000)] == list(range(990, 1000))
