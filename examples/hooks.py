"""All hooks, in the order in which they run, and what a hook that raises does: a veto, a refusal, an error.

``python examples/hooks.py --port 8080``. It prints (``|``) each hook as it runs:

    > {"action": "join", "data": "kitchen", "id": 1}
    < {"id": 1, "data": "joined"}
    | on_connect
    | on_message join
    | on_room_open kitchen
    | on_join_room kitchen, members before: 0

A join that a hook vetoes; the room had been opened for it, and leaving is told for it, too:

    > {"action": "join", "data": "cellar", "id": 2}
    < {"id": 2, "error": {"code": "TOO_DARK", "message": "nobody goes into the cellar", "temporary": false}}
    | on_message join
    | on_room_open cellar
    | on_join_room cellar, members before: 0
    | on_leave_room cellar: vetoed
    | on_room_close cellar

A message that a hook refuses, so that its handler does not run; and a handler that fails:

    > {"action": "swear", "id": 3}
    < {"id": 3, "error": {"code": "RUDE", "message": "mind your language", "temporary": false}}
    > {"action": "crash", "id": 4}
    < {"id": 4, "error": {"code": "INTERNAL", "message": "internal error", "temporary": false}}
    | on_message swear
    | on_message crash
    | on_error ZeroDivisionError: division by zero

However a connection ends, it leaves its rooms first. When it is drained, because the server got a signal:

    | on_leave_room kitchen: disconnected
    | on_disconnect 1012 by server
    | on_room_close kitchen

The hooks of one connection run one at a time, in the order of their events. A room's close is told by the room, and so
may stand a line or two higher or lower.
"""

from __future__ import annotations

import argparse
import logging

from trio_rooms import ActionError, Close, Connection, Manager, Message, Room
from trio_rooms.middleware import recovery

# on_error prints errors in one line; the log would show them again, with their tracebacks.
quiet = logging.getLogger("hooks")
quiet.addHandler(logging.NullHandler())

manager = Manager(logger=quiet, middleware=[recovery()])


def tell(*what: object) -> None:
    print(*what, flush=True)


@manager.on_connect
async def connected(conn: Connection) -> None:
    """Before the first message. Raising closes the connection with 1011; an ActionError with 4500 and its code."""
    tell("on_connect")


@manager.on_disconnect
async def disconnected(conn: Connection, close: Close) -> None:
    """Once, whatever the end, if ``on_connect`` had begun."""
    tell("on_disconnect", close.code, "by", close.by)


@manager.on_message
def before_message(conn: Connection, message: Message) -> None:
    """Before each message's handler. Raising answers the message instead."""
    tell("on_message", message.action)
    if message.action == "swear":
        raise ActionError("RUDE", "mind your language")


@manager.on_error
def failed(conn: Connection | None, error: BaseException) -> None:
    """Each exception that is not an ActionError. The client is told a code, and not the text."""
    tell(f"on_error {type(error).__name__}: {error}")


@manager.on_join_room
async def joins(conn: Connection, room: Room) -> None:
    """Before membership begins. Raising vetoes the join."""
    tell(f"on_join_room {room.name}, members before: {len(room.members)}")
    if room.name == "cellar":
        raise ActionError("TOO_DARK", "nobody goes into the cellar")


@manager.on_leave_room
async def leaves(conn: Connection, room: Room, reason: str) -> None:
    """Once for each join whose ``on_join_room`` had begun."""
    tell(f"on_leave_room {room.name}: {reason}")


@manager.on_room_open
async def opened(room: Room) -> None:
    """The first join waits for it, so it may load what the room is about."""
    room.metadata["visits"] = 0
    tell("on_room_open", room.name)


@manager.on_room_close
async def closed(room: Room) -> None:
    """When the last member has left, and the room's ``linger`` has passed; it may store what the room was about."""
    tell("on_room_close", room.name)


@manager.on("join")
async def join(conn: Connection, room_id: str) -> str:
    joined = await conn.join(room_id)
    joined.room.metadata["visits"] += 1
    return "joined"


@manager.on("swear")
def swear(conn: Connection) -> None:
    tell("never comes here")


@manager.on("crash")
def crash(conn: Connection) -> float:
    return 1 / 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
