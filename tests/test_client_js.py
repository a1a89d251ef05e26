"""The client that the web pages share: connections and requests."""

from __future__ import annotations

import pytest

from browser import requires_browser
from client_page import open_page, run

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.time_limit(120), requires_browser]


async def test_it_comes_back_with_jitter() -> None:
    """A random share of a bound that doubles up to 20 s, and begins anew after a connection that has lasted."""
    script = """
      const waits = [];
      for (let i = 0; i < 8; i++) { last().end(1006); waits.push(pass()); }
      for (const ms of [20_000, 20_001, 0]) {
        last().welcome();
        now += ms;
        last().end(4008);
        waits.push(pass());
      }
      return [last().protocol, sockets.length, waits];
    """
    async with open_page() as page:
        waits = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 250, 500]
        assert await run(page, script) == ["trio-rooms.v1.json", 12, waits]


async def test_a_drain_says_when_to_come_back() -> None:
    """What the server asked for is the wait, once; until the close the connection is used as before."""
    script = """
      last().welcome();
      last().say({ action: "$drain", data: { reconnect_in_ms: 7300 } });
      const reply = client.request("echo", "still here");
      last().say({ id: last().sent[0].id, data: "yes" });
      const answer = await reply;
      last().end(1012);
      const waits = [pass()];
      last().end(1006);
      waits.push(pass());
      return [answer, waits, states];
    """
    async with open_page() as page:
        states = ["connecting", "open", "draining", "waiting", "connecting", "waiting", "connecting"]
        assert await run(page, script) == ["yes", [7300, 250], states]


async def test_the_close_code_decides() -> None:
    """1000, 1008 and 4500 to 4999 are the end, when the network goes and comes, too; after any other it comes back."""
    script = """
      const after = {};
      for (const code of [1001, 1002, 1007, 1009, 1011, 1012, 3999, 4000, 4499, 5000, 1000, 1008, 4500, 4501, 4999]) {
        client.connect();
        last().welcome();
        last().end(code, "because");
        after[code] = states.at(-1);
      }
      dispatchEvent(new Event("offline"));
      dispatchEvent(new Event("online"));
      const count = sockets.length;
      client.connect();
      return [after, states.at(-2), sockets.length - count];
    """
    async with open_page() as page:
        back = dict.fromkeys("1001 1002 1007 1009 1011 1012 3999 4000 4499 5000".split(), "waiting")
        ended = dict.fromkeys("1000 1008 4500 4501 4999".split(), "ended")
        assert await run(page, script) == [back | ended, "ended", 1]


@pytest.mark.parametrize(("code", "again"), [(1002, False), (1007, False), (1009, False), (1012, True)])
async def test_what_ended_the_connection_is_not_repeated(code: int, again: bool) -> None:
    """After codes that say that the client did wrong, what it had sent is not sent again, idempotent or not."""
    script = f"""
      last().welcome();
      let told = "waits";
      client.request("large", 1, {{ idempotent: true }}).catch(({{ code }}) => (told = code));
      last().end({code});
      pass();
      last().welcome();
      await null;
      return [told, last().asked("large") !== undefined];
    """
    async with open_page() as page:
        assert await run(page, script) == (["waits", True] if again else ["NOT_CONFIRMED", False])


async def test_a_page_may_close_it() -> None:
    """Then nothing brings the connection back but `connect`, for which idempotent requests wait; also from a wait."""
    script = """
      const outcome = (promise) => promise.catch(({ code }) => code);
      last().welcome();
      const asked = [outcome(client.request("plain")), outcome(client.request("again", 1, { idempotent: true }))];
      client.close();
      dispatchEvent(new Event("online"));
      const closed = [states.at(-1), sockets.length, timers.size, sockets[0].closed];
      client.connect();
      last().welcome();
      last().say({ id: last().asked("again").id, data: "done" });
      last().end(1006);
      client.close();
      return [closed, await Promise.all(asked), states.at(-1), timers.size];
    """
    async with open_page() as page:
        closed, outcomes, state, timers = await run(page, script)
        assert closed == ["closed", 1, 0, True]
        assert outcomes == ["NOT_CONFIRMED", "done"]
        assert (state, timers) == ("closed", 0)


async def test_without_network_it_waits_for_it() -> None:
    """Offline it tries nothing; when there is a network again it connects at once, also from a wait."""
    script = """
      last().welcome();
      online = false;
      dispatchEvent(new Event("offline"));
      const offline = [states.at(-1), timers.size, last().closed];
      online = true;
      dispatchEvent(new Event("online"));
      last().end(1006);
      dispatchEvent(new Event("online"));
      return [offline, sockets.length, states.at(-1), timers.size];
    """
    async with open_page() as page:
        assert await run(page, script) == [["offline", 0, True], 3, "connecting", 0]


