"""The command: what it reads from its line in this process, what it serves in a process of its own."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE, run
from urllib.parse import urlsplit

import attrs
import pytest
import trio

import trio_rooms
from certificates import certificates, write_files
from trio_rooms import Manager
from trio_rooms.cli import DEFAULT_HOST, load_manager, main, make_parser
from trio_rooms.testing import HandshakeRefused, TestClient

DEADLINE = 30

USERS_MODULE = """
from trio_rooms import Config, Manager

manager = Manager(config=Config(shutdown_timeout=5, trusted_proxies=["192.0.2.1"]))

@manager.on("echo")
async def echo(conn, message):
    return message.data

@manager.on("whence")
async def whence(conn, message):
    return conn.remote

class Holder:
    inner = manager

def make():
    return manager

def make_for(tenant):
    return manager

async def make_later():
    return manager

def make_nothing():
    return None

number = 1
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a user's module in the current directory."""
    (tmp_path / "users_chat.py").write_text(USERS_MODULE)
    (tmp_path / "users_broken.py").write_text("import users_missing_dependency\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "users_chat"
    sys.modules.pop("users_chat", None)
    sys.modules.pop("users_broken", None)


@pytest.mark.parametrize("name", ["manager", "make", "Holder.inner", "Manager"])
def test_finds_the_manager(module: str, name: str) -> None:
    """A Manager is found by name, dotted or not, or is made by what is found."""
    assert isinstance(load_manager(f"{module}:{name}"), Manager)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("users_chat", "expected MODULE:NAME"),
        ("users_chat:", "expected MODULE:NAME"),
        (":manager", "expected MODULE:NAME"),
        ("users_chat:manager()", "expected MODULE:NAME"),
        ("users_chat:manager:more", "expected MODULE:NAME"),
        ("./users_chat.py:manager", "expected MODULE:NAME"),
        ("users_absent:manager", "no module 'users_absent'"),
        ("users_chat.part:manager", "no module 'users_chat.part'"),
        ("users_chat:absent", "no 'absent' in module 'users_chat'"),
        ("users_chat:Holder.absent", "no 'Holder.absent'"),
        ("users_chat:number", "neither a Manager nor"),
        ("users_chat:make_for", "neither a Manager nor"),
        ("users_chat:make_later", "neither a Manager nor"),
        ("users_chat:make_nothing", "neither a Manager nor"),
    ],
)
@pytest.mark.usefixtures("module")
def test_wrong_spec(spec: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A spec that leads nowhere is one line on standard error, and status 2."""
    assert main(["serve", spec]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trio-rooms: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("module")
def test_a_fault_in_the_module() -> None:
    """A module that exists but cannot be imported is reported with its own traceback."""
    with pytest.raises(ModuleNotFoundError, match="users_missing_dependency"):
        main(["serve", "users_broken:manager"])


@pytest.mark.usefixtures("module")
def test_interrupted_while_importing() -> None:
    """Ctrl-C before there is a server ends without a traceback."""
    Path("users_broken.py").write_text("raise KeyboardInterrupt\n")
    assert main(["serve", "users_broken:manager"]) == 130


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["demo", "--port", "65536"],
        ["demo", "--port", "-1"],
        ["demo", "--port", "\N{SUPERSCRIPT TWO}"],
        ["serve", "users_chat:manager", "--path", "ws"],
        ["serve", "users_chat:manager", "--path", "/ws?x"],
        ["serve", "users_chat:manager", "--trusted-proxy", "proxy.example.com"],
        ["serve", "users_chat:manager", "--trusted-proxy", "10.0.0.1/8"],
        ["serve"],
    ],
)
def test_wrong_command_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse cannot make sense of ends with status 2."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: trio-rooms" in capsys.readouterr().err


def test_defaults() -> None:
    """Only this machine is served unless told otherwise."""
    options = make_parser().parse_args(["serve", "chat:manager"])
    assert (options.host, DEFAULT_HOST, options.port, options.path) == (None, "127.0.0.1", 8080, "/ws")
    assert (options.allow_origin, options.unix_path, options.certfile) == (None, None, None)
    assert options.trusted_proxy == []


def test_as_a_module() -> None:
    """``python -m trio_rooms`` is the command, too."""
    done = run([sys.executable, "-m", "trio_rooms", "--version"], capture_output=True, check=True, text=True)
    assert trio_rooms.__version__ in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version tells the version of the library."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"trio-rooms {trio_rooms.__version__}\n"


@pytest.mark.parametrize(("arguments", "level"), [([], logging.INFO), (["--verbose"], logging.DEBUG)])
@pytest.mark.usefixtures("module")
def test_logging(arguments: list[str], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are shown from INFO on, with --verbose from DEBUG on."""
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))
    assert main(["serve", "users_chat:absent", *arguments]) == 2
    assert logging.root.level == level
    assert len(logging.root.handlers) == 1


