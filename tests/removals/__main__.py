"""Removes each option, hook, setting and limit from a copy of the package, one at a time, and shows that a test fails.

``nox -s removals`` tries all; ``nox -s removals -- Limits max_depth`` those with one of these words in their name.
What no test notices is a survivor: they are listed at the end, and the status is 1. It is 2 where the table and the
code differ, or where the tests of the unchanged copy fail already.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from removals.edits import EditError
from removals.options import removable
from removals.table import FIRST, REMOVALS
from removals.trial import ALL, Copy, TrialError, Verdict, try_removal


def differences() -> list[str]:
    """What the table lacks, and what it has that the code lacks."""
    there = set(removable())
    return [
        *(f"{name} has no entry in tests/removals/table.py" for name in sorted(there - set(REMOVALS))),
        *(f"tests/removals/table.py has an entry for {name}, which does not exist" for name in REMOVALS.keys() - there),
    ]


def chosen(words: list[str]) -> list[str]:
    """The names that are to be tried."""
    return [name for name in REMOVALS if not words or any(word in name for word in words)]


def try_all(names: list[str], *, processes: int, whole: bool) -> dict[str, Verdict]:
    """Try each of these, and say how it went."""
    verdicts: dict[str, Verdict] = {}
    with TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(processes):
            copies.put(Copy(Path(folder, str(number))))

        def attempt(name: str) -> None:
            copy = copies.get()
            began = time.monotonic()
            try:
                changes = REMOVALS[name].changes(name)
                verdict = try_removal(copy, name, changes, first=FIRST.get(name, ()), whole=whole)
            except (EditError, TrialError) as exc:
                verdict = Verdict(None, f"not tried: {exc}")
            finally:
                copies.put(copy)
            verdicts[name] = verdict
            how = f"noticed by {verdict.by}" if verdict.by else "SURVIVES"
            print(f"{name}: {how} ({verdict.tried}; {time.monotonic() - began:.0f} s)", flush=True)

        for _ in pool.map(attempt, names):
            pass
    return verdicts


def check_unchanged() -> str | None:
    """The test that fails although nothing is removed, if there is one."""
    with TemporaryDirectory() as folder:
        return Copy(Path(folder, "unchanged")).run(ALL)


def main() -> int:
    """Parse the command line, try, and list the survivors."""
    parser = argparse.ArgumentParser(prog="python tests/removals", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only what has one of these in its name")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="only the tests that mention a name, and no check before")
    options = parser.parse_args()
    if problems := differences():
        print(*problems, sep="\n")
        return 2
    if not options.quick and (failed := check_unchanged()):
        print(f"nothing is removed, and yet {failed} fails")
        return 2
    verdicts = try_all(chosen(options.words), processes=options.processes, whole=not options.quick)
    survivors = [name for name, verdict in verdicts.items() if verdict.by is None]
    print(f"{len(verdicts)} removed, {len(survivors)} not noticed", *survivors, sep="\n  ")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
