"""Running: rounds over scenarios over subjects, and what is kept of it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from ._build import HERE
from ._scenarios import Scenario
from ._subjects import LOAD_CORE, SERVER_CORE, Failed, Subject, run_load, running

#: What is kept of a step, if it has it. Times in µs, rates a second.
KEPT = (
    "cpu_us",
    "rate",
    *(f"{what}{quantile}_us" for what in ("", "last_", "echo_") for quantile in ("p50", "p99", "p999", "max")),
    "kib_per_conn",
    "cpu_ms_per_s",
    "elapsed_s",
    "load_busy",
    "server_busy",
    "late_p99_us",
    "retries",
    "unanswered",
)

#: scenario -> subject -> "step.figure" -> its value in each round, None where the round failed
Figures = dict[str, dict[str, dict[str, list[float | None]]]]


@attrs.define
class Measurement:
    """All that a run found; becomes the file of results."""

    about: dict[str, Any]
    figures: Figures = attrs.field(factory=dict)
    versions: dict[str, dict[str, str]] = attrs.field(factory=dict)
    #: subject -> why it is missing, or scenario -> subject -> why
    not_installed: dict[str, str] = attrs.field(factory=dict)
    failures: dict[str, dict[str, list[str]]] = attrs.field(factory=dict)

    def keep(self, scenario: str, subject: str, found: dict[str, float], number: int) -> None:
        """Enter the figures of one round."""
        figures = self.figures.setdefault(scenario, {}).setdefault(subject, {})
        for name, value in found.items():
            values = figures.setdefault(name, [])
            values += [None] * (number - len(values))
            values.append(value)

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return attrs.asdict(self)


def measure(
    scenarios: Sequence[Scenario],
    subjects: Sequence[Subject],
    *,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
    save: Callable[[Measurement], None] = lambda measurement: None,
) -> Measurement:
    """Measure all; a failure is kept as such, and the rest goes on. ``save`` is called after each round."""
    measurement = Measurement(about(rounds=rounds, seconds=seconds))
    for number in range(rounds):
        for scenario in scenarios:
            for subject in subjects:
                if not scenario.subjects(subject):
                    continue
                what = f"round {number + 1}/{rounds}  {scenario.name:14} {subject.name:32}"
                try:
                    found, versions = measure_one(scenario, subject, seconds=seconds)
                except (Failed, subprocess.TimeoutExpired) as exc:
                    tell(f"{what} FAILED: {exc}")
                    of_scenario = measurement.failures.setdefault(scenario.name, {})
                    of_scenario.setdefault(subject.name, []).append(str(exc)[:300])
                    continue
                measurement.versions[subject.name] = versions
                measurement.keep(scenario.name, subject.name, found, number)
                costs = {name.removesuffix(".cpu_us"): cost for name, cost in found.items() if name.endswith("cpu_us")}
                tell(f"{what} {'  '.join(f'{step} {cost:.4g}' for step, cost in costs.items())}")
        save(measurement)
    return measurement


def measure_one(scenario: Scenario, subject: Subject, *, seconds: float) -> tuple[dict[str, float], dict[str, str]]:
    """One scenario against one server, started for it. Raises :exc:`Failed`."""
    commands = scenario.commands(seconds=seconds, gc=subject.has_tools)
    with running(subject, core=SERVER_CORE) as server:
        results = run_load(server, commands.values(), core=LOAD_CORE)
    found: dict[str, float] = {}
    for name, result in zip(commands, results, strict=True):
        kept = result["reply"]["data"] if "reply" in result else {key: result[key] for key in KEPT if key in result}
        found.update({f"{name}.{key}": float(f"{value:.4g}") for key, value in kept.items()})
    return found, server.versions


def about(*, rounds: int, seconds: float) -> dict[str, Any]:
    """The machine, the software and how it was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], check=False, capture_output=True, text=True, cwd=HERE
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{model}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "rounds": rounds,
        "seconds": seconds,
    }
