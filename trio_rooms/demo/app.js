// The chat's page. All that others wrote is put in place as text, never as HTML.
import { RoomsClient } from "./client.js";

const KEEP = 400; // messages and notices kept in a room's log
const GROUP_MS = 5 * 60_000; // messages of one person within this stand together
const RETURN_MS = 2 * 60_000; // who comes back within this, with nothing said between, was not away
const PREFIX = "chat.";

const $ = (id) => document.getElementById(id);
const stored = (key, otherwise) => JSON.parse(sessionStorage.getItem(key)) ?? otherwise;
const store = (key, value) => sessionStorage.setItem(key, JSON.stringify(value));

// Session storage belongs to one tab: two tabs are two people, and a reload is the same one.
let name = stored("name", null);
let current = stored("current", "general");
const mine = new Set(stored("mine", [])); // ids that this tab's connections had
const rooms = new Map();
let link = { state: "connecting" };
let restarting = false; // the last connection ended because the server restarts
let following = true; // the log is at its end, and stays there

const client = new RoomsClient(new URL("ws", location.href.replace(/^http/, "ws")));

function roomOf(title) {
  if (!rooms.has(title)) {
    rooms.set(title, {
      title,
      size: 0,
      wanted: false, // joined, or to be joined again after a reconnect
      joined: false,
      early: null, // publications that came before the reply to our join
      members: new Map(),
      log: [], // {kind: "message" | "notice" | "new" | "mine", at, ...}
      seen: new Set(), // keys of the messages in the log
      unread: 0,
      draft: "",
      shut: "", // why we are not in it, after the server has removed us or refused a join
    });
  }
  return rooms.get(title);
}

// ---- talking to the server

async function enter() {
  try {
    const data = await client.request("chat.enter", { name });
    name = data.name;
    store("name", name);
    for (const { room, members } of data.rooms) {
      const known = roomOf(room);
      known.size = members;
      rooms.delete(room); // the server's order first, then what only this tab knows
      rooms.set(room, known);
    }
    document.body.dataset.stage = "chat";
    roomOf(current).wanted = true;
    show(current);
    await Promise.all([...rooms.values()].filter((room) => room.wanted).map(join));
  } catch (error) {
    if (error.code === "NOT_CONFIRMED" || error.code === "NOT_CONNECTED") return; // the next connection enters again
    document.body.dataset.stage = "entry";
    sessionStorage.removeItem("name");
    name = null;
    drawState();
    problem("enter-problem", error.message);
  }
}

async function join(room) {
  room.wanted = true;
  room.shut = "";
  room.early = [];
  try {
    const data = await client.request("chat.join", { room: room.title });
    room.joined = true;
    room.members = new Map(data.members.map((member) => [member.id, member]));
    const first = room.seen.size === 0; // what was said before we came for the first time is not unread
    const fresh = data.messages.filter((event) => !room.seen.has(keyOf(event)));
    if (!first && fresh.length && fresh.length === data.messages.length && fresh.length >= 50) {
      add(room, { kind: "notice", at: fresh[0].at, text: "Some messages in between are not kept" });
    }
    for (const event of fresh) hear(room, event, first);
    const early = room.early;
    room.early = null;
    for (const event of early) if (event.n > data.n) hear(room, event);
    for (const item of room.log.filter((item) => item.held)) say(room, item);
  } catch (error) {
    room.early = null;
    if (error.code === "NOT_CONFIRMED" || error.code === "NOT_CONNECTED") return;
    room.wanted = false;
    room.shut = error.message;
    for (const item of room.log.filter((item) => item.held)) Object.assign(item, { held: false, failed: error.message });
  }
  keepRooms();
  if (room.title === current) drawRoom();
  drawRooms();
}

async function leave(room) {
  Object.assign(room, { wanted: false, joined: false, unread: 0, log: [] });
  room.seen.clear();
  room.members.clear();
  const others = [...rooms.values()].filter((other) => other.wanted);
  show(others[0]?.title ?? "general");
  await client.request("chat.leave", { room: room.title }).catch(() => {}); // without a connection we have left
}

async function say(room, item) {
  item.failed = null;
  item.held = room.wanted && !room.joined; // connected, but not yet in the room again: join() sends it
  if (item.held) return;
  try {
    if (!room.joined) throw new Error("You are not in this room now.");
    await client.request("chat.say", { room: room.title, text: item.text });
    remove(room, item); // the publication stood ahead of the reply and has taken its place
  } catch (error) {
    if (error.temporary === false && room.title === current && !$("text").value) {
      // Refused as it is: back to where it can be changed.
      remove(room, item);
      $("text").value = item.text;
      problem("say-problem", error.message);
      return fit();
    }
    item.failed = error.message;
    redraw(room);
  }
}

