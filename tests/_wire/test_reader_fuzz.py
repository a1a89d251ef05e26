"""Whatever bytes come, in whatever pieces: the reader raises nothing, keeps little, and ends once.

``nox -s long`` runs these with 10,000 examples each.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz_cases import mutated
from probes import MAX, TOO_BIG, VIOLATIONS
from trio_rooms._wire.reader import Event, FrameReader, Ping, Pong
from trio_rooms._wire.transport import Close
from trio_rooms.testing import Opcode, client_frame, close_payload

LIMIT = 300
FRAGMENTS = 5

# The longest header: two bytes, a length of eight, a mask of four.
HEADER = 14

#: Codes that a Close may carry when we have judged.
OURS = {1002, 1007, 1009}


class Checked:
    """A reader that is asked after every piece whether it keeps its promises."""

    def __init__(self) -> None:
        self.reader = FrameReader(max_message_bytes=LIMIT, max_fragments=FRAGMENTS)
        self.events: list[Event] = []
        self.allowed = LIMIT + HEADER

    def feed(self, data: bytes) -> None:
        over = self.reader.ended
        events = self.reader.feed(data)
        if self.reader.ended and not over:
            self.allowed += len(data)  # what stood behind the end in this piece
        assert not (over and events), "an event behind the end"
        self.events += events
        assert self.reader.ended == (bool(self.events) and isinstance(self.events[-1], Close))
        assert not any(isinstance(event, Close) for event in self.events[:-1])
        # Of a message that has begun no more is kept than of a whole one.
        assert len(self.reader._buffer) + len(self.reader._message or b"") <= self.allowed
        for event in events:
            check(event)


def check(event: Event) -> None:
    """Each event is within the limits and what it says it is."""
    if isinstance(event, str):
        assert len(event.encode()) <= LIMIT  # and it can be encoded: no surrogates
    elif isinstance(event, bytes):
        assert len(event) <= LIMIT
    elif isinstance(event, (Ping, Pong)):
        assert type(event.payload) is bytes
        assert len(event.payload) <= 125
    elif event.by == "peer":
        assert event.code == 1005 or 1000 <= event.code <= 4999
        assert len(event.reason.encode()) <= 123
    else:
        assert event.by == "server"
        assert event.code in OURS


def read(pieces: Iterable[bytes]) -> list[Event]:
    """All events, with every promise checked; the texts of violations are nobody's promise."""
    checked = Checked()
    for piece in pieces:
        checked.feed(piece)
    return [Close(e.code, "", e.by) if isinstance(e, Close) and e.by == "server" else e for e in checked.events]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The same bytes in pieces, some of them empty, cut at places that are taken modulo the length."""
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def bytewise(data: bytes) -> list[bytes]:
    """The same bytes one by one."""
    return [data[n : n + 1] for n in range(len(data))]


PAYLOADS = st.one_of(
    st.text(max_size=80).map(str.encode),
    st.binary(max_size=130),
    st.integers(0, LIMIT + 2).map(bytes),
    st.integers(0, 80).map(lambda n: "€😀ü".encode() * n),
    st.builds(close_payload, st.one_of(st.none(), st.integers(0, 65535)), st.binary(max_size=125)),
)
FRAMES = st.builds(
    client_frame,
    st.sampled_from([0, 0, 1, 1, 1, 2, 8, 9, 10, 3, 15]),
    PAYLOADS,
    fin=st.sampled_from([True, True, False]),
    rsv=st.sampled_from([0] * 9 + [1, 4]),
    mask=st.one_of(st.just(bytes(4)), st.binary(min_size=4, max_size=4), st.none()),
    length=st.one_of(*[st.none()] * 9, st.integers(0, (1 << 64) - 1)),
    length_bits=st.sampled_from([None] * 8 + [64]),
)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.long
@given(st.binary(max_size=600), PLACES)
def test_any_bytes(data: bytes, places: list[int]) -> None:
    """Arbitrary bytes, in any pieces, are events or a violation, the same ones however they are cut."""
    assert read(cut(data, places)) == read([data]) == read(bytewise(data))


@pytest.mark.long
@given(st.lists(FRAMES, max_size=8).map(b"".join), PLACES)
def test_any_frames(data: bytes, places: list[int]) -> None:
    """So are arbitrary frames, proper ones and others."""
    assert read(cut(data, places)) == read([data]) == read(bytewise(data))


def proper(rng: random.Random) -> bytes:
    """A stream with nothing wrong in it: messages of all kinds, whole and in fragments, control frames, a close."""
    out = []
    for _ in range(rng.randrange(1, 8)):
        text = "".join(rng.choices("aü€😀", k=rng.randrange(60))).encode()
        payload, opcode = (text, Opcode.TEXT) if rng.random() < 0.7 else (rng.randbytes(rng.randrange(250)), 2)
        count = rng.choice([1, 1, 1, 2, 3, FRAGMENTS])
        borders = [0, *sorted(rng.randrange(len(payload) + 1) for _ in range(count - 1)), len(payload)]
        for n in range(count):
            if rng.random() < 0.3:
                out.append(client_frame(rng.choice([9, 10]), rng.randbytes(rng.randrange(126)), mask=rng.randbytes(4)))
            part = payload[borders[n] : borders[n + 1]]
            out.append(client_frame(0 if n else opcode, part, fin=n == count - 1, mask=rng.randbytes(4)))
    out.append(client_frame(Opcode.CLOSE, close_payload(rng.choice([1000, 4321]), "bye"), mask=rng.randbytes(4)))
    return b"".join(out)


@pytest.mark.long
@given(st.integers(0, 2**32))
def test_proper_streams(seed: int) -> None:
    """A stream with nothing wrong in it is read to its close."""
    rng = random.Random(seed)
    events = read(cut(proper(rng), rng.choices(range(10_000), k=rng.randrange(10))))
    assert isinstance(events[-1], Close)
    assert events[-1].reason == "bye"


@pytest.mark.long
@given(st.integers(0, 2**32))
def test_mutated_streams(seed: int) -> None:
    """And one with something wrong in it is the same however it is cut."""
    rng = random.Random(seed)
    data = mutated(proper(rng), rng)
    assert read(cut(data, rng.choices(range(10_000), k=rng.randrange(10)))) == read([data]) == read(bytewise(data))


@pytest.mark.parametrize("name", VIOLATIONS)
def test_an_end_is_final(name: str) -> None:
    """P3: behind each violation nothing is read any more, and nothing is kept."""
    data, code = VIOLATIONS[name]
    reader = FrameReader(max_message_bytes=MAX, max_fragments=64)
    (*_, close) = reader.feed(data)
    assert isinstance(close, Close)
    assert (close.code, close.by) == (code, "server")
    for _ in range(10):
        assert reader.feed(client_frame(Opcode.TEXT, b"more" * 1000)) == []
    assert len(reader._buffer) <= len(data)


@pytest.mark.parametrize("data", [TOO_BIG["fragments"], client_frame(Opcode.TEXT, b"x" * MAX)], ids=["parts", "whole"])
def test_nothing_is_reserved(data: bytes) -> None:
    """Invariant 5: a length that is only declared costs nothing; what is kept is what has come."""
    reader = FrameReader(max_message_bytes=1 << 40, max_fragments=64)
    reader.feed(client_frame(Opcode.BINARY, b"", length=1 << 40, length_bits=64) + data)
    assert reader._buffer.__sizeof__() < 3 * len(data)
