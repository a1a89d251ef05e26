"""The crowd of crowd.py, as large as CI can bear; ``python tests/crowd.py`` runs the whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crowd.py")


@pytest.mark.sockets
@pytest.mark.parametrize("variant", ["recovery", "bare"])
def test_crowd(variant: str) -> None:
    """I3, S5, Invariants 1, 2, 6 and 8: 500 members get 100 broadcasts, whatever a sleeper and a raiser do."""
    command = [sys.executable, "-W", "error", str(SCRIPT), "--connections", "500", "--variant", variant]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "50,000 of 50,000, each once and in order" in done.stdout


@pytest.mark.sockets
def test_a_violation_is_seen() -> None:
    """A crowd that waits in vain, here for a sleeper that the system has room for, makes the script fail."""
    command = [sys.executable, str(SCRIPT), "--connections", "3", "--broadcasts", "5", "--variant", "recovery"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Violation: broadcasts closed 0 members" in done.stdout
    assert "Traceback" not in done.stderr
