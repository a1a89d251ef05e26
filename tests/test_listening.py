"""Where a server listens: hosts, one port for all of them, IPv6, Unix sockets, and listeners of the caller's own."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from certificates import certificates
from listeners import MemoryListener
from trio_rooms import Connection, Manager, Server, UsageError, serve_rooms
from trio_rooms._listening import Place, locate, open_listeners
from trio_rooms._unix import open_unix_listener
from trio_rooms.testing import TestClient

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")


def addresses(listeners: Iterable[trio.SocketListener]) -> list[tuple[str, int] | None]:
    return [place.address for place in locate(listeners)]


def make_manager() -> Manager:
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("remote", lambda conn, message: conn.remote)
    return manager


@asynccontextmanager
async def served(**options: Any) -> AsyncGenerator[Server]:
    async with serve_rooms(make_manager(), **options) as server:
        yield server
    server.assert_quiescent()


async def echoes(stream: trio.abc.Stream, **options: Any) -> bool:
    """Whether a request is answered over a stream."""
    async with await TestClient.connect(stream, **options) as client:
        answered = await client.request("echo", "hi") == "hi"
        await client.close()
    return answered


# Hosts and ports


@attrs.define
class TwoAddresses(trio.abc.HostnameResolver):
    """Resolves every name to two loopback addresses; the first ``busy_ports`` ports are taken at the second.

    ``broken`` has it answer for port 0 only.
    """

    busy: list[socket.socket] = attrs.field(factory=list)
    busy_ports: int = 0
    broken: bool = False
    calls: int = 0

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, family: int = 0, type: int = 0, *args: int
    ) -> list[Any]:
        await trio.lowlevel.checkpoint()
        assert isinstance(port, int)
        self.calls += 1
        if port and self.broken:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        if port and len(self.busy) < self.busy_ports:
            self.busy.append(socket.create_server(("127.0.0.2", port)))
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2")
        ]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def two_addresses() -> Iterator[TwoAddresses]:
    """The resolver for this run of trio; Linux only, as other systems have one loopback address configured."""
    if sys.platform != "linux":
        pytest.skip("needs a second loopback address")
    resolver = TwoAddresses()
    yield resolver
    for sock in resolver.busy:
        sock.close()


@pytest.mark.sockets
async def test_one_port_for_all_addresses(two_addresses: TwoAddresses) -> None:
    """Port 0 is one port, the same at each address of the host."""
    trio.socket.set_custom_hostname_resolver(two_addresses)
    listeners = await open_listeners("two.example", 0)
    (first, port), second = addresses(listeners)
    assert (first, second) == ("127.0.0.1", ("127.0.0.2", port))
    assert port > 0
    for listener in listeners:
        await listener.aclose()


@pytest.mark.sockets
async def test_next_port_when_taken_at_one_address(two_addresses: TwoAddresses) -> None:
    """A port that is taken at the second address is given up for another one."""
    trio.socket.set_custom_hostname_resolver(two_addresses)
    two_addresses.busy_ports = 2
    listeners = await open_listeners("two.example", 0)
    assert len({port for _, port in addresses(listeners)}) == 1
    assert len(two_addresses.busy) == 2
    for listener in listeners:
        await listener.aclose()


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_no_port_at_all(two_addresses: TwoAddresses) -> None:
    """When no attempt finds a port that is free everywhere, the error comes out and nothing stays open."""
    trio.socket.set_custom_hostname_resolver(two_addresses)
    two_addresses.busy_ports = 1_000
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        await open_listeners("two.example", 0)
    assert two_addresses.calls == 2 * 10
    for sock in two_addresses.busy:
        sock.close()


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_another_error_on_the_way(two_addresses: TwoAddresses) -> None:
    """An error that another port would not mend comes out at once."""
    trio.socket.set_custom_hostname_resolver(two_addresses)
    two_addresses.broken = True
    with pytest.raises(socket.gaierror):
        await open_listeners("two.example", 0)
    assert two_addresses.calls == 2


@pytest.mark.sockets
async def test_given_port() -> None:
    """A port that was asked for is used, or it is an error."""
    (first,) = await open_listeners("127.0.0.1", 0, backlog=5)
    async with first:
        ((_, port),) = addresses([first])
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            await open_listeners("127.0.0.1", port)
    (again,) = await open_listeners("127.0.0.1", port)
    assert addresses([again]) == [("127.0.0.1", port)]
    await again.aclose()


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_several_hosts(two_addresses: object) -> None:
    """All hosts get one port, whether it is given or not, and a server answers at each."""
    hosts = ["127.0.0.1", "127.0.0.2"]
    async with served(host=hosts) as server:
        assert server.addresses == tuple((host, server.port) for host in hosts)
        assert server.urls == tuple(f"ws://{host}:{server.port}/ws" for host in hosts)
        for address in server.addresses:
            assert await echoes(await trio.open_tcp_stream(*address))
        port = server.port
    async with served(host=hosts, port=port) as server:
        assert {port for _, port in server.addresses} == {port}


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_the_same_host_twice() -> None:
    """What stands for an address that is there already is not in its way."""
    async with served(host=("127.0.0.1", "localhost", "127.0.0.1")) as server:
        assert server.addresses.count(("127.0.0.1", server.port)) == 1


@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_one_host_of_several_is_taken(two_addresses: object) -> None:
    """Where one of several hosts cannot be listened on, none is."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            await open_listeners(["127.0.0.1", "127.0.0.2"], port)
        socket.create_server(("127.0.0.1", port)).close()