@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_wrong_origin() -> None:
    """An origin that no browser could send is a fault of the command line: one line, and status 2."""
    status, err = await finish("serve", "users_chat:manager", "--port", "0", "--allow-origin", "app.example.com")
    assert status == 2
    assert re.fullmatch(r"trio-rooms: .+'app\.example\.com'\s*", err)


@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_port_in_use() -> None:
    """A port that is taken is one line that names it, and status 1."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        status, err = await finish("serve", "users_chat:manager", "--port", str(port))
    assert status == 1
    assert re.fullmatch(rf"trio-rooms: cannot serve on 127\.0\.0\.1:{port}: .+ in use\s*", err)


@pytest.mark.sockets
async def test_failure_of_a_running_server() -> None:
    """Once it listens, an OSError is no longer taken for a port in use: it comes out with its traceback."""
    status, err = await finish("demo", "--port", "0", read_stdout=False)
    assert status != 0
    assert "BrokenPipeError" in err
    assert "Traceback" in err
    assert "cannot serve" not in err


def command(*arguments: str) -> list[str]:
    """The command line of the console script, by this interpreter."""
    return [sys.executable, "-c", "import sys; from trio_rooms.cli import main; sys.exit(main())", *arguments]


async def finish(*arguments: str, read_stdout: bool = True) -> tuple[int, str]:
    """Run the command to its end; exit status and standard error. Unread, its standard output is a broken pipe."""
    reader, writer = os.pipe()
    if not read_stdout:
        os.close(reader)
    try:
        with trio.fail_after(DEADLINE):
            ended = await trio.run_process(command(*arguments), stdout=writer, capture_stderr=True, check=False)
    finally:
        os.close(writer)
        if read_stdout:
            os.close(reader)
    return ended.returncode, ended.stderr.decode()


@attrs.define(eq=False)
class Running:
    """A server in a process of its own; ``stdout`` and ``stderr`` grow as it writes."""

    process: trio.Process
    stdout: bytes = b""
    stderr: bytes = b""
    _ended: bool = False
    _written: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    async def read_stdout(self) -> None:
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.stdout += chunk
            self._written.unpark_all()
        self._ended = True
        self._written.unpark_all()

    async def read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.stderr += chunk

    async def url(self) -> str:
        """The one it prints once it listens."""
        url = rb"(?:https?|wss?)(?:\+unix)?://\S+(?=\s)"
        while (match := re.search(url, self.stdout)) is None or b"stop" not in self.stdout:
            if self._ended:
                raise AssertionError(f"it ended without having served: {self.stderr.decode()}")
            await self._written.park()
        return match[0].decode()


@asynccontextmanager
async def running(*arguments: str) -> AsyncGenerator[Running, None]:
    """A server, listening; killed at the end if it still runs, and its output then read to the end."""
    process = await trio.lowlevel.open_process(command(*arguments), stdout=PIPE, stderr=PIPE)
    server = Running(process)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_stdout)
            nursery.start_soon(server.read_stderr)
            try:
                await server.url()
                yield server
            finally:
                if process.poll() is None:
                    process.kill()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + DEADLINE):
                    await process.wait()


async def connect(url: str, *, origin: str | None = None) -> TestClient:
    """A client, which speaks for a page of ``origin`` if one is given."""
    parts = urlsplit(url)
    stream = await open_stream(url)
    headers = [] if origin is None else [("Origin", origin)]
    return await TestClient.connect(stream, path=parts.path, host=parts.netloc, headers=headers)


async def open_stream(url: str) -> trio.SocketStream:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return await trio.open_tcp_stream(parts.hostname, parts.port)


async def get(url: str) -> tuple[bytes, bytes]:
    """Fetch a page by hand: head and body."""
    parts = urlsplit(url)
    async with await open_stream(url) as stream:
        await stream.send_all(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head, _, body = b"".join([chunk async for chunk in stream]).partition(b"\r\n\r\n")
    return head, body


posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="SIGINT and SIGTERM cannot be sent to a process")


@posix_signals
@pytest.mark.sockets
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_demo(signum: signal.Signals) -> None:
    """D4: the demo prints its address, serves the page and the chat there, and a signal ends it with status 0."""
    async with running("demo", "--port", "0") as server:
        url = await server.url()
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/", url)
        head, body = await get(url)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"<html" in body
        async with await connect(f"{url}ws") as client:
            entered = await client.request("chat.enter", {"name": "Ada"})
            assert entered["name"] == "Ada"
            server.process.send_signal(signum)
            await client.expect_close(1012, skip_messages=True)
        assert await server.process.wait() == 0
    assert b"Traceback" not in server.stderr
    assert server.stdout.count(b"\n") == 2


@posix_signals
@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_serve() -> None:
    """D4: a manager of the current directory is served at the path and to the origins given, until SIGTERM."""
    origin = "https://app.example.com"
    arguments = ["users_chat:make", "--port", "0", "--path", "/live", "--allow-origin", origin]
    async with running("serve", *arguments) as server:
        url = await server.url()
        assert url.startswith("ws://127.0.0.1:")
        assert url.endswith("/live")
        async with await connect(url, origin=origin) as client:
            assert await client.request("echo", [1, 2]) == [1, 2]
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url, origin="https://evil.example.com")
        assert caught.value.status == 403
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0
    assert b"Traceback" not in server.stderr


@posix_signals
@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_any_origin() -> None:
    """--allow-origin any lets every page connect."""
    arguments = ["users_chat:manager", "--port", "0", "--allow-origin", "https://app.example.com"]
    arguments += ["--allow-origin", "any"]
    async with (
        running("serve", *arguments) as server,
        await connect(await server.url(), origin="https://evil.example.com") as client,
    ):
        assert await client.request("echo", 1) == 1


@posix_signals
@pytest.mark.sockets
async def test_host() -> None:
    """--host is where the command listens; one that is not here is told on standard error."""
    status, err = await finish("demo", "--host", "192.0.2.1", "--port", "0")  # TEST-NET-1: nobody's address
    assert status == 1
    assert err.startswith("trio-rooms: cannot serve on 192.0.2.1:0: ")


@posix_signals
@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_tls(tmp_path: Path) -> None:
    """--certfile and --keyfile: the URL is one of TLS, at each host, and the server answers there."""
    certificate, key = write_files(tmp_path)
    arguments = ["--port", "0", "--certfile", str(certificate), "--keyfile", str(key), "--host", "127.0.0.1"]
    async with running("serve", "users_chat:manager", *arguments, "--host", "localhost") as server:
        url = await server.url()
        assert url.startswith("wss://127.0.0.1:")
        stream = certificates().wrap(await open_stream(url))
        async with await TestClient.connect(stream, host=urlsplit(url).netloc) as client:
            assert await client.request("echo", 1) == 1
            await client.close()
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0
    assert b"Traceback" not in server.stderr


@posix_signals
@pytest.mark.sockets
async def test_demo_over_tls(tmp_path: Path) -> None:
    """The demo's page is at https where it has a certificate."""
    certificate, key = write_files(tmp_path)
    arguments = ["--port", "0", "--certfile", str(certificate), "--keyfile", str(key)]
    async with running("demo", *arguments) as server:
        url = await server.url()
        assert url.startswith("https://127.0.0.1:")
        stream = certificates().wrap(await open_stream(url))
        async with await TestClient.connect(stream, host=urlsplit(url).netloc) as client:
            assert (await client.request("chat.enter", {"name": "Ada"}))["name"] == "Ada"
            await client.close()


