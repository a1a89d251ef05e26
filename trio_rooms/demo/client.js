// A client of the subprotocol trio-rooms.v1.json, in one file without dependencies. It keeps a page up to date, through
// lost connections and restarts of the server.
//
//   const client = new RoomsClient(url);
//   const room = client.join("news", {
//     load: async ({ recovered, data }) => { ... },      // fetch and draw the state; see below
//     publication: (data, offset) => { ... },            // change what is drawn
//   });
//   client.connect();
//
// **A room that was joined is joined again on each connection**, from the position that the page had reached. Where the
// server still has all that came since, it comes to `publication`, each once and in order, and nothing else is to do.
// In any other case `load` is called, which is why it must be given: the first time and in rooms without history
// (`recovered` is null), and when something is lost (false). What is published meanwhile is kept until `load` is over,
// and given to `publication` then. So nothing is missing, but the state may contain some of it already: `load` returns
// the position of the state, `{epoch, offset}`, where it knows it; else the page compares numbers of its own.
//
// Events of the client (CustomEvent, `detail` as given):
//   state        {state: "connecting" | "open" | "draining" | "waiting" | "offline" | "closed" | "ended", at?, code?, reason?}
//   welcome      {connection, session?, restored?, rooms?}   a new connection is ready
//   publication  {room, data, offset?}  of rooms that the page has not joined by `join`, but for instance by a handler
//   presence     {room, users} or {room, joins, leaves}      of such rooms
//   direct       {action?, data}        what the server sent to this connection, built-in actions excepted
//   closed       {room, code, message}  no longer a member of the room, nor joined again

const BASE_MS = 500;
const MOST_MS = 20_000;
const REQUEST_MS = 10_000;
const QUIET_MS = 20_000;
const MOST_UNSENT = 4_096; // bytes that the browser may keep before `send` says that the line is slow
const MOST_HELD = 1_000; // publications of a room kept while its state is loaded; requests kept while there is no connection

export class RequestError extends Error {
  constructor(code, message, temporary = false) {
    super(message || code);
    this.code = code;
    this.temporary = temporary;
  }
}

// Full jitter: clients that were cut off together do not come back together.
const jitter = (attempt) => Math.random() * Math.min(MOST_MS, BASE_MS * 2 ** attempt);

const isLost = ({ code }) => code === "NOT_CONFIRMED" || code === "NOT_CONNECTED";

// What `client.join` returns. To be read; `client.leave(name)` ends it.
class Room {
  joined = false; // now, by the connection that is open
  recovered = null; // at the last join: true, false, or null where there was no position
  position = null; // {epoch, offset} up to which the page has everything; null: not yet, or the room has no history
  users = new Map(); // who is present: user -> a list of entries, one for each of its connections
  #hooks;
  tries = 0; // joins that were to be tried again, since the last that was not
  #held = null; // publications that wait for `load`
  #turn = 0;

  constructor(name, hooks) {
    if (typeof hooks?.load !== "function") throw new TypeError(`join(${name}): load is what makes a page complete`);
    this.name = name;
    this.#hooks = hooks;
  }

