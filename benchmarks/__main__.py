"""``python -m benchmarks``: measure, and write results, tables and plots. See docs/performance.md."""

# ruff: noqa: T201 - a command

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
from pathlib import Path
from typing import Any

from . import _build, _goals, _readme, _report
from ._figures import Results
from ._measure import Measurement, measure
from ._scenarios import SCENARIOS, Scenario
from ._subjects import SUBJECTS, Subject
from .peers import PEERS

#: What docs/performance.md is made of.
COMMITTED = _build.HERE / "results" / "full.json"


def main() -> int:
    """Run the command; its exit status is 1 if nothing could be measured."""
    options = make_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running server is ended, too
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:16} {scenario.title}")
        for subject in SUBJECTS:
            print(f"{subject.name:36} {subject.kind:8} {subject.note}")
        return 0
    results = run(options) if options.report is None else Results.load(options.report)
    if not results.data["figures"]:
        print("nothing was measured")
        return 1
    if options.docs:
        root = _build.HERE.parent
        for written in (*_report.write(results, root / "docs"), _readme.write(results, root / "README.md")):
            print(f"wrote {written}")
    print(_report.plain(results))
    if options.goals:
        print(_report.aligned([("", "must hold", "measured", "bound", ""), *_goals.rows(results)]))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list scenarios and servers, and do nothing")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only these; may have wildcards")
    parser.add_argument("--server", action="append", metavar="NAME", help="only these; may have wildcards")
    parser.add_argument("--no-peers", action="store_true", help="only this library and the floors: installs nothing")
    parser.add_argument("--quick", action="store_true", help="the main scenarios, one short round")
    parser.add_argument("--rounds", type=int, help="rounds, interleaved (default: 3, with --quick 1)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default: 2, with --quick 1)")
    parser.add_argument("--goals", action="store_true", help="print what must hold beside what was measured")
    parser.add_argument("--docs", action="store_true", help="write what performance.md and README.md show")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"results; a whole run writes {COMMITTED.name} itself")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="take scenarios that are not run from these results")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing; report on these results")
    return parser


def run(options: argparse.Namespace) -> Results:
    """Measure what the options say, and write it down after each round."""
    scenarios = [one for one in SCENARIOS if chosen(one, options)]
    subjects = [one for one in SUBJECTS if wanted(one, options)]
    missing = install_peers(subjects)
    whole = not (options.quick or options.scenario or options.server or options.no_peers)
    path = options.out or (COMMITTED if whole else None)
    base = None if options.merge is None else Results.load(options.merge).data

    def as_results(measurement: Measurement) -> Results:
        measurement.not_installed = missing
        return Results(merged(base, measurement.as_json()))

    def save(measurement: Measurement) -> None:
        if path is not None and measurement.figures:
            path.write_text(dumped(as_results(measurement).data), encoding="utf-8")

    measurement = measure(
        scenarios,
        [one for one in subjects if one.name not in missing],
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (1 if options.quick else 2),
        tell=lambda line: print(line, flush=True),
        save=save,
    )
    return as_results(measurement)


def install_peers(subjects: list[Subject]) -> dict[str, str]:
    """Install those peers; the names of those that could not be, and why."""
    missing = {}
    for peer in PEERS:
        if any(subject.name == peer.name for subject in subjects):
            print(f"installing {peer.name}", flush=True)
            problem = _build.install(peer)
            if problem is not None:
                print(f"  NOT INSTALLED: {problem}")
                missing[peer.name] = problem
    return missing


def merged(base: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """New results, with the scenarios that they lack taken from others; how and when they came about is kept apart."""
    if base is None:
        return new
    combined = {key: {**base[key], **new[key]} for key in ("figures", "versions", "not_installed")}
    old = {name: whys for name, whys in base["failures"].items() if name not in new["figures"]}
    anew = {**base.get("anew", {}), **dict.fromkeys(new["figures"], new["about"])}
    return {"about": base["about"], **combined, "failures": {**old, **new["failures"]}, "anew": anew}


def chosen(scenario: Scenario, options: argparse.Namespace) -> bool:
    """Whether a scenario is to be run."""
    if options.scenario:
        return any(fnmatch.fnmatch(scenario.name, pattern) for pattern in options.scenario)
    return scenario.quick or not options.quick


def wanted(subject: Subject, options: argparse.Namespace) -> bool:
    """Whether a server is to be measured."""
    if options.no_peers and subject.kind == "peer":
        return False
    return not options.server or any(fnmatch.fnmatch(subject.name, pattern) for pattern in options.server)


def dumped(data: object) -> str:
    """JSON with one line for each figure, so that a difference can be read."""
    lines: list[str] = []
    inside = False
    for line in json.dumps(data, indent=1, ensure_ascii=False).splitlines():
        if inside:
            lines[-1] += line.strip() + (" " if line.endswith(",") and not line.strip().startswith("]") else "")
        else:
            lines.append(line)
        inside = line.endswith("[") or (inside and not line.strip().startswith("]"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
