"""The registry of the servers that the benchmark compares with, and those of them that need only what we need."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import trio
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trio_websocket import WebSocketConnection

from program import ROOT, Program, open_websocket, run_program

FOLDER = ROOT / "benchmarks" / "peers"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))

#: What every environment of these tests has.
OURS = {"msgspec", "trio", "trio-websocket", "wsproto"}


def load_registry() -> ModuleType:
    """The package, although the checkout is not on ``sys.path``, where it would hide the installed library."""
    name = "benchmarks_peers"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS: tuple[Any, ...] = load_registry().PEERS


def pins(peer: Any) -> dict[str, str]:
    """The requirements of a peer; an assertion if one is not pinned to one version."""
    found: dict[str, str] = {}
    for requirement in map(Requirement, peer.requirements):
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


RUNNABLE = [peer for peer in PEERS if peer.requirements and set(pins(peer)) <= OURS]


def each(peers: list[Any] | tuple[Any, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("peer", peers, ids=[peer.name for peer in peers])


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets scripts import from their own folder, which nox forbids the tests, so that the installed package is used."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)


@asynccontextmanager
async def run_peer(peer: Any) -> AsyncIterator[tuple[Program, dict[str, Any]]]:
    """Start a peer; with what it says once it listens."""
    python, *arguments = peer.arguments(python="python", folder=str(FOLDER))
    assert python == "python"
    async with run_program(*arguments) as program:
        yield program, json.loads(await program.line())


async def say(ws: WebSocketConnection, action: str, data: object, **envelope: object) -> None:
    await ws.send_message(json.dumps({"action": action, "data": data, **envelope}))


async def hear(ws: WebSocketConnection) -> Any:
    text = await ws.get_message()
    assert isinstance(text, str)
    return json.loads(text)


async def subscribe(ws: WebSocketConnection, room: str, message_id: int) -> None:
    await say(ws, "subscribe", {"room_id": room}, id=message_id)
    assert await hear(ws) == {"id": message_id, "data": {"room": room}}


def test_names() -> None:
    """Peers are told apart by their names, and no two are started in the same way."""
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert len({peer.command for peer in PEERS}) == len(PEERS)


@each(PEERS)
def test_files(peer: Any) -> None:
    """A peer's command runs a file of this folder, with a Python or a Node that the runner chooses."""
    program, script, *_ = peer.command
    assert program == ("node" if peer.npm else "{python}")
    assert re.fullmatch(r"\{dir\}/\w+\.(py|cjs)", script)
    assert (FOLDER / script.removeprefix("{dir}/")).is_file()


def test_no_strays() -> None:
    """Every script of the folder is some peer's."""
    used = {peer.command[1].removeprefix("{dir}/") for peer in PEERS}
    assert {path.name for path in [*SCRIPTS, *FOLDER.glob("*.cjs")]} == used


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_compiles(path: Any) -> None:
    """Each file is valid for the oldest Python of the project, whether or not its packages are there."""
    compile(path.read_bytes(), str(path), "exec", dont_inherit=True)


@each(PEERS)
def test_pinned(peer: Any) -> None:
    """What a peer installs is pinned, and it reports the versions of packages that it installs only."""
    if peer.npm:
        assert peer.requirements == ()
        assert all(re.fullmatch(r"[\w/@-]+@\d+\.\d+\.\d+", package) for package in peer.npm)
        installed = {package.rpartition("@")[0] for package in peer.npm}
    else:
        installed = set(pins(peer))
    assert peer.packages
    assert set(peer.packages) <= installed


def test_one_environment() -> None:
    """No two peers ask for different versions of a package: one environment can hold them all."""
    versions: dict[str, set[str]] = {}
    for peer in PEERS:
        for name, version in pins(peer).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("fault", ["a", "a>=1", "a==1.*", "a==1,!=2"])
def test_pins_tell(fault: str) -> None:
    """The check for pins fails where a requirement is not pinned to one version."""

    class Loose:
        requirements = (fault,)

    with pytest.raises((AssertionError, ValueError)):
        pins(Loose)


def test_naive_trio_runs_here() -> None:
    """The two ways of writing a server with trio-websocket alone are among the peers that these tests run."""
    assert {peer.command[1] for peer in RUNNABLE} == {
        "{dir}/trio_websocket_loop.py",
        "{dir}/trio_websocket_queue.py",
    }


@each(RUNNABLE)
@pytest.mark.sockets
@pytest.mark.usefixtures("scripts")
@pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")
async def test_contract(peer: Any) -> None:
    """A peer says where it listens, replies, publishes to members only, outlives a member, and ends on SIGTERM."""
    async with run_peer(peer) as (program, hello):
        assert hello.keys() == {"port", "versions"}
        assert hello["versions"].keys() == {"python", *peer.packages}
        url = f"ws://127.0.0.1:{hello['port']}/ws"
        async with open_websocket(url) as one, open_websocket(url) as stranger:
            await subscribe(one, "R", 1)
            await subscribe(stranger, "S", 2)
            async with open_websocket(url) as two:
                await subscribe(two, "R", 3)
                for payload in ("first", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"):
                    await say(two, "publish", {"room_id": "R", "payload": payload})
                    assert await hear(one) == {"payload": payload}
                    assert await hear(two) == {"payload": payload}
            await say(one, "publish", {"room_id": "R", "payload": "alone"})
            assert await hear(one) == {"payload": "alone"}
            await say(stranger, "echo", "x", id=7)
            assert await hear(stranger) == {"id": 7, "data": "x"}
        assert await program.stop(signal.SIGTERM) == -signal.SIGTERM
        assert program.stderr == b""


@each(RUNNABLE)
@pytest.mark.sockets
@pytest.mark.usefixtures("scripts")
@pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")
async def test_every_publication_in_order(peer: Any) -> None:
    """A burst of publications reaches every member whole and in the order in which it was published."""
    burst = [f"{number:03}" for number in range(300)]
    async with run_peer(peer) as (_, hello):
        url = f"ws://127.0.0.1:{hello['port']}/ws"
        async with open_websocket(url) as publisher, open_websocket(url) as member, trio.open_nursery() as nursery:
            await subscribe(publisher, "R", 1)
            await subscribe(member, "R", 2)

            async def listen(ws: WebSocketConnection) -> None:
                assert [await hear(ws) for _ in burst] == [{"payload": payload} for payload in burst]

            nursery.start_soon(listen, publisher)
            nursery.start_soon(listen, member)
            for payload in burst:
                await say(publisher, "publish", {"room_id": "R", "payload": payload})
