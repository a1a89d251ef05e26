"""The script of ``nox -s mutations``: its mistakes can be made, and some of them are found here, too."""

from __future__ import annotations

import pytest

from mutations.table import MUTATIONS
from mutations.trial import try_mutation
from removals.edits import PACKAGE, Rewrite


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mistake(name: str) -> None:
    """Each changes something of the package, which still compiles."""
    changes = MUTATIONS[name].changes(name)
    assert changes
    for file, text in changes.items():
        assert text != (PACKAGE / file).read_text(encoding="utf-8")
        compile(text, file, "exec")


@pytest.mark.parametrize("name", ["two frames are swapped", "a reply is sent twice", "who is excluded is served"])
def test_found(name: str) -> None:
    """The simulation finds it."""
    assert try_mutation(MUTATIONS[name], count=100).seed is not None


def test_not_found() -> None:
    """What is no mistake is not found, and what cannot run is told from it."""
    harmless = Rewrite("_drain.py", "_PATIENCE = 1.0\n", "_PATIENCE = 2.0\n")
    assert try_mutation(harmless, count=2).seed is None
    broken = Rewrite("_drain.py", "_PATIENCE = 1.0\n", "_PATIENCE =\n")
    assert "SyntaxError" in try_mutation(broken, count=2).what