  get request() {
    return { room: this.name, since: this.position ?? undefined, data: this.#hooks.data };
  }

  // The reply to a join, behind which stands whatever comes from now on.
  async enter({ epoch, offset, recovered = null, publications = [], data }) {
    const turn = ++this.#turn;
    this.#held = [];
    if (!this.position) recovered = null; // the position was that of an earlier join of this page
    Object.assign(this, { joined: true, recovered });
    const known = recovered ? this.position.offset : (publications[0]?.offset ?? offset + 1) - 1;
    const position = offset === undefined ? null : { epoch, offset: known };
    if (!recovered) {
      // Without it a connection that is lost now would recover from a state that was never loaded.
      this.position = null;
      const covered = await this.#hooks.load({ recovered, data });
      if (turn !== this.#turn) return;
      if (position && covered?.epoch === epoch) position.offset = Math.max(known, covered.offset);
    }
    this.position = position;
    const held = this.#held;
    this.#held = null;
    for (const publication of [...publications, ...held]) this.hear(publication);
    // Behind the last publication may be some that this connection is excluded from.
    if (position) position.offset = Math.max(position.offset, offset);
    this.tries = 0;
    this.#hooks.ready?.({ recovered, missed: publications.length });
  }

  // False where too much waits for `load`. What comes before the reply is of an earlier membership.
  hear(publication) {
    if (!this.joined) return true;
    if (this.#held) return this.#held.push(publication) <= MOST_HELD;
    const { offset, data } = publication;
    if (this.position && offset !== undefined) {
      if (offset <= this.position.offset) return true;
      this.position.offset = offset;
    }
    if (data !== undefined) this.#hooks.publication?.(data, offset); // without data it says only where the room is
    return true;
  }

  // All who are there, or who came and went since; an entry that changed comes anew.
  see({ users, joins = {}, leaves = {} }) {
    const before = this.users;
    const now = (this.users = new Map(users ? Object.entries(users) : before));
    const without = (user, entries) => (now.get(user) ?? []).filter(({ id }) => !entries.some((entry) => entry.id === id));
    for (const [user, entries] of Object.entries(leaves)) now.set(user, without(user, entries));
    for (const [user, entries] of Object.entries(joins)) now.set(user, [...without(user, entries), ...entries]);
    for (const [user, entries] of now) if (!entries.length) now.delete(user);
    const came = [...now.keys()].filter((user) => !before.has(user));
    const went = [...before.keys()].filter((user) => !now.has(user));
    this.#hooks.presence?.(now, { came, went });
  }

  // Not joined: since the connection is lost, or, with an error, for good.
  end(error) {
    this.joined = false;
    this.#turn++;
    if (error) this.#hooks.failed?.(error);
  }
}

export class RoomsClient extends EventTarget {
  #url;
  #socket = null;
  #ready = false; // the welcome has come
  #timer = 0;
  #attempt = 0;
  #openedAt = null;
  #heard = false; // something, since the last look
  #lastId = 0;
  #waiting = new Map(); // id of a request -> {action, data, idempotent, resolve, reject, timer}
  #drainMs = null;
  #state = "";
  #rooms = new Map();
  #left = new Set();
  #answers = new Map();
  #session = null; // what the server knows us by when we come back, where it has sessions

  constructor(url) {
    super();
    this.#url = url;
    // Not after "ended": then only the person may ask for another connection.
    addEventListener("online", () => ["offline", "waiting"].includes(this.#state) && this.connect());
    addEventListener("offline", () => this.#lost({ code: 1006, reason: "" }));
    setInterval(() => this.#look(), QUIET_MS);
  }

  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#tell("state", { state: "connecting" });
    this.#heard = true;
    const socket = (this.#socket = new WebSocket(this.#url, "trio-rooms.v1.json"));
    // A socket that was given up may still speak; only the current one is heard.
    socket.onopen = () => socket === this.#socket && this.#greet();
    socket.onmessage = (event) => socket === this.#socket && this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.#socket && this.#lost(event);
  }

  // Ends the connection, and opens no other until `connect`. Idempotent requests wait for that one.
  close() {
    clearTimeout(this.#timer);
    this.#drop({ forGood: false });
    this.#tell("state", { state: "closed" });
  }

  // The reply's data; rejects with a RequestError. NOT_CONFIRMED: the request may or may not have been done. One that
  // is idempotent, so that it does no harm when it is done twice, is sent again by the next connection instead.
  request(action, data, { idempotent = false } = {}) {
    const open = this.#socket?.readyState === WebSocket.OPEN;
    if (!open && !(idempotent && this.#waiting.size < MOST_HELD && this.#state !== "ended")) {
      return Promise.reject(new RequestError("NOT_CONNECTED", "There is no connection.", true));
    }
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { action, data, idempotent, resolve, reject });
      if (open) this.#ask(id);
    });
  }

  // Without a reply, and without knowing whether it arrives. False if it cannot be sent now: there is no connection,
  // or the line is slow, and what is only the newest of its kind, such as a position, had better wait for a newer one.
  send(action, data) {
    if (!this.#ready || this.#socket.bufferedAmount > MOST_UNSENT) return false;
    this.#socket.send(JSON.stringify({ action, data }));
    return true;
  }

  // Joins now and on each later connection; hooks: {load, publication?, ready?, presence?, failed?, data?}, see above.
  // `ready({recovered, missed})` is called when the page has all that there is: `missed` is how much came with a join.
  // `presence(users, {came, went})` has the users as in `room.users`. `failed(error)` is called when the server refuses
  // the join or ends the membership, and when `load` fails: the room is not joined then, nor joined again.
  join(name, hooks) {
    const room = new Room(name, hooks);
    this.#rooms.get(name)?.end();
    this.#rooms.set(name, room);
    this.#left.delete(name);
    if (this.#ready) this.#enter(room);
    return room;
  }

  leave(name) {
    this.#rooms.get(name)?.end();
    this.#rooms.delete(name);
    this.#left.add(name); // until the server knows: a session that is restored would have us in the room again
    this.request("$leave", { room: name }).then(() => this.#left.delete(name), () => {});
  }

  // How the page answers what the server asks: `answer(data)` returns or resolves to the answer. A RequestError that it
  // throws is told to the server; of any other error only that there was one.
  answer(action, answer) {
    this.#answers.set(action, answer);
  }

  // Tells the server who comes back, so that it can have us in our rooms again with its welcome. The id is nobody's: a
  // server without sessions answers that it has none, and that is all right.
  #greet() {
    const positions = {};
    for (const { name, position } of this.#rooms.values()) if (position) positions[name] = position;
    this.#socket.send(JSON.stringify({ action: "$session", data: { session: this.#session, positions }, id: 0 }));
  }

  // A network that has gone says nothing, and a browser notices much later. So whoever is silent is asked something that
  // changes nothing, and an attempt to connect that takes too long is given up.
  #look() {
    if (!this.#heard && this.#ready) this.request("$leave", { room: "-" }).catch(() => {});
    else if (!this.#heard) this.#lost({ code: 1006, reason: "" });
    this.#heard = false;
  }

  #receive(message) {
    this.#heard = true;
    const { id, action, data, error } = message;
    if (id !== undefined && action !== undefined) this.#answer(message, this.#socket);
    else if (id !== undefined) this.#settle(id, error, data);
    else if (error) console.warn("refused:", error.code, error.message);
    else if (action === "$welcome") this.#welcome(data);
    else if (action === "$drain") this.#drain(data.reconnect_in_ms);
    else if (action === "$closed") this.#closed(data);
    else if (action === "$presence") this.#presence(message.room, data);
    else if (action?.startsWith("$")) return; // of a later version, or nothing to be done about
    else if (message.room !== undefined) this.#publication(message);
    else this.#tell("direct", message);
  }

  #ask(id) {
    const { action, data, timer } = this.#waiting.get(id);
    clearTimeout(timer);
    // A connection that does not answer is taken for dead: the browser itself would notice much later.
    this.#waiting.get(id).timer = setTimeout(() => this.#lost({ code: 1006, reason: "" }), REQUEST_MS);
    this.#socket.send(JSON.stringify({ action, data, id }));
  }

  #settle(id, error, data) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (error) waiting.reject(new RequestError(error.code, error.message, error.temporary));
    else waiting.resolve(data);
  }

  async #answer({ id, action, data }, socket) {
    const reply = { id };
    try {
      if (!this.#answers.has(action)) throw new RequestError("UNKNOWN_ACTION", `This page knows no ${action}.`);
      reply.data = (await this.#answers.get(action)(data)) ?? null;
    } catch (error) {
      if (!(error instanceof RequestError)) console.error(error);
      const { code, message, temporary } = error instanceof RequestError ? error : new RequestError("INTERNAL", "The page failed.");
      reply.error = { code, message, temporary };
    }
    if (socket === this.#socket) socket.send(JSON.stringify(reply));
  }

  #welcome(data) {
    this.#openedAt = Date.now();
    this.#drainMs = null;
    this.#ready = true;
    this.#session = data.session ?? null;
    this.#tell("state", { state: "open" });
    this.#tell("welcome", data);
    for (const room of this.#rooms.values()) this.#enter(room, data.rooms?.[room.name]);
    for (const name of this.#left) {
      if (data.rooms?.[name]) this.leave(name);
      else this.#left.delete(name);
    }
    for (const [id, { idempotent, timer }] of this.#waiting) if (idempotent && timer === undefined) this.#ask(id);
  }

  // With the reply to a join where a restored session has brought it, else by asking for it.
  async #enter(room, reply) {
    const socket = this.#socket;
    // Not where the connection is another one, which joins again, or where the room was left meanwhile.
    const isCurrent = () => socket === this.#socket && this.#rooms.get(room.name) === room;
    try {
      if (reply?.error) throw new RequestError(reply.error.code, reply.error.message, reply.error.temporary);
      reply ??= await this.request("$join", room.request);
      if (isCurrent()) await room.enter(reply);
    } catch (error) {
      if (!isCurrent() || isLost(error)) return;
      if (error.temporary) {
        setTimeout(() => isCurrent() && this.#enter(room), jitter(room.tries++));
        return;
      }
      this.leave(room.name);
      if (!(error instanceof RequestError)) console.error(error);
      room.end(error);
    }
  }

  #publication(message) {
    const room = this.#rooms.get(message.room);
    if (!room) this.#tell("publication", message);
    else if (!room.hear(message)) this.#lost({ code: 1006, reason: "" }); // and loads the state anew
  }

  #presence(name, data) {
    const room = this.#rooms.get(name);
    if (room) room.see(data);
    else this.#tell("presence", { room: name, ...data });
  }

  #closed(data) {
    const room = this.#rooms.get(data.room);
    this.#rooms.delete(data.room);
    room?.end(new RequestError(data.code, data.message));
    this.#tell("closed", data);
  }

  // The server is going to close: go on until it does, and come back when it asked us to.
  #drain(reconnectInMs) {
    this.#drainMs = reconnectInMs;
    this.#tell("state", { state: "draining" });
  }

  #lost({ code, reason }) {
    if (!this.#socket) return;
    const ended = code === 1000 || code === 1008 || (code >= 4500 && code <= 4999);
    this.#drop({ forGood: ended, ourFault: [1002, 1007, 1009].includes(code) });
    if (ended) return this.#tell("state", { state: "ended", code, reason });
    if (!navigator.onLine) return this.#tell("state", { state: "offline" });
    const ms = this.#delay();
    this.#tell("state", { state: "waiting", at: Date.now() + ms, code });
    this.#timer = setTimeout(() => this.connect(), ms);
  }

  // What may have made the server end the connection is not sent again, or it would for ever.
  #drop({ forGood, ourFault = false }) {
    const socket = this.#socket;
    this.#socket = null;
    this.#ready = false;
    socket?.close();
    for (const room of this.#rooms.values()) room.end();
    for (const [id, waiting] of [...this.#waiting]) {
      const wasSent = waiting.timer !== undefined;
      clearTimeout(waiting.timer);
      waiting.timer = undefined;
      if (waiting.idempotent && !forGood && !(ourFault && wasSent)) continue;
      this.#settle(id, { code: "NOT_CONFIRMED", message: "The connection was lost before an answer came.", temporary: true });
    }
  }

  // A drain has its own time, once. A connection that does not last is a failed attempt, too.
  #delay() {
    const [drainMs, openedAt] = [this.#drainMs, this.#openedAt];
    this.#drainMs = this.#openedAt = null;
    if (openedAt !== null && Date.now() - openedAt > Math.min(MOST_MS, BASE_MS * 2 ** this.#attempt)) this.#attempt = 0;
    return drainMs ?? jitter(this.#attempt++);
  }

  #tell(type, detail) {
    if (type === "state") this.#state = detail.state;
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
