"""The client that the web pages share: rooms, and how it keeps a page complete."""

from __future__ import annotations

import pytest

from browser import requires_browser
from client_page import open_page, run

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]


async def test_a_room_is_joined_again_from_where_the_page_is() -> None:
    """First the page loads its state; after a loss it gets what it has missed, each once, and loads nothing."""
    script = """
      const room = client.join("r", { ...hooks, data: { name: "Ada" } });
      last().welcome();
      const first = last().asked("$join").data;
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().publish(8, "h");
      last().publish(8, "again");
      last().publish(10);  // one that it is excluded from
      last().end(1006);
      const between = [room.joined, room.position];
      pass();
      last().welcome();
      const second = last().asked("$join").data.since;
      const missed = [9, 10, 11].map((offset) => ({ offset, data: offset }));
      await last().reply("$join", { room: "r", epoch: "e", offset: 14, recovered: true, publications: missed });
      last().publish(14, "of the last");
      last().publish(15, "p");
      return [first, between, second, heard, room.joined, room.recovered, room.position];
    """
    async with open_page() as page:
        first, between, second, heard, joined, recovered, position = await run(page, script)
        assert first == {"room": "r", "data": {"name": "Ada"}}
        assert between == [False, {"epoch": "e", "offset": 10}]
        assert second == {"epoch": "e", "offset": 10}
        assert heard == [None, "h", 11, "p"]
        assert (joined, recovered, position) == (True, True, {"epoch": "e", "offset": 15})


async def test_a_page_is_told_when_it_has_everything() -> None:
    """After the state is loaded and what came meanwhile, or after what it has missed, with how much that was."""
    script = """
      const ready = ({ recovered, missed }) => heard.push(["ready", recovered, missed]);
      let loaded;
      load = () => new Promise((resolve) => (loaded = resolve));
      client.join("r", { ...hooks, ready });
      last().welcome();
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().publish(8, 8);
      loaded();
      await settled();
      last().end(1006);
      pass();
      last().welcome();
      const publications = [{ offset: 9, data: 9 }, { offset: 10, data: 10 }];
      await last().reply("$join", { room: "r", epoch: "e", offset: 10, recovered: true, publications });
      return heard;
    """
    async with open_page() as page:
        assert await run(page, script) == [None, 8, ["ready", None, 0], 9, 10, ["ready", True, 2]]


async def test_what_is_not_recovered_is_loaded() -> None:
    """The page is told false; what is published while it loads comes after, without what the state contains."""
    script = """
      client.join("r", hooks);
      last().welcome();
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().end(1012);
      pass();
      last().welcome();
      let loaded;
      load = () => new Promise((resolve) => (loaded = resolve));
      await last().reply("$join", { room: "r", epoch: "f", offset: 2, recovered: false });
      for (const offset of [3, 4, 5]) last().publish(offset, offset);
      const early = [...heard];
      loaded({ epoch: "f", offset: 4 });
      await settled();
      last().end(1006);
      pass();
      last().welcome();
      return [early, heard, last().asked("$join").data.since];
    """
    async with open_page() as page:
        early, heard, since = await run(page, script)
        assert early == [None, False]
        assert heard == [None, False, 5]
        assert since == {"epoch": "f", "offset": 5}


async def test_a_state_that_was_not_loaded_is_no_position() -> None:
    """A connection that is lost while the page loads begins anew; so does one on which too much came meanwhile."""
    script = """
      let loaded;
      load = () => new Promise((resolve) => (loaded = resolve));
      const room = client.join("r", hooks);
      const sinces = [];
      for (const lose of [() => last().end(1006), () => { for (let i = 1; i < 1002; i++) last().publish(7 + i, i); }]) {
        last().welcome();
        sinces.push(last().asked("$join").data.since ?? null);
        await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
        lose();
        const late = loaded;
        pass();
        late();
        await settled();
        sinces.push(room.position);
      }
      last().welcome();
      await last().reply("$join", { room: "r", epoch: "e", offset: 9 });
      loaded();
      await settled();
      return [sinces, heard, room.position];
    """
    async with open_page() as page:
        sinces, heard, position = await run(page, script)
        assert sinces == [None] * 4
        assert heard == [None] * 3
        assert position == {"epoch": "e", "offset": 9}


