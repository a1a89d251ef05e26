"""Streams of client frames, valid and not, drawn by hypothesis: what is sent, where it is cut, under which limits."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal

import attrs
from hypothesis import strategies as st

from trio_rooms.testing import Opcode, client_frame, close_payload

_CONTROL = 0x8


@attrs.frozen
class Piece:
    """One frame, described so that a model can tell what is wrong with it."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = b"\x01\x80\x7f\xff"
    bits: Literal[7, 16, 64] | None = None
    """The size of the length field; None for the shortest."""
    declared: int | None = None
    """The length that the header tells; None for the payload's."""

    @property
    def data(self) -> bytes:
        return client_frame(
            self.opcode,
            self.payload,
            fin=self.fin,
            rsv=self.rsv,
            mask=self.mask,
            length=self.declared,
            length_bits=self.bits,
        )

    @property
    def length(self) -> int:
        return len(self.payload) if self.declared is None else self.declared

    @property
    def header_size(self) -> int:
        return len(self.data) - len(self.payload)

    @property
    def is_control(self) -> bool:
        return bool(self.opcode & _CONTROL)

    @property
    def is_shortest(self) -> bool:
        """Whether the length is encoded as RFC 6455 section 5.2 wants it."""
        shortest = 7 if self.length < 126 else 16 if self.length < 65536 else 64
        return self.bits in (None, shortest) and self.length < 1 << 63

    @property
    def is_sound(self) -> bool:
        """Whether its header, taken alone, breaks no rule."""
        fits = not self.is_control or (self.fin and self.length < 126)
        known = self.opcode in tuple(Opcode)
        return fits and known and not self.rsv and self.mask is not None and self.is_shortest


@attrs.define(frozen=True, slots=False)
class Script:
    """What a client sends, where it pauses, and what the server is set to."""

    pieces: tuple[Piece, ...]
    missing: int
    """So many bytes of the last frame never come."""
    cuts: tuple[int, ...]
    """Where it pauses until the server has nothing more to do; it does so at the end, too."""
    read_buffer_size: int
    max_message_bytes: int
    max_fragments: int

    @cached_property
    def data(self) -> bytes:
        whole = b"".join(piece.data for piece in self.pieces)
        return whole[: len(whole) - self.missing]

    @property
    def chunks(self) -> list[bytes]:
        places = sorted({0, len(self.data), *(cut for cut in self.cuts if cut < len(self.data))})
        return [self.data[start:end] for start, end in pairwise(places)]


