"""This library's server under test: ``python benchmarks/server.py --transport native --with logger``.

It keeps the contract of ``benchmarks/peers``: one line of JSON when it listens, WebSocket at ``/ws``, the end on
SIGTERM. Beyond it there are two actions: ``sweep`` publishes once to every room from within the server, so that
what a delivery costs can be seen without the request that caused it; ``gc`` tells what the garbage collector did.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, cast

import attrs
import trio

from trio_rooms import Config, Connection, Limits, Manager, PresenceOptions, serve_rooms
from trio_rooms.middleware import logger, recovery


class Collections:
    """Counts the garbage collector's runs and their length, by generation."""

    def __init__(self) -> None:
        self.runs = [0, 0, 0]
        self.longest_ms = [0.0, 0.0, 0.0]
        self.total_ms = 0.0
        self._began = 0.0
        gc.callbacks.append(self._on_gc)

    def _on_gc(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        took = (time.perf_counter() - self._began) * 1000
        generation = info["generation"]
        self.runs[generation] += 1
        self.total_ms += took
        self.longest_ms[generation] = max(self.longest_ms[generation], took)

    def told(self) -> dict[str, Any]:
        """What there was since the last call."""
        data = {
            "full": self.runs[2],
            "young": self.runs[0] + self.runs[1],
            "longest_full_ms": round(self.longest_ms[2], 3),
            "total_ms": round(self.total_ms, 3),
        }
        self.runs, self.longest_ms, self.total_ms = [0, 0, 0], [0.0, 0.0, 0.0], 0.0
        return data


@attrs.frozen
class Subscribe:
    """Data of ``subscribe``, where decoding is typed."""

    room_id: str


@attrs.frozen
class Publish:
    """Data of ``publish``, where decoding is typed."""

    room_id: str
    payload: str


def add_handlers(manager: Manager) -> None:
    """The actions, taking what JSON decodes to."""

    @manager.on("subscribe")
    async def subscribe(conn: Connection, data: dict) -> None:  # type: ignore[type-arg]
        await conn.join(data["room_id"])

    @manager.on("publish")
    async def publish(conn: Connection, data: dict) -> None:  # type: ignore[type-arg]
        manager.broadcast_to_room(data["room_id"], {"payload": data["payload"]})

    @manager.on("echo")
    async def echo(conn: Connection, data: Any) -> Any:
        return data


def add_typed_handlers(manager: Manager) -> None:
    """The same actions, decoded into classes and validated."""

    @manager.on("subscribe")
    async def subscribe(conn: Connection, data: Subscribe) -> None:
        await conn.join(data.room_id)

    @manager.on("publish")
    async def publish(conn: Connection, data: Publish) -> None:
        manager.broadcast_to_room(data.room_id, {"payload": data.payload})

    @manager.on("echo")
    async def echo(conn: Connection, data: str) -> str:
        return data


def add_tools(manager: Manager, collections: Collections) -> None:
    """The actions that only the benchmarks need."""

    @manager.on("sweep")
    async def sweep(conn: Connection, data: dict) -> None:  # type: ignore[type-arg]
        event = {"payload": data["payload"]}
        for room in manager.rooms():
            room.publish_nowait(event)

    @manager.on("gc")
    async def tell_gc(conn: Connection) -> dict[str, Any]:
        return collections.told()


def add_logger(manager: Manager) -> None:
    """The logger middleware, with a record formatted and written for every message."""
    handler = logging.FileHandler(os.devnull)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("trio_rooms")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    manager.use(logger())


def add_hooks(manager: Manager) -> None:
    """Every hook, doing nothing."""

    async def hook(*_: object) -> None:
        pass

    for register in (
        manager.on_connect,
        manager.on_disconnect,
        manager.on_message,
        manager.on_error,
        manager.on_join_room,
        manager.on_leave_room,
        manager.on_room_open,
        manager.on_room_close,
    ):
        register(hook)


#: What is set for all rooms; the limits of presence are such that no benchmark meets them.
ROOM_OPTIONS: dict[str, dict[str, Any]] = {
    "history": {"history_size": 100},
    "presence": {"presence": PresenceOptions(max_bytes=4 << 20)},
}

#: What can be switched on; "typed" and "notune" are looked at below.
FEATURES: dict[str, Callable[[Manager], object]] = {
    "logger": add_logger,
    "recovery": lambda manager: manager.use(recovery()),
    "hooks": add_hooks,
    "typed": lambda manager: None,
    "notune": lambda manager: None,
}


def tune_gc() -> None:
    """What ``manager.run`` does for the garbage collector of a process that it owns."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 2, 500)


def make_manager(features: set[str], collections: Collections) -> Manager:
    """The application, with limits that a benchmark does not meet."""
    limits = Limits(outbox_messages=1024, outbox_bytes=8 << 20, max_pending_handshakes=20_000, max_rooms=100_000)
    manager = Manager(config=Config(limits=limits), logger=logging.getLogger("trio_rooms"))
    (add_typed_handlers if "typed" in features else add_handlers)(manager)
    add_tools(manager, collections)
    for feature in sorted(features - ROOM_OPTIONS.keys()):
        FEATURES[feature](manager)
    if of_rooms := {
        name: value for one in ROOM_OPTIONS if one in features for name, value in ROOM_OPTIONS[one].items()
    }:
        manager.room("*", **of_rooms)
    return manager


async def main(transport: Literal["native", "trio-websocket"], features: set[str]) -> None:
    """Serve until SIGTERM; without a drain, since nobody waits for it."""
    manager = make_manager(features, Collections())
    with trio.open_signal_receiver(15) as signals:
        async with serve_rooms(manager, transport=transport, allowed_origins=None) as server:
            if "notune" not in features:
                tune_gc()
            packages = ("trio", "trio-websocket", "wsproto", "h11", "msgspec")
            versions = {"python": sys.version.split()[0], **{name: version(name) for name in packages}}
            sys.stdout.write(json.dumps({"port": server.port, "versions": versions}) + "\n")
            sys.stdout.flush()
            await anext(aiter(signals))
            os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=["native", "trio-websocket"], default="native")
    parser.add_argument(
        "--with", dest="features", default="", help=f"of {', '.join([*FEATURES, *ROOM_OPTIONS])}; separated by commas"
    )
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(partial(main, cast(Any, options.transport), {name for name in options.features.split(",") if name}))