client.addEventListener("state", ({ detail }) => {
  link = detail;
  restarting = detail.state !== "open" && (restarting || detail.state === "draining" || detail.code === 1012);
  if (detail.state !== "open" && detail.state !== "draining") {
    for (const room of rooms.values()) room.joined = false;
  }
  drawState();
});
client.addEventListener("welcome", ({ detail }) => {
  mine.add(detail.connection);
  store("mine", [...mine].slice(-50));
  if (name) enter();
});
client.addEventListener("closed", ({ detail }) => {
  const room = roomOf(detail.room.slice(PREFIX.length));
  room.joined = room.wanted = false;
  room.members.clear();
  room.shut = detail.message || "You were removed from this room.";
  add(room, { kind: "notice", at: Date.now(), text: room.shut });
  keepRooms();
  drawRooms();
  drawMembers();
});
client.addEventListener("publication", ({ detail: { room: where, data } }) => {
  if (where.startsWith(PREFIX)) {
    const room = roomOf(where.slice(PREFIX.length));
    if (room.early) room.early.push(data);
    else if (room.joined) hear(room, data);
  } else if (data.gone) {
    const room = roomOf(data.room);
    if (!room.wanted) rooms.delete(data.room);
    drawRooms();
  } else {
    roomOf(data.room).size = data.members;
    drawRooms();
  }
});

// ---- what a room holds

const keyOf = (event) => `${event.member.id} ${event.n}`;

function hear(room, event, old = false) {
  if (event.kind === "message") {
    room.seen.add(keyOf(event));
    const unseen = !old && !mine.has(event.member.id) && (room.title !== current || document.hidden);
    if (unseen && !room.unread++) {
      room.log = room.log.filter((item) => item.kind !== "new");
      add(room, { kind: "new" });
    }
    const sent = mine.has(event.member.id) ? room.log.findIndex((item) => item.text === event.text && item.failed === null && !item.held) : -1;
    if (sent >= 0) room.log.splice(sent, 1);
    add(room, event);
    if (sent >= 0) redraw(room);
    if (unseen) drawRooms();
  } else if (event.kind === "joined" || room.members.has(event.member.id)) {
    if (event.kind === "joined") room.members.set(event.member.id, event.member);
    else room.members.delete(event.member.id);
    notice(room, event);
    if (room.title === current) drawMembers();
  }
}

function notice(room, event) {
  const last = room.log.at(-1);
  const back = last?.left === event.member.name && event.at - last.at < RETURN_MS;
  if (event.kind === "joined" && back) return remove(room, last);
  const text = `${event.member.name} ${event.kind === "joined" ? "came in" : "left"}`;
  add(room, { kind: "notice", at: event.at, text, left: event.kind === "left" ? event.member.name : null });
}

function add(room, item) {
  // What is still on its way stays last.
  const place = item.kind === "mine" ? -1 : room.log.findIndex((other) => other.kind === "mine");
  if (place < 0) room.log.push(item);
  else room.log.splice(place, 0, item);
  if (room.log.length > KEEP) room.log.shift();
  if (room.title === current) drawLog(room, item);
}

function remove(room, item) {
  room.log = room.log.filter((other) => other !== item);
  redraw(room);
}

function redraw(room) {
  if (room.title === current) drawLog(room);
}

function keepRooms() {
  store("rooms", [...rooms.values()].filter((room) => room.wanted).map((room) => room.title));
}

// ---- drawing

function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

const pretty = (title) => title.charAt(0).toUpperCase() + title.slice(1).replace(/[-_]+/g, " ");
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

// One of twelve hues, by FNV-1a: the same name has the same colour everywhere.
function hue(text) {
  let hash = 0x811c9dc5;
  for (const char of text) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193) >>> 0;
  return ((hash >>> 8) % 12) * 30;
}

function face(of) {
  const words = of.trim().split(/\s+/);
  const letters = [words[0], words.length > 1 ? words.at(-1) : ""].map((word) => [...word][0] ?? "").join("");
  const node = element("span", "face", letters.toUpperCase());
  node.style.setProperty("--hue", hue(of));
  node.setAttribute("aria-hidden", "true");
  return node;
}

function time(at) {
  const node = element("time", "", clock.format(at));
  node.dateTime = new Date(at).toISOString();
  node.title = new Date(at).toLocaleString();
  return node;
}

function line(room, item, before) {
  if (item.kind === "new") return element("li", "divider new", element("span", "", "New"));
  if (item.kind === "notice") return element("li", "notice", item.text, " ", time(item.at));
  const own = item.kind === "mine" || mine.has(item.member.id);
  const by = own ? name : item.member.name;
  const node = element("li", own ? "message own" : "message");
  node.style.setProperty("--hue", hue(by));
  const follows =
    before && (before.kind === "message" || before.kind === "mine") && item.at - before.at < GROUP_MS &&
    (own ? before.kind === "mine" || mine.has(before.member.id) : before.member?.id === item.member.id);
  if (follows) node.classList.add("follows");
  else node.append(face(by), element("p", "by", element("b", "", own ? "You" : by), " ", time(item.at)));
  node.append(element("p", "text", item.text));
  if (item.kind === "mine") node.append(fate(room, item)), node.classList.add(item.failed ? "failed" : "sending");
  return node;
}

