"""Places for connections: refused when full, and the oldest incomplete handshake gives way."""

from __future__ import annotations

import pytest
import trio

from trio_rooms._admission import Admission, Ticket


def admit(admission: Admission) -> Ticket:
    """Admit one connection, whose scope surrounds nothing."""
    ticket = admission.admit(trio.CancelScope())
    assert ticket is not None
    return ticket


def test_refuses_when_full() -> None:
    """With every place taken by a complete request there is no ticket, until one is released."""
    admission = Admission(max_connections=2, max_pending_handshakes=10)
    tickets = [admit(admission) for _ in range(2)]
    for ticket in tickets:
        ticket.head_complete()
    assert admission.admit(trio.CancelScope()) is None
    assert (admission.open, admission.pending, admission.refused) == (2, 0, 1)
    tickets[0].release()
    assert admission.admit(trio.CancelScope()) is not None
    assert (admission.open, admission.pending, admission.refused) == (2, 1, 1)


def test_oldest_pending_is_pushed_out() -> None:
    """X2: beyond the bound of pending handshakes the oldest one is cancelled and counted, and only that one."""
    admission = Admission(max_connections=100, max_pending_handshakes=3)
    held = [admit(admission) for _ in range(5)]
    assert [ticket.pushed_out for ticket in held] == [True, True, False, False, False]
    assert (admission.open, admission.pending, admission.pushed_out, admission.refused) == (5, 3, 2, 0)


def test_a_complete_head_is_safe() -> None:
    """X2: once its request is complete a connection is not pushed out, however many come after it."""
    admission = Admission(max_connections=100, max_pending_handshakes=1)
    ticket = admit(admission)
    ticket.head_complete()
    ticket.head_complete()
    flood = [admit(admission) for _ in range(50)]
    assert not ticket.pushed_out
    assert sum(other.pushed_out for other in flood) == 49
    assert admission.pending == 1


def test_pending_gives_way_when_all_places_are_taken() -> None:
    """X2: with fewer places than pending handshakes are allowed, incomplete ones do not keep a newcomer out."""
    admission = Admission(max_connections=3, max_pending_handshakes=1_000)
    complete = admit(admission)
    complete.head_complete()
    oldest, younger, newcomer = (admit(admission) for _ in range(3))
    assert [ticket.pushed_out for ticket in (complete, oldest, younger, newcomer)] == [False, True, False, False]
    assert (admission.open, admission.pending, admission.pushed_out, admission.refused) == (4, 2, 1, 0)
    oldest.release()
    assert admission.open == 3


def test_a_place_is_free_before_its_last_holder_has_left() -> None:
    """A cancelled handshake that is still closing its socket keeps nobody out."""
    admission = Admission(max_connections=2, max_pending_handshakes=10)
    first = admit(admission)
    first.head_complete()
    pushed_out = admit(admission)
    admit(admission).head_complete()
    assert pushed_out.pushed_out
    assert admission.admit(trio.CancelScope()) is None
    first.release()
    assert admission.admit(trio.CancelScope()) is not None
    assert admission.open == 3


def test_places_are_not_given_away_without_end() -> None:
    """Invariant 5: cancelled handshakes that do not let go are few; after that newcomers are refused."""
    admission = Admission(max_connections=10, max_pending_handshakes=5)
    held = [ticket for _ in range(1_000) if (ticket := admission.admit(trio.CancelScope()))]
    assert admission.open == len(held) <= 10 + 32
    assert admission.pending <= 5
    assert admission.refused == 1_000 - len(held)
    for ticket in held:
        ticket.release()
    assert (admission.open, admission.pending) == (0, 0)
    for _ in range(10):
        admit(admission)


def test_release_is_idempotent() -> None:
    """Releasing twice frees one place, at any stage, pushed out or not."""
    admission = Admission(max_connections=10, max_pending_handshakes=1)
    pushed_out = admit(admission)
    pending = admit(admission)
    for ticket in (pushed_out, pending):
        ticket.release()
        ticket.release()
        ticket.head_complete()
    assert (admission.open, admission.pending, admission.pushed_out) == (0, 0, 1)
    for _ in range(10):
        admit(admission).head_complete()
    assert admission.admit(trio.CancelScope()) is None


async def test_the_scope_is_cancelled() -> None:
    """Who is pushed out is cancelled, with a reason that its task can see; who is not, is not."""
    admission = Admission(max_connections=10, max_pending_handshakes=1)
    with trio.CancelScope() as old, trio.CancelScope() as new:
        admission.admit(old)
        await trio.lowlevel.checkpoint()
        admission.admit(new)
        with pytest.raises(trio.Cancelled, match="pushed out by newer handshakes"):
            await trio.lowlevel.checkpoint()
    assert old.cancel_called
    assert not new.cancel_called
