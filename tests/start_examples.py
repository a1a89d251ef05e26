"""Start each example of a folder and stop it again, with nothing installed but the package: ``nox -s examples``.

``python tests/start_examples.py FOLDER``. A script, not a test: the environment that it checks has no pytest.
"""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin

import trio

import trio_rooms
from program import open_websocket, run_program


async def start_and_stop(path: Path) -> str:
    """What went wrong; empty if nothing did."""
    async with run_program(path, "--port", "0") as program:
        url = (await program.line()).replace("http", "ws")  # one with a page prints the page's
        async with open_websocket(urljoin(url, "/ws")) as ws:
            await ws.ping()
            status = await program.stop(signal.SIGTERM)
    complaints = program.stderr.decode() if "Traceback" in program.stderr.decode() else ""
    return complaints or (f"status {status}" if status else "")


async def main(folder: Path) -> None:
    """Raises SystemExit with what is wrong."""
    installed = Path(trio_rooms.__file__)
    if not installed.is_relative_to(sys.prefix):
        raise SystemExit(f"{installed} is not installed")
    if find_spec("pytest"):
        raise SystemExit("pytest is installed, so this is no empty environment")
    programs = [path for path in folder.glob("*.py") if not path.name.startswith("test_")]
    programs += [path.parent for path in folder.glob("*/__main__.py")]
    if not programs:
        raise SystemExit(f"no examples in {folder}")
    for path in sorted(programs):
        wrong = await start_and_stop(path)
        print(path.name, wrong or "ok", flush=True)
        if wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