async def test_no_host_at_all() -> None:
    """An empty sequence of hosts is a mistake, and said to be one."""
    with pytest.raises(UsageError, match="empty"):
        await open_listeners([], 0)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@needs_ipv6
@pytest.mark.sockets
async def test_ipv6() -> None:
    """An address of IPv6 stands in brackets in the URL, and is what the connection is told to come from."""
    async with served(host="::1") as server:
        assert server.url == f"ws://[::1]:{server.port}/ws"
        stream = await trio.open_tcp_stream("::1", server.port)
        async with await TestClient.connect(stream) as client:
            assert await client.request("remote") == "::1"


@pytest.mark.sockets
async def test_every_interface() -> None:
    """``host=None`` listens on every interface; the URLs are such that a client of this machine can use them."""
    async with served(host=None) as server:
        assert ("0.0.0.0", server.port) in server.addresses
        assert server.url == f"ws://127.0.0.1:{server.port}/ws"
        assert await echoes(await trio.open_tcp_stream("127.0.0.1", server.port))
        if has_ipv6():
            assert ("::", server.port) in server.addresses
            assert f"ws://[::1]:{server.port}/ws" in server.urls


@pytest.mark.parametrize(
    ("place", "url"),
    [
        (Place(address=("127.0.0.1", 80)), "ws://127.0.0.1:80/ws"),
        (Place(address=("::", 80), secure=True), "wss://[::1]:80/ws"),
        (Place(address=("0.0.0.0", 80)), "ws://127.0.0.1:80/ws"),
        (Place(unix_path="/run/app.sock"), "ws+unix:///run/app.sock:/ws"),
        (Place(unix_path="/a b:c", secure=True), "wss+unix:///a%20b%3Ac:/ws"),
    ],
)
def test_urls(place: Place, url: str) -> None:
    """The URL of each kind of place."""
    assert place.url("/ws") == url


# Listeners of the caller's own