async def test_rooms_without_history_and_with_only_the_latest() -> None:
    """Without history the state is loaded at each join; with a cache the latest publication comes with the join."""
    script = """
      client.join("r", hooks);
      for (let i = 0; i < 2; i++) {
        last().welcome();
        await last().reply("$join", { room: "r" });
        last().say({ room: "r", data: i });
        last().end(1006);
        pass();
      }
      last().welcome();
      await last().reply("$join", { room: "r", epoch: "e", offset: 9, publications: [{ offset: 9, data: "latest" }] });
      last().publish(9, "again");
      last().publish(10, "next");
      return heard;
    """
    async with open_page() as page:
        assert await run(page, script) == [None, 0, None, 1, None, "latest", "next"]


async def test_who_is_not_let_in_is_told() -> None:
    """A refused join, a membership that ends, and a state that cannot be loaded: `failed`, and no further attempt."""
    script = """
      const refuse = (action, code) => last().say({ id: last().asked(action).id, error: { code, message: "no" } });
      const refused = () => refuse("$join", "DENIED");
      const kicked = async () => {
        await last().reply("$join", { room: "r" });
        last().say({ action: "$closed", data: { room: "r", code: "KICKED" } });
      };
      const notLoaded = async () => {
        load = () => client.request("state");
        await last().reply("$join", { room: "r" });
        refuse("state", "INTERNAL");
      };
      const rejoins = [];
      for (const fail of [refused, kicked, notLoaded]) {
        last().welcome();
        client.join("r", hooks);
        await fail();
        await settled();
        last().end(1006);
        pass();
        last().welcome();
        rejoins.push(last().asked("$join") ?? null);
      }
      let error;
      try { client.join("r", { publication: () => {} }); } catch (caught) { error = caught; }
      return [heard, rejoins, error instanceof TypeError];
    """
    async with open_page() as page:
        heard, rejoins, is_type_error = await run(page, script)
        assert heard == ["DENIED", None, "KICKED", None, "INTERNAL"]
        assert rejoins == [None, None, None]
        assert is_type_error, "a page without load could not do anything about what is lost"


async def test_a_join_that_may_succeed_later() -> None:
    """Is tried again after a random time that doubles, as long as the page wants the room; so is loading the state."""
    script = """
      const refuse = async (action) => {
        last().say({ id: last().asked(action).id, error: { code: "ROOM_FULL", message: "", temporary: true } });
        await settled();
      };
      client.join("r", hooks);
      last().welcome();
      const waits = [];
      for (let i = 0; i < 3; i++) {
        await refuse("$join");
        waits.push(pass());
      }
      load = () => client.request("state");
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().publish(8, 8);
      await refuse("state");
      waits.push(pass());
      await last().reply("$join", { room: "r", epoch: "e", offset: 8 });
      await last().reply("state", null);
      last().publish(9, 9);
      client.leave("r");
      client.join("r", hooks);
      await refuse("$join");
      client.leave("r");
      const joins = last().sent.filter(({ action }) => action === "$join").length;
      [...timers.values()].find(({ ms }) => ms === 250).act();
      return [waits, heard, joins, last().sent.filter(({ action }) => action === "$join").length];
    """
    async with open_page() as page:
        assert await run(page, script) == [[250, 500, 1000, 2000], [None, None, 9], 6, 6]


