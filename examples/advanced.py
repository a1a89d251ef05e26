"""Everything at once: configuration, logging, middleware, hooks, typed handlers, and a shutdown that drains.

``python examples/advanced.py --port 8080``. It answers with messages of its own, not with replies, so it needs no ids:

    > {"action": "subscribe", "data": {"room_id": "workflow_123"}}
    < {"status": "subscribed", "room": "workflow_123"}
    > {"action": "ping"}
    < {"status": "pong", "rooms": ["workflow_123"]}
    > {"action": "unsubscribe", "data": {"room_id": "workflow_123"}}
    < {"status": "unsubscribed", "room": "workflow_123"}

Ctrl-C, or SIGTERM, drains it: handlers end, what they answered arrives, and clients are told 1012, "come back".
"""

from __future__ import annotations

import argparse
import logging

import attrs
import trio

from trio_rooms import ActionError, Close, Config, Connection, Manager, Room, Server
from trio_rooms.middleware import logger, recovery

LOG = logging.getLogger("advanced")


@attrs.frozen
class Subscription:
    room_id: str


async def subscribe(conn: Connection, data: Subscription) -> None:
    await conn.join(data.room_id)
    await conn.write_json({"status": "subscribed", "room": data.room_id})


async def unsubscribe(conn: Connection, data: Subscription) -> None:
    if not conn.leave(data.room_id):
        raise ActionError("NOT_SUBSCRIBED", f"not subscribed to {data.room_id}")
    await conn.write_json({"status": "unsubscribed", "room": data.room_id})


async def ping(conn: Connection) -> None:
    await conn.write_json({"status": "pong", "rooms": conn.get_subscriptions()})


def connected(conn: Connection) -> None:
    conn.set_metadata("since", trio.current_time())
    LOG.info("client %s connected from %s", conn.id, conn.remote)


def disconnected(conn: Connection, close: Close) -> None:
    seconds = trio.current_time() - conn.get_metadata("since")
    LOG.info("client %s disconnected after %.1f s: %d by %s", conn.id, seconds, close.code, close.by)


def joined(conn: Connection, room: Room) -> None:
    LOG.info("client %s joins room %r", conn.id, room.name)


def make_manager() -> Manager:
    """A manager with everything registered; from here on it can be served, or tested without a socket."""
    config = Config(
        ping_interval=60,
        pong_timeout=10,
        read_buffer_size=4096,
        write_buffer_size=4096,
        max_connections_per_room=100,
        shutdown_timeout=30,
    )
    # The first middleware is the outermost: the logger sees what recovery makes of an exception.
    manager = Manager(config=config, logger=LOG, middleware=[logger(), recovery()])
    manager.on_connect(connected)
    manager.on_disconnect(disconnected)
    manager.on_join_room(joined)
    manager.handle_message("subscribe", subscribe)
    manager.handle_message("unsubscribe", unsubscribe)
    manager.handle_message("ping", ping)
    return manager


def announce(server: Server) -> None:
    print(server.url, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    make_manager().run(port=options.port, on_listening=announce)
