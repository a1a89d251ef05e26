"""The soak of ``nox -s soak``: what it holds against a server that keeps something, and nothing against ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak import slope

SCRIPT = Path(__file__).with_name("soak.py")

#: Too few clients and too short a time to say anything of the memory.
SMALL = ["--clients", "30", "--minutes", "0.05", "--warm-up", "1", "--slope", "1000", "--seed", "1"]

LEAK = """
import os, runpy, sys
from trio_rooms import Manager

kept = []
serve = Manager.serve

async def leaking(self, **options):
    self.on_connect(kept.append)
    await serve(self, **options)

Manager.serve = leaking
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.sockets
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory is read as Linux tells it")
def test_a_leak_is_seen(tmp_path: Path) -> None:
    """Z1: a server that keeps its connections is found out by the objects that are left."""
    script = tmp_path / "leak.py"
    script.write_text(LEAK)
    command = [sys.executable, str(script), str(SCRIPT), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "more objects than before: {" in done.stdout
    assert "'Connection': " in done.stdout


@pytest.mark.sockets
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory is read as Linux tells it")
def test_a_short_one() -> None:
    """Z1: clients that come and go, some of them badly, leave nothing behind; ten minutes of it are ``nox -s soak``."""
    command = [sys.executable, "-W", "error", str(SCRIPT), *SMALL]
    env = {**os.environ, "PYTHONSAFEPATH": ""}  # where nox sets it, no script finds what stands beside it
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_slope() -> None:
    """A leak rises as it is, one step in a level memory hardly."""
    assert slope([(minute, 50 + 2 * minute) for minute in range(9)]) == 2
    assert slope([(minute, 50 + (minute > 6)) for minute in range(9)]) == 0