@posix_signals
@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_unix_path() -> None:
    """--unix-path: a Unix socket in place of host and port, whose file is gone after the shutdown."""
    async with running("serve", "users_chat:manager", "--unix-path", "app.sock") as server:
        assert await server.url() == f"ws+unix://{Path('app.sock').absolute()}:/ws"
        async with await TestClient.connect(await trio.open_unix_socket("app.sock")) as client:
            assert await client.request("echo", 1) == 1
            await client.close()
        status, err = await finish("serve", "users_chat:manager", "--unix-path", "app.sock")
        assert status == 1
        assert err.startswith("trio-rooms: cannot serve on app.sock: ")
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0
    assert not Path("app.sock").exists()


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ([], "127.0.0.1"),
        (["--trusted-proxy", "192.0.2.2"], "127.0.0.1"),
        (["--trusted-proxy", "192.0.2.2", "--trusted-proxy", "127.0.0.0/8"], "203.0.113.9"),
    ],
)
@pytest.mark.usefixtures("module")
async def test_trusted_proxy(arguments: list[str], address: str) -> None:
    """A2: --trusted-proxy: what it says of its client is believed, and what those of the Config say, too."""
    async with running("serve", "users_chat:manager", "--port", "0", *arguments) as server:
        url = await server.url()
        stream = await open_stream(url)
        forwarded = [("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 192.0.2.1")]
        async with await TestClient.connect(stream, host=urlsplit(url).netloc, headers=forwarded) as client:
            assert await client.request("whence") == address


@pytest.mark.sockets
@pytest.mark.usefixtures("module")
async def test_trusted_unix_socket() -> None:
    """A2: --trusted-proxy unix: so is whoever connects to the Unix socket."""
    async with running("serve", "users_chat:manager", "--unix-path", "app.sock", "--trusted-proxy", "unix") as server:
        assert server.stdout
        stream = await trio.open_unix_socket("app.sock")
        async with await TestClient.connect(stream, headers=[("X-Forwarded-For", "203.0.113.9")]) as client:
            assert await client.request("whence") == "203.0.113.9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--certfile", "missing.pem"], "cannot load the certificate: No such file"),
        (["--certfile", "users_chat.py"], "cannot load the certificate: "),
        (["--keyfile", "missing.key"], "--keyfile needs --certfile"),
    ],
)
@pytest.mark.usefixtures("module")
def test_wrong_certificate(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate that cannot be loaded is one line on standard error, and status 2."""
    assert main(["serve", "users_chat:manager", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"trio-rooms: {message}")
    assert err.count("\n") == 1