#: Bytes that are nowhere UTF-8: unknown, alone, surrogate, too large, too long, cut short.
BAD_TEXT = [b"\xff", b"\x80", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe2\x82"]
CLOSE_CODES = [0, 999, *range(1000, 1017), 2999, 3000, 3999, 4000, 4999, 5000, 65535]
#: Where a length field, or a control frame, changes.
BORDERS = [124, 125, 126, 127, 128, 65534, 65535, 65536, 65537]
LIMITS = [300, 1, 10, 125, 126, 300, 300, 1000, 65535, 65536, 100_000]
MASKS = [b"\x01\x80\x7f\xff", b"\x00\x00\x00\x00", b"abcd", b"\x00\x00\x00\x01"]

_few = st.integers(0, 7).map(lambda n: max(0, n - 4))


@st.composite
def _payloads(draw: st.DrawFn, limit: int) -> bytes:
    how = draw(st.sampled_from(["text", "text", "text", "text", "bytes", "empty", "border", "limit"]))
    if how == "empty":
        return b""
    if how == "bytes":
        return draw(st.binary(max_size=min(20, limit)))
    if how == "text":
        return draw(st.text("aé€𝄞\x00", max_size=min(12, limit // 4))).encode()
    size = draw(st.sampled_from([n for n in BORDERS if n <= limit] or [limit]) if how == "border" else st.just(limit))
    filler = draw(st.sampled_from(["x", "ü", "€", "𝄞"])).encode()
    return (filler * (size // len(filler))).ljust(size, b"y")


@st.composite
def _controls(draw: st.DrawFn) -> Piece:
    opcode = draw(st.sampled_from([Opcode.PING, Opcode.PING, Opcode.PONG]))
    size = draw(st.sampled_from([None, None, None, 0, 125]))
    payload = draw(st.binary(min_size=1, max_size=3)) if size is None else b"p" * size
    return Piece(opcode, payload, mask=draw(st.sampled_from(MASKS)))


@st.composite
def _messages(draw: st.DrawFn, limit: int) -> list[Piece]:
    """A message in drawn fragments, perhaps with control frames between them."""
    payload = draw(_payloads(limit))
    places = sorted(draw(st.integers(0, min(len(payload), 40))) for _ in range(draw(_few)))
    if places and len(payload) > 40 and draw(st.booleans()):
        places[-1] = len(payload) - places[-1]  # most of it in the first fragments
        places.sort()
    parts = [payload[start:end] for start, end in pairwise([0, *places, len(payload)])]
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]))
    pieces: list[Piece] = []
    for n, part in enumerate(parts):
        if n:
            pieces += draw(st.lists(_controls(), max_size=1))
        pieces.append(
            Piece(
                opcode if n == 0 else Opcode.CONTINUATION,
                part,
                fin=n == len(parts) - 1,
                mask=draw(st.sampled_from(MASKS)),
            )
        )
    return pieces


@st.composite
def _floods(draw: st.DrawFn) -> list[Piece]:
    """More pings than a server needs to answer."""
    return [Piece(Opcode.PING, b"%d" % n) for n in range(draw(st.integers(10, 40)))]


@st.composite
def _closes(draw: st.DrawFn) -> Piece:
    if draw(st.sampled_from([False, False, False, True])):
        return Piece(Opcode.CLOSE, draw(st.sampled_from([b"", b"\x03"])))
    code = draw(st.sampled_from([1000, 1001, 3000, 4999]) | st.sampled_from(CLOSE_CODES))
    reason = draw(
        st.sampled_from([b"", b"bye", "ä".encode(), "€".encode() * 41]) | st.sampled_from([b"r" * 124, *BAD_TEXT])
    )
    return Piece(Opcode.CLOSE, close_payload(code, reason))


@st.composite
def _spoilt(draw: st.DrawFn, piece: Piece, limit: int) -> list[Piece]:
    """A frame after something was done to it."""
    payload = piece.payload
    place = draw(st.integers(0, min(len(payload), 30)))
    how = draw(st.sampled_from(_WAYS_TO_SPOIL))
    if how == "text":
        return [attrs.evolve(piece, payload=payload[:place] + draw(st.sampled_from(BAD_TEXT)) + payload[place:])]
    if how == "byte":
        byte = draw(st.binary(min_size=1, max_size=1))
        return [attrs.evolve(piece, payload=payload[:place] + byte + payload[place + 1 :])]
    if how == "size":
        size = draw(st.sampled_from([126, limit + 1]))
        return [attrs.evolve(piece, payload=payload[:size].ljust(size, b"z"))]
    if how == "rsv":
        return [attrs.evolve(piece, rsv=draw(st.integers(1, 7)))]
    if how == "mask":
        return [attrs.evolve(piece, mask=None)]
    if how == "opcode":
        return [attrs.evolve(piece, opcode=draw(st.integers(0, 15)))]
    if how == "bits":
        bits: Literal[16, 64]
        bits, size = draw(st.sampled_from([(16, 125), (64, 65535), (16, None), (64, None), (64, 126)]))
        payload = payload[:60_000] if size is None else payload[:size].ljust(size, b"z")
        return [attrs.evolve(piece, payload=payload, bits=bits)]
    if how == "fin":
        return [attrs.evolve(piece, fin=not piece.fin)]
    return [] if how == "lost" else [piece, piece]


_WAYS_TO_SPOIL = ["text", "text", "byte", "size", "rsv", "mask", "opcode", "bits", "fin", "fin", "lost", "twice"]


_UNITS = ["message"] * 6 + ["control"] * 3 + ["flood"]


@st.composite
def _pieces(draw: st.DrawFn, limit: int) -> list[Piece]:
    pieces: list[Piece] = []
    for unit in draw(st.lists(st.sampled_from(_UNITS), min_size=2, max_size=6)):
        if unit == "message":
            pieces += draw(_messages(limit))
        else:
            pieces += draw(_floods()) if unit == "flood" else [draw(_controls())]
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        place = draw(st.integers(0, len(pieces) - 1))
        pieces[place : place + 1] = draw(_spoilt(pieces[place], limit))
    if draw(st.booleans()):
        close = draw(_closes())
        pieces.insert(draw(st.sampled_from([len(pieces), len(pieces) // 2])), close)
    if draw(st.sampled_from([False] * 9 + [True])):
        # Far more is told than comes.
        length = draw(st.sampled_from([limit + 1, 65536, 2**31, 2**62, 2**63, 2**64 - 1]))
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION, Opcode.PING, 3]))
        fin = draw(st.booleans())
        bits: Literal[16, 64] = 16 if length < 65536 else 64
        shortest = None if length < 126 else bits
        pieces.append(Piece(opcode, b"abc"[: min(length, 3)], fin=fin, declared=length, bits=shortest))
    return pieces


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Whole scripts. A stream is cut at every byte only where it is short; the large ones around their headers."""
    limit = draw(st.sampled_from(LIMITS))
    pieces = draw(_pieces(limit))
    missing = 0
    if pieces and draw(st.sampled_from([False] * 5 + [True])):
        missing = draw(st.integers(1, min(20, len(pieces[-1].data))))
    ends = list(accumulate(len(piece.data) for piece in pieces))
    size = ends[-1] if ends else 0
    how = draw(st.sampled_from(["drawn", "drawn", "drawn", "every byte", "whole"]))
    cuts: tuple[int, ...] = ()
    if how == "every byte" and size <= 150:
        cuts = tuple(range(size))
    elif how != "whole" and ends:
        near = st.builds(lambda end, offset: max(0, end + offset), st.sampled_from([0, *ends]), st.integers(-4, 15))
        cuts = tuple(sorted(set(draw(st.lists(st.one_of(near, st.integers(0, size)), min_size=1, max_size=6)))))
    return Script(
        pieces=tuple(pieces),
        missing=missing,
        cuts=cuts,
        read_buffer_size=draw(st.sampled_from([n for n in (100_000, 1, 2, 3, 7, 64, 4096) if size / n <= 300])),
        max_message_bytes=limit,
        max_fragments=draw(st.sampled_from([64, 64, 5, 2])),
    )


def _alone(*pieces: Piece, limit: int) -> Script:
    return Script(pieces=pieces, missing=0, cuts=(), read_buffer_size=4096, max_message_bytes=limit, max_fragments=3)


def _fragments(*sizes: int) -> list[Piece]:
    last = len(sizes) - 1
    return [
        Piece(Opcode.CONTINUATION if n else Opcode.BINARY, bytes(size), fin=n == last) for n, size in enumerate(sizes)
    ]


_BEHIND = Piece(Opcode.TEXT, b"behind")

#: The two sides of each border that a number off by one would move; chance rarely meets them.
EDGES = [
    *[_alone(Piece(Opcode.TEXT, b"x" * size, bits=16), _BEHIND, limit=300) for size in (125, 126)],
    *[_alone(Piece(Opcode.TEXT, b"x" * size, bits=64), _BEHIND, limit=65536) for size in (65535, 65536)],
    *[_alone(Piece(Opcode.TEXT, b"x", bits=64, declared=size), limit=300) for size in (2**63 - 1, 2**63)],
    *[_alone(Piece(Opcode.TEXT, b"x" * size), _BEHIND, limit=125) for size in (125, 126)],
    *[_alone(*_fragments(size, 60), _BEHIND, limit=125) for size in (65, 66)],
    *[_alone(*_fragments(*[10] * count), _BEHIND, limit=125) for count in (3, 4)],
    *[_alone(Piece(opcode, b"x" * size), _BEHIND, limit=300) for opcode in (9, 10) for size in (125, 126)],
    *[_alone(Piece(Opcode.CLOSE, close_payload(1000, b"x" * size)), _BEHIND, limit=300) for size in (123, 124)],
    *[_alone(Piece(Opcode.PING, b"x" * 20), _BEHIND, limit=10)],
    *[_alone(Piece(Opcode.CLOSE, close_payload(code)), _BEHIND, limit=10) for code in CLOSE_CODES],
]
