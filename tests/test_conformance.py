"""docs/conformance.md tells what the recorded run of Autobahn's cases has shown, and the gate would let it pass."""

from __future__ import annotations

import json
import re
from typing import Any

from autobahn.gate import KNOWN_NON_STRICT
from program import ROOT

PAGE = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
RECORDED = json.loads((ROOT / "tests" / "autobahn" / "results.json").read_text(encoding="utf-8"))
VARIANTS: dict[str, dict[str, Any]] = RECORDED["variants"]

VERDICTS = ["OK", "INFORMATIONAL", "NON-STRICT", "FAILED"]


def rows(first: str) -> list[list[str]]:
    """The cells of a table, without its head, by the name of its first column and the number of its columns."""
    (table,) = re.findall(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table() -> None:
    """The page has the recorded numbers, of every variant and every verdict."""
    told = [
        [name, *(str(count) for count in (run["cases"], *(run["behavior"].get(verdict, 0) for verdict in VERDICTS)))]
        for name, run in VARIANTS.items()
    ]
    assert rows("run") == told
    assert all(sum(run["behavior"].values()) == run["cases"] for run in VARIANTS.values())
    assert {verdict for run in VARIANTS.values() for verdict in run["behavior"]} <= set(VERDICTS)


def test_the_variants() -> None:
    """Every recorded variant is explained, and no other."""
    assert [name for name, _ in rows("variant")] == list(VARIANTS)


def test_what_is_claimed() -> None:
    """No case failed, none was NON-STRICT but those that are known, and the others are those that the page names."""
    for run in VARIANTS.values():
        assert set(run["behaviorClose"]) <= {"OK", "INFORMATIONAL"}
        assert "FAILED" not in run["behavior"]
        assert {name for name, verdict in run["others"].items() if verdict == "NON-STRICT"} <= KNOWN_NON_STRICT
        assert {name for name, verdict in run["others"].items() if verdict == "INFORMATIONAL"} == {
            "7.1.6",
            "7.13.1",
            "7.13.2",
        }
    for name in {name for run in VARIANTS.values() for name in run["others"]}:
        assert name in PAGE


def test_the_versions() -> None:
    """The page names the versions with which it was recorded, kosoku's being the one that is pinned."""
    for name, version in RECORDED["versions"].items():
        assert f"{name} {version}" in PAGE
    assert f'"kosoku == {RECORDED["versions"]["kosoku"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
