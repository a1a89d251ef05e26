"""Mistakes that somebody could make in the library, each of which the simulation has to find.

Each is a text that stands in a file just once, and what it becomes (see ``removals.edits.Rewrite``). They are chosen
where the promises are made: order, ghosts, gaps, accounting, balance, replies, the end.
"""

from __future__ import annotations

from removals.edits import Rewrite

MUTATIONS: dict[str, Rewrite] = {
    "two frames are swapped": Rewrite(
        "_wire/backlog.py",
        "        self.items.append(item)\n",
        "        self.items.insert(max(0, len(self.items) - 1), item)\n",
    ),
    "a frame that does not fit is dropped without a word": Rewrite(
        "_wire/outbox.py",
        "            self.dropped += 1\n            self.close()\n            return CLOSED\n",
        "            return 0\n",
    ),
    "a drop is not counted": Rewrite(
        "_wire/outbox.py",
        "        if gone is None:\n            self.dropped += 1\n",
        "        if gone is None:\n",
    ),
    "a reply is sent twice": Rewrite(
        "_answers.py",
        "            self._conn.outbox.send_nowait(frame)\n",
        "            self._conn.outbox.send_nowait(frame)\n            self._conn.outbox.send_nowait(frame)\n",
    ),
    "a cancelled request is answered when it is cancelled and when it ends": Rewrite(
        "_messages/requests.py",
        "        return self.scope is None\n",
        "        return True\n",
    ),
    "messages are taken in the wrong order": Rewrite(
        "_messages/requests.py",
        "            request = self._queue.popleft()\n",
        "            request = self._queue.pop()\n",
    ),
    "a cancelled join keeps its place": Rewrite(
        "_membership.py",
        "            if one is None or not one.begun:\n                self._undo(",
        "            if one is None and not isinstance(exc, trio.Cancelled):\n                self._undo(",
    ),
    "a member that is kicked is not told to the hooks": Rewrite(
        "_membership.py",
        '        if reason is not None:\n            self._conn._hooks.post("on_leave_room"',
        '        if reason not in (None, "kicked"):\n            self._conn._hooks.post("on_leave_room"',
    ),
    "who leaves stays among the outboxes": Rewrite(
        "_rooms/roster.py",
        "        self.outboxes.pop(member_id).stand_apart(self.outboxes)\n",
        "        self.outboxes[member_id].stand_apart(self.outboxes)\n",
    ),
    "who is excluded is served": Rewrite(
        "_wire/fanout.py",
        "    return {ident: outbox for ident, outbox in outboxes.items() if ident not in exclude}\n",
        "    return dict(outboxes)\n",
    ),
    "who leaves goes on sharing a backlog": Rewrite(
        "_wire/outbox.py",
        "        if self.backlog is not None and self.backlog.owner is owner:\n            self._own()\n",
        "        return\n",
    ),
    "a place that is reserved does not count": Rewrite(
        "_rooms/roster.py",
        "        if self.capacity is not None and len(self.members) + len(self.reserved) >= self.capacity:\n",
        "        if self.capacity is not None and len(self.members) >= self.capacity:\n",
    ),
    "a torn frame is followed by others": Rewrite(
        "_wire/output.py",
        "        except BaseException:\n            self.torn = True\n            raise\n",
        "        except BaseException:\n            raise\n",
    ),
    "a lost connection is not told to on_disconnect": Rewrite(
        "_lifecycle.py",
        "    if conn._on_connect_begun:\n",
        '    if conn._on_connect_begun and close.by != "network":\n',
    ),
    "a connection that has ended is sent what is for everybody": Rewrite(
        "_node.py",
        "        self.outboxes.pop(conn.id, None)\n",
        "",
    ),
    "an event with the same key is replaced in every room": Rewrite(
        "_wire/overflow.py",
        "        if queued.key == item.key and queued.room == item.room:\n",
        "        if queued.key == item.key:\n",
    ),
    "what several rooms share is sent for each of them": Rewrite(
        "_rooms/roster.py",
        "        seen.update(fresh)\n",
        "",
    ),
    "a drain does not wait for what is queued": Rewrite(
        "_wire/sink.py",
        "        self.outbox.close()\n        self._finishing = True\n",
        "        self.outbox.discard()\n        self._finishing = True\n",
    ),
    "what comes while a join reads the history is not held": Rewrite(
        "_room_stream.py",
        "            one.add(publication, position)\n",
        "            pass\n",
    ),
    "what is held at a join is taken from one too early": Rewrite(
        "_room_stream.py",
        "(item for item in self.items if item.offset > top)",
        "(item for item in self.items if item.offset >= top)",
    ),
    "who is ahead gets the last one again": Rewrite(
        "_room_stream.py",
        "if ahead >= offset]\n",
        "if ahead > offset]\n",
    ),
    "a history is read from the position itself": Rewrite(
        "_rooms/streams.py",
        "max(since.offset - self.trimmed, 0)",
        "max(since.offset - self.trimmed - 1, 0)",
    ),
    "a history that lacks one is called complete": Rewrite(
        "_rooms/streams.py",
        "self.trimmed <= since.offset <= self.top",
        "self.trimmed <= since.offset + 1 <= self.top + 1",
    ),
    "who is excluded is not told the position": Rewrite(
        "_room_stream.py",
        "            if member is not None and member._format.v1 and",
        "            if member is None and member._format.v1 and",
    ),
    "who is excluded gets it when it comes back": Rewrite(
        "_recovery.py",
        "        return tuple(item for item in items if not self.conn._is_excluded(item.exclude))\n",
        "        return items\n",
    ),
    "a key is published again": Rewrite(
        "brokers/memory.py",
        "            if first is not None:\n",
        "            if first is None and False:\n",
    ),
    "a new epoch is nobody's business": Rewrite(
        "_room_stream.py",
        "        if self.epoch is not None:\n            self.lose_members()\n            self._past",
        "        if self.epoch is not None:\n            self._past",
    ),
    "who leaves stays present": Rewrite(
        "_rooms/attendance.py",
        "        else:\n            self._remove(person, entry)\n            self._forget_if_gone(person)\n",
        "        else:\n            pass\n",
    ),
    "who comes is sent changes without a state": Rewrite(
        "_presence.py",
        "        if conn._format.v1:\n            self._send_state(conn)\n",
        "        if conn._format.v1:\n            self._members[conn.id] = conn\n",
    ),
    "who has missed a change of presence gets the next one": Rewrite(
        "_presence.py",
        "                    self._owed[conn.id] = self._members.pop(conn.id)\n",
        "                    continue\n",
    ),
    "who is online when a room closes never goes offline": Rewrite(
        "_user_events.py",
        '        """The room is closed, and its tasks are over: call what is still due."""\n        while self._due:\n',
        '        """The room is closed, and its tasks are over: call what is still due."""\n        while False:\n',
    ),
    "a session expires late": Rewrite(
        "_sessions.py",
        "        session.expires_at = trio.current_time() + self._window\n",
        "        session.expires_at = trio.current_time() + 20 + self._window\n",
    ),
    "a session expires early": Rewrite(
        "_sessions.py",
        "        session.expires_at = trio.current_time() + self._window\n",
        "        session.expires_at = trio.current_time() + self._window / 2\n",
    ),
    "a session that ends with its connection expires twice": Rewrite(
        "_sessions.py",
        "            self.due.append(session)\n",
        "            self.due += (session, session)\n",
    ),
    "a session has no rooms": Rewrite(
        "_sessions.py",
        "        if conn is self.owner:\n            self.rooms = {",
        "        if conn is not self.owner:\n            self.rooms = {",
    ),
    "what a session has kept is not handed over": Rewrite(
        "_sessions.py",
        "        conn._metadata = self.metadata.copy()\n",
        "",
    ),
    "the connection before is not ended": Rewrite(
        "_sessions.py",
        "            before._replace()\n",
        "            pass\n",
    ),
    "a token is good once": Rewrite(
        "_sessions.py",
        "        session.digests = (digest, _digest(fresh))\n",
        "        del self._of_digest[digest]\n        session.digests = (_digest(fresh), _digest(fresh))\n",
    ),
    "who was excluded gets it with the next connection": Rewrite(
        "_connection.py",
        " or (self._session is not None and self._session.is_among(exclude))\n",
        "\n",
    ),
    "the rooms of a session recover without their positions": Rewrite(
        "_opening.py",
        "        since = None if asked is None else asked.position\n",
        "        since = None\n",
    ),
    "an answer is given to who asked last": Rewrite(
        "_asks.py",
        "        ask = self._pending.pop(answer.id, None)\n",
        "        ask = self._pending.popitem()[1] if self._pending else None\n",
    ),
    "an answer that nobody waits for is not counted": Rewrite(
        "_asks.py",
        "    if conn._asks is None or not conn._asks.take(answer):\n        conn._node.counters.answers_dropped += 1\n",
        "    if conn._asks is not None:\n        conn._asks.take(answer)\n",
    ),
    "written is said too early": Rewrite(
        "_carrier.py",
        "        await delivery.wait()\n",
        "        await trio.lowlevel.checkpoint()\n",
    ),
    "who publishes waits for ever for what was lost": Rewrite(
        "_carrier.py",
        "                if waiting.confirmed_at < confirmed_before:\n",
        "                if waiting.confirmed_at < 0:\n",
    ),
    "who follows a room misses what comes while it begins": Rewrite(
        "_subscription.py",
        "            self._held.add(publication, position)\n",
        "            pass\n",
    ),
    "who follows a room is not told of a hole": Rewrite(
        "_subscription.py",
        " or (publication.after or 0) > self._top.offset:\n",
        ":\n",
    ),
    "who is too slow to follow a room is not told": Rewrite(
        "_subscription.py",
        "                self._lose(_TOO_SLOW)\n                return\n",
        "                return\n",
    ),
    "the key of a client is not used": Rewrite(
        "_builtins/publish.py",
        "None if data.idempotency_key is None else _scoped(conn, data.idempotency_key)",
        "None",
    ),
    "the key of a client is everybody's": Rewrite(
        "_builtins/publish.py",
        "None if data.idempotency_key is None else _scoped(conn, data.idempotency_key)",
        "data.idempotency_key",
    ),
}
