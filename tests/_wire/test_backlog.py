"""The backlog: what waits, what it is charged, and copies that go their own ways."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Publication
from trio_rooms._room_options import Overflow
from trio_rooms._wire.backlog import NOTHING, Backlog, join
from trio_rooms._wire.frames import OVERHEAD, Frame, make_frame

POLICIES: list[Overflow] = ["close", "drop_newest", "drop_oldest", "conflate"]


@attrs.frozen(eq=False)
class Padded:
    """A format that puts something before each event."""

    before: bytes = b""

    def publication(self, publication: Publication) -> Frame:
        return make_frame(self.before + publication.data, text=True)


BARE, LONG = Padded(), Padded(b"______")


def event(data: object, overflow: Overflow = "close") -> Publication:
    return Publication(("r",), str(data).encode(), overflow=overflow)


def backlog_of(*items: Publication | Frame, form: Padded = BARE, owner: object = None) -> Backlog:
    backlog = Backlog(form, owner)
    for item in items:
        backlog.add(item, backlog.cost_of(item))
    return backlog


def books(backlog: Backlog) -> tuple[int, ...]:
    return backlog.cost, backlog.droppable_items, backlog.droppable_cost


def check(backlog: Backlog) -> None:
    """All that is kept beside the items is what could be made from them."""
    frames = [item.frame(backlog.form) for item in backlog.items]
    costs = [len(frame.data) + OVERHEAD for frame in frames]
    droppable = [cost for item, cost in zip(backlog.items, costs, strict=True) if item.overflow != "close"]
    assert books(backlog) == (sum(costs), len(droppable), sum(droppable))
    assert backlog.last is (backlog.items[-1] if backlog.items else None)
    assert backlog.joined() == b"".join(frame.data for frame in frames)
    assert backlog.joined() is backlog.joined()


def test_empty() -> None:
    """Nothing waits, costs nothing, and is no bytes."""
    check(Backlog(BARE))
    assert Backlog(BARE).fit(100) == 0


def test_joined_is_made_once() -> None:
    """However many write it, its bytes are joined once, until something changes."""
    backlog = backlog_of(event("a"), event("b"))
    data = backlog.joined()
    assert backlog.joined() is data
    backlog.add(event("c"), 67)
    assert backlog.joined() == data + b"\x81\x01c"


def test_one_item_is_not_copied() -> None:
    """The bytes of a single item are its frame's own."""
    item = event("a")
    assert backlog_of(item).joined() is item.frame(BARE).data


def test_each_format_has_its_own_bytes() -> None:
    """The same items in another format are other bytes, charged as such."""
    item, private = event("a"), make_frame(b"p", text=True)
    assert backlog_of(item, private).joined() == b"\x81\x01a\x81\x01p"
    long = backlog_of(item, private, form=LONG)
    assert long.joined() == b"\x81\x07______a\x81\x01p"
    assert long.cost == 9 + 3 + 2 * OVERHEAD


@pytest.mark.parametrize(("max_bytes", "count"), [(0, 1), (1, 1), (12, 1), (23, 1), (24, 2), (35, 2), (36, 3), (99, 3)])
def test_fit(max_bytes: int, count: int) -> None:
    """As many of the oldest as are together at most so many bytes on the wire; one in any case."""
    backlog = backlog_of(*(event(f"{n:010}") for n in range(3)))
    assert backlog.fit(max_bytes) == count
    assert len(join(backlog.items[:count], BARE)) == 12 * count


@pytest.mark.parametrize("change", ["add", "remove", "cut"])
def test_a_copy_is_apart(change: str) -> None:
    """What one copy gets or loses leaves the other as it was; a copy has no owner."""
    backlog = backlog_of(event("a"), event("b", "drop_oldest"), owner="somebody")
    before, data = books(backlog), backlog.joined()
    copy = backlog.copy()
    assert copy.owner is None
    assert copy.form is backlog.form
    check(copy)
    if change == "add":
        copy.add(event("c"), 67)
    elif change == "remove":
        copy.remove(1)
    else:
        assert copy.cut(1) == backlog.items[:1]
    check(copy)
    assert books(backlog) == before
    assert backlog.joined() == data
    check(backlog)
    again = backlog.copy()
    backlog.add(event("d", "conflate"), 67)
    assert again.joined() == data
    check(again)


def test_nothing_stays_empty() -> None:
    """What stands for "nothing waits" in all outboxes is empty, and has no owner."""
    check(NOTHING)
    assert NOTHING.items == []
    assert NOTHING.owner is None


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from([*POLICIES, None]), st.integers(0, 200)),
            st.tuples(st.just("remove"), st.integers(0, 20)),
            st.tuples(st.just("cut"), st.integers(0, 20)),
            st.tuples(st.just("copy")),
        )
    ),
    form=st.sampled_from([BARE, LONG]),
    max_bytes=st.integers(1, 500),
)
def test_like_a_list(steps: list[Any], form: Padded, max_bytes: int) -> None:
    """Invariant 6: for any changes the charges, the bytes and the last item are those of the list of its items."""
    backlog, model = Backlog(form), list[Any]()
    for what, *args in steps:
        if what == "add":
            policy, size = args
            item = make_frame(b"p" * size, text=True) if policy is None else event("e" * size, policy)
            backlog.add(item, backlog.cost_of(item))
            model.append(item)
        elif what == "remove" and model:
            backlog.remove(args[0] % len(model))
            del model[args[0] % len(model)]
        elif what == "cut":
            assert backlog.cut(args[0]) == model[: args[0]]
            del model[: args[0]]
        elif what == "copy":
            backlog = backlog.copy()
        assert backlog.items == model
        check(backlog)
        count = backlog.fit(max_bytes)
        assert len(join(model[:count], form)) <= max_bytes or count == 1
        assert count == len(model) or len(join(model[: count + 1], form)) > max_bytes
