"""Raw probes of a served connection: a client without manners, and tables of what may not be sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import trio

from hall import Guest, Hall, hall
from trio_rooms import Close, Config, Limits, Manager
from trio_rooms.testing import FaultyStream, Opcode, ServerFrame, client_frame, close_payload

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
PING, PONG, CLOSE = Opcode.PING, Opcode.PONG, Opcode.CLOSE

#: A request that is answered, and what would be answered if anybody looked at it.
ECHO = client_frame(TEXT, b'{"action":"echo","data":"hi","id":1}')
ANSWER = ServerFrame(TEXT, b'{"id":1,"data":"hi"}')
BEHIND = client_frame(PING, b"behind") + ECHO

MAX = 1000


@attrs.define(eq=False)
class Probe:
    """A client without manners, the server's end of its stream, and how its connection was told to end."""

    place: Hall
    guest: Guest
    faults: FaultyStream
    told: list[Close]

    async def send(self, data: bytes) -> None:
        """Send as it is; a server that has closed takes no more."""
        with suppress(trio.BrokenResourceError):
            await self.guest.client.send_raw(data)

    async def sees(self) -> bytes:
        """Everything up to the end of the stream, which then ends on this side, too."""
        data = b""
        while chunk := await self.guest.client.receive_raw():
            data += chunk
        await self.guest.client.aclose()
        await self.guest.conn.wait_closed()
        return data


def make_manager(**limits: Any) -> Manager:
    """An echo; no pings of our own come between."""
    manager = Manager(config=Config(ping_interval=10_000, limits=Limits(max_message_bytes=MAX, **limits)))
    manager.handle_message("echo", lambda conn, message: message.data)
    return manager


@asynccontextmanager
async def probing(manager: Manager | None = None, *, bytewise: bool = False, **options: Any) -> AsyncGenerator[Probe]:
    """A probe whose first request has been answered, next to a client who must notice nothing."""
    manager = manager or make_manager()
    told: list[Close] = []
    manager.on_disconnect(lambda conn, close: told.append(close))
    async with hall(manager, **options) as place:
        guest, faults = await place.enter_faulty()
        ok = await place.enter()
        faults.one_byte_reads = bytewise
        assert await guest.client.request("echo", "hello") == "hello"
        probe = Probe(place, guest, faults, told)
        yield probe
        assert ok.conn.closed is None
        assert await ok.client.request("echo", "still here") == "still here"
        await ok.client.close()


def fragmented(*payloads: bytes, opcode: int = TEXT, rsv: int = 0) -> bytes:
    """A message in fragments, ``rsv`` in all but the first."""
    last = len(payloads) - 1
    return b"".join(
        client_frame(CONTINUATION if n else opcode, payload, fin=n == last, rsv=rsv if n else 0)
        for n, payload in enumerate(payloads)
    )


def close(code: int | None, reason: str | bytes = "") -> bytes:
    """The peer's close frame."""
    return client_frame(CLOSE, close_payload(code, reason))


