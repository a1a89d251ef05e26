"""Half a frame, and what follows it: a server's mistake that shows at its end of the wire, and at the client's."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trio_rooms.testing._raw import Opcode
from trio_rooms.testing.simulate._link import _may_begin_a_frame
from trio_rooms.testing.simulate._tap import TappedStream

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
FRAME = bytes([0x80 | Opcode.TEXT, 7]) + b'{"a":1}'
CLOSE = bytes([0x80 | Opcode.CLOSE, 2, 3, 232])


async def write_torn(stream: TappedStream, data: bytes, count: int) -> None:
    """Write the first ``count`` bytes of ``data``, and be cancelled."""
    stream.stall_sending(count)
    with trio.move_on_after(1):
        await stream.send_all(data)
    stream.resume_sending()


@pytest.mark.parametrize(("first", "count", "behind"), [(FRAME, 3, CLOSE), (CLOSE, 3, FRAME), (FRAME, 1, FRAME)])
async def test_behind_half_a_frame(autojump_clock: MockClock, first: bytes, count: int, behind: bytes) -> None:
    """It is told, also where it completes what looks like a frame; what was whole before it counts."""
    stream = TappedStream(memory_stream_pair()[0])
    await stream.send_all(RESPONSE + FRAME)
    await write_torn(stream, first, count)
    assert stream.wrote(1).behind_half == b""
    await stream.send_all(behind)
    wrote = stream.wrote(1)
    assert wrote.behind_half == behind
    assert wrote.messages == ({"a": 1},)
    assert wrote.taken == 1


@pytest.mark.parametrize("count", [0, len(FRAME)])
async def test_behind_whole_frames(autojump_clock: MockClock, count: int) -> None:
    """Where a write was cancelled between two frames, more may follow."""
    stream = TappedStream(memory_stream_pair()[0])
    await stream.send_all(RESPONSE)
    await write_torn(stream, FRAME + FRAME, count)
    await stream.send_all(CLOSE)
    wrote = stream.wrote(1)
    assert wrote.behind_half == b""
    assert len(wrote.messages) == count // len(FRAME)


@pytest.mark.parametrize("count", range(len(FRAME)))
def test_what_a_client_makes_of_it(count: int) -> None:
    """Each beginning of a frame may be the end of a broken connection; no text has the first byte of a close frame."""
    half = FRAME[:count]
    assert _may_begin_a_frame(bytearray(half))
    assert _may_begin_a_frame(bytearray(half + CLOSE)) == (count == 0)
