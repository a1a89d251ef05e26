"""A chat that forgets nothing: history, recovery, presence, and who is typing.

Who somebody is, is decided before the upgrade: ``/ws?name=Ada`` is Ada. There are no passwords in this chat; they would
be checked at that very place. So Ada in two tabs is one user with two connections.

A page joins the room ``chat`` by ``$join``, reads the last messages by ``$history``, and says::

    say    {"id", "text"}    -> {"id"}; the page makes the id, so that saying it again does not say it twice
    typing {}                no reply
    away   {"away"}          no reply; whether the tab is hidden

What members are told, besides who is present, which is ``$presence``::

    {"id", "user", "at", "text"}     a message
    {"typing": user}                 not kept: nobody wants to know it later
"""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs

from trio_rooms import (
    ActionError,
    Config,
    Connection,
    HandshakeRequest,
    Identity,
    Manager,
    PresenceOptions,
    Refuse,
    Room,
)

ROOM = "chat"
REMEMBERED = 200  # messages
REMEMBERED_SECONDS = 24 * 3600
MAX_NAME = 24
MAX_TEXT = 1_000

Json = dict[str, Any]


@attrs.frozen
class Say:
    id: str
    text: str


@attrs.frozen
class Away:
    away: bool


def make_manager() -> Manager:
    """A manager with the chat's handlers and pages; serve it with ``serve_rooms`` or ``manager.run``."""
    # A tab that comes back within two minutes is in the room again with the server's first message.
    manager = Manager(config=Config(session_window=120))

    @manager.authenticate
    async def who(request: HandshakeRequest) -> Identity:
        name = request.query.get("name", "")
        if not name or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise Refuse(400, "BAD_NAME")
        return Identity(user=name)

    async def anybody(conn: Connection, room: str, data: object) -> bool:
        return True

    def entry(conn: Connection, room: Room) -> Json:
        """What others are told of one of a user's tabs."""
        return {"away": False}

    manager.room(
        ROOM,
        capacity=200,
        authorize=anybody,
        history_size=REMEMBERED,
        history_ttl=REMEMBERED_SECONDS,
        history_meta_ttl=2 * REMEMBERED_SECONDS,
        allow_history=True,
        presence=PresenceOptions(entry=entry, grace=5),
    )

    @manager.on("say")
    async def say(conn: Connection, data: Say) -> Json:
        text = data.text.strip()
        if not text or len(text) > MAX_TEXT or not 8 <= len(data.id) <= 64:
            raise ActionError("BAD_TEXT", f"A message has 1 to {MAX_TEXT} characters, and an id.")
        user = conn.identity.user
        message = {"id": data.id, "user": user, "at": int(time.time() * 1000), "text": text}
        # A page that does not know whether this arrived says it again, with the same id: it is published once.
        await room_of(conn).publish(message, idempotency_key=f"{user} {data.id}")
        return {"id": data.id}

    @manager.on("typing")
    def typing(conn: Connection) -> None:
        room_of(conn).publish_nowait({"typing": conn.identity.user}, exclude=(conn,), skip_history=True)

    @manager.on("away")
    def away(conn: Connection, data: Away) -> None:
        room_of(conn)
        conn.set_presence(ROOM, {"away": data.away})

    add_pages(manager)
    return manager


def room_of(conn: Connection) -> Room:
    """The room, for who is in it."""
    if ROOM not in conn.rooms:
        raise ActionError("NOT_IN_ROOM", "Join the room first.")
    return conn.rooms[ROOM]


def add_pages(manager: Manager) -> None:
    here = Path(__file__).parent
    manager.page("/", here / "index.html")
    for style in (here / "style.css", here.parent / "web" / "base.css"):
        manager.page(f"/{style.name}", style, content_type="text/css; charset=utf-8")
    for script in (here / "app.js", here.parent / "web" / "page.js", files("trio_rooms.demo") / "client.js"):
        manager.page(f"/{script.name}", script.read_bytes(), content_type="text/javascript; charset=utf-8")
