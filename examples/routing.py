"""Routing by action: typed data, replies, errors, handlers that run beside, streamed replies, deadlines and cancelling.

``python examples/routing.py --port 8080``. A message with an ``id`` is a request and gets exactly one reply:

    > {"action": "order", "data": {"item": "tea", "count": 2}, "id": 1}
    < {"id": 1, "data": {"item": "tea", "price": 6}}
    > {"action": "order", "data": {"item": "tea", "count": 2}}
    > {"action": "echo", "data": [1, "two"], "room": "kitchen", "id": 2}
    < {"id": 2, "data": {"action": "echo", "room": "kitchen", "data": [1, "two"]}}

What is wrong is told, with a code; here without an id, too:

    > {"action": "order", "data": {"item": "tea", "count": 0}, "id": 3}
    < {"id": 3, "error": {"code": "BAD_MESSAGE", "message": "Expected `int` >= 1 - at `$.count`", "temporary": false}}
    > {"action": "order", "data": {"item": "moon"}, "id": 4}
    < {"id": 4, "error": {"code": "SOLD_OUT", "message": "no moon left", "temporary": true}}
    > {"action": "dance"}
    < {"error": {"code": "UNKNOWN_ACTION", "message": "no such action", "temporary": false}}
    > {"action": "crash", "id": 5}
    < {"id": 5, "error": {"code": "INTERNAL", "message": "internal error", "temporary": false}}
    | reported: the client is not told this text

The handlers of one connection run one after another. ``wait`` is registered to run beside them:

    > {"action": "wait", "id": 6}
    > {"action": "order", "data": {"item": "tea"}, "id": 7}
    < {"id": 7, "data": {"item": "tea", "price": 3}}
    > {"action": "wake", "id": 8}
    < {"id": 8, "data": 1}
    < {"id": 6, "data": "awake"}
    > {"action": "wait", "id": 9}
    > {"action": "$cancel", "data": {"id": 9}}
    < {"id": 9, "error": {"code": "CANCELLED", "message": "the request was cancelled", "temporary": false}}
    > {"action": "wait", "id": 10, "timeout_ms": 50}
    < {"id": 10, "error": {"code": "DEADLINE_EXCEEDED", "message": "the deadline has passed", "temporary": true}}

An async generator streams its items, each as a reply:

    > {"action": "count", "data": 2, "id": 11}
    < {"id": 11, "data": 1, "more": true}
    < {"id": 11, "data": 2, "more": true}
    < {"id": 11, "more": false}
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import attrs
import msgspec
import trio

from trio_rooms import ActionError, Connection, Manager, Message
from trio_rooms.middleware import recovery

# Without recovery() an exception in a handler would end its connection, after the answer. Never any other.
manager = Manager(middleware=[recovery()])

PRICES = {"tea": 3, "coffee": 4}


@attrs.frozen
class Order:
    item: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


@attrs.frozen
class Receipt:
    item: str
    price: int


@manager.on("order")
async def order(conn: Connection, data: Order) -> Receipt:
    """Typed in and out: what does not fit Order never gets here."""
    if data.item not in PRICES:
        raise ActionError("SOLD_OUT", f"no {data.item} left", temporary=True)
    return Receipt(data.item, PRICES[data.item] * data.count)


@manager.on("echo")
def echo(conn: Connection, message: Message) -> dict[str, Any]:
    """The message itself, as the Go package's handlers have it; ``message.decode(Order)`` is its json.Unmarshal."""
    return {"action": message.action, "room": message.room, "data": message.data}


def crash(conn: Connection) -> None:
    raise ZeroDivisionError("the client is not told this text")


manager.handle_message("crash", crash)  # the same as the decorator


@manager.on("wait", concurrent=True)
async def wait(conn: Connection) -> str:
    """Cancelled when its client cancels it, when its ``timeout_ms`` is over, and when the connection ends."""
    event = trio.Event()
    waiting: set[trio.Event] = conn.metadata.setdefault("waiting", set())
    waiting.add(event)
    try:
        await event.wait()
    finally:
        waiting.discard(event)
    return "awake"


@manager.on("wake")
def wake(conn: Connection) -> int:
    waiting = conn.metadata.get("waiting", set())
    for event in waiting:
        event.set()
    return len(waiting)


@manager.on("count")
async def count(conn: Connection, up_to: int) -> AsyncIterator[int]:
    """Never further ahead of the client than its outbox is long: an item waits for room in it."""
    for number in range(1, up_to + 1):
        yield number


@manager.on_error
def failed(conn: Connection | None, error: BaseException) -> None:
    print("reported:", error)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    # on_error prints it in one line; the log would show it again, with its traceback.
    logging.getLogger("trio_rooms").addHandler(logging.NullHandler())
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
