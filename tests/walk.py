"""Walks through a page that begins in an empty folder: writes its files, types its commands, compares what is printed.

What a page says is done in its order:

- A block below a file's name in bold code (**`chat.py`**) is written to that file.
- A block ``console`` is a terminal. ``$ command`` is run. What follows is what it prints, line by line; ``…`` stands
  for anything within a line, and alone on a line for any number of lines. In a conversation with a WebSocket client,
  ``> text`` is typed, and ``< text`` is JSON that must have come. ``^C`` interrupts.
- ``<!-- terminal: server -->`` above such a block says which terminal. In a named one a command goes on while the page
  does, until ``^C``, or until the terminal gets another command. In the one without a name it must end, with status 0.

Three things are not as on the page. Nothing is downloaded: the virtual environment is made without pip and finds the
packages of this one. A server listens on any free port, which is taken for the page's 8080. And a
terminal shows nothing but standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import attrs
import trio

from markdown import Fence, assert_as_printed
from program import PATIENCE

PORT = "8080"

#: The package itself, as somebody installs it who has cloned it.
OURS = "../trio_rooms"

#: What a terminal does instead of showing it: moves of the cursor.
_CONTROL = re.compile(r"\x1b(?:[78]|\[[0-9;]*[A-Z])|\r")


@attrs.define(eq=False)
class Terminal:
    """One command at a time, and what it has printed. One that is ``lasting`` is interrupted for the next."""

    lasting: bool
    process: trio.Process | None = None
    shown: str = ""
    _seen: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _at_end: bool = True

    async def run(self, command: str, folder: Path, environment: dict[str, str], nursery: trio.Nursery) -> None:
        """Start a command when the one before has ended."""
        await (self.interrupt() if self.lasting else self.ended())
        self.shown, self._seen, self._at_end = "", 0, False
        self.process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", f"exec {command}"],  # `exec`, or a signal would meet the shell
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        nursery.start_soon(self._read, self.process)

    async def _read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        async with process.stdout as output:
            async for data in output:
                self.shown += _CONTROL.sub("", bytes(data).decode())
                self._changed.set()
                self._changed = trio.Event()
        self._at_end = True
        self._changed.set()

    async def type(self, text: str) -> None:
        """Type a line."""
        assert self.process is not None
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{text}\n".encode())

    async def interrupt(self) -> None:
        """Ctrl-C, if something runs; it must end well."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        await self.ended()

    async def ended(self) -> None:
        """Wait for the command's end."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        status = await self.process.wait()
        while not self._at_end:
            await self._changed.wait()
        assert status == 0, f"status {status}; it printed:\n{self.shown}"
        self.process = None

    async def kill(self) -> None:
        """End the command, if something runs."""
        if self.process is not None:
            self.process.kill()
            with contextlib.suppress(AssertionError):  # a status that says just that
                await self.ended()

    async def line(self) -> str | None:
        """The next line that is not empty, without the client's prompts; None at the end."""
        while True:  # noqa: ASYNC913 - what has been printed already is not waited for
            line, newline, _ = self.shown[self._seen :].partition("\n")
            if newline:
                self._seen += len(line) + 1
                if text := re.sub(r"^(> )+", "", line).strip():
                    return text
            elif self._at_end:
                return None
            else:
                await self._changed.wait()


@attrs.define(eq=False)
class Walk:
    """Where a walk stands: a folder, the terminals that are open, the port that is 8080."""

    folder: Path
    _nursery: trio.Nursery
    _terminals: dict[str, Terminal] = attrs.field(factory=dict)
    port: str = PORT

    async def go(self, fences: Iterable[Fence]) -> None:
        """Do what the blocks say, in their order; an assertion that fails says at which."""
        for fence in fences:
            try:
                if fence.file is not None:
                    self.write(fence.file, fence.text)
                elif fence.language == "console":
                    await self._terminal(fence)
            except BaseException as exc:
                exc.add_note(f"at {fence}")
                raise

    def write(self, name: str, text: str) -> None:
        """A file; what it serves on the page's port is served on any."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(f"port={PORT}", "port=0"), encoding="utf-8")

    async def _terminal(self, fence: Fence) -> None:
        name = re.fullmatch(r"terminal: (\w+)", fence.comment or "")
        terminal = self._terminals.setdefault(name[1] if name else "", Terminal(lasting=name is not None))
        skipping = False
        for line in fence.text.splitlines():
            if line == "…":
                skipping = True
                continue
            await self._step(terminal, line, skipping)
            skipping = False
        if not terminal.lasting:
            if not skipping:
                assert await terminal.line() is None, "more was printed than the page shows"
            await terminal.ended()

    async def _step(self, terminal: Terminal, line: str, skipping: bool) -> None:
        if line.startswith("$ "):
            await self._command(terminal, line[2:])
        elif line == "^C":
            await terminal.interrupt()
        elif line.startswith("> "):
            await terminal.type(line[2:])
        elif line and line != "$":
            await self._expect(terminal, line, skipping)

    async def _expect(self, terminal: Terminal, expected: str, skipping: bool) -> None:
        while True:
            found = await terminal.line()
            assert found is not None, f"the page shows {expected!r}; it printed:\n{terminal.shown}"
            if self._matches(found, expected):
                return
            assert skipping, f"the page shows {expected!r}, there was {found!r}"

    def _matches(self, found: str, expected: str) -> bool:
        if expected.startswith("< ") and found.startswith("< "):
            try:
                assert_as_printed(json.loads(found[2:]), json.loads(expected[2:]))
            except AssertionError:
                return False
            return True
        pattern = re.escape(expected).replace("…", ".*").replace(f":{PORT}", r":(?P<port>\d+)", 1)
        match = re.fullmatch(pattern, found)
        if match and "port" in match.groupdict():
            self.port = match["port"]
        return match is not None

    async def _command(self, terminal: Terminal, command: str) -> None:
        words = shlex.split(command)
        if words[:3] == ["python3", "-m", "venv"]:
            await trio.to_thread.run_sync(make_environment, self.folder / words[3])
        elif words[:2] == ["pip", "install"]:
            assert_installed(words[2:])
        elif words[0] == ".":
            assert (self.folder / words[1]).is_file()  # what it does, _environment does
        else:
            command = command.replace(f"--port {PORT}", "--port 0").replace(f":{PORT}", f":{self.port}")
            await terminal.run(command, self.folder, self._environment(), self._nursery)

    def _environment(self) -> dict[str, str]:
        """As after ``. .venv/bin/activate``, with this environment's commands behind it."""
        path = os.pathsep.join([str(self.folder / ".venv/bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        return {**kept, "PATH": path, "PYTHONUNBUFFERED": "1"}

    async def stop(self) -> None:
        """Kill whatever still runs."""
        for terminal in self._terminals.values():
            await terminal.kill()


def make_environment(folder: Path) -> None:
    """A virtual environment that finds what is installed here."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    found = [path for path in sys.path if Path(path).is_dir()]
    (packages / "here.pth").write_text("\n".join(found), encoding="utf-8")


def assert_installed(requirements: list[str]) -> None:
    """What the page has its reader install is what is here, or this would show nothing."""
    for requirement in requirements:
        version("trio-rooms" if requirement == OURS else requirement)


@asynccontextmanager
async def open_walk(folder: Path) -> AsyncIterator[Walk]:
    """A walk in an empty folder; what still runs at the end of the block is killed."""
    with trio.fail_after(5 * PATIENCE):
        async with trio.open_nursery() as nursery:
            walk = Walk(folder, nursery)
            try:
                yield walk
            finally:
                with trio.move_on_after(PATIENCE, shield=True):
                    await walk.stop()