async def test_a_room_that_is_left() -> None:
    """It is left at the server, not joined again, and what is still under way of it goes nowhere."""
    script = """
      let loaded;
      load = () => new Promise((resolve) => (loaded = resolve));
      client.join("r", hooks);
      last().welcome();
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().publish(8, 8);
      client.leave("r");
      loaded();
      const left = last().asked("$leave").data;
      client.join("r", hooks);
      client.leave("r");
      await last().reply("$join", { room: "r", epoch: "e", offset: 8 });
      last().end(1006);
      pass();
      last().welcome();
      await settled();
      return [left, heard, last().sent];
    """
    async with open_page() as page:
        left, heard, sent = await run(page, script)
        assert left == {"room": "r"}
        assert heard == [None]
        assert sent == []


async def test_presence_is_kept_up_to_date() -> None:
    """State, then changes: users by their connections, told who came and went; a state that comes anew is compared."""
    script = """
      const room = client.join("r", hooks);
      const told = (data) => last().say({ action: "$presence", room: "r", data });
      last().welcome();
      await last().reply("$join", { room: "r" });
      heard.length = 0;
      told({ users: { ada: [{ id: "1" }] } });
      told({ joins: { ada: [{ id: "2" }], bob: [{ id: "3" }] }, leaves: {} });
      told({ joins: { bob: [{ id: "3", away: true }] }, leaves: { ada: [{ id: "1" }] } });
      told({ joins: {}, leaves: { ada: [{ id: "2" }] } });
      last().end(1006);
      pass();
      last().welcome();
      await last().reply("$join", { room: "r" });
      told({ users: { bob: [{ id: "4" }], eve: [{ id: "5" }] } });
      return [heard, Object.fromEntries(room.users)];
    """
    async with open_page() as page:
        heard, users = await run(page, script)
        assert heard == [
            *([["ada", 1]], ["ada"], []),
            *([["ada", 2], ["bob", 1]], ["bob"], []),
            *([["ada", 1], ["bob", 1]], [], []),
            *([["bob", 1]], [], ["ada"]),
            None,
            *([["bob", 1], ["eve", 1]], ["eve"], []),
        ]
        assert users == {"bob": [{"id": "4"}], "eve": [{"id": "5"}]}


async def test_a_session_is_restored() -> None:
    """The first message says who comes back and from where; rooms that the welcome contains are not asked for."""
    script = """
      client.join("r", hooks);
      client.join("other", { load });
      client.join("closed", hooks);
      last().open();
      const first = last().sent[0];
      last().welcome({ session: "token" });
      await last().reply("$join", { room: "closed" });
      const join = last().sent.find(({ action, data }) => action === "$join" && data.room === "r");
      last().say({ id: join.id, data: { room: "r", epoch: "e", offset: 7 } });
      await settled();
      last().publish(8, "before");
      last().end(1006);
      pass();
      last().open();
      const second = last().sent[0];
      const replies = {
        r: { room: "r", epoch: "e", offset: 8, recovered: true, publications: [{ offset: 9, data: "missed" }] },
        closed: { error: { code: "DENIED", message: "no", temporary: false } },
      };
      last().welcome({ session: "next", restored: true, rooms: replies });
      last().publish(10, "after");
      await settled();
      const joins = last().sent.filter(({ action }) => action === "$join").map(({ data }) => data.room);
      last().end(1006);
      pass();
      last().open();
      return [first, second, heard, joins, last().sent[0].data];
    """
    async with open_page() as page:
        first, second, heard, joins, third = await run(page, script)
        assert first == {"action": "$session", "data": {"session": None, "positions": {}}, "id": 0}
        assert second["data"] == {"session": "token", "positions": {"r": {"epoch": "e", "offset": 8}}}
        assert heard == [None, None, "before", "missed", "DENIED", "after"]
        assert joins == ["other"]
        assert third == {"session": "next", "positions": {"r": {"epoch": "e", "offset": 10}}}