async def test_silence_is_looked_into() -> None:
    """Who says nothing for 20 s is asked, and lost without an answer; an attempt that takes as long is given up."""
    script = """
      const ended = [];
      look();
      ended.push(states.at(-1));
      look();
      ended.push(states.at(-1));
      pass();
      last().welcome();
      look();
      look();
      const asked = last().sent.length;
      last().say({ id: last().sent[0].id, data: null });
      look();
      const quiet = last().sent.length;
      look();
      last().say({ action: "$later", data: 1 });
      const ms = pass();
      ended.push(states.at(-1));
      look();
      return [ended, asked, quiet, ms, states.at(-1)];
    """
    async with open_page() as page:
        assert await run(page, script) == [["connecting", "waiting", "waiting"], 1, 1, 10_000, "waiting"]


async def test_requests_are_answered_or_fail() -> None:
    """By the reply, an error with its code, the loss of the connection, or 10 s without an answer, which ends it."""
    script = """
      const outcome = (promise) => promise.catch(({ code, message, temporary }) => [code, message, temporary]);
      const early = await outcome(client.request("a"));
      last().welcome();
      const asked = [outcome(client.request("b")), outcome(client.request("c"))];
      last().say({ id: 2, error: { code: "DENIED", message: "no", temporary: false } });
      last().say({ id: 1, data: { fine: true } });
      last().say({ id: 3, data: "nobody asked" });
      const lost = outcome(client.request("d"));
      const old = last();
      const ms = pass();
      const told = [early, ...await Promise.all(asked), await lost];
      pass();
      old.say({ action: "$welcome", data: {} });
      old.end(4600);
      return [told.map((one) => Array.isArray(one) ? [one[0], one[2]] : one), ms, old.closed, states.at(-1)];
    """
    async with open_page() as page:
        told = [["NOT_CONNECTED", True], {"fine": True}, ["DENIED", False], ["NOT_CONFIRMED", True]]
        assert await run(page, script) == [told, 10_000, True, "connecting"]
        assert page.errors == []


async def test_what_the_server_asks_is_answered() -> None:
    """With what the page's function returns, or the error that it throws for the server; no other error's text."""
    script = """
      const { RequestError } = await import("/client.js");
      console.error = () => {};
      client.answer("add", async ({ a, b }) => a + b);
      client.answer("nothing", () => {});
      client.answer("refuse", () => { throw new RequestError("BUSY", "not now", true); });
      client.answer("fail", () => { throw new Error("secret"); });
      let slow;
      client.answer("slow", () => new Promise((resolve) => (slow = resolve)));
      last().welcome();
      for (const action of ["add", "nothing", "refuse", "fail", "unknown", "slow"]) {
        last().say({ action, data: { a: 1, b: 2 }, id: action });
        await settled();
      }
      const old = last();
      old.end(1006);
      pass();
      slow("too late");
      await settled();
      return [old.sent, last().sent];
    """
    async with open_page() as page:
        answers, late = await run(page, script)
        assert answers[:3] == [
            {"id": "add", "data": 3},
            {"id": "nothing", "data": None},
            {"id": "refuse", "error": {"code": "BUSY", "message": "not now", "temporary": True}},
        ]
        assert [(it["id"], it["error"]["code"]) for it in answers[3:]] == [
            ("fail", "INTERNAL"),
            ("unknown", "UNKNOWN_ACTION"),
        ]
        assert "secret" not in str(answers)
        assert late == []


async def test_an_idempotent_request_is_sent_again() -> None:
    """By each connection until it is answered, also one that was made while there was none; not after the end."""
    script = """
      const outcome = (promise) => promise.catch(({ code }) => code);
      const one = outcome(client.request("one", 1, { idempotent: true }));
      last().welcome();
      const two = outcome(client.request("two", 2, { idempotent: true }));
      const plain = outcome(client.request("plain", 3));
      last().end(1006);
      pass();
      last().welcome();
      const again = last().sent;
      last().say({ id: again[0].id, data: "done" });
      last().end(4500);
      const late = outcome(client.request("late", 4, { idempotent: true }));
      const outcomes = await Promise.all([one, two, plain, late]);
      return [sockets[0].sent.map(({ action }) => action), again, outcomes, timers.size];
    """
    async with open_page() as page:
        first, again, outcomes, timers = await run(page, script)
        assert first == ["one", "two", "plain"]
        assert [(it["action"], it["data"]) for it in again] == [("one", 1), ("two", 2)]
        assert outcomes == ["done", "NOT_CONFIRMED", "NOT_CONFIRMED", "NOT_CONNECTED"]
        assert timers == 0


async def test_what_is_only_told_is_sent_or_not() -> None:
    """Not before the welcome, not without a connection, and not on a line that is slow."""
    script = """
      const sent = [client.send("point", 1)];
      last().welcome();
      sent.push(client.send("point", 2));
      last().bufferedAmount = 5000;
      sent.push(client.send("point", 3));
      last().end(1006);
      sent.push(client.send("point", 4));
      return [sent, sockets[0].sent];
    """
    async with open_page() as page:
        assert await run(page, script) == [[False, True, False, False], [{"action": "point", "data": 2}]]