function fate(room, item) {
  if (!item.failed) return element("p", "fate", "Sending…");
  const again = element("button", "", "Send again");
  const drop = element("button", "", "Discard");
  again.onclick = () => (say(room, item), redraw(room));
  drop.onclick = () => remove(room, item);
  return element("p", "fate", item.failed, " ", again, " ", drop);
}

// Draws the whole log, or only its last line where that is what is new.
function drawLog(room, item) {
  const scroller = $("scroller");
  const top = scroller.scrollTop;
  const from = item && room.log.at(-1) === item && room.log.length < KEEP ? room.log.length - 1 : 0;
  if (from === 0) {
    $("log").replaceChildren();
    delete $("log").dataset.day;
  }
  for (let i = from; i < room.log.length; i++) {
    const [one, before] = [room.log[i], room.log[i - 1]];
    const date = one.at && day.format(one.at);
    if (date && date !== $("log").dataset.day) $("log").append(element("li", "divider", element("span", "", date)));
    if (date) $("log").dataset.day = date;
    const node = line(room, one, before);
    if (item && one === item) node.classList.add("fresh");
    $("log").append(node);
  }
  if (following || item?.kind === "mine") return toEnd();
  scroller.scrollTop = top;
  if (item?.kind === "message") $("newer").hidden = false;
}

function toEnd() {
  following = true;
  $("scroller").scrollTop = $("scroller").scrollHeight;
  $("newer").hidden = true;
}

function drawMembers() {
  const room = roomOf(current);
  const members = [...room.members.values()].sort((a, b) => a.name.localeCompare(b.name));
  $("members").replaceChildren(
    ...members.map((member) => {
      const own = element("small", "", mine.has(member.id) ? "you" : "");
      return element("li", "", face(member.name), element("span", "", member.name), own);
    }),
  );
  const count = members.length;
  $("people-count").textContent = count || "";
  $("leave").hidden = !room.wanted;
  $("shut").hidden = !room.shut;
  $("say").hidden = room.shut !== "";
  $("shut-text").textContent = room.shut;
  $("room-about").textContent = count > 1 ? `${count} people here` : count ? "Only you so far" : room.shut ? "Not in this room" : "…";
}

// A button stays the same element for as long as its room is listed: replacing it under a finger, or under
// the focus, would lose the click.
function roomButton(room) {
  const button = element("button");
  button.dataset.room = room.title;
  button.onclick = () => (show(room.title), drawers());
  return button;
}

function drawRooms() {
  const all = [...rooms.values()];
  const list = $("rooms");
  for (const [i, room] of all.entries()) {
    room.button ??= roomButton(room);
    const item = room.button.parentNode ?? element("li", "", room.button);
    if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
    room.button.className = room.wanted ? "" : "outside";
    room.button.ariaCurrent = room.title === current ? "page" : null;
    const number = room.unread ? element("span", "badge", String(room.unread)) : element("small", "", String(room.size || ""));
    room.button.replaceChildren(element("i", "hash", "#"), element("span", "", pretty(room.title)), number);
  }
  while (list.children.length > all.length) list.lastChild.remove();
  const unread = all.reduce((sum, room) => sum + room.unread, 0);
  $("all-unread").hidden = !unread;
  $("all-unread").textContent = unread;
  document.title = `${unread ? `(${unread}) ` : ""}${pretty(current)} · trio-rooms`;
}

function drawRoom() {
  const room = roomOf(current);
  $("room-title").textContent = pretty(current);
  $("text").placeholder = `Message ${pretty(current)}`;
  drawLog(room);
  drawMembers();
  toEnd();
}

function drawState() {
  const left = link.at ? Math.max(0, Math.ceil((link.at - Date.now()) / 1000)) : 0;
  const [short, long] = {
    connecting: ["Connecting", "Connecting…"],
    open: ["Connected", ""],
    draining: ["Restarting", "The server is about to restart."],
    waiting: ["Reconnecting", `${restarting ? "The server is restarting" : "The connection was lost"}. Reconnecting`],
    offline: ["Offline", "You are offline."],
    ended: ["Disconnected", `The server has ended the connection${link.reason ? `: ${link.reason}` : "."}`],
  }[link.state];
  document.body.dataset.link = $("state").dataset.state = link.state;
  $("state-text").textContent = short;
  $("banner").hidden = !long;
  // A status is read aloud when it is set: the seconds, which change, stand beside it.
  if ($("banner-text").textContent !== long) $("banner-text").textContent = long;
  $("banner-in").textContent = link.state !== "waiting" ? "" : left ? `in ${left} s` : "now";
  $("retry").hidden = !["waiting", "ended"].includes(link.state);
  $("retry").textContent = link.state === "ended" ? "Reconnect" : "Now";
  $("my-name").textContent = name ?? "";
  if (name) $("my-face").replaceWith(Object.assign(face(name), { id: "my-face" }));
  drawEntry();
}