async def test_a_room_that_the_welcome_does_not_name() -> None:
    """It is not joined, though the page was in it and the session is restored: it is joined anew, from its position."""
    script = """
      const room = client.join("r", hooks);
      client.join("other", { load });
      last().open();
      last().welcome({ session: "token" });
      const join = last().sent.find(({ action, data }) => action === "$join" && data.room === "r");
      last().say({ id: join.id, data: { room: "r", epoch: "e", offset: 7 } });
      await last().reply("$join", { room: "other" });
      last().end(1006);
      pass();
      last().open();
      last().end(1006);  // with the welcome that said that the join of "r" has failed
      pass();
      last().open();
      last().welcome({ session: "next", restored: true, rooms: { other: { room: "other" } } });
      await settled();
      const asked = last().sent.filter(({ action }) => action === "$join").map(({ data }) => data);
      const before = room.joined;
      last().publish(8, "of an earlier membership");
      const publications = [{ offset: 8, data: "missed" }];
      await last().reply("$join", { room: "r", epoch: "e", offset: 8, recovered: true, publications });
      return [asked, before, room.joined, heard];
    """
    async with open_page() as page:
        asked, before, after, heard = await run(page, script)
        assert asked == [{"room": "r", "since": {"epoch": "e", "offset": 7}}]
        assert (before, after) == (False, True)
        assert heard == [None, "missed"]


async def test_a_room_joined_anew_has_no_position() -> None:
    """What is recovered from the position of an earlier `join` of the page is no state for the later one: it loads."""
    script = """
      client.join("r", { load });
      last().open();
      last().welcome({ session: "token" });
      await last().reply("$join", { room: "r", epoch: "e", offset: 7 });
      last().end(1006);
      pass();
      last().open();
      const sent = last().sent[0].data.positions.r.offset;
      client.join("r", hooks);
      last().welcome({ session: "next", rooms: { r: { room: "r", epoch: "e", offset: 7, recovered: true } } });
      await settled();
      last().publish(8, 8);
      return [sent, heard];
    """
    async with open_page() as page:
        assert await run(page, script) == [7, [None, 8]]


async def test_what_was_left_is_not_restored() -> None:
    """A room that the page left while the server could not know is left again, where a session has brought it back."""
    script = """
      client.join("r", hooks);
      client.join("kept", hooks);
      client.join("again", hooks);
      last().welcome({ session: "token" });
      client.leave("r");  // which gets lost
      last().end(1006);
      client.leave("again");
      client.join("again", hooks);
      pass();
      const reply = (room) => [room, { room }];
      last().welcome({ session: "next", restored: true, rooms: Object.fromEntries(["r", "kept", "again"].map(reply)) });
      const left = last().sent.filter(({ action }) => action === "$leave");
      last().say({ id: left[0].id, data: { room: "r" } });
      await settled();
      last().end(1006);
      pass();
      last().welcome({ session: "third", restored: true, rooms: Object.fromEntries(["kept", "again"].map(reply)) });
      return [left.map(({ data }) => data.room), last().sent];
    """
    async with open_page() as page:
        assert await run(page, script) == [["r"], []]


async def test_rooms_that_a_handler_joined() -> None:
    """What the page has not joined by itself comes as events."""
    script = """
      const events = [];
      for (const type of ["publication", "presence", "direct", "closed"]) {
        client.addEventListener(type, ({ detail }) => events.push([type, detail]));
      }
      last().welcome();
      last().publish(1, "news");
      last().say({ action: "$presence", room: "r", data: { users: {} } });
      last().say({ action: "hello", data: 1 });
      last().say({ action: "$closed", data: { room: "r", code: "CLOSED" } });
      return events;
    """
    async with open_page() as page:
        assert await run(page, script) == [
            ["publication", {"room": "r", "offset": 1, "data": "news"}],
            ["presence", {"room": "r", "users": {}}],
            ["direct", {"action": "hello", "data": 1}],
            ["closed", {"room": "r", "code": "CLOSED"}],
        ]
