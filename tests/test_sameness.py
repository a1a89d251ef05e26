"""The native transport makes of a client's bytes what others make of them, however they are cut (RFC 6455).

Three judges: the native transport, the one over trio-websocket, and websockets' protocol without I/O. Where they are
known to differ, and the native one means to, stands in two places, each a short list of conditions on single frames:
:func:`for_trio_websocket` below and ``_Websockets._differs`` in oracles.py.
"""

from __future__ import annotations

from functools import partial

import attrs
import hypothesis
import pytest
import trio
from hypothesis import given
from trio.testing import MockClock

from client_streams import EDGES, Script, scripts
from oracles import LOST, Outcome, by_websockets, through
from transports import native_over_stream, trio_websocket_over_stream
from trio_rooms._wire.transport import Close
from trio_rooms.testing import Opcode

#: 400 without a profile that asks for more.
EXAMPLES = hypothesis.settings(max_examples=max(400, hypothesis.settings().max_examples))


def run(factory: object, script: Script, chunks: list[bytes]) -> Outcome:
    """Play a script to a transport of its own; a hang ends with the virtual clock."""
    return trio.run(partial(_bounded, factory, script, chunks), clock=MockClock(autojump_threshold=0))


async def _bounded(factory: object, script: Script, chunks: list[bytes]) -> Outcome:
    with trio.fail_after(1000):
        return await through(factory, script, chunks)  # type: ignore[arg-type]


@attrs.frozen
class Differently:
    """What trio-websocket is given instead of the whole stream."""

    size: int
    """So many bytes of it."""
    close: Close
    """How the native transport ends if trio-websocket has found nothing wrong in these bytes."""


def for_trio_websocket(script: Script) -> Differently:
    """The bytes of which both promise the same; each return but the last is a known difference."""
    position = size = fragments = 0
    for piece in script.pieces:
        come = min(len(script.data) - position, len(piece.data))
        if come < piece.header_size:
            # Looks at the first two bytes alone; ours judges a header when it is whole.
            return Differently(position, LOST)
        if piece.is_sound and not piece.is_control:
            fragments += 1
            size += piece.length
            if size > script.max_message_bytes or fragments > script.max_fragments:
                # Counts what it has decoded, in characters, and counts no fragments; ours reads the header.
                return Differently(position, Close(1009))
            if piece.fin:
                size = fragments = 0
        position += come
    return Differently(len(script.data), LOST)


def cut(chunks: list[bytes], size: int) -> list[bytes]:
    """The same chunks up to ``size`` bytes; those behind are empty, so that the pauses stay where they are."""
    rest = [max(0, size - sum(map(len, chunks[:n]))) for n in range(len(chunks))]
    return [chunk[:count] for chunk, count in zip(chunks, rest, strict=True)]


def is_part(some: list[bytes], whole: list[bytes]) -> bool:
    """Whether ``some`` is ``whole`` without some of its items."""
    rest = iter(whole)
    return all(item in rest for item in some)


def ends_properly(outcome: Outcome) -> None:
    """One close frame with the right code, last, if anybody had something to say; else none."""
    assert outcome.close_code == (None if outcome.close == LOST else outcome.close.code)
    assert outcome.answered or outcome.close.by != "peer"
    assert all(frame.opcode == Opcode.PONG for frame in outcome.frames[: -1 if outcome.close_code else None])


def compare(script: Script) -> None:
    """Play a script to all three; see the module's text for what is the same."""
    ours = run(native_over_stream, script, script.chunks)
    ends_properly(ours)

    known = for_trio_websocket(script)
    theirs = run(trio_websocket_over_stream, script, cut(script.chunks, known.size))
    ends_properly(theirs)
    if theirs.close == LOST:
        theirs.close = known.close
    assert ours.verdict == theirs.verdict
    assert is_part(ours.pongs, theirs.pongs)
    for mine, other in zip(ours.pauses, theirs.pauses, strict=False):
        assert mine[-1:] == other[-1:]

    third = by_websockets(script)
    assert ours.verdict == third.verdict
    assert ours.close_code == third.close_code
    assert is_part(ours.pongs, third.pongs)


@pytest.mark.parametrize("script", EDGES, ids=range(len(EDGES)))
def test_edges(script: Script) -> None:
    """P2, P3: the same by all three at each border of a length, a limit or a close code."""
    compare(script)


@pytest.mark.long
@EXAMPLES
@given(scripts())
def test_streams(script: Script) -> None:
    """P2, P3: the same messages, end and close code by all three; and the last ping before a pause is answered."""
    compare(script)
