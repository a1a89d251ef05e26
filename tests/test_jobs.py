"""The jobs' server side, in memory and in virtual time: what is told, what is recovered, what outlives a restart."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from jobs import MAX_KEPT, MAX_RUNNING, MAX_TITLE, ROOM, STEP_SECONDS, STEPS, Jobs, Store
from pages import check_files, get, refusal
from program import ROOT, run_program
from trio_rooms.testing import MemoryServer, TestClient, serve_in_memory

Json = dict[str, Any]


class QuickStore(Store):
    """Writes at once: virtual time does not wait for threads."""

    async def save(self) -> None:
        if self.path is not None:
            self.write(self.path, self.text())


@asynccontextmanager
async def serve(store: Store) -> AsyncIterator[MemoryServer]:
    """The program's parts as its main function has them."""
    jobs = Jobs(store)
    async with serve_in_memory(jobs.manager) as server, trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run)
        await trio.testing.wait_all_tasks_blocked()
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def page(server: MemoryServer, since: Json | None = None) -> AsyncIterator[tuple[TestClient, Json]]:
    """A page that has joined, with the reply to its join."""
    async with await server.connect(subprotocol="trio-rooms.v1.json") as client:
        await client.receive_json()  # $welcome
        wish = {"room": ROOM} | ({"since": since} if since else {})
        yield client, await client.request("$join", wish)


async def start(client: TestClient, name: str, title: str = "Work") -> Json:
    job: Json = await client.request("start", {"job": f"job-{name:>8}", "title": title})
    return job


async def hear(client: TestClient) -> Json:
    message: Json = await client.receive_json()
    assert message["room"] == ROOM, message
    return message


def position(reply: Json) -> Json:
    return {"epoch": reply["epoch"], "offset": reply["offset"]}


async def test_progress_is_told(autojump_clock: MockClock) -> None:
    """Each change is the whole job, in order, numbered without a gap; the list is what the last one said."""
    async with serve(Store()) as server, page(server) as (client, joined):
        assert (await client.request("list"))["jobs"] == []
        job = await start(client, "a", " Sort  it ")
        assert (job["title"], job["done"], job["steps"], job["status"]) == ("Sort it", 0, STEPS, "running")
        told = [await hear(client) for _ in range(STEPS + 1)]
        assert [message["data"]["done"] for message in told] == list(range(STEPS + 1))
        assert [message["offset"] for message in told] == list(
            range(joined["offset"] + 1, joined["offset"] + STEPS + 2)
        )
        assert told[-1]["data"] == {**job, "done": STEPS, "status": "done"}
        listed = await client.request("list")
        assert listed["jobs"] == [told[-1]["data"]]
        assert position(listed) == {"epoch": joined["epoch"], "offset": told[-1]["offset"]}
        await client.receive_nothing(5)


async def test_a_page_that_was_away_has_what_it_has_missed(autojump_clock: MockClock) -> None:
    """From the position of its list: all changes since, each once."""
    async with serve(Store()) as server:
        async with page(server) as (client, _):
            await start(client, "a")
            await trio.sleep(3.5 * STEP_SECONDS)
            listed = await client.request("list")
            assert listed["jobs"][0]["done"] == 3
        await trio.sleep(4 * STEP_SECONDS)
        async with page(server, position(listed)) as (client, joined):
            assert joined["recovered"] is True
            assert [missed["data"]["done"] for missed in joined["publications"]] == [4, 5, 6, 7]
            assert (await hear(client))["data"]["done"] == 8


async def test_after_a_restart_the_jobs_go_on(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The position is of another epoch, so nothing is recovered; the list has the jobs, which are still at work."""
    file = tmp_path / "jobs.json"
    async with serve(QuickStore(file)) as server, page(server) as (client, joined):
        await start(client, "a")
        await start(client, "b")
        await client.request("cancel", {"job": "job-       b"})
        await trio.sleep(3.5 * STEP_SECONDS)
        known = position(await client.request("list"))
    async with serve(QuickStore(file)) as server, page(server, known) as (client, joined):
        assert joined["recovered"] is False
        assert joined["epoch"] != known["epoch"]
        assert "publications" not in joined
        listed = await client.request("list")
        assert [(job["done"], job["status"]) for job in listed["jobs"]] == [(3, "running"), (0, "cancelled")]
        assert (await hear(client))["data"]["done"] == 4
    assert [job["done"] for job in json.loads(file.read_text())] == [4, 0]


async def test_starting_twice_is_starting_once(autojump_clock: MockClock) -> None:
    """A page that does not know whether its request arrived asks again; so it does for a cancel."""
    async with serve(Store()) as server, page(server) as (client, _):
        first = await start(client, "a")
        assert await start(client, "a", "another title") == first
        cancelled = await client.request("cancel", {"job": first["job"]})
        assert cancelled["status"] == "cancelled"
        assert await client.request("cancel", {"job": first["job"]}) == cancelled
        assert [(await hear(client))["data"]["status"] for _ in range(2)] == ["running", "cancelled"]
        await client.receive_nothing(5)
        assert (await refusal(client, "cancel", {"job": "unknown"})).code == "UNKNOWN_JOB"


async def test_jobs_are_bounded(autojump_clock: MockClock) -> None:
    """So many run at a time, and so many are kept: another one takes the place of the oldest that is over."""
    async with serve(Store()) as server, page(server) as (client, _):
        for number in range(MAX_RUNNING):
            await start(client, str(number))
        error = await refusal(client, "start", {"job": "one-too-many", "title": "x"})
        assert (error.code, error.temporary) == ("TOO_MANY_RUNNING", True)
        for number in range(MAX_KEPT + 1):
            if number >= MAX_RUNNING:
                await start(client, str(number))
            if number:  # the first one runs on
                await client.request("cancel", {"job": f"job-{number:>8}"})
        gone = {"job": "job-       1", "gone": True}
        while (await hear(client))["data"] != gone:
            pass
        ids = [job["job"] for job in (await client.request("list"))["jobs"]]
        assert len(ids) == MAX_KEPT
        assert gone["job"] not in ids
        assert ids[0] == "job-       0"


@pytest.mark.parametrize(
    ("job", "title"), [("short", "x"), ("x" * 65, "x"), ("long enough", " "), ("long enough", "x" * (MAX_TITLE + 1))]
)
async def test_what_is_no_job(job: str, title: str, autojump_clock: MockClock) -> None:
    """Neither an id that may be somebody else's, nor a title that nobody can read."""
    async with serve(Store()) as server, page(server) as (client, _):
        assert (await refusal(client, "start", {"job": job, "title": title})).code == "BAD_JOB"
        assert (await client.request("list"))["jobs"] == []


async def test_the_page_and_all_that_it_loads_are_served(autojump_clock: MockClock) -> None:
    """Every file that the page names is there with its type, and nothing is loaded from elsewhere."""
    async with serve(Store()) as server:
        await check_files(server, "client.js", "page.js")
        head, _ = await get(server, "/base.css")
        assert "content-type: text/css" in head


@pytest.mark.sockets
async def test_the_program(tmp_path: Path) -> None:
    """It prints its address, and a signal ends it with status 0 and the file written."""
    file = tmp_path / "jobs.json"
    async with run_program(ROOT / "examples" / "jobs", "--port", "0", "--file", str(file)) as program:
        assert (await program.line()).startswith("http://127.0.0.1:")
        assert await program.stop(signal.SIGTERM) == 0
    assert program.stderr == b""
    assert json.loads(file.read_text()) == []
