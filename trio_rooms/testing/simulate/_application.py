"""The program that is served in a run: ours, which uses everything, or one of the user's own."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import msgspec
import trio

from trio_rooms import Config, Connection, Context, HandshakeRequest, Identity, Manager, Message, PresenceOptions, Room
from trio_rooms.brokers import Broker

from ._hooks import link_of
from ._publisher import Publisher, Say
from ._settings import Settings

#: Whose errors are expected by the thousand; nobody wants to read them.
_QUIET = logging.getLogger("trio_rooms.testing.simulate")
_QUIET.setLevel(logging.CRITICAL + 1)


@attrs.frozen(kw_only=True)
class Program:
    """A program of one's own, to be simulated."""

    make_manager: Callable[[Broker, Config], Manager]
    """Makes the manager, anew for each run, with this broker and this config, whose limits may be very small."""
    rooms: tuple[str, ...]
    """The rooms that clients ask to join with ``$join``."""
    speak: Callable[[random.Random], tuple[str, Any]]
    """Draws what a client says: an action, and its data."""
    path: str = "/ws"
    """Where upgrades are accepted."""


class Pause(msgspec.Struct):
    """For how long a handler waits."""

    seconds: float


class Items(msgspec.Struct):
    """What a generator yields."""

    items: int
    pause: float


class Application:
    """Our own program: rooms of each policy, and handlers for all that clients do in a run."""

    def __init__(self, settings: Settings, broker: Broker, make_publisher: Callable[[Manager], Publisher]) -> None:
        self.manager = manager = Manager(config=settings.config, broker=broker, logger=_QUIET)
        self._publisher = make_publisher(manager)
        self._fills = 0
        common: dict[str, Any] = {
            "capacity": settings.capacity,
            "linger": settings.linger,
            "authorize": self._authorize,
            "allow_publish": True,
        }
        for policy in ("close", "drop_newest", "drop_oldest", "conflate"):
            manager.room(f"{policy.removeprefix('drop_')}-*", overflow=policy, **common)
        history: dict[str, Any] = {
            "history_size": settings.history_size,
            "history_ttl": min(settings.history_ttl, settings.history_meta_ttl),
            "history_meta_ttl": settings.history_meta_ttl,
            "allow_history": True,
        }
        manager.room("stream-*", **history, **common)
        manager.room("cache-*", overflow="conflate", recovery="cache", fill=self._fill, **history, **common)
        manager.room("fresh-*", recovery="cache", **history, **common)
        presence = PresenceOptions(
            entry=_entry,
            interval=settings.presence_interval,
            grace=settings.presence_grace,
            max_bytes=3000,  # fits into the smallest outbox
        )
        manager.room("people-*", presence=presence, **common)
        if settings.named:
            manager.authenticate(_authenticate)
        manager.handle_message("enter", self._enter)
        manager.handle_message("status", self._status)
        manager.handle_message("ask", self._ask)
        manager.handle_message("say", self._say)
        manager.handle_message("shout", self._shout)
        manager.handle_message("echo", self._echo)
        manager.handle_message("sleep", self._sleep)
        manager.handle_message("beside", self._sleep, concurrent=True)
        manager.handle_message("stream", self._stream)
        manager.handle_message("crash", self._crash)
        if settings.middleware:
            manager.use(self._middleware)
            manager.on_message(self._on_message)

    async def _authorize(self, conn: Connection, room: str, data: object) -> bool:
        if data == "slow":
            await trio.sleep(0.25)
        return data != "denied"

    async def _fill(self, room: str) -> dict[str, Any]:
        self._fills += 1  # no two events of a run are the same
        return {"n": f"fill {self._fills} of {room}", "pad": ""}

    async def _enter(self, conn: Connection, data: dict[str, str]) -> dict[str, Any]:
        joined = await conn.join(data["room"])
        return {"room": data["room"], "new": joined.new}

    async def _say(self, conn: Connection, data: Say) -> dict[str, Any]:
        report = await self._publisher.publish(data)
        return {"n": data.n, "final": report is not None and report.final}

    async def _shout(self, conn: Connection, data: Say) -> dict[str, Any]:
        report = self._publisher.broadcast((data.room,), data)
        return {"n": data.n, "final": report is not None and report.final}

    def _echo(self, conn: Connection, data: Any) -> Any:
        return data

    def _status(self, conn: Connection, data: dict[str, Any]) -> None:
        conn.set_presence(data["room"], {"link": link_of(conn), "n": data["n"]})

    async def _ask(self, conn: Connection, data: dict[str, Any]) -> str:
        return await self._publisher.ask(conn, data["n"], 3)

    async def _sleep(self, conn: Connection, data: Pause) -> str:
        await trio.sleep(data.seconds)
        return "slept"

    async def _stream(self, conn: Connection, data: Items) -> AsyncIterator[int]:  # noqa: ASYNC900, ASYNC911 - a handler
        for number in range(data.items):
            await trio.sleep(data.pause)
            yield number  # noqa: ASYNC911 - it yields to the library

    async def _crash(self, conn: Connection) -> None:
        raise RuntimeError("this handler was told to fail")

    async def _middleware(self, ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
        return await call_next(ctx)

    async def _on_message(self, conn: Connection, message: Message) -> None:
        await trio.lowlevel.checkpoint()


async def _authenticate(request: HandshakeRequest) -> Identity:  # noqa: ASYNC124 - what authenticates is async
    return Identity(user=request.query.get("user") or None)


def _entry(conn: Connection, room: Room) -> dict[str, Any]:
    return {"link": link_of(conn)}
