"""Whatever bytes clients send, the server lives, logs no error, and keeps nothing of them; what it answers is proper.

::

    python tests/fuzz.py --cases 200000 --seed 1

Each case is a connection, made from the seed and its number: requests and frames, most of them mutated, in any pieces,
and left in any way. Cases come in batches, over real sockets (``--over sockets``) or over memory streams (``memory``),
to a server that an innocent client uses, too. A batch with which something was wrong is repeated case by case, and
``--case N`` repeats one. Exit status: 0, or 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
import trio
import trio.testing

from doors import make_manager, read_to_end, reset
from fuzz_cases import Case, make_case
from sieges import ROOM, Siege, besieged
from trio_rooms import ActionError, Config, Connection, Denied, Limits, Manager, Room
from trio_rooms.testing import Opcode, parse_server_frames
from trio_rooms.testing._raw import split_response

_BATCH = 500

# For one batch; everything in it ends by itself within a second or so.
_PATIENCE = 60.0

#: What a refusal may say: neither 500, which would be an exception, nor anything that is not ours.
_STATUSES: Final = frozenset({101, 200, 400, 403, 404, 405, 414, 426, 431})

# Clients leave by themselves, so what waits for them may wait long, on a slow machine too.
CONFIG = Config(
    handshake_timeout=1000,
    ping_interval=1000,
    close_timeout=0.2,
    limits=Limits(max_message_bytes=6000, max_fragments=8, inbox_messages=4, max_handlers=2, outbox_messages=50),
)


@attrs.frozen
class Typed:
    """A payload that is checked."""

    name: str
    count: int = 0


def make_target() -> Manager:
    """A program with handlers of every kind, none of which raises anything unexpected."""
    manager = make_manager(CONFIG)
    manager.on_join_room(keep_out)
    manager.room("*", authorize=allow)
    manager.page("/page", b"fine", content_type="text/plain")

    @manager.on("typed")
    def typed(conn: Connection, data: Typed) -> Typed:
        return data

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @manager.on("slow", concurrent=True)
    async def slow(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("leave")
    def leave(conn: Connection) -> None:
        for room in tuple(conn.rooms):
            conn.leave(room)

    @manager.on("publish")
    def publish(conn: Connection) -> None:
        for room in conn.rooms:
            manager.broadcast_to_room(room, "published")

    @manager.on("close")
    def close(conn: Connection) -> None:
        conn.close(4000, "asked to")

    @manager.on("refuse")
    def refuse(conn: Connection) -> None:
        raise ActionError("NO", "not today")

    return manager


def keep_out(conn: Connection, room: Room) -> None:
    """The innocent, who comes first, has its room for itself."""
    if room.name == ROOM and room.members:
        raise Denied


async def allow(conn: Connection, room: str, data: Any) -> bool:
    """Nearly every name."""
    return room != "a"


# One case


async def attack(siege: Siege, case: Case, *, over: str, problems: list[str]) -> None:
    """Be the client of one case; what is wrong with the answer goes to ``problems``."""
    async with trio.open_nursery() as nursery:
        stream: trio.abc.HalfCloseableStream
        if over == "sockets":
            stream = await siege.dial()
        else:
            stream, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(siege.manager.handle_connection, theirs)
        async with stream:
            problem = await converse(stream, case)
        if problem is not None:
            problems.append(f"case {case.index}: {problem}")


async def converse(stream: trio.abc.HalfCloseableStream, case: Case) -> str | None:
    """Send what the case has, leave as it says, and say what is wrong with the answer if it was read."""
    with suppress(trio.BrokenResourceError):
        for segment in case.segments:
            await stream.send_all(segment)
            for _ in range(case.index % 4):
                await trio.lowlevel.checkpoint()
        if case.end == "eof":
            await stream.send_eof()
            return wrong_with(await read_to_end(stream))
    if case.end == "reset" and isinstance(stream, trio.SocketStream):
        reset(stream)
    return None


def wrong_with(answer: bytes) -> str | None:
    """What is wrong with everything that a client got; None if nothing is."""
    if not answer:
        return None
    try:
        response = split_response(answer)
        if response is None:
            return f"no whole response: {answer[:100]!r}"
        status, headers, rest = response
        if status not in _STATUSES:
            return f"status {status}"
        if status != 101:
            size = int(headers["content-length"])
            return None if len(rest) in (0, size) else f"a body of {len(rest)} bytes instead of {size}"
        return wrong_with_frames(rest)
    except (ValueError, KeyError) as exc:
        return f"{exc!r}: {answer[:100]!r}"


def wrong_with_frames(data: bytes) -> str | None:
    """What is wrong with the frames that a client got. Raises ValueError."""
    frames = parse_server_frames(data)
    for frame in frames:
        if frame.rsv or not frame.fin or frame.opcode not in set(Opcode):
            return f"an odd frame: {frame}"
        if frame.opcode == Opcode.TEXT:
            json.loads(frame.payload)
        if b"Traceback" in frame.payload:
            return f"too much detail: {frame}"
    closes = [n for n, frame in enumerate(frames) if frame.opcode == Opcode.CLOSE]
    return "something behind the close frame" if closes not in ([], [len(frames) - 1]) else None


# Many cases


async def storm(cases: Iterable[Case], *, over: str, transport: Any, target: Manager | None = None) -> list[str]:
    """Run cases at the same time against a server, and say what was wrong."""
    problems: list[str] = []
    try:
        with trio.fail_after(_PATIENCE):
            async with besieged(target or make_target(), transport=transport) as siege, trio.open_nursery() as nursery:
                for case in cases:
                    nursery.start_soon(partial(attack, siege, case, over=over, problems=problems))
    except Exception as exc:
        problems.append("".join(traceback.format_exception(exc)))
    return problems


async def fuzz(seed: int, indices: Sequence[int], *, over: str, transport: Any, size: int = _BATCH) -> list[str]:
    """Run cases batch by batch, up to the first batch with which something is wrong; say what, and how to repeat it."""
    run = partial(storm, over=over, transport=transport)
    for start in range(0, len(indices), size):
        batch = [make_case(seed, index) for index in indices[start : start + size]]
        if problems := await run(batch):
            guilty = [case.index for case in batch if await run([case])]
            again = [f"python tests/fuzz.py --seed {seed} --over {over} --case {index}" for index in guilty]
            what = f"seed {seed}, cases {batch[0].index} to {batch[-1].index}, over {over}"
            return [what, *problems, *(again or ["none of them alone, only together"])]
    return []


def main() -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="how many, over each of the ways (20,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--over", choices=["sockets", "memory"], action="append", help="default: both")
    parser.add_argument("--transport", choices=["native", "trio-websocket"], default="native")
    options = parser.parse_args()
    indices = range(options.cases) if options.case is None else [options.case]
    found = False
    for over in options.over or ["sockets", "memory"]:
        problems = trio.run(partial(fuzz, options.seed, indices, over=over, transport=options.transport))
        verdict = "something was wrong" if problems else "nothing was wrong"
        print(f"{len(indices):,} cases of seed {options.seed} over {over}: {verdict}", *problems, sep="\n")
        found = found or bool(problems)
    sys.exit(found)


if __name__ == "__main__":
    main()
