"""A client of a run: it does its steps at their times, connects when it has to, and knows where it wants to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio

from ._link import Link
from ._network import Network, Wire
from ._plan import OF_CONNECTIONS, Step
from ._record import Opened, Record, Settled, Unsettled

# Virtual seconds until an answer must have come where nothing is broken.
_ANSWER_TIME = 60.0

#: Errors after which a client that comes to rest does without a room.
_DO_WITHOUT = frozenset({"ROOM_FULL", "TOO_MANY_ROOMS", "DENIED"})


@attrs.define(eq=False)
class Player:
    """One client."""

    number: int
    subprotocol: str
    """Empty for none."""
    loyal: bool
    """Whether it joins its rooms again by itself when it connects."""
    returning: bool
    """Whether it asks for its session when it connects."""
    user: str
    path: str
    network: Network
    record: Record
    nursery: trio.Nursery
    next_link: Callable[[], int]
    serve: Callable[[], int]
    excluded_as: Callable[[int], int | None]
    link: Link | None = None
    wanted: dict[str, None] = attrs.field(factory=dict)
    positions: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    """By room the epoch and the offset of the last that it has seen."""
    token: str | None = None
    """Of its session."""
    _last_id: int = 0
    _for_next: list[Step] = attrs.field(factory=list)
    _asked: dict[Any, str] = attrs.field(factory=dict)
    _began: float = attrs.field(factory=trio.current_time)

    async def play(self, steps: list[Step]) -> None:
        """Do each step at its time."""
        for step in steps:
            await trio.sleep_until(self._began + step.at)
            await self.do(step)

    async def do(self, step: Step) -> None:
        """One step; what needs a connection makes one first."""
        if step.kind in OF_CONNECTIONS:
            self._break(step)
            return
        if step.kind in ("hang_up", "drop"):
            link, self.link = self.link, None
            if link is not None:
                await (link.hang_up() if step.kind == "hang_up" else link.drop())
            return
        link = await self.connected()
        if link is not None and step.kind == "blink":
            await self._blink(link, step.args)
        elif link is not None:
            await self._say(link, step)

    async def connected(self) -> Link | None:
        """The open connection, or a new one; None if there is none to be had now."""
        if self.link is not None and self.link.usable:
            return self.link
        if self.link is not None:
            await self.link.drop()
        self.link = await self._connect()
        if self.link is not None and self.returning:
            await self.link.send(self._return())
        elif self.link is not None and self.loyal:
            await self._join_all(self.link)
        return self.link

    def heal(self) -> None:
        """Nothing happens to its next connection."""
        self._for_next.clear()

    async def settle(self) -> tuple[Link, tuple[str, ...]] | None:
        """Come to rest: connected over something that works, and in the wanted rooms. Recorded either way."""
        if self.link is not None and (self.link.wire.faulty or not self.link.usable):
            await self.link.drop()
            self.link = None
        link = await self.connected()
        if link is None:
            self.record.add(Unsettled(self.number, "no connection"))
            return None
        rooms = []
        for room in tuple(self.wanted):
            answer = await link.request(self._join(room), seconds=_ANSWER_TIME)
            if answer is None:
                self.record.add(Unsettled(self.number, f"no answer to $join of {room}"))
                return None
            code = answer.get("error", {}).get("code")
            if code in _DO_WITHOUT:
                self.wanted.pop(room, None)
            elif code is not None:
                self.record.add(Unsettled(self.number, f"$join of {room}: {code}"))
                return None
            else:
                rooms.append(room)
        self.record.add(Settled(link.number, self.number, tuple(rooms)))
        return link, tuple(rooms)

    # The inside

    async def _connect(self) -> Link | None:
        number = self.next_link()
        wire = self.network.open(number)
        if wire is None:
            return None
        self.record.add(Opened(number, self.number, self.serve()))
        link = Link(
            wire, self.record, subprotocol=self.subprotocol, on_message=lambda message: self._on_message(link, message)
        )
        for step in self._for_next:
            self._strike(wire, step)
        self._for_next.clear()
        if not await link.shake_hands(self.path, self.user):
            return None
        self.nursery.start_soon(link.read)
        return link

    async def _join_all(self, link: Link) -> None:
        for room in tuple(self.wanted):
            await link.send(self._join(room))

    def _return(self) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if self.token is not None:
            data["session"] = self.token
            data["positions"] = {
                room: {"epoch": epoch, "offset": offset} for room, (epoch, offset) in self.positions.items()
            }
        return {"action": "$session", "id": self._new_id(), "data": data}

    def _welcome(self, link: Link, data: dict[str, Any]) -> None:
        self.token = data.get("session")
        for room, reply in data.get("rooms", {}).items():
            if "error" in reply:
                self.wanted.pop(room, None)
            else:
                self.wanted[room] = None
                self._follow(reply)
        if self.returning and self.loyal and not data.get("restored"):
            self.nursery.start_soon(self._join_all, link)

    async def _answer(self, link: Link, message: dict[str, Any]) -> None:
        n = message["data"]["n"]
        mode = answer_mode(n)
        if mode == "slow":
            await trio.sleep(0.5)
        if mode == "error":
            await link.answer(n, {"id": message["id"], "error": {"code": "NO", "message": "", "temporary": False}})
        elif mode != "never":
            for _ in range(2 if mode == "twice" else 1):
                await link.answer(n, {"id": message["id"], "data": {"n": n}})

    def _on_message(self, link: Link, message: dict[str, Any]) -> None:
        self._follow(message)
        if message.get("action") == "$welcome":
            self._welcome(link, message["data"])
        elif message.get("action") == "question":
            self.nursery.start_soon(self._answer, link, message)
        elif message.get("action") == "$closed":
            self.wanted.pop(message["data"]["room"], None)
        elif "id" in message and "action" not in message:
            room = self._asked.pop(message["id"], None)
            if room is not None and "error" in message:
                self.wanted.pop(room, None)

    def _follow(self, message: dict[str, Any]) -> None:
        """Keep the position of the room that a message is about. Without a subprotocol it is of no use."""
        if not self.subprotocol:
            return
        about = message.get("data") if "id" in message else message
        if not isinstance(about, dict) or "room" not in about or "offset" not in about:
            return
        room = about["room"]
        if "epoch" in about:
            self.positions[room] = about["epoch"], about["offset"]
        elif room in self.positions:
            self.positions[room] = self.positions[room][0], about["offset"]

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _join(self, room: str, since: str = "") -> dict[str, Any]:
        data: dict[str, Any] = {"room": room}
        if room in self.positions:
            epoch, offset = self.positions[room]
            wrong = {"foreign": ("none", offset), "above": (epoch, offset + 1000), "below": (epoch, -1)}
            epoch, offset = wrong.get(since, (epoch, offset))
            data["since"] = {"epoch": epoch, "offset": offset}
        return {"action": "$join", "id": self._new_id(), "data": data}

    async def _blink(self, link: Link, args: Mapping[str, Any]) -> None:
        """Say something that it is not to hear itself, go before anything comes back, and come back."""
        link.wire.stall("near", "receiving", 0)
        said = {"room": args["room"], "n": args["n"], "exclude": self.number}
        await link.send(self._message(Step(0.0, "say", self.number, said)))
        await trio.sleep(args["stays"])
        await link.drop()
        await trio.sleep(args["away"])
        await self.connected()

    async def _say(self, link: Link, step: Step) -> None:
        if step.kind == "bad":
            await link.send_text(_BAD[step.args["which"]])
        elif step.kind == "shout":
            for index in range(step.args["count"]):
                await link.send(self._message(attrs.evolve(step, args={**step.args, "n": step.args["n"] + index})))
        elif step.kind == "cancel":
            await link.send({"action": "$cancel", "data": {"id": self._last_id}})
        else:
            await link.send(self._message(step))

    def _message(self, step: Step) -> dict[str, Any]:
        args = dict(step.args)
        if step.kind == "join":
            self.wanted[args["room"]] = None
            message = self._join(args["room"], args.get("since", ""))
            self._asked[message["id"]] = args["room"]
            return message
        message = {"action": step.kind, "id": self._new_id(), "data": args}
        if step.kind == "enter":
            self.wanted[args["room"]] = None
            self._asked[message["id"]] = args["room"]
        elif step.kind == "leave":
            self.wanted.pop(args["room"], None)
            message["action"] = "$leave"
        elif step.kind == "crash":
            del message["data"]
        elif step.kind == "post":
            message["action"] = "$publish"
            message["data"] = {"room": args["room"], "data": {"n": args["n"], "pad": ""}}
            if args["once"] is not None:
                message["data"]["idempotency_key"] = args["once"]
        elif step.kind == "history":
            message["action"] = "$history"
        elif step.kind == "speak":
            message["action"], message["data"] = args["action"], args["data"]
        elif args.get("timeout_ms") is not None:
            message["timeout_ms"] = args["timeout_ms"]
        if args.get("exclude") is not None:
            message["data"] = {**args, "exclude": self.excluded_as(args["exclude"])}
        return message

    def _break(self, step: Step) -> None:
        if self.link is None or self.link.over.is_set() or step.args.get("next"):
            self._for_next.append(step)
        else:
            self._strike(self.link.wire, step)

    def _strike(self, wire: Wire, step: Step) -> None:
        args = step.args
        if step.kind == "cut":
            wire.cut(args["end"], args["direction"], args["after"])
        elif step.kind == "stall":
            wire.stall(args["end"], args["direction"], args["after"])
            self.nursery.start_soon(_resume_later, wire, args["seconds"])
        elif step.kind == "clog":
            wire.clog(args["after"])
            self.nursery.start_soon(_resume_later, wire, args["seconds"])
        elif step.kind == "slow":
            wire.slow_down(args["seconds"])
        elif step.kind == "trickle":
            wire.trickle()
        else:
            wire.silence()


async def _resume_later(wire: Wire, seconds: float) -> None:
    await trio.sleep(seconds)
    wire.resume()


_BAD = (b"{", b"[]", b'{"action": "no such action", "id": "bad"}', b'{"data": 1}', b'{"action": "$join", "id": "bad"}')


def answer_mode(n: int) -> str:
    """How a client answers a question of the server's."""
    return ("once", "twice", "slow", "error", "never")[n // 100 % 5]
