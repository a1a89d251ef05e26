"""The simulation: that it is deterministic, that its check bites, and 500 seeds of it."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from trio_rooms import BrokerBusy, Busy, Config, Connection, Manager
from trio_rooms.brokers import Broker
from trio_rooms.testing.simulate import Plan, Program, deterministic, draw_plan, run_plan, shrink, simulate
from trio_rooms.testing.simulate.__main__ import main

#: Seeds that have failed once; they stay here for ever.
FAILED_ONCE = [int(line) for line in Path(__file__).parents[1].joinpath("seeds.txt").read_text().split()]

SEEDS, CHUNK = 500, 25
#: So many of them with each Python and each set of versions; the others once.
EVERYWHERE = 100


def run_seeds(seeds: list[int] | range) -> None:
    """Run each, and say of the first that fails how to see it again."""
    for seed in seeds:
        outcome = simulate(seed)
        if outcome.failed:
            command = f"python -m trio_rooms.testing.simulate --seed {seed}"
            pytest.fail("\n".join([*outcome.violations, f"see it again, smaller and with its trace: {command}"]))


@pytest.mark.parametrize(
    "first",
    [
        *range(0, EVERYWHERE, CHUNK),
        *(pytest.param(first, marks=pytest.mark.once) for first in range(EVERYWHERE, SEEDS, CHUNK)),
    ],
)
def test_seeds(first: int) -> None:
    """Z2: nothing that must not happen happens, whatever the clients, the network, the broker and the program do."""
    run_seeds(range(first, first + CHUNK))


def test_seeds_that_failed_once() -> None:
    """What was found and mended stays mended."""
    run_seeds(FAILED_ONCE)


@pytest.mark.parametrize("name", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r"])
def test_the_private_names_of_trio(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both names that it takes are there; without one of them a simulation refuses to run."""
    assert hasattr(trio_run, name)
    monkeypatch.delattr(trio_run, name)
    with pytest.raises(RuntimeError, match="deterministic"), deterministic(1):
        pass


def race() -> tuple[int, ...]:
    """The order in which ten tasks run, ten times."""
    order: list[int] = []

    async def racer(number: int) -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(racer, number)

    trio.run(run, clock=MockClock(autojump_threshold=0))
    return tuple(order)


