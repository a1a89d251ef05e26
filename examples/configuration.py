"""Configuration: the six settings of the Go package, the other times, and limits that you can see bite.

``python examples/configuration.py --port 8080``. Everything is bounded before you configure anything; docs/security.md
lists all settings and limits with their defaults.

    ada> {"action": "join", "data": "duel.1", "id": 1}
    ada< {"id": 1, "data": {"members": 1, "of": 2}}
    bob> {"action": "join", "data": "duel.1", "id": 1}
    bob< {"id": 1, "data": {"members": 2, "of": 2}}
    eve> {"action": "join", "data": "duel.1", "id": 1}
    eve< {"id": 1, "error": {"code": "ROOM_FULL", "message": "the room is full", "temporary": true}}
    eve> {"action": "join", "data": "kitchen", "id": 2}
    eve< {"id": 2, "error": {"code": "ROOM_NOT_FOUND", "message": "no such room", "temporary": false}}
    eve> {"action": "join", "data": "lobby", "id": 3}
    eve< {"id": 3, "data": {"members": 1, "of": 100}}
    eve> {"action": "join", "data": "table.1", "id": 4}
    eve< {"id": 4, "data": {"members": 1, "of": 100}}
    eve> {"action": "join", "data": "table.2", "id": 5}
    eve< {"id": 5, "error": {"code": "TOO_MANY_ROOMS", "message": "this connection is in too many rooms",
          "temporary": false}}
    eve> {"action": "join", "data": [[[["deep"]]]], "id": 6}
    eve< {"id": 6, "error": {"code": "BAD_MESSAGE", "message": "nested deeper than 3", "temporary": false}}

A setting that makes no sense is an error where it is set: with ``--ping-interval 0`` the program does not start.
"""

from __future__ import annotations

import argparse

from trio_rooms import Config, Connection, Limits, Manager


def make_config(*, ping_interval: float) -> Config:
    return Config(
        # The fields of the Go package. Times are seconds, sizes are bytes.
        ping_interval=ping_interval,  # and really sent
        pong_timeout=10,  # a dead peer is noticed within ping_interval + pong_timeout
        read_buffer_size=4096,  # of one read, not of a message
        write_buffer_size=4096,  # of one write, not of a message
        max_connections_per_room=100,  # where the room's own options do not say otherwise
        shutdown_timeout=30,  # for a drain; what is left then is cancelled
        # The other times.
        handshake_timeout=5,  # from accept to upgrade
        write_timeout=10,  # a peer that takes nothing for so long is disconnected
        close_timeout=5,  # for the peer's half of the closing handshake
        hook_timeout=5,  # for one hook
        drain_rate=500,  # connections that a drain closes a second, so that they do not all come back at once
        rooms="declared",  # only names that match a pattern below are rooms
        # What one client may cost. These are low, to be seen; most programs leave them alone.
        limits=Limits(
            max_connections=10_000,
            max_message_bytes=16 * 1024,  # beyond it: close 1009
            max_depth=3,  # of untyped data
            max_rooms_per_connection=2,
            max_handlers=4,  # concurrent ones, of one connection
            handler_timeout=20,
            outbox_messages=128,  # beyond these two: the room's overflow policy
            outbox_bytes=512 * 1024,
        ),
    )


def make_manager(config: Config) -> Manager:
    manager = Manager(config=config)
    manager.room("duel.*", capacity=2)
    manager.room("table.*")
    manager.room("lobby", overflow="drop_oldest")

    @manager.on("join")
    async def join(conn: Connection, room_id: object) -> dict[str, int | None]:
        room = (await conn.join(str(room_id))).room
        capacity = room.options.capacity or config.max_connections_per_room
        return {"members": len(room.members), "of": capacity}

    return manager


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ping-interval", type=float, default=60)
    options = parser.parse_args()
    make_manager(make_config(ping_interval=options.ping_interval)).run(
        port=options.port, on_listening=lambda server: print(server.url, flush=True)
    )
