"""K2: the network goes down between a server and its client; no close, no reset, nothing tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from partition import NOT_GRANTED
from program import run_program

SCRIPT = Path(__file__).with_name("partition.py")

pytestmark = [
    pytest.mark.sockets,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's"),
]


async def outcome(what: str) -> dict[str, Any]:
    """What became of the connection; the program is given much longer than its own time-outs."""
    async with run_program(SCRIPT, what) as program:
        if await program.process.wait() == NOT_GRANTED:
            pytest.skip("no network namespace is granted")
    assert program.process.returncode == 0, program.stderr.decode()
    return json.loads(program.stdout)


async def test_silence() -> None:
    """K2: a peer behind a link that is down is dead after ping and pong, and is aborted without a closing handshake."""
    assert await outcome("silence") == {"dead": 1, "closes": {"network:1006": 1}, "left": ["disconnected"]}


async def test_shutdown() -> None:
    """K2: a peer that cannot be reached holds the shutdown no longer than the time-outs, although it seems alive."""
    assert await outcome("shutdown") == {"dead": 0, "closes": {"server:1012": 1}, "left": ["disconnected"]}
