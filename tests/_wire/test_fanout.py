"""Fan-out: each member gets what it must, however many share what waits for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from naive_rooms import POLICIES, Crowd, Member, crowd
from trio_rooms._wire.backlog import NOTHING, Backlog
from trio_rooms.testing import Opcode, parse_server_frames

NOBODY = frozenset[str]()


def publish(found: Crowd, room: str, *data: str, key: str | None = None, exclude: frozenset[str] = NOBODY) -> None:
    for one in data:
        found.publish((room,), one.encode(), key=key, exclude=exclude)


def seen(member: Member) -> list[str]:
    """The messages that a peer got, without what its format puts before them."""
    frames = [one for one in parse_server_frames(member.plain.data) if one.opcode == Opcode.TEXT]
    return [one.payload.decode().removeprefix("another format: ") for one in frames]


def sharers(found: Crowd) -> list[set[str]]:
    """Who shares a backlog with whom, of those that have one with an owner."""
    groups: dict[int, set[str]] = {}
    for member in found.members.values():
        backlog = member.outbox.backlog
        if backlog is not None and backlog.owner is not None:
            groups.setdefault(id(backlog), set()).add(member.id)
    return sorted(groups.values(), key=sorted)


FOUR = {"a": ["close"], "b": ["close"], "c": ["close"], "d": ["close"]}
"""Members of one room; the first and third have one format, the others another."""


async def test_members_share() -> None:
    """Members for whom nothing else waits share one backlog for each format; its bytes are joined once."""
    async with crowd(FOUR) as found:
        publish(found, "close", "1", "2", "3")
        assert sharers(found) == [{"a", "c"}, {"b", "d"}]
        a, c = (found.members[ident].outbox.backlog for ident in "ac")
        assert isinstance(a, Backlog)
        assert len(a.items) == 3
        found.check()
        await wait_all_tasks_blocked()
        assert a.data is not None
        assert a is c
        assert [seen(member) for member in found.members.values()] == [["1", "2", "3"]] * 4
        assert {member.plain.calls for member in found.members.values()} == {1}
        assert sharers(found) == []


PARTED = [
    ("private", {"a": ["1", "p", "2"]}),
    ("exclude", {"a": ["1"]}),
    ("leave", {"a": ["1"]}),
    ("leave and join", {"a": ["1", "2"]}),
    ("other room", {"a": ["1", "o", "2"]}),
    ("finish", {"a": ["1"]}),
    ("discard", {"a": []}),
    ("all but others", {"a": ["1", "all", "2"]}),
    ("several rooms", {"a": ["1", "o", "2"], "b": ["1", "o", "2"], "c": ["1", "o", "2"], "d": ["1", "o", "2"]}),
]


@pytest.mark.parametrize(("how", "expected"), PARTED, ids=[how for how, _ in PARTED])
async def test_standing_apart(how: str, expected: dict[str, list[str]]) -> None:
    """Who is to get anything else, or not the next one, gets a backlog of its own; the others go on sharing."""
    async with crowd({**FOUR, "a": ["close", "also"]}) as found:
        publish(found, "close", "1")
        a = found.members["a"]
        exclude = NOBODY
        if how == "private":
            a.send(b"p")
        elif how == "exclude":
            exclude = frozenset("a")
        elif how.startswith("leave"):
            found.rooms["close"].remove("a")
            if how == "leave and join":
                found.join(a, "close")
        elif how == "other room":
            publish(found, "also", "o")
        elif how == "finish":
            a.finish()
        elif how == "discard":
            a.end()
        elif how == "all but others":
            found.publish((), b"all", key=None, exclude=frozenset("bcd"))
        else:
            found.publish(("also", "close"), b"o", key=None, exclude=NOBODY)
        found.check()
        publish(found, "close", "2", exclude=exclude)
        found.check()
        assert not any("a" in group for group in sharers(found))
        await wait_all_tasks_blocked()
        for member in found.members.values():
            assert seen(member) == expected.get(member.id, ["1", "2"])
        found.check()


async def test_excluded_before_it_shares() -> None:
    """Who was excluded from the first of several publications shares none of it with the others."""
    async with crowd(FOUR) as found:
        publish(found, "close", "1", exclude=frozenset("a"))
        publish(found, "close", "2")
        publish(found, "close", "3", exclude=frozenset("a"))
        publish(found, "close", "4")
        await wait_all_tasks_blocked()
        assert [seen(member) for member in found.members.values()] == [list("24"), *[list("1234")] * 3]


async def test_who_joins_gets_what_comes() -> None:
    """A new member gets nothing of what waits for those who were there before."""
    async with crowd({**FOUR, "a": []}) as found:
        publish(found, "close", "1")
        found.join(found.members["a"], "close")
        publish(found, "close", "2")
        assert sharers(found) == [{"a"}, {"b", "d"}, {"c"}]
        await wait_all_tasks_blocked()
        assert [seen(member) for member in found.members.values()] == [["2"], *[["1", "2"]] * 3]


async def test_a_slow_member_keeps_what_it_shares() -> None:
    """A member whose socket takes nothing keeps the backlog that the others have written; theirs is a new one."""
    async with crowd(FOUR) as found:
        found.members["a"].plain.allowance = 0
        publish(found, "close", "1", "2")
        found.fan_out.flusher._flush_slice()
        publish(found, "close", "3")
        found.check()
        assert sharers(found) == [{"a"}, {"b", "d"}, {"c"}]
        found.members["a"].plain.allow(math.inf)
        await wait_all_tasks_blocked()
        assert [seen(member) for member in found.members.values()] == [list("123")] * 4


@pytest.mark.parametrize("taken", range(1, 6))
async def test_a_part_is_taken_of_a_copy(taken: int) -> None:
    """Of a shared backlog a socket takes all, or a part of a copy; the others have theirs whole."""
    async with crowd(FOUR) as found:
        found.members["a"].plain.allowance = taken
        publish(found, "close", "1", "2")
        found.fan_out.flusher._flush_slice()
        found.check()
        publish(found, "close", "3")
        found.members["a"].plain.allow(math.inf)
        await wait_all_tasks_blocked()
        assert [seen(member) for member in found.members.values()] == [list("123")] * 4
        found.check()


@pytest.mark.parametrize("room", POLICIES)
@pytest.mark.parametrize("max_messages", [1, 2, 3, 8])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_burst_hurts_nobody(room: str, max_messages: int, key: str | None) -> None:
    """S1: far more than an outbox holds, between two checkpoints, to sockets that take it: nobody loses anything.

    Except for what the room wants to be replaced, while it waits.
    """
    async with crowd({"a": [room], "b": [room]}, max_messages=max_messages) as found:
        data = [str(number) for number in range(50)]
        publish(found, room, *data, key=key)
        await wait_all_tasks_blocked()
        expected = data[-1:] if room == "conflate" and key else data
        assert [seen(member) for member in found.members.values()] == [expected] * 2
        found.check()


async def test_as_large_as_a_write() -> None:
    """A shared backlog grows to one write or half of an outbox; then it is written and another one begun."""
    async with crowd(FOUR, max_messages=100, max_bytes=100_000, max_write=1000) as found:
        publish(found, "close", *(f"{number:0100}" for number in range(50)))
        sizes = [len(member.outbox.backlog.items) for member in found.members.values() if member.outbox.backlog]
        assert sharers(found) == [{"a", "c"}, {"b", "d"}]
        assert all(size * (104 + 64) <= 1000 for size in sizes)
        await wait_all_tasks_blocked()
        assert {member.plain.calls for member in found.members.values()} <= {9, 10, 11, 12, 13}
        found.check()


async def test_larger_than_half_an_outbox() -> None:
    """What is too large to be shared goes to each by itself."""
    async with crowd(FOUR, max_bytes=1000, max_write=5000) as found:
        publish(found, "close", "x" * 600, "y")
        assert sharers(found) == []
        found.check()
        await wait_all_tasks_blocked()
        assert [seen(member) for member in found.members.values()] == [["x" * 600, "y"]] * 4


async def test_without_a_plain_socket() -> None:
    """Outboxes that nobody flushes share nothing, and are served all the same."""
    async with crowd({**FOUR, "a": []}) as found:
        a = found.members["a"]
        a.outbox.backlog = a.outbox._empty = NOTHING  # as that of a connection over TLS
        found.join(a, "close")
        publish(found, "close", "1", "2")
        assert not any("a" in group for group in sharers(found))
        await wait_all_tasks_blocked()
        assert seen(a) == ["1", "2"]


MEMBERS = "abcdef"
SIZES = st.one_of(st.integers(4, 40), st.integers(4, 400))
SOME = st.frozensets(st.sampled_from(MEMBERS), max_size=2)
ONE = st.sampled_from(MEMBERS)
ROOM = st.sampled_from(sorted(POLICIES))
KEY = st.sampled_from([None, None, "k", "l"])
PUBLISH = st.tuples(st.just("publish"), st.tuples(ROOM), SIZES, KEY, st.one_of(st.just(NOBODY), SOME))
STEPS = st.one_of(
    PUBLISH,
    PUBLISH,
    PUBLISH,
    st.tuples(
        st.just("publish"), st.lists(ROOM, min_size=2, max_size=3, unique=True).map(tuple), SIZES, KEY, st.just(NOBODY)
    ),
    st.tuples(st.just("publish"), st.just(()), SIZES, st.just(None), SOME),
    st.tuples(st.just("send"), ONE, SIZES),
    st.tuples(st.just("join"), ONE, ROOM),
    st.tuples(st.just("leave"), ONE, ROOM),
    st.tuples(st.just("allow"), ONE, st.one_of(st.integers(0, 300), st.just(math.inf))),
    st.tuples(st.just("stall"), ONE, st.integers(0, 100)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
    st.tuples(st.just("end"), ONE, st.sampled_from(["finish", "end", "cancel", "fail"])),
)


async def take_step(found: Crowd, number: int, what: str, *args: Any) -> None:
    if what == "publish":
        rooms, size, key, exclude = args
        found.publish(rooms, f"{number}:".ljust(size, ".").encode(), key=key, exclude=exclude)
    elif what == "turn":
        await wait_all_tasks_blocked()
    else:
        member = found.members[args[0]]
        if what == "send":
            member.send(f"{number}!".ljust(args[1], ".").encode())
        elif what == "join":
            found.join(member, args[1])
        elif what == "leave":
            found.rooms[args[1]].remove(member.id)
        elif what == "allow":
            member.plain.allow(args[1])
        elif what == "stall":
            member.plain.allowance = args[1]
        elif args[1] == "finish":
            member.finish()
        elif args[1] == "end":
            member.end()
        elif args[1] == "cancel":
            member.scope.cancel()
        else:
            member.plain.fail()


@example(
    memberships=[["close"]] * 6,
    steps=[("stall", "a", 5), ("publish", ("close",), 40, None, NOBODY), ("turn",), ("end", "a", "end")],
    bounds=(4, 1000, 300),
    flush=True,
    at_once=math.inf,
)
@given(
    memberships=st.lists(st.lists(ROOM, unique=True), min_size=len(MEMBERS), max_size=len(MEMBERS)),
    steps=st.lists(STEPS, max_size=60),
    bounds=st.tuples(st.integers(1, 9), st.integers(300, 2000), st.integers(1, 700)),
    flush=st.booleans(),
    at_once=st.sampled_from([math.inf, math.inf, 50, 7]),
)
async def test_like_naive_rooms(
    memberships: list[list[str]], steps: list[Any], bounds: tuple[int, int, int], flush: bool, at_once: float
) -> None:
    """Invariants 3 and 6: for any history each connection gets the bytes, and keeps the books, of one plain list.

    Members of several rooms, with two formats and all policies; publications to one room, to several, to all, with
    exclusions, and private messages; joins, leaves and ends in between; sockets that take all, a part, nothing, fail.
    """
    max_messages, max_bytes, max_write = bounds
    rooms = dict(zip(MEMBERS, memberships, strict=True))
    async with crowd(
        rooms, flush=flush, max_messages=max_messages, max_bytes=max_bytes, max_write=max_write, at_once=at_once
    ) as found:
        for number, (what, *args) in enumerate(steps):
            await take_step(found, number, what, *args)
            if what != "end":  # what the writer meets then is known when it has met it
                found.check()
        for member in found.members.values():
            member.plain.allow(math.inf)
        await wait_all_tasks_blocked()
        found.check()
        for member in found.members.values():
            assert not member.naive.queue
            assert not member.naive.rest or member.plain.fails_at == 0
            if member.plain.fails_at:
                parse_server_frames(member.plain.data)
