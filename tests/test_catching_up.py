"""What is published, lost or trimmed while a join reads its history."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from followers import Follower, check
from hall import hall, record
from histories import CONFIRM, Confirm, history_manager, missed
from messages import receive_all
from trio_rooms import Limits, Position, Report, RoomFailed, Slice
from trio_rooms.brokers import Keep, MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError


@pytest.mark.parametrize("phase", [0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5])
@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("step", [1, 4])
async def test_publications_at_every_phase_of_a_join(
    phase: float, confirm: Confirm, step: int, autojump_clock: MockClock
) -> None:
    """Invariant 7: whatever is under way while a client joins with its position, it gets all once and in order."""
    manager = history_manager(LaggingBroker(delay=1.0, confirm=confirm, step=step), size=100)
    published: list[tuple[Report, int]] = []
    async with hall(manager) as served:
        anchor = await served.enter(v1=True)
        follower, first = Follower(), Follower()
        await first.join(anchor.client)
        room = manager.get_room("r")
        assert room is not None
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        await guest.client.close()
        published += [(await room.publish(one), one) for one in range(3)]

        async def publish(one: int) -> None:
            assert room is not None
            published.append((await room.publish(one), one))

        guest = await served.enter(v1=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, guest.client)
            await trio.sleep(phase)
            for one in range(3, 8):
                nursery.start_soon(publish, one)
                await wait_all_tasks_blocked()
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        published.sort(key=lambda entry: entry[0].position.offset)  # type: ignore[union-attr]
        check(follower, published)
        assert follower.seen == list(range(8))
        assert follower.resumed == 1
        while len(first.seen) < 8:
            first.take(await anchor.client.receive_json())
        assert first.seen == list(range(8))


async def test_a_member_that_is_ahead(autojump_clock: MockClock) -> None:
    """Whose history was ahead of the deliveries is passed over until these have caught up; the others are not."""
    manager = history_manager(LaggingBroker(delay=2.0, confirm="before"))
    async with hall(manager) as served:
        early = await served.enter(v1=True)
        since = await early.client.request("$join", {"room": "r"})
        for one in range(1, 4):
            manager.broadcast_to_room("r", one)
        late = await served.enter(v1=True)
        await trio.sleep(0.5)  # the third is kept at 5, when the late one reads at 1 + 0.5 + 2 + 1 = 4.5
        reply = await late.client.request("$join", {"room": "r", "since": {"epoch": since["epoch"], "offset": 0}})
        assert [item["data"] for item in reply["publications"]] == [1, 2]
        assert reply["offset"] == 2
        manager.broadcast_to_room("r", 4, exclude=[early.conn])
        with trio.fail_after(30):
            assert [await late.client.receive_json() for _ in range(2)] == [
                {"room": "r", "offset": 3, "data": 3},
                {"room": "r", "offset": 4, "data": 4},
            ]
        assert [await early.client.receive_json() for _ in range(4)] == [
            {"room": "r", "offset": 1, "data": 1},
            {"room": "r", "offset": 2, "data": 2},
            {"room": "r", "offset": 3, "data": 3},
            {"room": "r", "offset": 4},
        ]


class TrimsWhileReading(MemoryBroker):
    """Between the question and the answer so much is published that what was asked for goes."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.publish: Any = None

    async def history(
        self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
    ) -> Slice:
        if since is not None:
            for one in range(self.number):
                self.publish(room, one)
        return await super().history(room, keep=keep, since=since, limit=limit, reverse=reverse)


@pytest.mark.parametrize(("number", "recovered"), [(9, True), (10, False)])
async def test_the_broker_trims_during_the_read(number: int, recovered: bool, autojump_clock: MockClock) -> None:
    """R4: what was kept when it was asked for, and has gone when it is read, is not recovered: never a hole."""
    broker = TrimsWhileReading(number)
    manager = history_manager(broker, size=10)
    broker.publish = manager.broadcast_to_room
    async with hall(manager) as served:
        follower = Follower()
        await missed(served, follower, 1)
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        assert (follower.resumed, follower.lost) == ((1, 0) if recovered else (0, 1))
        manager.broadcast_to_room("r", "live")
        follower.take(await guest.client.receive_json())
        assert follower.seen == ([1, *range(number), "live"] if recovered else ["live"])


async def test_more_comes_during_the_read_than_is_held(autojump_clock: MockClock) -> None:
    """While a join reads, at most max_recovery publications are held for it; of more only the position is known."""
    manager = history_manager(LaggingBroker(delay=0.5), size=100, limits=Limits(max_recovery=3))
    async with hall(manager) as served:
        anchor = await served.enter(v1=True)
        since = await anchor.client.request("$join", {"room": "r"})
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        while guest.conn.outbox.statistics().messages < 256:
            guest.conn.send_nowait("in the way")
            await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            position = Position(since["offset"], since["epoch"])
            await guest.client.send_action(
                "$join", {"room": "r", "since": {"epoch": position.epoch, "offset": 0}}, id=1
            )
            await trio.sleep(5)  # it has read, and waits for room for its reply
            room = manager.get_room("r")
            assert room is not None
            for one in range(5):
                await room.publish(one)
            stream.resume_sending()
            got = [message for message in await receive_all(guest.client) if "id" in message]
            nursery.cancel_scope.cancel()
        (reply,) = got
        assert (reply["data"]["recovered"], reply["data"]["offset"]) == (False, 5)
        assert "publications" not in reply["data"]
        assert served.server.statistics().limited["max_recovery"] == 1


class Restless(MemoryBroker):
    """Its stream begins anew with each look."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.restless = True
        self.publish: Any = None

    async def history(
        self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
    ) -> Slice:
        part = await super().history(room, keep=keep, since=since, limit=limit, reverse=reverse)
        self.reads += 1
        if self.restless:
            self.forget(room)
            self.publish(room, self.reads)
        return part


async def test_a_stream_that_begins_anew_again_and_again(autojump_clock: MockClock) -> None:
    """A slice of another epoch than what is delivered is read again; after three times the join fails."""
    broker = Restless()
    manager = history_manager(broker)
    broker.publish = manager.broadcast_to_room
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        with pytest.raises(RoomFailed):
            await guest.conn.join("r")
        assert broker.reads == 3
        assert not guest.conn.rooms
        assert manager.get_room("r") is None
        broker.restless = False
        assert (await guest.conn.join("r")).new


async def test_a_broker_that_fails_while_a_join_reads(autojump_clock: MockClock) -> None:
    """The join fails and is undone, the exception is reported, and the client learns no more than INTERNAL."""

    class Fails(MemoryBroker):
        async def history(self, *args: Any, **options: Any) -> Slice:
            raise OSError("secret")

    manager = history_manager(Fails())
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": "r"})
        assert caught.value.code == "INTERNAL"
        assert "secret" not in str(caught.value)
        await wait_all_tasks_blocked()
        assert [entry[1] for entry in log if entry[0] == "error"] == ["OSError"]
        assert [entry[0] for entry in log if entry[0] in ("join", "leave")] == ["join", "leave"]
        assert manager.get_room("r") is None
