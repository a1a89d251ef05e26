// The board's page: everybody's pointer, and cards that anybody can move. What others wrote is put in place as text.
import { $, element, face, hue, openClient, showLink, store, stored } from "./page.js";

const ROOM = "board";
const SEND_MS = 40; // between two messages about the same
const SMOOTH_MS = 60; // in which what moves covers two thirds of its way
const SETTLE_MS = 300; // after which what we moved is where the room has it
const STEP = 0.02; // of the board, by an arrow key
const HUES = { idea: 80, plan: 250, done: 160 };
const NAMES = ["Amber", "Basil", "Cedar", "Fern", "Hazel", "Indigo", "Juniper", "Maple", "Olive", "Poppy", "Rowan", "Sage"];

const me = { name: stored("name", null) ?? NAMES[Math.floor(Math.random() * NAMES.length)] };
const client = openClient();
const pointers = new Map(); // of others, by connection: {node, x, y, toX, toY, name}
const cards = new Map(); // by id, likewise
let mine = ""; // the id of our connection
let dragged = null; // the card that is under our pressed pointer
let last = {}; // where our pointer is

// ---- what we tell: at most so often, and only the newest

const unsent = new Map(); // what it is about -> [action, data]
let sentAt = 0;
let timer = 0;

function tell(about, action, data) {
  unsent.set(about, [action, data]);
  timer ||= setTimeout(flush, Math.max(0, sentAt + SEND_MS - performance.now()));
}

function flush() {
  timer = 0;
  sentAt = performance.now();
  if (!room.joined) return unsent.clear(); // who comes back tells where its pointer is, and is told where the cards are
  for (const [about, [action, data]] of unsent) if (client.send(action, data)) unsent.delete(about);
  if (unsent.size) timer = setTimeout(flush, SEND_MS);
}

// ---- what we are told

client.addEventListener("welcome", ({ detail }) => (mine = detail.connection));
client.addEventListener("state", ({ detail }) => document.body.classList.toggle("stale", !["open", "draining"].includes(detail.state)));

const room = client.join(ROOM, {
  data: me,
  // Nothing of the room is kept, so each connection begins with the state as it is. What was published meanwhile follows;
  // some of it is in the state already, which does no harm: each publication is whole.
  load: async () => {
    const board = await client.request("look", {});
    const there = new Set(board.pointers.map(({ pointer }) => pointer));
    for (const id of [...pointers.keys()]) if (!there.has(id)) showPointer({ pointer: id });
    for (const pointer of board.pointers) showPointer(pointer);
    for (const card of board.cards) showCard(card);
    if (last.x !== undefined) tell("pointer", "point", last);
  },
  presence: drawPeople,
  publication: (it) => (it.card ? showCard(it) : showPointer(it)),
  failed: (error) => problem(error.message),
});

function showPointer({ pointer: id, name, x, y, pressed }) {
  if (id === mine) return;
  const known = pointers.get(id);
  if (x === undefined) {
    known?.node.remove();
    pointers.delete(id);
    return;
  }
  if (!known) pointers.set(id, { node: pointerNode(id), x, y, name: "" });
  const pointer = pointers.get(id);
  pointer.node.classList.toggle("pressed", pressed);
  if (pointer.name !== name) {
    pointer.name = name;
    pointer.node.style.setProperty("--hue", hue(name));
    pointer.node.querySelector("b").textContent = name;
  }
  moveTo(pointer, x, y);
}

function pointerNode(id) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#arrow");
  svg.append(use);
  const node = element("div", "pointer", svg, element("span", "", element("b")));
  node.dataset.pointer = id;
  node.setAttribute("aria-hidden", "true");
  $("board").append(node);
  return node;
}

function showCard({ card: id, title, x, y }) {
  if (!cards.has(id)) cards.set(id, { node: cardNode(id), x, y });
  const card = cards.get(id);
  card.node.textContent = title;
  card.told = [x, y];
  if (!card.held) moveTo(card, x, y);
}

// While we move a card, what we are told of it is late: it would pull the card back. A little after our last move it
// goes where the room has it, which may be elsewhere, if somebody else moved it, too.
function hold(card) {
  clearTimeout(card.timer);
  card.held = true;
}

