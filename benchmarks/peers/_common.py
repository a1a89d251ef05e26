"""What the Python peers have in common: the messages, the rooms, and the line that says where they listen.

Nothing in here touches a socket: how a message comes in and how it reaches the members is each server's own affair.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections.abc import Iterable
from importlib.metadata import version
from typing import Generic, TypeVar

import msgspec

HOST = "127.0.0.1"

#: As many as a reconnect storm of 5,000 needs; the system cuts it down to ``net.core.somaxconn``.
BACKLOG = 5000


class RoomId(msgspec.Struct):
    room_id: str


class Content(msgspec.Struct):
    room_id: str
    payload: str


class Subscribe(msgspec.Struct, tag_field="action", tag="subscribe"):
    data: RoomId
    id: int | str


class Publish(msgspec.Struct, tag_field="action", tag="publish"):
    data: Content


class Echo(msgspec.Struct, tag_field="action", tag="echo"):
    data: str
    id: int | str


class Room(msgspec.Struct):
    room: str


class Reply(msgspec.Struct):
    id: int | str
    data: Room | str


class Event(msgspec.Struct):
    payload: str


#: One inbound message, from text or bytes; raises ``msgspec.DecodeError``, which ends the connection in each peer.
decode = msgspec.json.Decoder(Subscribe | Publish | Echo).decode
_encode = msgspec.json.Encoder().encode


def subscribed(message: Subscribe) -> bytes:
    """The reply to a subscription."""
    return _encode(Reply(message.id, Room(message.data.room_id)))


def echoed(message: Echo) -> bytes:
    """The reply to an echo."""
    return _encode(Reply(message.id, message.data))


def event(message: Publish) -> bytes:
    """What every member gets; made once per publication."""
    return _encode(Event(message.data.payload))


M = TypeVar("M")


class Rooms(Generic[M]):
    """Who is in which room, and the other way round, so that leaving does not search all rooms."""

    __slots__ = ("_members", "_rooms")

    def __init__(self) -> None:
        self._members: dict[str, set[M]] = {}
        self._rooms: dict[M, list[str]] = {}

    def join(self, name: str, member: M) -> None:
        members = self._members.setdefault(name, set())
        if member not in members:
            members.add(member)
            self._rooms.setdefault(member, []).append(name)

    def leave(self, member: M) -> None:
        """Leave every room; a member of none may leave, too."""
        for name in self._rooms.pop(member, ()):
            members = self._members[name]
            members.remove(member)
            if not members:
                del self._members[name]

    def members(self, name: str) -> Iterable[M]:
        """The set itself: who awaits while going through it takes a copy."""
        return self._members.get(name, ())


def announce(port: int, *packages: str) -> None:
    """Raise the limit of open files, then say on standard output where this process listens and what it runs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    sys.stdout.write(json.dumps({"port": port, "versions": versions}) + "\n")
    sys.stdout.flush()
