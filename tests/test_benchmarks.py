"""The benchmarks: that the load client sees what goes wrong, and that what is shown is what was measured."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from program import ROOT

FOLDER = ROOT / "benchmarks"


def load_package() -> None:
    """Import the package, although the checkout is not on ``sys.path``, where it would hide the installed library."""
    spec = importlib.util.spec_from_file_location(
        "benchmarks", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


load_package()

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import _build, _figures, _goals, _measure, _plots, _readme, _report, _scenarios, _subjects, _svg  # noqa: E402

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Programs are compiled into a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# What a server may do with the number-th publication for one of its members, or the number-th echo: the texts to
# send now. ``held`` is a list that it may keep texts in.
Lie = Callable[[int, int, str, list[str]], list[str]]


def honest(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text]


def loses(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [] if (number, member) == (3, 1) else [text]


def doubles(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text, text] if (number, member) == (3, 1) else [text]


def doubles_the_last(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text, text] if (number, member) == (7, 2) else [text]


def reorders(number: int, member: int, text: str, held: list[str]) -> list[str]:
    if (number, member) == (3, 1):
        held.append(text)
        return []
    return [text, held.pop()] if held and member == 1 else [text]


def corrupts(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text[:-3] + '?"}' if (number, member) == (3, 1) else text]


def cuts(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text[:-3] + '"}' if (number, member) == (3, 1) else text]


def misdelivers(number: int, member: int, text: str, held: list[str]) -> list[str]:
    """Says that it belongs to another room or connection."""
    where = re.search(r"@[FE]\d{9}(\d{6})", text)
    assert where is not None
    return [text[: where.start(1)] + "000009" + text[where.end(1) :] if (number, member) == (3, 1) else text]


def invents(number: int, member: int, text: str, held: list[str]) -> list[str]:
    """Brings what nobody has sent."""
    return [text, re.sub(r"@([FE])\d{9}", r"@\g<1>000009999", text)] if (number, member) == (3, 1) else [text]


def answers_another(number: int, member: int, text: str, held: list[str]) -> list[str]:
    """Answers with the id of another request."""
    return [re.sub(r'"id": ?1\d{9}', '"id":1000009999', text) if (number, member) == (3, 1) else text]


def misnumbers(number: int, member: int, text: str, held: list[str]) -> list[str]:
    """Says that an event stands elsewhere."""
    return [text.replace('"offset":4,', '"offset":5,') if (number, member) == (3, 1) else text]


def misnumbers_by_far(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text.replace('"offset":4,', '"offset":40,') if (number, member) == (3, 1) else text]


def does_not_number(number: int, member: int, text: str, held: list[str]) -> list[str]:
    return [text.replace('"offset":4,', "") if (number, member) == (3, 1) else text]


@attrs.define(eq=False)
class LyingServer:
    """Speaks the protocol of the benchmarks; each message to a member or asker goes through ``lie``."""

    lie: Lie
    numbered: bool = False
    published: int = 0
    members: list[WebSocketConnection] = attrs.field(factory=list)
    counts: dict[object, int] = attrs.field(factory=lambda: defaultdict(int))
    held: dict[object, list[str]] = attrs.field(factory=lambda: defaultdict(list))
    connections: list[WebSocketConnection] = attrs.field(factory=list)

    async def serve(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        self.connections.append(ws)
        try:
            while True:
                await self._answer(ws, json.loads(await ws.get_message()))
        except ConnectionClosed:
            pass

    async def _answer(self, ws: WebSocketConnection, message: dict[str, Any]) -> None:
        data = message["data"]
        if message["action"] == "subscribe":
            self.members.append(ws)
            await ws.send_message(json.dumps({"id": message["id"], "data": None}))
        elif message["action"] == "publish":
            self.published += 1
            event = {"payload": data["payload"]}
            if self.numbered:
                event = {"room": "r", "offset": self.published, "data": event}
            for member in self.members:
                await self._tell(member, json.dumps(event, separators=(",", ":")))
        else:
            await self._tell(ws, json.dumps({"id": message["id"], "data": data}, separators=(",", ":")))

    async def _tell(self, ws: WebSocketConnection, text: str) -> None:
        number, self.counts[ws] = self.counts[ws], self.counts[ws] + 1
        for one in self.lie(number, self.connections.index(ws), text, self.held[ws]):
            await ws.send_message(one)


@asynccontextmanager
async def lying_server(lie: Lie, *, numbered: bool) -> AsyncIterator[int]:
    """The port of a server that lies."""
    serve = LyingServer(lie, numbered).serve
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, serve, "127.0.0.1", 0, None))
        yield server.port
        nursery.cancel_scope.cancel()


async def run_load(lie: Lie, *steps: str, numbered: bool = False) -> tuple[int, dict[str, Any]]:
    """The load client against such a server: its exit status, and what it says of the last step."""
    program = await trio.to_thread.run_sync(_build.compiled, "load")
    options = ['--offset="offset":'] if numbered else []
    async with lying_server(lie, numbered=numbered) as port:
        done = await trio.run_process(
            [str(program), f"--port={port}", f"--pid={os.getpid()}", "--stall=0.3", *options, *steps],
            capture_stdout=True,
            check=False,
        )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


KINDS = ("lost", "doubled", "reordered", "corrupt", "stray")

FAN_OUT = ("connect:conns=3", "traffic:fan=0,window=4,limit=8,warm=0,size=64")
ECHO = ("connect:conns=3,rooms=0", "traffic:ask=0,ask_window=2,limit=24,warm=0,size=64")


@needs_cc
@pytest.mark.sockets
@pytest.mark.parametrize("steps", [FAN_OUT, ECHO])
async def test_the_load_client_is_content_with_an_honest_server(steps: tuple[str, ...]) -> None:
    """Nothing is found wrong where nothing is, and everything was counted."""
    status, result = await run_load(honest, *steps)
    assert status == 0
    assert result["ok"]
    assert result["deliveries"] + result["replies"] == 24


@needs_cc
@pytest.mark.sockets
@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (loses, {"lost": 1}),
        (doubles, {"doubled": 1}),
        (doubles_the_last, {"doubled": 1}),
        (reorders, {"reordered": 1}),
        (corrupts, {"corrupt": 1, "lost": 1}),
        (cuts, {"corrupt": 1, "lost": 1}),
        (misdelivers, {"stray": 1, "lost": 1}),
        (invents, {"stray": 1}),
    ],
)
async def test_the_load_client_finds_a_lie_in_a_fan_out(lie: Lie, found: dict[str, int]) -> None:
    """A lost, doubled, reordered, changed, shortened, misplaced or invented delivery is told as what it is."""
    status, result = await run_load(lie, *FAN_OUT)
    assert status == 1
    assert not result["ok"]
    assert {kind: result[kind] for kind in KINDS if result[kind]} == found


@needs_cc
@pytest.mark.sockets
async def test_the_load_client_follows_numbers_of_any_length() -> None:
    """Where each event has its offset, frames get longer; each is checked all the same."""
    status, result = await run_load(honest, FAN_OUT[0], FAN_OUT[1].replace("=8", "=120"), FAN_OUT[1], numbered=True)
    assert status == 0
    assert (result["ok"], result["deliveries"]) == (True, 24)


@needs_cc
@pytest.mark.sockets
@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (loses, {"lost": 1}),
        (doubles, {"doubled": 1}),
        (reorders, {"reordered": 1}),
        (cuts, {"corrupt": 1, "lost": 1}),
        (misnumbers, {"corrupt": 1, "lost": 1}),
        (misnumbers_by_far, {"corrupt": 1, "lost": 1}),
        (does_not_number, {"stray": 1, "lost": 1}),
    ],
)
async def test_the_load_client_finds_a_lie_among_numbered_events(lie: Lie, found: dict[str, int]) -> None:
    """The same where events have offsets, which must be right, too."""
    status, result = await run_load(lie, *FAN_OUT, numbered=True)
    assert status == 1
    assert {kind: result[kind] for kind in KINDS if result[kind]} == found


@needs_cc
@pytest.mark.sockets
@pytest.mark.parametrize("lie", [loses, doubles, reorders, corrupts, cuts, misdelivers, invents, answers_another])
async def test_the_load_client_finds_a_lie_in_an_echo(lie: Lie) -> None:
    """The same of replies, whose id must be that of the request, too."""
    status, result = await run_load(lie, *ECHO)
    assert status == 1
    assert not result["ok"]


@needs_cc
@pytest.mark.sockets
async def test_a_server_that_falls_silent_is_no_endless_run() -> None:
    """When nothing comes any more, what is missing is counted as lost and the run ends."""
    status, result = await run_load(lambda number, member, text, held: [] if number == 7 else [text], *FAN_OUT)
    assert status == 1
    assert result["stalled"]
    assert result["lost"] == 3


SMALL = _scenarios.Scenario(
    name="small",
    title="a little of every step",
    steps={
        "members": "connect:conns=6,rooms=2",
        "askers": "connect:conns=3,rooms=0",
        "before": "ask:action=gc",
        "sweep": "traffic:fan=0,sweep=1,limit=5,warm=0",
        # Longer than a tick of the scheduler, which is when it counts the time of who runs without a pause.
        "w1": "traffic:fan=0,window=1,limit=500,warm=0.01",
        "w64": "traffic:fan=0,window=64,limit=200,size=16384,warm=0",
        "echo": "traffic:ask=1,limit=20,warm=0",
        "both": "traffic:fan=0,ask=1,ask_rate=400,seconds=0.05,warm=0",
        "rate": "traffic:fan=0,rate=200,seconds=0.05,warm=0,spin=1",
        "idle": "idle:seconds=0.01",
        "storm": "storm:group=0",
        "again": "traffic:fan=0,window=2,limit=10,warm=0",
        "close": "close:group=0",
        "reset": "close:group=1,how=reset",
    },
)


@needs_cc
@pytest.mark.sockets
@pytest.mark.parametrize(
    "subject",
    [_subjects.FLOOR, _subjects.PYTHON_FLOOR, _subjects.NATIVE, _subjects.OVER_TRIO_WEBSOCKET],
    ids=lambda one: one.name,
)
def test_every_step_runs_against_our_servers(subject: _subjects.Subject) -> None:
    """Each kind of step can be done, no delivery goes wrong, and CPU, memory and latency are told."""
    found, _ = _measure.measure_one(SMALL, subject, seconds=1)
    for figure in ("members.cpu_us", "w1.cpu_us", "both.echo_p999_us", "rate.last_p50_us", "storm.elapsed_s"):
        assert found[figure] > 0, figure
    assert found["close.unanswered"] == 0
    assert ("before.full" in found) is subject.has_tools


@needs_cc
@pytest.mark.sockets
def test_a_feature_that_is_switched_on_changes_no_delivery() -> None:
    """With everything on, and with the envelope of v1, the load client is as content."""
    for subject in _subjects.VARIANTS:
        if subject.name in ("+ v1", "+ v1, history, presence", "+ logger, recovery, hooks, typed"):
            _measure.measure_one(SMALL, subject, seconds=1)


@needs_cc
def test_a_server_that_does_not_come_up_is_a_failure_with_its_reason() -> None:
    """What it said last is told; the run goes on with the others."""
    broken = _subjects.Subject(name="broken", command=(sys.executable, "-c", "raise SystemExit('no such thing')"))
    everyone = attrs.evolve(SMALL, subjects=lambda subject: True)
    measurement = _measure.measure([everyone], [broken], rounds=2, seconds=1, tell=lambda line: None)
    assert measurement.figures == {}
    assert measurement.failures == {"small": {"broken": ["did not come up: no such thing"] * 2}}


@needs_cc
def test_the_c_programs_compile_without_a_warning() -> None:
    """Under the warnings that the compiler has for what is likely wrong."""
    for name in ("load", "floor"):
        source = str(FOLDER / f"{name}.c")
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", os.devnull, source], check=True)


def results_of(value: Callable[[int], float]) -> _figures.Results:
    """Results in which each server has every figure that is read anywhere."""
    figures: dict[str, Any] = {}
    for scenario in _scenarios.SCENARIOS:
        keys = [
            f"{step}.{key}" for step in scenario.steps for key in (*_measure.KEPT, "full", "young", "longest_full_ms")
        ]
        figures[scenario.name] = {
            subject.name: {key: [value(i), value(i), value(i)] for key in keys}
            for i, subject in enumerate(_subjects.SUBJECTS)
            if scenario.subjects(subject)
        }
    about = {
        "date": "2024-05-06",
        "commit": "abc",
        "machine": "a machine",
        "system": "Linux",
        "rounds": 3,
        "seconds": 2,
    }
    return _figures.Results(
        {"about": about, "figures": figures, "versions": {"x": {"python": "3"}}, "not_installed": {}, "failures": {}}
    )


def test_every_column_plot_and_bound_reads_a_figure_that_is_measured() -> None:
    """No table, plot, comparison or bound names a scenario, step or server that there is not."""
    results = results_of(lambda i: i + 1.0)
    for table in _report.TABLES:
        assert len(table.rows(results)) > 1, table.title
        for column in table.columns:
            assert column.cell(results, _goals.US) != "-", (table.title, column.title)
    assert [row[4] for row in _goals.rows(results)].count("not measured") == 0
    assert len(_plots.plots(results)) == len(_plots._BARS) + 1
    titles = {table.title for table in _report.TABLES}
    assert {at for _, at, _ in _plots.plots(results).values()} <= titles
    for key in _report.COMPARED:
        scenario, figure = key.split(":")
        assert results.median(scenario, _goals.US, figure) is not None, key


def test_every_bound_is_seen_to_hold_and_to_be_missed() -> None:
    """A verdict follows the figures: ours far cheaper than all others holds, far dearer misses."""
    names = [subject.name for subject in _subjects.SUBJECTS]
    ours = names.index(_goals.US)
    cheap = results_of(lambda i: 0.001 if i == ours else 1000.0)
    dear = results_of(lambda i: 1000.0 if i == ours else 1.0)
    compared = [goal for goal in _goals.GOALS if goal.number in {1, 2, 3} and "million" not in goal.text]
    assert compared
    assert {goal.verdict(cheap) for goal in compared} == {"holds"}
    assert {goal.verdict(dear) for goal in compared} == {"MISSED"}


def test_what_we_lose_is_listed() -> None:
    """Each comparison in which another server is ahead is named with that server; floors and variants are not."""
    names = [subject.name for subject in _subjects.SUBJECTS]
    ours, *ahead = (names.index(name) for name in (_goals.US, "picows", _goals.FLOOR, _goals.PYTHON_FLOOR))
    text = "\n".join(_report.losses(results_of(lambda i: 2.0 if i == ours else 1.0 if i in ahead else 3.0)))
    assert text.count("picows (ours is 2 x)") == len(_report.COMPARED)
    assert "floor" not in text
    assert not _report.losses(results_of(lambda i: 1.0 if i == ours else 3.0))


def test_what_could_not_be_measured_is_listed() -> None:
    """A peer without its packages, and a scenario that failed, stand in the report with the reason."""
    results = results_of(lambda i: 1.0)
    results.data["not_installed"]["picows"] = "no such version"
    results.data["failures"]["echo"] = {"socketify": ["it ended"]}
    for text in (_report.plain(results), _report.markdown(results)):
        assert "picows: not installed: no such version" in text
        assert "socketify, echo: failed in 1 of 3 rounds: it ended" in text


def test_ratios_are_taken_round_by_round() -> None:
    """A ratio pairs the values of one round, and passes over rounds in which one of the two failed."""
    measurement = _measure.Measurement({})
    measurement.keep("s", "a", {"f": 2.0}, 0)
    measurement.keep("s", "b", {"f": 1.0}, 0)
    measurement.keep("s", "b", {"f": 50.0}, 1)
    measurement.keep("s", "a", {"f": 90.0}, 2)
    measurement.keep("s", "b", {"f": 30.0}, 2)
    results = _figures.Results(measurement.as_json())
    assert results.values("s", "a", "f") == [2.0, None, 90.0]
    assert results.ratio(("s", "a", "f"), ("s", "b", "f")) == 2.5
    assert results.median("s", "a", "f") == 46.0
    assert results.ratio(("s", "a", "f"), ("s", "c", "f")) is None
    assert results.cheapest("s", "f", ["a", "b", "c"]) == "b"


def test_results_survive_the_file(tmp_path: Path) -> None:
    """What is written can be read again, and has a line for each figure."""
    data = results_of(lambda i: i / 3).data
    (tmp_path / "results.json").write_text(command.dumped(data), encoding="utf-8")
    assert _figures.Results.load(tmp_path / "results.json").data == data
    assert '"w1.cpu_us": [0.0, 0.0, 0.0]' in command.dumped(data)


def test_scenarios_can_be_measured_anew() -> None:
    """Merging takes the new figures and failures of a scenario, and the old ones of all others."""
    old = results_of(lambda i: 1.0).data
    old["failures"] = {"echo": {"x": ["why"]}, "delay": {"y": ["why"]}}
    new = {**results_of(lambda i: 2.0).data, "failures": {}}
    new["figures"] = {"echo": new["figures"]["echo"]}
    both = _figures.Results(command.merged(old, new))
    assert both.median("echo", _goals.US, "w1.cpu_us") == 2.0
    assert both.median("fanout-128", _goals.US, "w1.cpu_us") == 1.0
    assert both.data["failures"] == {"delay": {"y": ["why"]}}


def test_what_was_measured_anew_says_how() -> None:
    """Merged results name the scenarios that are of another run, with its date, its rounds and its length."""
    new = {**results_of(lambda i: 2.0).data}
    new["figures"] = {name: new["figures"][name] for name in ("echo", "delay")}
    new["about"] = {**new["about"], "date": "2025-01-01", "rounds": 7, "seconds": 0.25}
    merged = command.merged(results_of(lambda i: 1.0).data, new)
    merged = command.merged(merged, {**new, "figures": {"beside": new["figures"]["echo"]}})
    results = _figures.Results(merged)
    first, anew, _ = _report.conditions(results)
    assert "2024-05-06" in first
    assert "3 interleaved rounds" in first
    assert anew.startswith(
        "Measured anew, beside, delay, echo: a machine, Linux, 2025-01-01, commit abc; medians of 7 "
    )
    assert anew.endswith(" 0.25 s for a measurement.")
    assert (results.about_of("echo")["rounds"], results.about_of("latency")["rounds"]) == (7, 3)


def test_the_registry_is_complete() -> None:
    """Every server that is to be compared with is there, each under its own name, and every scenario has a floor."""
    names = [subject.name for subject in _subjects.SUBJECTS]
    assert len(set(names)) == len(names)
    wanted = ("trio-websocket", "websockets, asyncio", "websockets, uvloop", "websockets, trio", "picows", "socketify")
    for name in (*wanted, "aiohttp", "Starlette", "python-socketio", "Node ws"):
        assert any(subject.startswith(name) for subject in names), name
    for scenario in _scenarios.SCENARIOS:
        subjects = [subject for subject in _subjects.SUBJECTS if scenario.subjects(subject)]
        assert _subjects.NATIVE in subjects, scenario.name
        assert _subjects.FLOOR in subjects or scenario.name == "features", scenario.name
    assert {scenario.name for scenario in _scenarios.SCENARIOS if scenario.quick} == {
        "fanout-128",
        "echo",
        "connections",
    }


def test_plots_are_well_formed() -> None:
    """Every plot is XML whatever the names are, with all its marks and names inside of the page."""
    rows = [_svg.Bar("a <&> b", 0.002, "us"), _svg.Bar('"c"', 150.0), _svg.Bar("nothing", 0.0, "floor")]
    line = [_svg.Line(f"line {n}", [(10, n), (10_000, n * 1.1)]) for n in (1, 2, 300)]
    made = [_svg.bars("T & t", "µs", rows, log=log) for log in (False, True)] + [_svg.lines("T", "µs", "x", line)]
    made += [svg for _, _, svg in _plots.plots(results_of(lambda i: i + 1.0)).values()]
    for svg in made:
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            for across, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert 0 <= float(element.attrib.get(across, 0)) <= limit
    lengths = [float(bar.attrib["width"]) for bar in ElementTree.fromstring(made[0]).iter() if bar.tag.endswith("rect")]
    assert lengths == [1.0, max(lengths), 1.0]


def test_names_of_lines_do_not_overlap() -> None:
    """Lines that end at the same height have their names one below the other."""
    svg = _svg.lines("T", "µs", "x", [_svg.Line(f"line {n}", [(1, 10), (10, 10 + n / 100)]) for n in range(9)])
    heights = [
        float(text.attrib["y"]) for text in ElementTree.fromstring(svg).iter() if (text.text or "").startswith("line ")
    ]
    assert len(heights) == 9
    assert all(below - above >= 13 for above, below in pairwise(sorted(heights)))


def test_the_document_shows_the_committed_results() -> None:
    """The generated parts of docs/performance.md and README.md, and the plots, are what the committed results give."""
    results = _figures.Results.load(command.COMMITTED)
    text = (ROOT / "docs" / _report.DOCUMENT).read_text(encoding="utf-8")
    assert _report.document(text, results) == text
    plots = {name: svg for name, (_, _, svg) in _plots.plots(results).items()}
    folder = ROOT / "docs" / _report.PLOTS
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == plots
    for name in plots:
        assert f"({_report.PLOTS}/{name})" in text
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert _readme.readme(text, results) == text


def test_the_generated_part_alone_is_replaced() -> None:
    """What stands around the markers stays; without markers nothing is guessed."""
    results = results_of(lambda i: 1.0)
    text = f"before\n\n{_report.BEGIN}\nof old\n{_report.END}\n\nafter\n"
    made = _report.document(text, results)
    assert made.startswith("before\n\n")
    assert made.endswith("\n\nafter\n")
    assert "of old" not in made
    assert _report.document(made, results) == made
    assert _readme.readme(made, results) != made
    for write in (_report.document, _readme.readme):
        with pytest.raises(ValueError, match="no generated part"):
            write("no markers", results)


def test_the_readme_shows_who_is_measured() -> None:
    """Each row has its figures."""
    made = _readme.readme(f"{_report.BEGIN}{_report.END}", results_of(lambda i: i + 1.0))
    rows = [line.split(" | ") for line in made.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(_readme.SHOWN)
    assert rows[0] == ["| that server in C", "1", "1", "1", "1 |"]
    assert not any("-" in row[1:] for row in rows)


def test_what_a_history_costs() -> None:
    """The script that measures it runs, and shows that its bounds hold."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "history.py"), "--publications", "3000", "--rooms", "10"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [int(re.split(r"\s+|,", line)[1]) for line in lines] == [0, 1, 100, 1000, 1000]
    assert all(re.search(r"[\d.]+ us a publication", line) for line in lines)