function letGo(card) {
  card.timer = setTimeout(() => {
    card.held = false;
    moveTo(card, ...card.told);
  }, SETTLE_MS);
}

function cardNode(id) {
  const node = element("button", "card");
  node.type = "button";
  node.dataset.card = id;
  node.style.setProperty("--hue", HUES[id] ?? 165);
  node.onpointerdown = (event) => {
    node.setPointerCapture(event.pointerId);
    const at = place(event);
    dragged = cards.get(id);
    hold(dragged);
    Object.assign(dragged, { offX: dragged.x - at.x, offY: dragged.y - at.y });
    node.classList.add("held");
  };
  node.onlostpointercapture = () => {
    dragged = null;
    letGo(cards.get(id));
    node.classList.remove("held");
  };
  node.onkeydown = (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (dx === undefined) return;
    event.preventDefault();
    const card = cards.get(id);
    const step = event.shiftKey ? 5 * STEP : STEP;
    hold(card);
    dragTo(card, card.toX + dx * step, card.toY + dy * step);
    letGo(card);
  };
  $("board").append(node);
  return node;
}

// ---- movement: what is told comes in steps, what is shown goes smoothly from one to the next

const still = matchMedia("(prefers-reduced-motion: reduce)");
const moving = new Set();
let before = 0;

function moveTo(it, x, y) {
  Object.assign(it, { toX: x, toY: y });
  if (!moving.size) before = performance.now();
  if (!moving.size) requestAnimationFrame(step);
  moving.add(it);
}

function step(now) {
  const share = still.matches ? 1 : 1 - Math.exp(-Math.max(0, now - before) / SMOOTH_MS);
  before = now;
  for (const it of moving) {
    it.x += (it.toX - it.x) * share;
    it.y += (it.toY - it.y) * share;
    if (Math.hypot(it.toX - it.x, it.toY - it.y) < 0.0005) {
      Object.assign(it, { x: it.toX, y: it.toY });
      moving.delete(it);
    }
    it.node.style.setProperty("--x", it.x);
    it.node.style.setProperty("--y", it.y);
  }
  if (moving.size) requestAnimationFrame(step);
}

// ---- what the person does

const within = (share) => Math.min(1, Math.max(0, share));

function place({ clientX, clientY }) {
  const box = $("board").getBoundingClientRect();
  return { x: within((clientX - box.left) / box.width), y: within((clientY - box.top) / box.height) };
}

function dragTo(card, x, y) {
  moveTo(card, within(x), within(y));
  tell(`card ${card.node.dataset.card}`, "move", { card: card.node.dataset.card, x: card.toX, y: card.toY });
}

function point(event) {
  last = { ...place(event), pressed: event.buttons > 0 };
  tell("pointer", "point", last);
  if (dragged) dragTo(dragged, last.x + dragged.offX, last.y + dragged.offY);
}

function away() {
  last = {};
  tell("pointer", "point", last);
}

$("board").onpointermove = $("board").onpointerdown = point;
$("board").onpointerup = (event) => (event.pointerType === "mouse" ? point(event) : away()); // a lifted finger is nowhere
$("board").onpointerleave = $("board").onpointercancel = away;

$("name").value = me.name;
$("name").onchange = async () => {
  problem();
  try {
    await client.request("rename", { name: $("name").value });
    me.name = $("name").value;
    store("name", me.name);
  } catch (error) {
    problem(error.message);
    $("name").value = me.name;
  }
};

function problem(text = "") {
  $("name-problem").textContent = text;
  $("name-problem").hidden = !text;
}

// A user is a connection here, for nobody says who they are: each has one entry.
function drawPeople(users, { came = [], went = [] }) {
  const others = [...users].filter(([user]) => user !== mine).map(([, [{ name }]]) => name);
  const names = [me.name, ...others.sort((a, b) => a.localeCompare(b))];
  $("people").replaceChildren(
    ...names.map((name, i) => {
      const about = i ? name : `${name} (you)`;
      const item = element("li", "", face(name), element("span", "unseen", about));
      item.title = about;
      return item;
    }),
  );
  $("hint").hidden = names.length > 1;
  if (came.length + went.length) $("announcer").textContent = names.length > 1 ? `${names.length} people are here` : "Only you are here";
}

store("name", me.name);
showLink(client, $("link"));
client.connect();
