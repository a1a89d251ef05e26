"""What is watched in an outbox: told once, when it is written or lost, whatever goes on around it."""

from __future__ import annotations

import attrs
from trio.testing import MockClock, assert_checkpoints

from trio_rooms import Publication
from trio_rooms._room_options import Overflow
from trio_rooms._wire.departures import Delivery
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.outbox import Outbox


class Bare:
    """A format without an envelope."""

    def publication(self, publication: Publication) -> Frame:
        return make_frame(publication.data, text=True)


@attrs.define(eq=False)
class Silent:
    """A sink that does nothing by itself."""

    def wake(self) -> None:
        pass

    def blocked(self, count: int, data: bytes, taken: int) -> None:
        raise AssertionError("there is no socket")

    def failed(self) -> None:
        raise AssertionError("there is no socket")


def make_outbox() -> Outbox:
    return Outbox(Bare(), max_messages=8, max_bytes=1 << 20, outlet=Silent())


def put(outbox: Outbox, data: str, overflow: Overflow = "conflate", key: str | None = None) -> Publication:
    item = Publication(("r",), data.encode(), overflow=overflow, key=key)
    assert outbox.put(item) >= 0
    return item


def watch(outbox: Outbox, item: Publication) -> Delivery:
    """Wait for an item as a fan-out to this one outbox has it done."""
    delivery = Delivery()
    outbox.watch(item, delivery)
    return delivery


def write(outbox: Outbox, count: int = 1) -> None:
    """Write the oldest messages."""
    outbox.take_first(count)
    outbox.wrote(count)


def test_in_its_turn() -> None:
    """It is over when it was written itself: not when others in front of it were, and no later."""
    outbox = make_outbox()
    put(outbox, "before")
    delivery = watch(outbox, put(outbox, "it"))
    put(outbox, "after")
    write(outbox)
    assert not delivery.over
    outbox.take_first(1)
    assert not delivery.over  # it is only on its way
    outbox.wrote(1)
    assert delivery.over
    assert delivery.written == 1


def test_watched_late() -> None:
    """What stands behind it already is not waited for."""
    outbox = make_outbox()
    item = put(outbox, "it")
    put(outbox, "after")
    delivery = watch(outbox, item)
    write(outbox)
    assert delivery.over


def test_what_is_displaced_in_front_of_it() -> None:
    """It moves up where an older one is replaced; one that is replaced behind it changes nothing."""
    outbox = make_outbox()
    put(outbox, "old", key="a")
    delivery = watch(outbox, put(outbox, "it", key="b"))
    put(outbox, "new", key="a")
    put(outbox, "newer", key="a")
    write(outbox)
    assert delivery.over
    assert delivery.written == 1


def test_displaced() -> None:
    """It is over, and not written, when it is replaced; others are not."""
    outbox = make_outbox()
    other = watch(outbox, put(outbox, "other", key="b"))
    delivery = watch(outbox, put(outbox, "it", key="a"))
    put(outbox, "new", key="a")
    assert delivery.over
    assert delivery.written == 0
    assert not other.over


def test_displaced_while_it_is_written() -> None:
    """What is out of the queue cannot be displaced any more."""
    outbox = make_outbox()
    delivery = watch(outbox, put(outbox, "it", key="a"))
    outbox.take_first(1)
    put(outbox, "new", key="a")
    put(outbox, "newer", key="a")
    assert not delivery.over
    outbox.wrote(1)
    assert delivery.written == 1


def test_discarded() -> None:
    """What is thrown away is over at once; what is on its way then, when that has succeeded or not."""
    for succeeds in (True, False):
        outbox = make_outbox()
        on_its_way = watch(outbox, put(outbox, "on its way"))
        waiting = watch(outbox, put(outbox, "waiting"))
        outbox.take_first(1)
        outbox.discard()
        assert waiting.over
        assert waiting.written == 0
        assert not on_its_way.over
        (outbox.wrote if succeeds else outbox.gave_up)(1)
        assert on_its_way.over
        assert on_its_way.written == succeeds
        stats = outbox.statistics()
        assert stats.enqueued == stats.written + stats.discarded == 2


def test_written_at_once() -> None:
    """What is written by the time that it is watched is over at once, and makes nothing."""
    outbox = make_outbox()
    item = put(outbox, "it")
    write(outbox)
    delivery = watch(outbox, item)
    assert delivery.over
    assert delivery.written == 1
    assert outbox._departures is None


def test_after_a_close_that_is_polite() -> None:
    """A close behind the data leaves it to be written."""
    outbox = make_outbox()
    delivery = watch(outbox, put(outbox, "it"))
    outbox.close()
    assert not delivery.over
    write(outbox)
    assert delivery.written == 1


async def test_wait_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """Also for what nobody took."""
    with assert_checkpoints():
        await Delivery().wait()
