"""Rooms: join and leave; broadcast to a room, to all, to one connection; capacity, overflow policies, who may join.

``python examples/rooms.py --port 8080``, with two clients:

    ada> {"action": "join", "data": "chat.kitchen", "id": 1}
    ada< {"id": 1, "data": {"room": "chat.kitchen", "members": 1}}
    bob> {"action": "join", "data": "chat.kitchen", "id": 1}
    ada< {"room": "chat.kitchen", "joined": "T0Zf…"}
    bob< {"id": 1, "data": {"room": "chat.kitchen", "members": 2}}

To a room, and to all of a room but the sender:

    ada> {"action": "say", "data": {"room": "chat.kitchen", "text": "hello"}, "id": 2}
    ada< {"room": "chat.kitchen", "from": "T0Zf…", "text": "hello"}
    ada< {"id": 2, "data": {"enqueued": 2, "dropped": 0, "closed": 0}}
    bob< {"room": "chat.kitchen", "from": "T0Zf…", "text": "hello"}

To every connection, in a room or not:

    eve> {"action": "shout", "data": "fire!", "id": 1}
    eve< {"text": "fire!"}
    eve< {"id": 1, "data": {"enqueued": 3, "dropped": 0, "closed": 0}}
    ada< {"text": "fire!"}
    bob< {"text": "fire!"}

To one: the sender's own connection, and one by an id that there is not:

    eve> {"action": "whisper", "data": {"to": "me", "text": "psst"}, "id": 2}
    eve< {"text": "psst"}
    eve< {"id": 2, "data": "sent"}
    eve> {"action": "whisper", "data": {"to": "nobody", "text": "psst"}, "id": 3}
    eve< {"id": 3, "error": {"code": "NOT_HERE", "message": "no such connection", "temporary": false}}

Leaving, also by a closed connection; a room without members is gone:

    bob> {"action": "leave", "data": "chat.kitchen", "id": 2}
    ada< {"room": "chat.kitchen", "left": "T0Zf…"}
    bob< {"id": 2, "data": true}
    bob> {"action": "leave", "data": "chat.kitchen", "id": 3}
    bob< {"id": 3, "data": false}
    eve> {"action": "rooms", "id": 4}
    eve< {"id": 4, "data": {"chat.kitchen": 1}}

A room of two is full with two, and clients join by themselves (``$join``) where the room's ``authorize`` lets them:

    ada> {"action": "join", "data": "duel.1", "id": 3}
    ada< {"id": 3, "data": {"room": "duel.1", "members": 1}}
    bob> {"action": "join", "data": "duel.1", "id": 4}
    ada< {"room": "duel.1", "joined": "T0Zf…"}
    bob< {"id": 4, "data": {"room": "duel.1", "members": 2}}
    eve> {"action": "join", "data": "duel.1", "id": 5}
    eve< {"id": 5, "error": {"code": "ROOM_FULL", "message": "the room is full", "temporary": true}}
    eve> {"action": "$join", "data": {"room": "duel.1"}, "id": 6}
    eve< {"id": 6, "error": {"code": "DENIED", "message": "not allowed", "temporary": false}}
    eve> {"action": "$join", "data": {"room": "news.today", "data": "please"}, "id": 7}
    eve< {"id": 7, "data": {"room": "news.today", "data": {"topic": "today"}}}
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import attrs

from trio_rooms import ActionError, Connection, ConnectionGone, Manager, Report, Room

manager = Manager()


async def authorize(conn: Connection, room: str, data: Any) -> bool | Mapping[str, Any]:
    """Asked for ``$join`` only; a mapping says yes, and goes into the reply."""
    return {"topic": room.removeprefix("news.")} if data == "please" else False


# The first pattern that matches a room's name gives it all its options. What happens to a member that does not read
# fast enough is the room's choice: chat ends its connection with 4008, "come back" (the default), as a gap in it would
# be worse; of news the oldest that it has not got yet are dropped. A loss is counted and reported either way.
manager.room("duel.*", capacity=2)
manager.room("chat.*", capacity=100, overflow="close")
manager.room("news.*", overflow="drop_oldest", authorize=authorize)


@attrs.frozen
class Say:
    room: str
    text: str


@attrs.frozen
class Whisper:
    to: str
    text: str


@manager.on("join")
async def join(conn: Connection, room_id: str) -> dict[str, Any]:
    room = (await manager.join_room(conn, room_id)).room  # or conn.join(room_id)
    manager.broadcast_to_room(room_id, {"room": room_id, "joined": conn.id}, exclude=[conn])
    return {"room": room_id, "members": len(room.members)}


@manager.on("leave")
def leave(conn: Connection, room_id: str) -> bool:
    return manager.leave_room(conn, room_id)  # False if it was not in it


@manager.on_leave_room
def left(conn: Connection, room: Room, reason: str) -> None:
    """However it leaves; that its connection has ended is one of the reasons."""
    manager.broadcast_to_room(room.name, {"room": room.name, "left": conn.id})


@manager.on("say")
def say(conn: Connection, data: Say) -> dict[str, int]:
    if not conn.is_subscribed(data.room):
        raise ActionError("NOT_IN_ROOM", "join it first")
    event = {"room": data.room, "from": conn.id, "text": data.text}
    return summary(manager.broadcast_to_room(data.room, event))


@manager.on("shout")
def shout(conn: Connection, text: str) -> dict[str, int]:
    return summary(manager.broadcast_to_all({"text": text}))


@manager.on("whisper")
def whisper(conn: Connection, data: Whisper) -> str:
    try:
        manager.send_to_connection(conn if data.to == "me" else data.to, {"text": data.text})
    except ConnectionGone:
        raise ActionError("NOT_HERE", "no such connection") from None
    return "sent"


@manager.on("rooms")
def rooms(conn: Connection) -> dict[str, int]:
    return {room.name: len(room.members) for room in manager.rooms()}


def summary(report: Report) -> dict[str, int]:
    """What a publish did: how many outboxes took it, refused it, or were closed by it. Not how many clients got it."""
    return {"enqueued": report.enqueued, "dropped": report.dropped, "closed": report.closed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
