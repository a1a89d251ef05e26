"""Start each example of a folder and stop it again, with nothing installed but the package: ``nox -s examples``.

``python tests/start_examples.py FOLDER``. A script, not a test: the environment that it checks has no pytest.
"""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import trio

import trio_rooms
from program import run_program


async def start_and_stop(path: Path) -> str:
    """What went wrong; empty if nothing did."""
    async with run_program(path, "--port", "0") as program:
        answer = await ask(await program.line())
        status = await program.stop(signal.SIGTERM)
    if not answer.startswith(b"HTTP/1.1 "):
        return f"answers {answer!r}"
    if b"Traceback" in program.stderr:
        return program.stderr.decode()
    return f"ends with status {status}" if status else ""


async def ask(url: str) -> bytes:
    """The first bytes of the answer to a plain request, which is a refusal where there is no page."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        await stream.send_all(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        return bytes(await stream.receive_some())


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
        if wrong := await start_and_stop(path):
            raise SystemExit(f"{path.name} {wrong}")
        print(path.name, "ok", flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
