"""The floor in Python: what ``floor.c`` does, with nothing but the standard library.

One thread, epoll, one ``socket.send`` for each member of a room, and nothing else: no limits, no checks, no timeouts,
no queue for a member whose socket is full (it is ended), and of JSON only what the load client writes. What this
costs more than the floor in C is what Python takes for a loop and a call; what a library written in Python costs more
than this is what it does more than this.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import resource
import select
import socket
import sys
from collections.abc import Iterable

rooms: dict[bytes, dict[Member, None]] = {}
members: dict[int, Member] = {}
poll = select.epoll()


class Member:
    """One connection."""

    __slots__ = ("data", "open", "room", "send", "socket")

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self.send = connected.send
        self.open = False
        self.room = b""
        self.data = b""
        members[connected.fileno()] = self
        poll.register(connected, select.EPOLLIN)

    def close(self) -> None:
        """Forget it."""
        if self.socket.fileno() >= 0:
            del members[self.socket.fileno()]
            self.socket.close()
            if self.room:
                del rooms[self.room][self]

    def receive(self) -> None:
        """Read once, and answer all that is whole."""
        try:
            received = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        data = self.data + received
        while received and data and self.socket.fileno() >= 0:
            if not self.open:
                head, end, rest = data.partition(b"\r\n\r\n")
                if not end:
                    break
                accept_upgrade(self, head)
                self.open, data = True, rest
                continue
            at, size = 6, data[1] & 127 if len(data) > 1 else 0
            if size == 126:
                at, size = 8, int.from_bytes(data[2:4], "big")
            if len(data) < at + size:
                break
            mask = int.from_bytes((data[at - 4 : at] * (size // 4 + 1))[:size], "big")
            body = (int.from_bytes(data[at : at + size], "big") ^ mask).to_bytes(size, "big")
            opcode, data = data[0] & 15, data[at + size :]
            if opcode == 8:
                put((self,), frame(body, opcode))
                self.close()
            elif opcode == 1:
                on_message(self, body)
        self.data = data
        if not received:
            self.close()


def accept_upgrade(member: Member, head: bytes) -> None:
    """RFC 6455, section 4.2.2."""
    key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(
        hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    )
    fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    put((member,), b"HTTP/1.1 101 Switching Protocols\r\n" + fields + accept + b"\r\n\r\n")


def frame(body: bytes, opcode: int = 1) -> bytes:
    """A frame of at most 64 KiB."""
    size = len(body)
    head = bytes((0x80 | opcode, size)) if size < 126 else bytes((0x80 | opcode, 126, size >> 8, size & 255))
    return head + body


def put(to: Iterable[Member], data: bytes) -> None:
    """Write to all; who does not take it all is ended."""
    size = len(data)
    gone = []
    for member in to:
        try:
            if member.send(data) == size:
                continue
        except OSError:
            pass
        gone.append(member)
    for member in gone:
        member.close()


def on_message(member: Member, body: bytes) -> None:
    """Do what the load client asks for."""
    room = body.partition(b'"room_id":"')[2].partition(b'"')[0]
    if body.startswith(b'{"action":"subscribe"'):
        member.room = room
        rooms.setdefault(room, {})[member] = None
        put((member,), frame(b'{"id":1,"data":null}'))
    elif b'"payload":"' in body:  # of publish, or of sweep, which names no room: to all of them
        data = frame(b'{"payload":"' + body.partition(b'"payload":"')[2].partition(b'"')[0] + b'"}')
        for name in [room] if room else list(rooms):
            put(rooms[name], data)
    elif body.startswith(b'{"action":"echo","data":"'):
        text, _, rest = body[25:].partition(b'"')
        put((member,), frame(b'{"id":' + rest[6:].rstrip(b"}") + b',"data":"' + text + b'"}'))


def main() -> None:
    """Serve until SIGTERM."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("127.0.0.1", 0), backlog=5000)
    listener.setblocking(False)
    poll.register(listener, select.EPOLLIN)
    port, number = listener.getsockname()[1], listener.fileno()
    sys.stdout.write(f'{{"port": {port}, "versions": {{"python": "{platform.python_version()}"}}}}\n')
    sys.stdout.flush()
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == number:
                try:
                    while True:
                        Member(listener.accept()[0])
                except BlockingIOError:
                    pass
            elif descriptor in members:
                members[descriptor].receive()


if __name__ == "__main__":
    main()
