"""A program as a client: a bot that counts words in a chat. ``python examples/client.py --port 8080`` runs both.

The bot is in the same room as everybody else, by way of a connection of its own:

    > {"action": "enter", "id": 1}
    < {"id": 1, "data": "welcome"}
    > {"action": "say", "data": "rooms over WebSocket"}
    < {"from": "8ZFc…", "text": "rooms over WebSocket"}
    < {"from": "bot", "text": "3 words"}

``--connect ws://127.0.0.1:8080/ws`` runs a bot alone, for a server that is elsewhere. Stop that server and start it
anew: the bot is there again. Ctrl-C and SIGTERM stop either.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import Any

import trio

from trio_rooms import Connection, Manager, serve_rooms
from trio_rooms.client import Gap, NotConfirmed, RoomsClient, open_rooms

ROOM = "chat"
BOT = "bot"

manager = Manager()


async def let_in(conn: Connection, room: str, data: Any) -> bool:
    """Clients that join by themselves, as the bot does, need a permission."""
    return True


# What is said while the bot is away for a moment is kept for it.
manager.room(ROOM, authorize=let_in, history_size=100)


@manager.on("enter")
async def enter(conn: Connection) -> str:
    await conn.join(ROOM)
    return "welcome"


@manager.on("say")
def say(conn: Connection, text: str) -> None:
    manager.broadcast_to_room(ROOM, {"from": conn.id, "text": text})


@manager.on("answer")
def answer_as_bot(conn: Connection, text: str) -> None:
    manager.broadcast_to_room(ROOM, {"from": BOT, "text": text})


async def run_bot(url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    async with open_rooms(url) as client, client.room(ROOM) as room:
        task_status.started()
        async for event in room:
            if isinstance(event, Gap):
                continue  # it was away for too long: whoever keeps a state loads it anew here
            # By a name, which it has on each connection: it may be told of its own answer by the one after that.
            if event.data["from"] != BOT:
                await answer(client, f"{len(event.data['text'].split())} words")


async def answer(client: RoomsClient, text: str) -> None:
    with contextlib.suppress(NotConfirmed):  # said or not: the connection was lost before the server could tell
        await client.request("answer", text)


async def serve(port: int) -> None:
    async with serve_rooms(manager, port=port) as server, trio.open_nursery() as nursery:
        await nursery.start(run_bot, server.url)
        print(server.url, flush=True)
        await stopped()
        nursery.cancel_scope.cancel()  # the bot says goodbye, and the server drains the others


async def connect(url: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(run_bot, url)
        print("in the room", flush=True)
        await stopped()
        nursery.cancel_scope.cancel()


async def stopped() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--connect", metavar="URL", help="only the bot, for the server at this URL")
    options = parser.parse_args()
    if options.connect:
        trio.run(connect, options.connect)
    else:
        trio.run(serve, options.port)
