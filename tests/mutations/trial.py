"""A copy of the package with a mistake in it, and the seeds that are to find it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from removals.edits import PACKAGE, Rewrite

# Seconds for all seeds; a mistake may make one of them run for ever.
_PATIENCE = 600.0


@attrs.frozen
class Finding:
    """How the simulation took it."""

    seed: int | None
    """The first that fails; None if none does."""
    what: str
    """What was wrong."""


def try_mutation(mutation: Rewrite, *, first: int = 0, count: int = 500) -> Finding:
    """Run seeds against a copy of the package with the mutation. Raises EditError if it does not apply."""
    changes = mutation.changes("mutation")
    with TemporaryDirectory() as folder:
        copy = Path(folder, PACKAGE.name)
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text in changes.items():
            (copy / file).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "trio_rooms.testing.simulate", "--no-shrink", "--quiet"]
        command += ["--first", str(first), "--count", str(count)]
        # With the safe path, which nox sets, the installed package would be run instead of the copy.
        env = {**os.environ, "PYTHONSAFEPATH": ""}
        try:
            done = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return Finding(None, "a run did not end")
    failed = re.match(r"seed (\d+) fails", done.stdout)
    lines = done.stdout.splitlines()
    if failed is None:
        return Finding(None, lines[-1] if lines else done.stderr[-1000:])
    return Finding(int(failed[1]), lines[1])
