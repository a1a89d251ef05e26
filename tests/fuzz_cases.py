"""What a client may send, made from a seed: valid requests and frames, most of them with something wrong in them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any, Literal

import attrs

from trio_rooms.testing import Opcode, client_frame, close_payload, handshake_bytes

#: How a client leaves: its side ends and it reads to the end of ours, or it closes at once, or with a reset.
End = Literal["eof", "close", "reset"]


@attrs.frozen
class Case:
    """One connection of a client: what it sends, in pieces, and how it leaves."""

    index: int
    segments: tuple[bytes, ...]
    end: End


def make_case(seed: int, index: int) -> Case:
    """The same for the same numbers, whatever other cases are made."""
    rng = random.Random(f"{seed}/{index}")
    data = rng.choice(_KINDS)(rng)
    count = rng.choice([0, 0, 0, 1, 2, 5])
    borders = [0, *sorted(rng.randrange(len(data) + 1) for _ in range(count)), len(data)]
    segments = tuple(data[a:b] for a, b in itertools.pairwise(borders) if a < b)
    return Case(index, segments, rng.choice(_ENDS))


_ENDS: list[End] = ["eof", "eof", "eof", "close", "reset"]


# Frames

_TEXTS = ["", "a", "hello", "ü€😀", "\0", "\u202e", "x" * 125, "x" * 126, "x" * 300, "\ufeff"]
_ACTIONS = """echo typed stream slow enter leave publish close refuse unknown $join $leave $cancel $publish $history
    $presence $session $refresh $welcome $nothing""".split()
_ODD: list[Any] = [
    *_TEXTS,
    *[None, True, 0, -1, 1.5, 2**53, 2**63, 2**64, -(2**63), 1e308, 10**400],
    *[[], {}, [[[]]], {"a": {"b": []}}, {"room": "lobby"}, {"room": 1}, "lobby", "*", "$x", "a..b"],
]
_BAD_UTF8 = [b"\xff", b"\x80", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe2\x82"]
_BAD_JSON = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b'"\\ud800"',
    b"[" * 3000,
    b"{",
    b"9" * 5000,
    b'{"a":1,"a":2}',
    b"\xef\xbb\xbf1",
]


def message(rng: random.Random) -> bytes:
    """The JSON of a message, with fields that fit or do not."""
    fields: dict[str, Any] = {rng.choice(["action", "action", "action", "type"]): rng.choice(_ACTIONS)}
    if rng.random() < 0.7:
        fields["data"] = rng.choice(_ODD)
    if rng.random() < 0.7:
        fields["id"] = rng.choice([1, 2, 3, "a", *_ODD])
    if rng.random() < 0.2:
        fields["room"] = rng.choice(_ODD)
    if rng.random() < 0.2:
        fields["timeout_ms"] = rng.choice([1, 0, -1, 1e9, *_ODD])
    data = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.15:
        data = data.replace(b'"data": ', b'"data": ' + rng.choice(_BAD_JSON), 1)
    # As text it goes on to the decoder of messages; what is no text is the reader's, and made elsewhere.
    return mutated(data, rng).decode(errors="replace").encode() if rng.random() < 0.2 else data


def _payload(rng: random.Random) -> tuple[int, bytes]:
    kind = rng.random()
    if kind < 0.72:
        return Opcode.TEXT, message(rng)
    if kind < 0.74:
        return Opcode.TEXT, b"".join(rng.choices([text.encode() for text in _TEXTS] + _BAD_UTF8, k=3))
    return Opcode.BINARY, rng.randbytes(rng.choice([0, 1, 125, 126, 300, 300, 5999, 6000, 6001]))


def _control(rng: random.Random) -> bytes:
    opcode = rng.choice([Opcode.PING, Opcode.PONG])
    return client_frame(opcode, rng.randbytes(rng.choice([0, 4, 125])), mask=rng.randbytes(4))


def _close(rng: random.Random) -> bytes:
    code = rng.choice([None, 1000, 1001, 1002, 1005, 1015, 2999, 3000, 4999, 5000, 999, 0])
    reason = rng.choice([b"", b"bye", b"x" * 123, rng.choice(_BAD_UTF8)]) if code is not None else b""
    return client_frame(Opcode.CLOSE, close_payload(code, reason)[:125], mask=rng.randbytes(4))


def _fragments(rng: random.Random) -> list[bytes]:
    """One message, whole or in fragments, with control frames between."""
    opcode, payload = _payload(rng)
    count = rng.choice([1] * 20 + [2, 2, 3, 3, 8, 12])
    borders = [0, *sorted(rng.randrange(len(payload) + 1) for _ in range(count - 1)), len(payload)]
    out = []
    for n in range(count):
        if rng.random() < 0.1:
            out.append(_control(rng))
        part = payload[borders[n] : borders[n + 1]]
        out.append(client_frame(0 if n else opcode, part, fin=n == count - 1, mask=rng.randbytes(4)))
    return out


def _odd_frame(rng: random.Random) -> bytes:
    """A frame whose header says something that it should not."""
    return client_frame(
        rng.randrange(16),
        rng.randbytes(rng.choice([0, 1, 125, 126, 200])),
        fin=rng.random() < 0.5,
        rsv=rng.choice([0, 0, 1, 4, 7]),
        mask=rng.choice([None, bytes(4), rng.randbytes(4)]),
        length=rng.choice([None, None, 0, 5, 2**16, 2**31, 2**62, 2**63, 2**64 - 1]),
        length_bits=64,
    )


def frames(rng: random.Random) -> bytes:
    """A stream of frames, of which nearly all are as they should be."""
    out: list[bytes] = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 40])):
        kind = rng.random()
        if kind < 0.03:
            out.append(_odd_frame(rng))
        elif kind < 0.06:
            out.append(_close(rng))
        else:
            out += _fragments(rng)
    return b"".join(out)


# Requests

_VALUES = ["", "a", "websocket", "Upgrade, keep-alive", "13", "0", "testserver", "http://testserver", "a=b; c", "\xff"]
_NAMES = """Host Upgrade Connection Sec-WebSocket-Key Sec-WebSocket-Version Sec-WebSocket-Protocol Origin Cookie
    Sec-WebSocket-Extensions Content-Length Transfer-Encoding User-Agent X-Forwarded-For Forwarded Expect X""".split()


def request(rng: random.Random) -> bytes:
    """The head of a request: an upgrade that is right, in most cases, or something else that HTTP knows."""
    kind = rng.random()
    if kind < 0.75:
        extra = [(rng.choice(_NAMES), rng.choice(_VALUES)) for _ in range(rng.choice([0, 0, 1, 2, 30, 70]))]
        offered = rng.choice([None, "trio-rooms.v1.json", ["x", "trio-rooms.v1.json"], ["a"] * 40])
        return handshake_bytes(rng.choice(["/ws", "/ws?a=%ff&b", "/", "*"]), subprotocol=offered, headers=extra)
    method = rng.choice([b"GET", b"HEAD", b"POST", b"CONNECT", b"PRI", b"get", b"G\x00T"])
    target = rng.choice([b"/ws", b"/page", b"http://testserver/ws", b"*", b"/" + b"x" * 3000])
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""])
    return b"%b %b %b\r\nHost: testserver\r\n\r\n" % (method, target, version)


_SUBPROTOCOLS = [None, None, "trio-rooms.v1.json", "trio-rooms.v1.msgpack"]


def _upgraded(rng: random.Random) -> bytes:
    """A request that is let in."""
    return handshake_bytes(subprotocol=rng.choice(_SUBPROTOCOLS))


_KINDS: list[Callable[[random.Random], bytes]] = [
    lambda rng: mutated(request(rng), rng),
    lambda rng: mutated(request(rng) + frames(rng), rng),
    lambda rng: request(rng) + frames(rng),
    *[lambda rng: _upgraded(rng) + frames(rng)] * 5,
    *[lambda rng: _upgraded(rng) + mutated(frames(rng), rng)] * 3,
    lambda rng: _upgraded(rng) + frames(rng) + mutated(frames(rng), rng),
    lambda rng: _upgraded(rng) + spliced(frames(rng), frames(rng), rng),
    lambda rng: spliced(request(rng), request(rng), rng),
    lambda rng: _upgraded(rng) + rng.randbytes(rng.randrange(300)),
    lambda rng: rng.randbytes(rng.randrange(300)) + rng.choice([b"", b"\r\n\r\n"]),
]


# Faults


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The same with a few bytes changed, lost, repeated or exchanged."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        a, b = sorted((rng.randrange(len(out) + 1), rng.randrange(len(out) + 1)))
        b = min(b, a + 20)
        match rng.randrange(7):
            case 0 if a < len(out):
                out[a] ^= 1 << rng.randrange(8)
            case 1:
                del out[a:b]
            case 2:
                out[a:a] = out[a:b]
            case 3:
                out[a:a] = rng.randbytes(rng.randrange(8))
            case 4 if a < len(out):
                out[a] = rng.choice([0x00, 0x7E, 0x7F, 0x80, 0x81, 0x88, 0xFE, 0xFF])
            case 5:
                out[a:a] = rng.choice(_BAD_UTF8)
            case _:
                out[a:b] = out[a:b][::-1]
    return bytes(out)


def spliced(one: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one and the end of the other."""
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]