#: What breaks the framing (RFC 6455 sections 5.1, 5.2, 5.4, 5.5 and 7.4): 1002.
MALFORMED = {
    "unmasked text": client_frame(TEXT, b"x", mask=None),
    "unmasked and empty": client_frame(BINARY, mask=None),
    "unmasked ping": client_frame(PING, b"x", mask=None),
    "unmasked close": client_frame(CLOSE, close_payload(1000), mask=None),
    "unmasked continuation": client_frame(TEXT, b"a", fin=False) + client_frame(CONTINUATION, b"b", mask=None),
    **{f"RSV {rsv:03b} in text": client_frame(TEXT, b"x", rsv=rsv) for rsv in range(1, 8)},
    "RSV1 in ping": client_frame(PING, rsv=4),
    "RSV1 in close": client_frame(CLOSE, close_payload(1000), rsv=4),
    "RSV1 in a continuation": fragmented(b"a", b"b", rsv=4),
    "compressed": client_frame(TEXT, b"\xaaV*I-.Q\xb2\x02\x00", rsv=4),
    **{f"opcode {opcode}": client_frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "opcode 11, empty": client_frame(11),
    "opcode 3 within fragments": client_frame(TEXT, b"a", fin=False) + client_frame(3, b"x"),
    **{f"control frame {opcode} of 126 bytes": client_frame(opcode, b"x" * 126) for opcode in (CLOSE, PING, PONG)},
    "ping with a length of 16 bits": client_frame(PING, b"x" * 125, length_bits=16),
    **{f"control frame {opcode} in fragments": client_frame(opcode, b"x", fin=False) for opcode in (PING, PONG)},
    "close in fragments": client_frame(CLOSE, close_payload(1000), fin=False),
    "continuation of nothing": client_frame(CONTINUATION, b"x"),
    "continuation of nothing, not the last": client_frame(CONTINUATION, b"x", fin=False),
    "continuation of what is over": fragmented(b'{"action":', b'"echo"}') + client_frame(CONTINUATION, b"x"),
    "text within fragments": client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"),
    "binary within fragments": client_frame(TEXT, b"a", fin=False) + client_frame(BINARY, b"b", fin=False),
    "1 byte with a length of 16 bits": client_frame(TEXT, b"x", length_bits=16),
    "125 bytes with a length of 16 bits": client_frame(TEXT, b"x" * 125, length_bits=16),
    "1 byte with a length of 64 bits": client_frame(TEXT, b"x", length_bits=64),
    "1000 bytes with a length of 64 bits": client_frame(TEXT, b"x" * 1000, length_bits=64),
    "the top bit of a length": client_frame(TEXT, b"x", length=1 << 63, length_bits=64),
    "all bits of a length": client_frame(BINARY, b"x", length=(1 << 64) - 1, length_bits=64),
    "close of 1 byte": client_frame(CLOSE, b"\x03"),
    **{
        f"close with {code}": close(code)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close with 1005 and a reason": close(1005, "x"),
    "close with a reason of 124 bytes": close(1000, "x" * 124),
}

#: Text that is not UTF-8 (RFC 6455 section 8.1): 1007.
NO_TEXT = {
    "0xff": client_frame(TEXT, b"\xff"),
    "0xff behind good text": client_frame(TEXT, "καλό".encode() + b"\xff, more"),
    "a surrogate": client_frame(TEXT, b"\xed\xa0\x80"),
    "beyond U+10FFFF": client_frame(TEXT, b"\xf4\x90\x80\x80"),
    "overlong": client_frame(TEXT, b"\xc0\xaf"),
    "a lone continuation byte": client_frame(TEXT, b"\x80"),
    "cut off": client_frame(TEXT, "ü".encode()[:1]),
    "cut off at the last fragment": fragmented(b"fine", "ü".encode()[:1]),
    "split badly over fragments": fragmented(b"h\xc3", b"(", b"x"),
    "in a fragment behind which more would come": client_frame(TEXT, b"\xff", fin=False),
    "in the third fragment": fragmented(b"a", b"b", b"\xfe", b"c"),
    "in a reason": close(1000, b"\xff"),
    "cut off in a reason": close(1000, "ü".encode()[:1]),
}

#: More than the limit (RFC 6455 section 10.4): 1009.
TOO_BIG = {
    "text": client_frame(TEXT, b"x" * (MAX + 1)),
    "text of many bytes and few characters": client_frame(TEXT, "😀".encode() * (MAX // 4 + 1)),
    "binary": client_frame(BINARY, bytes(MAX + 1)),
    "fragments": fragmented(b"x" * MAX, b"y"),
    "fragments with a ping between": client_frame(TEXT, b"x" * MAX, fin=False) + client_frame(CONTINUATION, b"y" * 9),
}

VIOLATIONS = {
    **{f"1002: {name}": (data, 1002) for name, data in MALFORMED.items()},
    **{f"1007: {name}": (data, 1007) for name, data in NO_TEXT.items()},
    **{f"1009: {name}": (data, 1009) for name, data in TOO_BIG.items()},
}
