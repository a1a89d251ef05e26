"""A server and its client in a network of their own, which goes down between them: ``python tests/partition.py WHAT``.

``silence``
  Nothing else happens: the server has to notice by itself.
``shutdown``
  The server is shut down meanwhile, and pings nobody.

Prints, as JSON, what became of the connection. Exit status 77: the system grants no network namespace.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import sys

import trio

from trio_rooms import Config, Manager, serve_rooms
from trio_rooms.testing import TestClient

NOT_GRANTED = 77

# <sched.h>, <linux/sockios.h> and <net/if.h>; Python has names for the first from 3.12 on, and none for the others.
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1

CONFIGS = {
    "silence": Config(ping_interval=0.5, pong_timeout=0.5, write_timeout=1000),
    "shutdown": Config(ping_interval=1000, shutdown_timeout=1, close_timeout=0.5),
}


def enter_network() -> bool:
    """Move this process into a network of its own, whose loopback interface is down; False if that is not allowed."""
    unshare = ctypes.CDLL(None).unshare
    # Who is not root may do so only where it is root of a namespace of users.
    return any(unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWNET | CLONE_NEWUSER))


def set_loopback(up: bool) -> None:
    """``ip link set lo up`` or ``down``."""
    import fcntl  # where the tests only skip, there is none

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        _, flags = struct.unpack("16sH14x", answer)
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))


async def main(what: str) -> None:
    """Serve, connect, cut, and tell what came of it."""
    manager = Manager(config=CONFIGS[what])
    left: list[str] = []
    manager.on_leave_room(lambda conn, room, reason: left.append(reason))

    @manager.on_connect
    async def connected(conn: object) -> None:
        await manager.join_room(conn, "r")  # type: ignore[arg-type]

    manager.handle_message("echo", lambda conn, message: message.data)
    async with serve_rooms(manager) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await TestClient.connect(stream, host=f"127.0.0.1:{server.port}") as client:
            assert await client.request("echo", 1) == 1
            (conn,) = manager.connections.values()
            set_loopback(False)
            manager.broadcast_to_room("r", "never seen")
            if what == "shutdown":
                server.begin_shutdown()
                await server.wait_closed()
            await conn.wait_closed()
    server.assert_quiescent()
    statistics = server.statistics()
    print(json.dumps({"dead": statistics.dead_peers, "closes": dict(statistics.closes), "left": left}))


if __name__ == "__main__":
    if not enter_network():
        sys.exit(NOT_GRANTED)
    set_loopback(True)
    trio.run(main, *sys.argv[1:])
