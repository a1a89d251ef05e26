"""The servers that are measured, and how one is started and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from . import _build
from .peers import PEERS, Peer

SERVER_CORE, LOAD_CORE = 0, 1

#: Options of the load client for Socket.IO; what they mean is in peers/socketio_uvicorn.py.
_SOCKETIO = {
    "path": "/socket.io/?EIO=4&transport=websocket",
    "hello": "40",
    "hello-replies": "2",
    "subscribe": '421["subscribe",{"room_id":"%R"}]',
    "publish": '42["publish",{"room_id":"%R","payload":"%P"}]',
    "echo": '42%N["echo","%P"]',
    "ping": "2:3",
}


class Failed(Exception):
    """A server or the load client did not do its part; the message says what."""


@attrs.frozen(kw_only=True)
class Subject:
    """A server under test."""

    name: str
    command: tuple[str, ...]
    note: str = ""
    #: Options of the load client: how to speak with it.
    speak: dict[str, str] = attrs.field(factory=dict)
    #: ``floor``, ``ours``, ``variant`` (ours with something switched on or off), ``peer``.
    kind: str = "ours"
    #: Whether it has the actions "sweep" and "gc" of server.py.
    has_tools: bool = False


def _ours(name: str, note: str, *options: str, kind: str = "ours", **speak: str) -> Subject:
    command = (sys.executable, str(_build.HERE / "server.py"), *options)
    return Subject(name=name, command=command, note=note, kind=kind, speak=speak, has_tools=True)


FLOOR = Subject(
    name="C floor",
    command=("{floor}",),
    kind="floor",
    note="floor.c: epoll, one write for each member, nothing else.",
)
PYTHON_FLOOR = Subject(
    name="Python floor",
    command=(sys.executable, str(_build.HERE / "floor.py")),
    kind="floor",
    note="floor.py: the same with Python's standard library alone.",
)
NATIVE = _ours("trio_rooms", "This library as it is by default.", "--transport", "native")
OVER_TRIO_WEBSOCKET = _ours(
    "trio_rooms over trio-websocket", 'This library with transport="trio-websocket".', "--transport", "trio-websocket"
)

#: Options of the load client for v1 where rooms have a history, and presence, which is told unasked.
_V1_WITH_OFFSETS = {"protocol": "trio-rooms.v1.json", "ignore": '"action":"$', "offset": '"offset":'}

#: One feature each; what a delivery costs with it is set beside what it costs without.
VARIANTS: tuple[Subject, ...] = (
    _ours("+ logger", "The logger middleware, a record written for each message.", "--with", "logger", kind="variant"),
    _ours("+ recovery", "The recovery middleware.", "--with", "recovery", kind="variant"),
    _ours("+ hooks", "Every hook, each doing nothing.", "--with", "hooks", kind="variant"),
    _ours("+ typed", "Messages decoded into attrs classes.", "--with", "typed", kind="variant"),
    _ours(
        "+ v1",
        "The envelope of trio-rooms.v1.json.",
        kind="variant",
        protocol="trio-rooms.v1.json",
        ignore="$welcome",
    ),
    _ours(
        "+ logger, recovery, hooks, typed",
        "All of them together.",
        "--with",
        "logger,recovery,hooks,typed",
        kind="variant",
    ),
    _ours("+ history", "A history of 100 events in each room.", "--with", "history", kind="variant"),
    _ours(
        "+ history, presence",
        "Both, in each room; of presence clients are told nothing, as they speak the plain format.",
        "--with",
        "history,presence",
        kind="variant",
    ),
    _ours(
        "+ v1, history",
        "A history, and clients of v1, who are told where each event stands in it.",
        "--with",
        "history",
        kind="variant",
        **_V1_WITH_OFFSETS,
    ),
    _ours(
        "+ v1, history, presence",
        "Presence, too, of which they are told who comes and goes.",
        "--with",
        "history,presence",
        kind="variant",
        **_V1_WITH_OFFSETS,
    ),
    _ours("- GC tuning", "The garbage collector left as Python sets it.", "--with", "notune", kind="variant"),
)


def _of_peer(peer: Peer) -> Subject:
    command = peer.arguments(python=str(_build.PYTHON), folder=str(_build.HERE / "peers"))
    speak = _SOCKETIO if peer.protocol == "socketio" else {}
    return Subject(name=peer.name, command=tuple(command), note=peer.note, speak=speak, kind="peer")


SUBJECTS: tuple[Subject, ...] = (FLOOR, PYTHON_FLOOR, NATIVE, OVER_TRIO_WEBSOCKET, *map(_of_peer, PEERS), *VARIANTS)


def run_load(server: Running, steps: Iterable[str], *, stall: float = 30, core: int | None = None) -> list[Any]:
    """Run the load client; one dict for each step. Raises :exc:`Failed`, also for a delivery that was not right."""
    options = [f"--{key}={value}" for key, value in server.subject.speak.items()]
    where = [f"--port={server.port}", f"--pid={server.pid}", f"--stall={stall}"]
    command = [str(_build.compiled("load")), *where, *options, *steps]
    with on_core(core):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    results = [json.loads(line.replace("-nan", "null")) for line in done.stdout.splitlines() if line.endswith("}")]
    if done.returncode > 1 or done.returncode < 0:
        raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"load: exit {done.returncode}")
    for result in results:
        if not result["ok"] or result.get("stalled"):
            raise Failed(f"deliveries went wrong: {json.dumps(result)}")
    return results


@attrs.frozen(kw_only=True)
class Running:
    """A server that listens."""

    subject: Subject
    pid: int
    port: int
    versions: dict[str, str]


@contextlib.contextmanager
def running(subject: Subject, *, core: int | None = None) -> Iterator[Running]:
    """Start a server and end it. Raises :exc:`Failed` if it does not come up within 30 s."""
    command = [part.format(floor=_build.compiled("floor")) if part == "{floor}" else part for part in subject.command]
    environment = {**os.environ, "NODE_PATH": str(_build.NODE_MODULES)}
    environment.pop("PYTHONSAFEPATH", None)  # the peers import from their own folder
    with tempfile.TemporaryFile("w+") as errors:
        try:
            with on_core(core):
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                    cwd=_build.HERE.parent,
                )
        except OSError as exc:
            raise Failed(f"cannot be started: {exc}") from exc
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], 30)
            line = process.stdout.readline() if ready else ""
            if not line.startswith("{"):
                errors.seek(0)
                said = errors.read().strip().splitlines()
                raise Failed(f"did not come up: {said[-1] if said else repr(line)}")
            hello = json.loads(line)
            yield Running(
                subject=subject, pid=process.pid, port=hello["port"], versions=dict(hello.get("versions") or {})
            )
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started within the block run on that core, if there is more than one."""
    before = os.sched_getaffinity(0)
    if core is not None and core in before and len(before) > 1:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
