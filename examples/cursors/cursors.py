"""A board that people are on together: everybody's pointer, and cards that anybody can move.

A page joins the room ``board`` by ``$join`` with ``{"name"}`` as data, and asks::

    look   {}                      -> {"pointers": [as published], "cards": [as published]}
    point  {"x", "y", "pressed"?}  {} for a pointer that has left the board
    move   {"card", "x", "y"}
    rename {"name"}

What everybody on the board is told, besides who is there (``$presence``); places are shares of its width and height::

    {"pointer": connection, "name", "x", "y", "pressed"}, or {"pointer": connection} when it is not there any more
    {"card": id, "title", "x", "y"}

**A slow reader has no queue.** The room's policy is ``conflate``: what is published with a key replaces what a member
has not been sent yet under the same key. So each publication is whole, and makes sense without those before it.
Somebody on a bad line sees fewer steps of a movement, never old ones, and nobody else waits.

**Echo.** A pointer belongs to one person: it is published to all but its owner, whose system draws it anyway. A card
may be moved by two at once, and what counts is the order of the room: so it is published to its mover, too, and all end
with the same.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs

from trio_rooms import ActionError, Connection, Manager, PresenceOptions, Room

ROOM = "board"
LINGER = 600  # seconds that an empty board is kept as it was left
MAX_NAME = 24
CARDS = {
    "idea": {"title": "Move me", "x": 0.25, "y": 0.35},
    "plan": {"title": "Drag, or use the arrow keys", "x": 0.5, "y": 0.6},
    "done": {"title": "Everybody sees it", "x": 0.75, "y": 0.4},
}

Json = dict[str, Any]


@attrs.frozen
class Name:
    name: str


@attrs.frozen
class Point:
    x: float | None = None
    y: float | None = None
    pressed: bool = False


@attrs.frozen
class Move:
    card: str
    x: float
    y: float


@attrs.define(eq=False)
class Board:
    """What is on the board: kept in its room's metadata, it lives and goes with the room."""

    cards: dict[str, Json] = attrs.field(factory=lambda: {card: {"card": card, **it} for card, it in CARDS.items()})
    pointers: dict[str, Json] = attrs.field(factory=dict)  # by connection


def make_manager() -> Manager:
    """A manager with the board's handlers and pages; serve it with ``serve_rooms`` or ``manager.run``."""
    manager = Manager()

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        """Anybody may join who has a name, which the page sends as the data of its $join."""
        conn.metadata["name"] = tidy(data.get("name") if isinstance(data, dict) else None)
        return True

    def entry(conn: Connection, room: Room) -> Json:
        """What others are told of somebody who is here, whether or not there is a pointer."""
        return {"name": conn.metadata["name"]}

    manager.room(
        ROOM,
        overflow="conflate",
        capacity=100,
        linger=LINGER,
        authorize=authorize,
        presence=PresenceOptions(entry=entry),
    )

    @manager.on_room_open
    def open_board(room: Room) -> None:
        room.metadata["board"] = Board()

    @manager.on("look")
    def look(conn: Connection) -> Json:
        board = board_of(conn)
        return {"pointers": list(board.pointers.values()), "cards": list(board.cards.values())}

    @manager.on("rename")
    def rename(conn: Connection, data: Name) -> None:
        board_of(conn)
        conn.metadata["name"] = tidy(data.name)
        conn.set_presence(ROOM, {"name": conn.metadata["name"]})

    @manager.on("point")
    def point(conn: Connection, data: Point) -> None:
        board = board_of(conn)
        if data.x is None or data.y is None:
            forget(conn, board)
            return
        place = {"x": within(data.x), "y": within(data.y), "pressed": data.pressed}
        board.pointers[conn.id] = {"pointer": conn.id, "name": conn.metadata["name"], **place}
        manager.broadcast_to_room(ROOM, board.pointers[conn.id], key=f"pointer {conn.id}", exclude=(conn,))

    @manager.on("move")
    def move(conn: Connection, data: Move) -> None:
        card = board_of(conn).cards.get(data.card)
        if card is None:
            raise ActionError("UNKNOWN_CARD", "There is no such card.")
        card |= {"x": within(data.x), "y": within(data.y)}
        manager.broadcast_to_room(ROOM, card, key=f"card {data.card}")

    @manager.on_leave_room
    def left(conn: Connection, room: Room, reason: str) -> None:
        """However a member leaves: its connection has ended, or nobody knows it any more."""
        forget(conn, room.metadata["board"])

    def forget(conn: Connection, board: Board) -> None:
        if board.pointers.pop(conn.id, None):
            manager.broadcast_to_room(ROOM, {"pointer": conn.id}, key=f"pointer {conn.id}", exclude=(conn,))

    add_pages(manager)
    return manager


def add_pages(manager: Manager) -> None:
    here = Path(__file__).parent
    manager.page("/", here / "index.html")
    for style in (here / "style.css", here.parent / "web" / "base.css"):
        manager.page(f"/{style.name}", style, content_type="text/css; charset=utf-8")
    for script in (here / "app.js", here.parent / "web" / "page.js", files("trio_rooms.demo") / "client.js"):
        manager.page(f"/{script.name}", script.read_bytes(), content_type="text/javascript; charset=utf-8")


def board_of(conn: Connection) -> Board:
    """The board, for who is on it."""
    if ROOM not in conn.rooms:
        raise ActionError("NOT_ON_BOARD", "Join the board first.")
    board: Board = conn.rooms[ROOM].metadata["board"]
    return board


def tidy(name: object) -> str:
    tidied = " ".join(name.split()) if isinstance(name, str) else ""
    if not tidied or not tidied.isprintable() or len(tidied) > MAX_NAME:
        raise ActionError("BAD_NAME", f"A name has 1 to {MAX_NAME} visible characters.")
    return tidied


def within(share: float) -> float:
    """A place on the board; four digits are less than a pixel."""
    return round(min(max(share, 0.0), 1.0), 4)
