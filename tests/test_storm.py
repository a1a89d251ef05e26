"""A short storm, and that it sees what goes wrong. The long one is ``nox -s storm``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crowd import Violation
from storm import Witness

SCRIPT = Path(__file__).with_name("storm.py")

SMALL = ["--clients", "15", "--seconds", "3", "--lifetime", "0.7", "--seed", "1"]

#: Ways to break the library, and what the storm says of them.
FAULTS = {
    "what comes first after the position is left out": """
from trio_rooms._rooms.streams import Stream
from trio_rooms import Position
read = Stream.read
def wrong(self, since, limit, *, reverse):
    return read(self, since and Position(since.offset + 1, since.epoch), limit, reverse=reverse)
Stream.read = wrong
""",
    "a part counts as recovered": """
import attrs
from trio_rooms._rooms.streams import Stream
read = Stream.read
def wrong(self, since, limit, *, reverse):
    return attrs.evolve(read(self, since, limit, reverse=reverse), complete=True)
Stream.read = wrong
sys.argv += ["--history", "20"]
""",
}

RUN = """
import os, runpy, sys
{fault}
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # Without the safe path, as the script finds its neighbours beside it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command], capture_output=True, text=True, timeout=100, check=False, env=env
    )


def number(output: str, name: str) -> int:
    found = re.search(rf"^{name} +([\d,]+)", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1].replace(",", ""))


@pytest.mark.sockets
@pytest.mark.parametrize("history", [3000, 50])
def test_a_short_storm(history: int) -> None:
    """Must hold 2: with history enough everybody recovers each time; with less some do not, and are told."""
    done = run(str(SCRIPT), *SMALL, "--history", str(history))
    assert done.returncode == 0, done.stdout + done.stderr
    assert number(done.stdout, "connections") > 20
    assert (number(done.stdout, "not recovered") > 0) == (history == 50)


@pytest.mark.sockets
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path) -> None:
    """A library that loses something, or passes a part off as the whole, is found out."""
    script = tmp_path / "fault.py"
    script.write_text(RUN.format(fault=FAULTS[fault]))
    done = run(str(script), str(SCRIPT), *SMALL)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATED" in done.stdout
    assert "came behind" in done.stdout


@pytest.mark.parametrize("numbers", [[5, 5], [5, 7], [5, 4], [5, None, 5], [5, None, 4]])
def test_a_witness_sees(numbers: list[int | None]) -> None:
    """Twice, missing, and in another order; what was seen must not come again behind a gap."""
    witness = Witness("client")

    def see(one: int | None) -> None:
        if one is None:
            witness.miss()
        else:
            witness.see(one)

    for one in numbers[:-1]:
        see(one)
    with pytest.raises(Violation):
        see(numbers[-1])


def test_a_witness_allows() -> None:
    """One after the other, from anywhere; and behind a gap anything later."""
    witness = Witness("client")
    for one in (5, 6, 7):
        witness.see(one)
    witness.miss()
    witness.see(20)
    witness.see(21)
    assert (witness.events, witness.gaps) == (5, 1)
