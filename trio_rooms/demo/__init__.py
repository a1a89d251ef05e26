"""The chat that ``trio-rooms demo`` serves: a page, four actions and three hooks.

It uses public names only and is meant to be read as an example. What the page asks::

    chat.enter  {"name"}          -> {"name", "rooms": [{"room", "members"}]}
    chat.join   {"room"}          -> {"room", "n", "members": [{"id", "name"}], "messages": [as published]}
    chat.leave  {"room"}          -> {"room"}
    chat.say    {"room", "text"}  -> {"n"}

What members of a room are told, numbered within the room by ``n``::

    {"n", "at", "kind": "message" | "joined" | "left", "member": {"id", "name"}, "text"?}

and everyone, through a room of its own, when a room grows, shrinks or goes::

    {"room", "members": count} or {"room", "gone": true}
"""

from __future__ import annotations

import re
import time
from collections import deque
from importlib.resources import files
from typing import Any

import attrs

from trio_rooms import ActionError, Connection, Manager, Room

ROOMS = ("general", "help-desk", "show-and-tell", "off-topic")  # always listed; others live while they are used
LOBBY = "lobby"
REMEMBERED = 50  # messages that a newcomer is shown
LINGER = 300  # seconds that an empty room remembers them
MAX_NAME = 32
MAX_TEXT = 1_000

Json = dict[str, Any]


@attrs.frozen
class Enter:
    name: str


@attrs.frozen
class Which:
    room: str


@attrs.frozen
class Say:
    room: str
    text: str


@attrs.define(eq=False)
class Talk:
    """What a room remembers: kept in its metadata, it lives and goes with the room."""

    n: int = 0
    messages: deque[Json] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED))


def make_manager() -> Manager:
    """A manager with the chat's handlers and pages; serve it with ``serve_rooms`` or ``manager.run``."""
    manager = Manager()
    manager.room("chat.*", capacity=200, linger=LINGER)
    # Of a count only the newest matters: a slow reader's older one is replaced, and nobody is cut off for it.
    manager.room(LOBBY, overflow="conflate")

    def announce_size(room: Room) -> None:
        size = {"room": title_of(room), "members": len(room.members)}
        manager.broadcast_to_room(LOBBY, size, key=room.name)

    @manager.on("chat.enter")
    async def enter(conn: Connection, data: Enter) -> Json:
        name = tidy("name", " ".join(data.name.split()), MAX_NAME)
        if not name.isprintable():
            raise ActionError("BAD_NAME", "A name is made of visible characters.")
        conn.metadata["name"] = name
        await conn.join(LOBBY)
        sizes = dict.fromkeys(ROOMS, 0)
        sizes |= {title_of(room): len(room.members) for room in manager.rooms() if room.name != LOBBY}
        return {"name": name, "rooms": [{"room": title, "members": size} for title, size in sizes.items()]}

    @manager.on("chat.join")
    async def join(conn: Connection, data: Which) -> Json:
        who = member(conn)
        joined = await conn.join(room_name(data.room))
        room = joined.room
        # No await from here: whoever is not in this picture is still to come, and is told to us with a higher n.
        if joined.new:
            announce(room, "joined", who, exclude=(conn,))
            announce_size(room)
        talk: Talk = room.metadata["talk"]
        members = [member(other) for other in room.members]
        return {"room": data.room, "n": talk.n, "members": members, "messages": list(talk.messages)}

    @manager.on("chat.leave")
    def leave(conn: Connection, data: Which) -> Json:
        conn.leave(room_name(data.room))
        return {"room": data.room}

    @manager.on("chat.say")
    def say(conn: Connection, data: Say) -> Json:
        room = manager.get_room(room_name(data.room))
        if room is None or conn not in room:
            raise ActionError("NOT_IN_ROOM", "Join the room before you speak in it.")
        return {"n": announce(room, "message", member(conn), text=tidy("message", data.text.strip(), MAX_TEXT))}

    @manager.on_room_open
    def open_room(room: Room) -> None:
        room.metadata["talk"] = Talk()

    @manager.on_leave_room
    def left(conn: Connection, room: Room, reason: str) -> None:
        """However a member leaves: on request, or because its connection has ended."""
        if room.name != LOBBY and not room.closed:
            announce(room, "left", member(conn))
            announce_size(room)

    @manager.on_room_close
    def close_room(room: Room) -> None:
        title = title_of(room)
        if room.name != LOBBY:
            end = {"members": 0} if title in ROOMS else {"gone": True}
            manager.broadcast_to_room(LOBBY, {"room": title, **end}, key=room.name)

    add_pages(manager)
    return manager


def add_pages(manager: Manager) -> None:
    for path, content_type in (
        ("index.html", "text/html"),
        ("style.css", "text/css"),
        ("client.js", "text/javascript"),
        ("app.js", "text/javascript"),
    ):
        body = files(__name__).joinpath(path).read_bytes()
        manager.page("/" if path == "index.html" else f"/{path}", body, content_type=f"{content_type}; charset=utf-8")


def announce(room: Room, kind: str, who: Json, *, exclude: tuple[Connection, ...] = (), **more: str) -> int:
    """Number an event, remember it if it is a message, and publish it; all in one step, so that n is the order."""
    talk: Talk = room.metadata["talk"]
    talk.n += 1
    event = {"n": talk.n, "at": int(time.time() * 1000), "kind": kind, "member": who, **more}
    if kind == "message":
        talk.messages.append(event)
    room.publish_nowait(event, exclude=exclude)
    return talk.n


def member(conn: Connection) -> Json:
    """How others are told about a connection; an ActionError for one that has not said its name."""
    if "name" not in conn.metadata:
        raise ActionError("NO_NAME", "Enter with a name first.")
    return {"id": conn.id, "name": conn.metadata["name"]}


def room_name(title: str) -> str:
    """The room behind a title such as "help-desk"; nothing that a client sends may reach another kind of room."""
    if not re.fullmatch(r"\w[\w-]{0,31}", title):
        raise ActionError("BAD_ROOM", "A room's name has at most 32 letters, digits and hyphens.")
    return f"chat.{title}"


def title_of(room: Room) -> str:
    return room.name.removeprefix("chat.")


def tidy(what: str, text: str, most: int) -> str:
    """The text, or an ActionError for one that is empty or has more than ``most`` characters."""
    if not text:
        raise ActionError("EMPTY", f"The {what} is empty.")
    if len(text) > most:
        raise ActionError("TOO_LONG", f"The {what} has {len(text)} characters; {most} is the most.")
    return text