@pytest.mark.sockets
async def test_listeners_of_the_callers(tmp_path: Path) -> None:
    """TCP, TLS, a Unix socket and memory side by side, each served, and each with its URL where it has an address."""
    memory = MemoryListener()
    (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (below,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    path = str(tmp_path / "mine.sock")
    unix = trio.socket.socket(trio.socket.AF_UNIX)
    await unix.bind(path)
    unix.listen()
    listeners = [memory, plain, trio.SSLListener(below, certificates().server), trio.SocketListener(unix)]
    first, second = (listener.socket.getsockname()[1] for listener in (plain, below))
    async with served(listeners=listeners) as server:
        assert server.addresses == (("127.0.0.1", first), ("127.0.0.1", second))
        assert server.unix_paths == (path,)
        expected = (f"ws://127.0.0.1:{first}/ws", f"wss://127.0.0.1:{second}/ws", f"ws+unix://{path}:/ws")
        assert server.urls == expected
        assert await echoes(memory.dial())
        assert await echoes(await trio.open_tcp_stream("127.0.0.1", first))
        assert await echoes(certificates().wrap(await trio.open_tcp_stream("127.0.0.1", second)))
        assert await echoes(await trio.open_unix_socket(path))
    assert memory.closed
    assert unix.fileno() < 0
    assert is_there(Path(path))  # who made the file removes it


# Unix sockets


@pytest.fixture
def path() -> Iterator[Path]:
    """Where to put a Unix socket: paths of sockets are short, and those of tmp_path may not be."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "app.sock"


def is_there(path: Path) -> bool:
    """Whether there is anything at a path, be it a link that leads nowhere."""
    return os.path.lexists(path)


def leave_behind(path: Path) -> None:
    """A socket file of a program that was killed."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


@needs_unix
@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
async def test_unix_socket(tls: bool, transport: str, path: Path) -> None:
    """A Unix socket serves like any other, with TLS too; it has a URL and no address, and its peers have none."""
    options: dict[str, Any] = {"ssl_context": certificates().server} if tls else {}
    async with served(unix_path=path, transport=transport, **options) as server:
        assert (server.addresses, server.unix_paths) == ((), (str(path),))
        assert server.url == f"{'wss' if tls else 'ws'}+unix://{path}:/ws"
        assert str(path) in repr(server)
        with pytest.raises(ValueError, match="no listener with a port"):
            _ = server.port
        stream: trio.abc.Stream = await trio.open_unix_socket(path)
        if tls:
            stream = certificates().wrap(stream)
        async with await TestClient.connect(stream) as client:
            assert await client.request("echo", "x" * 30_000) == "x" * 30_000
            assert await client.request("remote") is None
            await client.close()
    assert not path.exists()


@needs_unix
@pytest.mark.sockets
async def test_the_umask_decides(path: Path) -> None:
    """The permissions of a Unix socket are what the umask leaves, from its first moment."""
    before = os.umask(0o027)
    try:
        async with served(unix_path=path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~0o027
    finally:
        os.umask(before)


@needs_unix
@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_a_stale_socket_is_replaced(path: Path) -> None:
    """What a killed server has left behind does not keep the next one from its path."""
    leave_behind(path)
    async with served(unix_path=path):
        assert await echoes(await trio.open_unix_socket(path))
    assert not path.exists()


@needs_unix
@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_a_living_server_is_not_replaced(path: Path) -> None:
    """Where somebody listens nobody else does: the second server cannot start, and the first one goes on."""
    async with served(unix_path=path):
        with pytest.raises(OSError, match=str(path)) as caught:
            open_unix_listener(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert await echoes(await trio.open_unix_socket(path))


@needs_unix
@pytest.mark.sockets
@pytest.mark.usefixtures("no_leak")
async def test_a_server_with_a_full_backlog_is_not_replaced(path: Path) -> None:
    """A server that is too busy to accept is one nevertheless."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            open_unix_listener(path)
        assert path.is_socket()


@needs_unix
@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
async def test_what_is_no_socket_is_never_touched(kind: str, path: Path) -> None:
    """A file, a folder, or a link at the path stays as it is, and the server does not start."""
    target = path.with_name("target")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        if kind == "link":
            leave_behind(target)
        path.symlink_to(target)
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        open_unix_listener(path)
    assert is_there(path)
    assert target.exists() == (kind == "link")


@needs_unix
@pytest.mark.sockets
async def test_the_file_of_another_stays(path: Path) -> None:
    """At the end only the file that is ours is removed, not what has taken its place meanwhile."""
    async with served(unix_path=path):
        path.unlink()
        leave_behind(path)
    assert path.is_socket()
    async with served(unix_path=path):
        path.unlink()
    assert not path.exists()


@needs_unix
@pytest.mark.sockets
async def test_the_file_goes_when_the_drain_begins(path: Path) -> None:
    """The path is free as soon as nobody is let in any more: the next server need not wait for the drain's end."""
    manager = make_manager()
    entered = trio.Event()

    @manager.on("work")
    async def work(conn: Connection) -> str:
        entered.set()
        await finish.wait()
        return "done"

    finish = trio.Event()
    async with (
        serve_rooms(manager, unix_path=path) as old,
        await TestClient.connect(await trio.open_unix_socket(path)) as client,
    ):
        await client.send_action("work", id=1)
        await entered.wait()
        old.begin_shutdown()
        await trio.testing.wait_all_tasks_blocked()
        assert not path.exists()
        async with served(unix_path=path):
            finish.set()
            assert await client.receive_json() == {"id": 1, "data": "done"}
            await client.expect_close(1012)
            await old.wait_closed()
            assert await echoes(await trio.open_unix_socket(path))


@needs_unix
@pytest.mark.usefixtures("no_leak")
@pytest.mark.parametrize("name", ["", "\0abstract", "a\0b"])
async def test_no_path(name: str) -> None:
    """What is not the path of a file is a mistake of the program."""
    with pytest.raises(UsageError, match="path of a file"):
        open_unix_listener(name)


@needs_unix
@pytest.mark.usefixtures("no_leak")
async def test_no_folder(path: Path) -> None:
    """A folder that is missing is an error that names the path."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        open_unix_listener(path / "deeper" / "app.sock")


@needs_unix
@pytest.mark.usefixtures("no_leak")
async def test_a_path_that_is_too_long(path: Path) -> None:
    """A path of a socket cannot be long; the error says so, and names it."""
    with pytest.raises(OSError, match=r"too long.*xxx") as caught:
        open_unix_listener(path.with_name("x" * 200))
    assert caught.value.errno == errno.ENAMETOOLONG


async def test_a_unix_path_beside_listeners() -> None:
    """``unix_path`` takes the place of host and port, not that of listeners."""
    with pytest.RaisesGroup(pytest.RaisesExc(UsageError, match="no unix_path"), flatten_subgroups=True):
        async with serve_rooms(Manager(), listeners=[], unix_path="x"):
            raise AssertionError("served")
