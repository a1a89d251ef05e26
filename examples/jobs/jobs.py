"""Jobs whose progress people watch. A page that was cut off has all it has missed when it is back, or knows better.

A page joins the room ``jobs`` by ``$join``, and asks::

    list   {}               -> {"epoch", "offset", "jobs": [as published]}
    start  {"job", "title"} -> the job; the page makes the id, so that asking twice starts one
    cancel {"job"}          -> the job

What it is told is a job as it is now, at each of its changes, or that it is not kept any more::

    {"job": id, "title", "done", "steps", "status": "running" | "done" | "cancelled", "started_at"}
    {"job": id, "gone": true}

**After a cut** the page joins with its position, and the room's history has what it has missed. **After a restart** of
the program there is a new history, of another epoch: the page is told ``recovered: false`` and loads the list again.
The jobs themselves are the program's to keep: here in a file.

**Position first, state second.** ``list`` reads the room's position before the state. So all that is published behind
the position reaches the page, and what the state has of it already does no harm, because each publication is whole. The
other way round something could be in neither. It holds as well with a database in place of the dictionary, as long as a
change is stored before it is published.
"""

from __future__ import annotations

import json
import os
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import attrs
import trio

from trio_rooms import ActionError, Connection, Manager

ROOM = "jobs"
STEPS = 40
STEP_SECONDS = 0.25
SAVE_SECONDS = 0.2  # between two times that the file is written: what a crash may lose
MAX_RUNNING = 6
MAX_KEPT = 20  # to start another one, the oldest that is over is forgotten
MAX_TITLE = 60

Json = dict[str, Any]
Status = Literal["running", "done", "cancelled"]


@attrs.frozen
class Start:
    job: str
    title: str


@attrs.frozen
class Which:
    job: str


@attrs.define(eq=False)
class Job:
    id: str
    title: str
    done: int = 0
    steps: int = STEPS
    status: Status = "running"
    started_at: int = attrs.field(factory=lambda: int(time.time() * 1000))

    def public(self) -> Json:
        about = attrs.asdict(self)
        return {"job": about.pop("id"), **about}


class Store:
    """Jobs by id, the oldest first, and the file in which they outlive the program; none if ``path`` is None."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else []
        self.jobs = {about["id"]: Job(**about) for about in kept}
        self.changed = trio.Event()

    async def save(self) -> None:
        """Write the file, in a thread."""
        if self.path is not None:
            await trio.to_thread.run_sync(self.write, self.path, self.text())

    def text(self) -> str:
        return json.dumps([attrs.asdict(job) for job in self.jobs.values()])

    def write(self, path: Path, text: str) -> None:
        """Replace the file in one step: it is at no time half written."""
        draft = path.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)


class Jobs:
    """The manager, and what runs beside it: :meth:`run`, while the manager is served."""

    def __init__(self, store: Store, *, speed: float = 1.0) -> None:
        self.store = store
        self.manager = Manager()
        self.speed = speed
        self.nursery: trio.Nursery | None = None
        self.register()

    async def run(self) -> None:
        """Go on with the jobs that are not over, run those that are started, and keep the file up to date."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.save_changes)
                for job in self.store.jobs.values():
                    if job.status == "running":
                        nursery.start_soon(self.work, job)
                self.nursery = nursery
        finally:
            self.nursery = None
            with trio.move_on_after(5, shield=True):
                await self.store.save()

    def register(self) -> None:
        manager = self.manager

        async def anybody(conn: Connection, room: str, data: object) -> bool:
            return True

        manager.room(ROOM, history_size=500, history_ttl=600, authorize=anybody)

        @manager.on("list")
        async def list_jobs(conn: Connection) -> Json:
            position = (await manager.history(ROOM, limit=0)).position
            jobs = [job.public() for job in self.store.jobs.values()]
            return {"epoch": position.epoch, "offset": position.offset, "jobs": jobs}

        @manager.on("start")
        def start(conn: Connection, data: Start) -> Json:
            return (self.store.jobs.get(data.job) or self.start(data)).public()

        @manager.on("cancel")
        def cancel(conn: Connection, data: Which) -> Json:
            job = self.store.jobs.get(data.job)
            if job is None:
                raise ActionError("UNKNOWN_JOB", "This job is not kept any more.")
            if job.status == "running":
                job.status = "cancelled"
                self.tell(job.public())
            return job.public()

        add_pages(manager)

    def start(self, wish: Start) -> Job:
        title = " ".join(wish.title.split())
        if not title or not title.isprintable() or len(title) > MAX_TITLE or not 8 <= len(wish.job) <= 64:
            raise ActionError("BAD_JOB", f"A job has a title of at most {MAX_TITLE} visible characters, and an id.")
        jobs = self.store.jobs
        over = [job.id for job in jobs.values() if job.status != "running"]
        if self.nursery is None or len(jobs) - len(over) >= MAX_RUNNING:
            raise ActionError("TOO_MANY_RUNNING", f"{MAX_RUNNING} jobs run at a time. Wait for one.", temporary=True)
        if len(jobs) >= MAX_KEPT:
            del jobs[over[0]]
            self.tell({"job": over[0], "gone": True})
        job = jobs[wish.job] = Job(wish.job, title)
        self.nursery.start_soon(self.work, job)
        self.tell(job.public())
        return job

    async def work(self, job: Job) -> None:
        """Stands for work that can go on where it was."""
        while job.status == "running":
            await trio.sleep(STEP_SECONDS / self.speed)
            if job.status == "running":
                job.done += 1
                job.status = "done" if job.done == job.steps else "running"
                self.tell(job.public())

    def tell(self, change: Json) -> None:
        """Behind the change, and in the same step."""
        self.manager.broadcast_to_room(ROOM, change)
        self.store.changed.set()

    async def save_changes(self) -> None:
        while True:
            await self.store.changed.wait()
            self.store.changed = trio.Event()
            await self.store.save()
            await trio.sleep(SAVE_SECONDS)


def add_pages(manager: Manager) -> None:
    here = Path(__file__).parent
    manager.page("/", here / "index.html")
    for style in (here / "style.css", here.parent / "web" / "base.css"):
        manager.page(f"/{style.name}", style, content_type="text/css; charset=utf-8")
    for script in (here / "app.js", here.parent / "web" / "page.js", files("trio_rooms.demo") / "client.js"):
        manager.page(f"/{script.name}", script.read_bytes(), content_type="text/javascript; charset=utf-8")
