"""Clients that follow a room by the protocol page alone, and what they must have seen in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from trio_rooms import Report
from trio_rooms.testing import Closed, TestClient


@attrs.define(eq=False)
class Stretch:
    """What was seen without a hole: everything after where it began."""

    epoch: str
    begins_after: int
    seen: list[tuple[int, Any]] = attrs.field(factory=list)


@attrs.define(eq=False)
class Follower:
    """One who follows a room over any number of connections. Each loss that it is told of begins a new stretch."""

    room: str = "r"
    epoch: str | None = None
    offset: int = 0
    stretches: list[Stretch] = attrs.field(factory=list)
    resumed: int = 0
    """Times that it came back with a position and was recovered."""
    lost: int = 0
    """Times that it was told that it is not."""

    @property
    def since(self) -> dict[str, Any] | None:
        return None if self.epoch is None else {"epoch": self.epoch, "offset": self.offset}

    @property
    def seen(self) -> list[Any]:
        """The data of all that it saw, in order."""
        return [data for stretch in self.stretches for _, data in stretch.seen]

    async def join(self, client: TestClient) -> dict[str, Any]:
        """Join with the position that it has."""
        asked = {"room": self.room} if self.since is None else {"room": self.room, "since": self.since}
        reply: dict[str, Any] = await client.request("$join", asked)
        self.joined(reply)
        return reply

    def joined(self, reply: dict[str, Any]) -> None:
        """Take in the reply of a join."""
        if self.since is not None and reply["recovered"]:
            assert reply["epoch"] == self.epoch
            self.resumed += 1
        else:
            assert "publications" not in reply, "never a partial recovery"
            self.lost += self.since is not None
            self.epoch, self.offset = reply["epoch"], reply["offset"]
            self.stretches.append(Stretch(reply["epoch"], reply["offset"]))
        for item in reply.get("publications", ()):
            self.take(item)
        assert self.offset <= reply["offset"]
        self.offset = reply["offset"]

    def take(self, message: dict[str, Any]) -> None:
        """Take in a publication, or a marker."""
        assert message["offset"] > self.offset, "a publication came twice, or in the wrong order"
        self.offset = message["offset"]
        if "data" in message:
            self.stretches[-1].seen.append((self.offset, message["data"]))

    async def follow(self, client: TestClient) -> Closed:
        """Join, and take in what comes until the connection ends."""
        try:
            await self.join(client)
            while True:
                message = await client.receive_json()
                if message.get("room") == self.room and "action" not in message:
                    self.take(message)
        except Closed as closed:
            return closed


def check(follower: Follower, published: Sequence[tuple[Report, Any]]) -> None:
    """Each stretch is exactly what was published after where it began, in order; only its end may be missing."""
    for number, stretch in enumerate(follower.stretches):
        expected = [
            (report.position.offset, data)
            for report, data in published
            if report.position is not None
            and report.position.epoch == stretch.epoch
            and report.position.offset > stretch.begins_after
        ]
        assert stretch.seen == expected[: len(stretch.seen)]
        if number == len(follower.stretches) - 1:
            assert len(stretch.seen) == len(expected), "it is at the end, and nothing is under way"
