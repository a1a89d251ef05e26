// A client of the subprotocol trio-rooms.v1.json: requests with replies, publications, reconnecting.
// It knows nothing of the chat. Events (CustomEvent, `detail` as given):
//   state        {state: "connecting" | "open" | "draining" | "waiting" | "offline" | "ended", at?, code?, reason?}
//   welcome      {connection}          a new connection is ready; what was joined before is to be joined again
//   publication  {room, data, offset?}
//   direct       {action?, data}       what the server sent to this connection, built-in actions excepted
//   closed       {room, code, message} no longer a member of the room

const BASE_MS = 500;
const MOST_MS = 20_000;
const REQUEST_MS = 10_000;

export class RequestError extends Error {
  constructor(code, message, temporary = false) {
    super(message || code);
    this.code = code;
    this.temporary = temporary;
  }
}

export class RoomsClient extends EventTarget {
  #url;
  #socket = null;
  #timer = 0;
  #attempt = 0;
  #lastId = 0;
  #waiting = new Map(); // id of a request -> how to settle it
  #drainMs = null;
  #state = "";

  constructor(url) {
    super();
    this.#url = url;
    // Not after "ended": then only the person may ask for another connection.
    addEventListener("online", () => ["offline", "waiting"].includes(this.#state) && this.connect());
    addEventListener("offline", () => this.#lost({ code: 1006, reason: "" }));
  }

  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#tell("state", { state: "connecting" });
    const socket = (this.#socket = new WebSocket(this.#url, "trio-rooms.v1.json"));
    // A socket that was given up may still speak; only the current one is heard.
    socket.onmessage = (event) => socket === this.#socket && this.#receive(JSON.parse(event.data));
    socket.onclose = (event) => socket === this.#socket && this.#lost(event);
  }

  // The reply's data; rejects with a RequestError. NOT_CONFIRMED: the request may or may not have been done.
  request(action, data) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject(new RequestError("NOT_CONNECTED", "There is no connection.", true));
    }
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      // A connection that does not answer is taken for dead: the browser itself would notice much later.
      const timer = setTimeout(() => this.#lost({ code: 1006, reason: "" }), REQUEST_MS);
      this.#waiting.set(id, { resolve, reject, timer });
      this.#socket.send(JSON.stringify({ action, data, id }));
    });
  }

  #receive(message) {
    const { id, action, data, error } = message;
    if (id !== undefined && action === undefined) this.#settle(id, error, data);
    else if (error) console.warn("refused:", error.code, error.message);
    else if (action === "$welcome") this.#welcome(data);
    else if (action === "$drain") this.#drain(data.reconnect_in_ms);
    else if (action === "$closed") this.#tell("closed", data);
    else if (message.room !== undefined) this.#tell("publication", message);
    else this.#tell("direct", message);
  }

  #settle(id, error, data) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (error) waiting.reject(new RequestError(error.code, error.message, error.temporary));
    else waiting.resolve(data);
  }

  #welcome(data) {
    this.#attempt = 0;
    this.#drainMs = null;
    this.#tell("state", { state: "open" });
    this.#tell("welcome", data);
  }

  // The server is going to close: go on until it does, and come back when it asked us to.
  #drain(reconnectInMs) {
    this.#drainMs = reconnectInMs;
    this.#tell("state", { state: "draining" });
  }

  #lost({ code, reason }) {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.close();
    for (const id of [...this.#waiting.keys()]) {
      this.#settle(id, { code: "NOT_CONFIRMED", message: "The connection was lost before an answer came.", temporary: true });
    }
    if (code >= 4500 && code <= 4999) return this.#tell("state", { state: "ended", code, reason });
    if (!navigator.onLine) return this.#tell("state", { state: "offline" });
    this.#retryIn(this.#delay(), code);
  }

  // Full jitter: clients that were cut off together do not come back together. A drain has its own time, once.
  #delay() {
    const drainMs = this.#drainMs;
    this.#drainMs = null;
    if (drainMs !== null) return drainMs;
    return Math.random() * Math.min(MOST_MS, BASE_MS * 2 ** this.#attempt++);
  }

  #retryIn(ms, code) {
    this.#tell("state", { state: "waiting", at: Date.now() + ms, code });
    this.#timer = setTimeout(() => this.connect(), ms);
  }

  #tell(type, detail) {
    if (type === "state") this.#state = detail.state;
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
