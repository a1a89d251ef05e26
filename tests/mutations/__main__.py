"""Makes one mistake at a time in a copy of the package, and shows that the simulation finds it.

``nox -s mutations`` tries all; with words, those that have one of them in their names. What no seed finds is listed at
the end, and the status is 1.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutations.table import MUTATIONS
from mutations.trial import try_mutation


def main() -> int:
    """Parse the command line, try, and list what was not found."""
    parser = argparse.ArgumentParser(prog="python tests/mutations", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only what has one of these in its name")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--count", type=int, default=500, help="seeds for each at most (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    names = [name for name in MUTATIONS if not options.words or any(word in name for word in options.words)]
    survivors = []
    with ThreadPoolExecutor(options.processes) as pool:
        attempt = partial(try_mutation, first=options.first, count=options.count)
        for name, finding in zip(names, pool.map(attempt, [MUTATIONS[name] for name in names]), strict=True):
            if finding.seed is None:
                survivors.append(name)
                print(f"{name}: NOT FOUND ({finding.what})", flush=True)
            else:
                print(f"{name}: seed {finding.seed}: {finding.what[:200]}", flush=True)
    print(f"{len(names)} mistakes, {len(survivors)} not found", *survivors, sep="\n  ")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
