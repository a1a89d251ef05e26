"""The cases of fuzz.py, as many as CI can bear; ``nox -s fuzz`` and ``python tests/fuzz.py`` run many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fuzz
from fuzz_cases import make_case
from trio_rooms._wire.reader import Event, FrameReader, _Header
from trio_rooms.testing import Opcode, client_frame, close_payload, handshake_bytes

pytestmark = pytest.mark.sockets

SEED = 20


@pytest.mark.parametrize(("over", "count"), [("sockets", 1000), ("memory", 1000)])
async def test_any_bytes(over: str, count: int, pytestconfig: pytest.Config) -> None:
    """Must hold 4: random and mutated requests and frames end no server, log no error, and leave nothing."""
    transport = pytestconfig.getoption("transport") or "native"
    assert await fuzz.fuzz(SEED, range(count), over=over, transport=transport, size=250) == []


def test_a_case_is_its_number() -> None:
    """A case is the same whenever it is made, and one of another number or seed is another one."""
    assert make_case(1, 7) == make_case(1, 7)
    assert make_case(1, 7).segments != make_case(1, 8).segments
    assert make_case(1, 7).segments != make_case(2, 7).segments


def test_what_cases_are_about() -> None:
    """Enough of the cases are let in and have whole messages; the rest would show nothing of what comes behind."""
    cases = [make_case(SEED, index) for index in range(300)]
    assert {case.end for case in cases} == {"eof", "close", "reset"}
    assert sum(b"".join(case.segments).startswith(handshake_bytes()[:60]) for case in cases) > 100
    assert len({len(case.segments) for case in cases}) > 3


async def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises for some frames is found, and it is told which cases repeat that, and no others."""
    begin_unusual = FrameReader._begin_unusual

    def faulty(self: FrameReader, position: int, header: _Header, events: list[Event]) -> int:
        if not header.mask:  # which the innocent's frames never lack
            raise ValueError("no such frame")
        return begin_unusual(self, position, header, events)

    monkeypatch.setattr(FrameReader, "_begin_unusual", faulty)
    what, *problems = await fuzz.fuzz(SEED, range(40), over="memory", transport="native", size=40)
    again = f"python tests/fuzz.py --seed {SEED} --over memory --case "
    assert what == f"seed {SEED}, cases 0 to 39, over memory"
    assert any("ValueError: no such frame" in problem for problem in problems)
    guilty = [int(problem.removeprefix(again)) for problem in problems if problem.startswith(again)]
    assert 0 < len(guilty) < 20


HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
TEXT = client_frame(Opcode.TEXT, b"{}", mask=None)
CLOSE = client_frame(Opcode.CLOSE, close_payload(1000), mask=None)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 No\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 400 No\r\n\r\n",
        HEAD + TEXT[:-1],
        HEAD + CLOSE + TEXT,
        HEAD + CLOSE + CLOSE,
        HEAD + client_frame(Opcode.TEXT, b"{", mask=None),
        HEAD + client_frame(Opcode.TEXT, b"{}"),
        HEAD + client_frame(Opcode.TEXT, b"{}", mask=None, rsv=4),
        HEAD + client_frame(Opcode.TEXT, b"{}", mask=None, fin=False),
        HEAD + client_frame(3, b"{}", mask=None),
        HEAD + client_frame(Opcode.TEXT, b'"Traceback (most"', mask=None),
    ],
)
def test_a_wrong_answer_is_seen(answer: bytes) -> None:
    """An answer that is torn, says too much, is not of the protocol or goes on behind its end is wrong."""
    assert fuzz.wrong_with(answer) is not None


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nab", HEAD, HEAD + TEXT * 2 + CLOSE],
)
def test_a_proper_answer(answer: bytes) -> None:
    """Silence, a refusal, and frames up to a close are not."""
    assert fuzz.wrong_with(answer) is None


def test_the_script(tmp_path: Path) -> None:
    """The script repeats one case over both, from any folder, and says that nothing was wrong."""
    command = [sys.executable, "-W", "error", fuzz.__file__, "--seed", "3", "--case", "5"]
    beside = {**os.environ, "PYTHONSAFEPATH": ""}  # where nox sets it, no script finds what stands beside it
    done = subprocess.run(command, cwd=tmp_path, env=beside, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.count("nothing was wrong") == 2