function drawEntry() {
  const entering = name !== null && document.body.dataset.stage === "entry";
  $("enter-button").disabled = entering;
  $("enter-button").textContent = entering ? "Entering…" : "Enter";
  const why = { waiting: "The server cannot be reached. Trying again…", offline: "You are offline.", ended: link.reason || "The server has refused you." };
  if (entering) problem("enter-problem", why[link.state]);
}

function show(title) {
  const before = roomOf(current);
  before.draft = $("text").value;
  before.log = before.log.filter((item) => item.kind !== "new");
  current = title;
  store("current", current);
  const room = roomOf(title);
  room.unread = 0;
  if (!room.wanted && link.state === "open") join(room);
  keepRooms();
  $("text").value = room.draft;
  problem("say-problem");
  drawRoom();
  drawRooms();
  drawState();
  fit();
  if (matchMedia("(hover: hover)").matches) $("text").focus();
}

function problem(id, text = "") {
  $(id).textContent = text;
  $(id).hidden = !text;
}

function fit() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  const length = [...text.value.trim()].length;
  $("count").hidden = length < 800;
  $("count").textContent = `${length} / 1000`;
  $("count").classList.toggle("over", length > 1000);
}

// At most one of the two drawers of a narrow window is open; none without an argument.
function drawers(open = "") {
  for (const [button, drawer] of [["open-side", "side"], ["open-people", "people"]]) {
    $(drawer).classList.toggle("open", drawer === open);
    $(button).setAttribute("aria-expanded", String(drawer === open));
  }
  $("veil").classList.toggle("open", open !== "");
  document.querySelector(".room").inert = open !== "";
  if (open) document.body.classList.add("drawn"); // drawers slide when they are used, not when the window shrinks
  if (open) $(open).focus();
}

// Closes a drawer, and gives the focus back to the button that had opened it.
function shutDrawer() {
  const opener = document.querySelector("[aria-expanded='true']");
  drawers();
  opener?.focus();
}

// ---- what the person does

$("enter").onsubmit = (event) => {
  event.preventDefault();
  name = $("name").value;
  problem("enter-problem");
  drawState();
  if (link.state === "open") enter();
  else client.connect();
};
$("new-room").onsubmit = (event) => {
  event.preventDefault();
  const wish = $("new-room-name").value.normalize("NFC").toLowerCase();
  const title = [...wish.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "")].slice(0, 32).join("");
  $("new-room-name").value = "";
  if (title) show(title), drawers();
};
$("say").onsubmit = (event) => {
  event.preventDefault();
  const room = roomOf(current);
  const text = $("text").value.trim();
  if (!text) return;
  if (link.state !== "open" && link.state !== "draining") return problem("say-problem", "There is no connection; your text is kept.");
  problem("say-problem");
  $("text").value = "";
  fit();
  const item = { kind: "mine", at: Date.now(), text, failed: null };
  add(room, item);
  say(room, item);
};
$("text").oninput = () => (fit(), problem("say-problem"));
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("say").requestSubmit();
  }
};
$("leave").onclick = () => leave(roomOf(current));
$("join").onclick = () => (join(roomOf(current)), drawMembers());
$("retry").onclick = () => client.connect();
$("newer").onclick = toEnd;
$("scroller").onscroll = (event) => {
  const { scrollHeight, scrollTop, clientHeight } = event.target;
  following = scrollHeight - scrollTop - clientHeight < 40;
  if (following) $("newer").hidden = true;
};
new ResizeObserver(() => following && toEnd()).observe($("scroller"));
$("open-side").onclick = () => drawers("side");
$("open-people").onclick = () => drawers("people");
$("veil").onclick = shutDrawer;
document.onkeydown = (event) => {
  if (event.key === "Escape") shutDrawer();
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!event.altKey || !step || document.body.dataset.stage !== "chat") return;
  event.preventDefault();
  const titles = [...rooms.keys()];
  show(titles[(titles.indexOf(current) + step + titles.length) % titles.length]);
};
document.onvisibilitychange = () => {
  if (document.hidden || !name) return;
  roomOf(current).unread = 0;
  drawRooms();
};
setInterval(() => link.state === "waiting" && drawState(), 250);

for (const title of stored("rooms", [])) roomOf(title).wanted = true;
if (name) {
  $("name").value = name;
  client.connect();
}
