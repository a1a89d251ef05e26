"""What a connection knows: metadata of yours, its subscriptions, and what the handshake said.

``python examples/metadata.py --port 8080``:

    > {"action": "login", "data": {"user_id": "123", "session_id": "abc"}, "id": 1}
    < {"id": 1, "data": {"user_id": "123"}}
    > {"action": "subscribe", "data": "room_123", "id": 2}
    < {"id": 2, "data": ["room_123"]}
    > {"action": "whoami", "id": 3}
    < {"id": 3, "data": {"connection": "T0Zf…", "user_id": "123", "session": "abc", "messages": 3,
       "subscriptions": ["room_123"], "in_room_123": true, "remote": "127.0.0.1", "path": "/ws"}}
    > {"action": "logout", "id": 4}
    < {"id": 4, "data": {"user_id": "123"}}
    > {"action": "whoami", "id": 5}
    < {"id": 5, "error": {"code": "NOT_LOGGED_IN", "message": "log in first", "temporary": false}}

Metadata is a dict that lives as long as the connection, and is never sent by itself. Who the client *is* belongs into
its identity, which is decided before the upgrade and never changes: see custom_middleware.py.
"""

from __future__ import annotations

import argparse
from typing import Any

import attrs

from trio_rooms import ActionError, Connection, Manager, Message

manager = Manager()


@attrs.frozen
class Login:
    user_id: str
    session_id: str


@attrs.define
class Seen:
    """What this program counts of a connection. One object of a type of yours is as good as many keys."""

    messages: int = 0


@manager.on_connect
def connected(conn: Connection) -> None:
    conn.metadata["seen"] = Seen()


@manager.on_message
def count(conn: Connection, message: Message) -> None:
    conn.metadata["seen"].messages += 1


@manager.on("login")
def login(conn: Connection, data: Login) -> dict[str, str]:
    conn.set_metadata("user_id", data.user_id)
    conn.set_metadata("session_id", data.session_id)
    return {"user_id": data.user_id}


@manager.on("subscribe")
async def subscribe(conn: Connection, room_id: str) -> list[str]:
    await conn.join(room_id)
    return conn.get_subscriptions()


@manager.on("whoami")
def whoami(conn: Connection) -> dict[str, Any]:
    user_id = conn.get_metadata("user_id")  # None where Go's `userID, ok := conn.GetMetadata(...)` is not ok
    if user_id is None:
        raise ActionError("NOT_LOGGED_IN", "log in first")
    return {
        "connection": conn.id,
        "user_id": user_id,
        "session": conn.metadata["session_id"],  # set_metadata and get_metadata are about this dict
        "messages": conn.metadata["seen"].messages,
        "subscriptions": conn.get_subscriptions(),
        "in_room_123": conn.is_subscribed("room_123"),
        "remote": conn.remote,
        "path": conn.path,
    }


@manager.on("logout")
def logout(conn: Connection) -> dict[str, str]:
    return {"user_id": conn.metadata.pop("user_id")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
