"""``conn.rooms``: a live view, and loops over it that end memberships."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from hall import hall
from trio_rooms import Manager


async def test_the_view(autojump_clock: MockClock) -> None:
    """A mapping that shows what there is at each look, in the order of joining, and cannot be changed."""
    async with hall(Manager()) as served:
        conn = (await served.enter()).conn
        view = conn.rooms
        assert (len(view), list(view), view.get("a"), "a" in view) == (0, [], None, False)
        rooms = {name: (await conn.join(name)).room for name in "ba"}
        assert view == rooms
        assert list(view) == ["b", "a"]
        assert list(view.items()) == list(rooms.items())
        assert (view["a"], view.get("a"), "a" in view, len(view)) == (rooms["a"], rooms["a"], True, 2)
        assert repr(view) == repr(rooms)
        with pytest.raises(KeyError):
            view["c"]
        with pytest.raises(TypeError):
            view["c"] = rooms["a"]  # type: ignore[index]


@pytest.mark.parametrize("how", ["names", "values", "items"])
@pytest.mark.parametrize("cause", ["leave", "close"])
async def test_loops_that_end_memberships(how: str, cause: str, autojump_clock: MockClock) -> None:
    """A loop goes over what there was when it began, though its first round ends all of it."""
    async with hall(Manager()) as served:
        conn = (await served.enter()).conn
        for name in "abc":
            await conn.join(name)
        seen = []
        for one in {"names": conn.rooms, "values": conn.rooms.values(), "items": conn.rooms.items()}[how]:
            seen.append(one)
            if cause == "close":
                conn.close()
            else:
                for name in conn.rooms:
                    conn.leave(name)
        assert len(seen) == 3
        assert not conn.rooms
