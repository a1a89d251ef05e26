// One execution as this page knows it: a snapshot, and the events after it, each applied once and in order.

const STATUS = {
  started: "running",
  progress: "running",
  completed: "succeeded",
  failed: "failed",
  skipped: "skipped",
  cancelled: "cancelled",
};

export class Run {
  seq = 0;
  title = "";
  status = "waiting";
  startedAt = null;
  graph = []; // [{id, title, after: [id]}], as the server defines it
  nodes = {}; // id -> {status, progress, error}
  events = [];
  gone = ""; // why the server does not know it any more
  #early = []; // events that came while the reply to `watch` was on its way; null when there is no reply to come

  constructor(id) {
    this.id = id;
  }

  // A `watch` was sent. The server takes the snapshot in the step that makes us a member, so every event that it does
  // not contain is sent to us; but the reply stands behind those that were published before it was written.
  expect() {
    this.#early = [];
  }

  // The reply has come: it is the state, whatever was known before, and the early events go on from it.
  begin({ summary, graph, nodes, events }) {
    Object.assign(this, { graph, nodes, events, gone: "", seq: summary.seq, title: summary.title, status: summary.status });
    this.startedAt = new Date(summary.started_at);
    const early = this.#early;
    this.#early = null;
    for (const event of early) this.hear(event);
  }

  // Whether the event changed something; false for one that is kept for later, and for one that the snapshot contains:
  // it was for an earlier membership of ours, or a broker between several servers brought it after it was recorded.
  hear(event) {
    if (this.#early) {
      this.#early.push(event);
      return false;
    }
    if (event.seq <= this.seq) return false;
    this.#apply(event);
    return true;
  }

  get live() {
    return this.status === "waiting" || this.status === "running";
  }

  get elapsedMs() {
    const end = this.live ? new Date() : new Date(this.events.at(-1).timestamp);
    return Math.max(0, end - this.startedAt);
  }

  #apply(event) {
    // The room's policy is to end a connection rather than to leave something out: this would be a defect.
    if (event.seq !== this.seq + 1) throw new Error(`${this.id}: event ${event.seq} follows ${this.seq}`);
    this.seq = event.seq;
    this.events.push(event);
    const status = STATUS[event.type.split(".")[1]];
    const node = this.nodes[event.node_id];
    if (!node) this.status = status;
    else {
      const progress = status === "succeeded" ? 1 : (event.data.progress ?? node.progress);
      this.nodes[event.node_id] = { status, progress, error: event.data.error ?? null };
    }
  }
}