def test_deterministic() -> None:
    """Within the block the scheduler follows from the seed, and after it everything is as it was."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    orders = []
    for seed in (1, 1, 2):
        with deterministic(seed):
            orders.append(race())
    assert orders[0] == orders[1] != orders[2]
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()) == before


@pytest.mark.parametrize("seed", range(0, 500, 50))
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """Line for line; and another seed gives another one."""
    first, second = simulate(seed), simulate(seed)
    assert list(first.record.lines()) == list(second.record.lines())
    assert first.record.digest() != simulate(seed + 1).record.digest()


@pytest.mark.once
def test_the_same_trace_in_each_process() -> None:
    """The order of sets and dicts, which differs from process to process, is nowhere to be seen."""
    program = "from trio_rooms.testing.simulate import simulate\nfor s in range(12): print(simulate(s).record.digest())"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("0", "1", "2")
    }
    assert found == {"".join(f"{simulate(seed).record.digest()}\n" for seed in range(12))}


def test_a_plan_can_be_made_smaller() -> None:
    """Kinds of steps and single steps can be left out; the world stays what it was."""
    plan = draw_plan(3)
    kind = plan.steps[-1].kind
    assert all(step.kind != kind for step in plan.without([kind]).steps)
    assert plan.only([1, 0]).steps == plan.steps[:2]
    assert plan.only([]).settings == plan.settings
    assert not run_plan(plan.only([])).failed


# A program of somebody's own.


#: A program that fails on purpose need not say so.
QUIET = logging.getLogger("trio_rooms.tests.simulate")
QUIET.setLevel(logging.CRITICAL + 1)


def make_program(handler: Callable[[Connection, Any], Any]) -> Program:
    """With one action, "act", and rooms that everybody may join."""

    async def everybody(conn: Connection, room: str, data: Any) -> bool:
        return True

    def make_manager(broker: Broker, config: Config) -> Manager:
        manager = Manager(broker=broker, config=config, logger=QUIET)
        manager.room("*", authorize=everybody)
        manager.handle_message("act", handler)
        return manager

    def speak(rng: random.Random) -> tuple[str, Any]:
        return "act", rng.randrange(1000)

    return Program(make_manager=make_manager, rooms=("kitchen", "hall"), speak=speak)


def tell_the_rooms(conn: Connection, data: Any) -> Any:
    """Publish to each room that the client is in."""
    for room in tuple(conn.rooms.values()):  # a copy: what is published may end the connection that it comes from
        try:
            room.publish_nowait({"said": data})
        except BrokerBusy:
            raise Busy from None
    return data


def forget_that_brokers_are_busy(conn: Connection, data: Any) -> Any:
    """The same, as it is written by who has never met a busy broker."""
    for room in conn.rooms.values():
        room.publish_nowait({"said": data})
    return data


def test_a_program_of_ones_own() -> None:
    """Its clients say what it makes them say, and nothing is wrong with it."""
    outcomes = [simulate(seed, make_program(tell_the_rooms)) for seed in range(20)]
    assert [line for outcome in outcomes for line in outcome.violations] == []
    said = [line for outcome in outcomes for line in outcome.record.lines() if "Seen" in line and "'said'" in line]
    assert said


def test_a_mistake_in_a_program_of_ones_own() -> None:
    """What a program has not thought of is met by some of its clients, who are told in which run."""
    outcomes = (simulate(seed, make_program(forget_that_brokers_are_busy)) for seed in range(20))
    assert any("was closed with 1011" in line for outcome in outcomes for line in outcome.violations)


def test_a_run_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for ever is found out, and the run ends all the same."""
    monkeypatch.setattr("trio_rooms._rooms.roster.Roster.remove", lambda roster, member_id: False)
    outcomes = (simulate(seed) for seed in range(20))
    assert any("the run does not end" in line for outcome in outcomes for line in outcome.violations)


# What is wrong is found, and made small.


@pytest.fixture
def answered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the library: a request that is cancelled while it runs is answered twice."""
    from trio_rooms._messages.requests import Request

    right = Request.cancel
    monkeypatch.setattr(Request, "cancel", lambda request: right(request) or True)


def first_failure() -> Plan:
    """The plan of the first seed that fails."""
    return next(outcome.plan for outcome in map(simulate, range(100)) if outcome.failed)


@pytest.mark.usefixtures("answered_twice")
def test_a_failure_is_made_smaller() -> None:
    """What is left fails in the same way, and nothing of it can be left out."""
    plan = first_failure()
    outcome, numbers = shrink(run_plan(plan))
    assert len(numbers) <= 6 < len(plan.steps)
    assert {line.partition(":")[0] for line in outcome.violations} == {"replies"}
    for number in numbers:
        assert not run_plan(plan.only(n for n in numbers if n != number)).failed


@pytest.mark.usefixtures("answered_twice")
def test_the_command_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The trace and the command are printed; the command gives the same again."""
    assert main(["--count", "100"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("again: python -m trio_rooms.testing.simulate --seed ")
    assert main(printed[-1].split()[4:]) == 1
    assert capsys.readouterr().out.splitlines() == printed[1:]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds are run in several processes; one is shown with its trace; a program of one's own is loaded."""
    assert main(["--first", "40", "--count", "4", "--processes", "2"]) == 0
    assert "4 seeds" in capsys.readouterr().out
    assert main(["--seed", "1", "--only", "0-2,4"]) == 0
    assert "Finished" in capsys.readouterr().out
    assert main(["--seed", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    with pytest.raises(SystemExit, match="is no Program"):
        main(["--program", "trio_rooms:Manager"])
