"""``python -m trio_rooms.testing.simulate``: run seeds, and show the smallest failing run of the first that fails."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from . import Outcome, Program, draw_plan, run_plan, shrink, simulate
from ._met import TROUBLES

# Seeds that a process is given at a time.
_CHUNK = 20


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trio_rooms.testing.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, and show its trace")
    parser.add_argument("--only", metavar="STEPS", help="with --seed: only these steps of its plan, such as 0-3,7")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds to run (default: %(default)s)")
    parser.add_argument("--count", type=int, default=500, help="how many (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--program", metavar="MODULE:NAME", help="a Program of your own (default: the library's)")
    parser.add_argument("--no-shrink", action="store_true", help="show the run that fails as it is")
    parser.add_argument("--quiet", action="store_true", help="no trace")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what the command line says; 1 if anything was wrong."""
    options = make_parser().parse_args(argv)
    program = None if options.program is None else _load(options.program)
    if options.seed is not None:
        return _run_one(options, program)
    began = time.monotonic()
    seeds = range(options.first, options.first + options.count)
    counts: Counter[str] = Counter()
    for seed, (failed, met) in zip(seeds, _results(seeds, options.program, options.processes), strict=True):
        counts.update(sorted(met))
        if failed:
            print(f"seed {seed} fails, after {seed - seeds[0] + 1} seeds and {time.monotonic() - began:.0f} s")
            _show(simulate(seed, program), program, options)
            return 1
    if not options.quiet:
        _print_met(counts, own=program is None)
    print(f"{len(seeds)} seeds, {time.monotonic() - began:.0f} s, nothing is wrong")
    return 0


def _results(seeds: range, program: str | None, processes: int) -> Iterator[tuple[bool, frozenset[str]]]:
    """For each seed, in order, whether it fails, and what trouble it has met."""
    one = partial(_result, None if program is None else _load(program))
    if processes == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(partial(_result_of, program), seeds, chunksize=_CHUNK)


def _result_of(program: str | None, seed: int) -> tuple[bool, frozenset[str]]:
    return _result(None if program is None else _load(program), seed)


def _result(program: Program | None, seed: int) -> tuple[bool, frozenset[str]]:
    outcome = simulate(seed, program)
    return outcome.failed, outcome.met


def _print_met(counts: Counter[str], *, own: bool) -> None:
    """In how many of the runs each kind of trouble was met; of what our own program can meet also what was not."""
    groups: dict[str, list[str]] = {}
    for name in sorted({*counts, *(TROUBLES if own else ())}):
        group, _, what = name.partition(": ")
        groups.setdefault(group, []).append(f"{what} {counts[name]}")
    for group, found in groups.items():
        print(f"met: {group}: {', '.join(found)}")


def _load(name: str) -> Program:
    module, _, attribute = name.partition(":")
    program = getattr(importlib.import_module(module), attribute)
    if not isinstance(program, Program):
        raise SystemExit(f"{name} is no Program")
    return program


def _run_one(options: argparse.Namespace, program: Program | None) -> int:
    speak, rooms = (None, None) if program is None else (program.speak, program.rooms)
    plan = draw_plan(options.seed, speak=speak, rooms=rooms)
    if options.only is not None:
        plan = plan.only(_numbers(options.only))
        options.no_shrink = True
    outcome = run_plan(plan, program)
    if outcome.failed:
        _show(outcome, program, options)
        return 1
    if not options.quiet:
        _print_run(outcome)
    print("nothing is wrong")
    return 0


def _show(outcome: Outcome, program: Program | None, options: argparse.Namespace) -> None:
    command = f"python -m trio_rooms.testing.simulate --seed {outcome.plan.seed}"
    if options.program is not None:
        command += f" --program {options.program}"
    if not options.no_shrink:
        outcome, numbers = shrink(outcome, program)
        command += f" --only {_ranges(numbers)}"
    elif options.only is not None:
        command += f" --only {options.only}"
    if not options.quiet:
        _print_run(outcome)
    print("\n".join(outcome.violations))
    print(f"again: {command}")


def _print_run(outcome: Outcome) -> None:
    print(outcome.plan.settings, *outcome.plan.steps, *outcome.record.lines(), sep="\n")


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
