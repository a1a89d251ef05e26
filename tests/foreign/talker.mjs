// One WebSocket as test_foreign_clients.py drives it, the same over a browser's WebSocket and over that of Node's ws.
// Messages go to and from Python as JSON, in which bytes are {"$bytes": base64}; how they stand on the wire is the
// business of the format: JSON.stringify, or whatever MessagePack is given.

const MSGPACK = "trio-rooms.v1.msgpack";

const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
const fromBase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

function fromPython(value) {
  if (Array.isArray(value)) return value.map(fromPython);
  if (value === null || typeof value !== "object") return value;
  if ("$bytes" in value) return fromBase64(value.$bytes);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, fromPython(one)]));
}

function toPython(value) {
  if (value instanceof Uint8Array) return { $bytes: toBase64(value) };
  if (Array.isArray(value)) return value.map(toPython);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, toPython(one)]));
}

export class Talker {
  constructor(Socket, msgpack) {
    this.Socket = Socket;
    this.msgpack = msgpack;
    this.heard = []; // messages, and at last the close event
    this.listener = null;
  }

  open(url, subprotocol) {
    this.socket = subprotocol ? new this.Socket(url, [subprotocol]) : new this.Socket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.put({ message: toPython(this.decode(event.data)) });
    this.socket.onclose = (event) => this.put({ close: [event.code, event.reason, event.wasClean] });
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => resolve(this.socket.protocol || null);
      this.socket.onerror = () => reject(new Error("no connection"));
    });
  }

  decode(data) {
    if (typeof data === "string") return JSON.parse(data);
    const bytes = new Uint8Array(data);
    return this.socket.protocol === MSGPACK ? this.msgpack.decode(bytes) : bytes;
  }

  put(event) {
    this.heard.push(event);
    this.listener?.();
  }

  async hear() {
    while (!this.heard.length) await new Promise((resolve) => (this.listener = resolve));
    return this.heard.shift();
  }

  say(value) {
    const message = fromPython(value);
    this.socket.send(this.socket.protocol === MSGPACK ? this.msgpack.encode(message) : JSON.stringify(message));
  }

  sayBytes(value) {
    this.socket.send(fromPython(value));
  }

  close(code, reason) {
    this.socket.close(code, reason);
  }
}
