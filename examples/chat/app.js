// The chat's page. All that others wrote is put in place as text, never as HTML.
import { $, element, face, hue, openClient, showLink } from "./page.js";

const ROOM = "chat";
const KEEP = 500; // lines of the log
const TYPING_MS = 3_000; // for which one is shown as typing, and at most half of which lies between two signs of it

// Local storage belongs to all tabs: they are one person. The address may name another one.
const name = new URL(location.href).searchParams.get("name") ?? localStorage.getItem("name");
let client = null;
let room = null;
const lines = new Map(); // id of a message -> what shows it
let unread = 0; // since the tab is hidden
let known = null; // the last line that was there when the connection was lost
const typing = new Map(); // user -> the timer of its end

function open() {
  document.body.dataset.stage = "chat";
  localStorage.setItem("name", name);
  client = openClient({ name });
  client.addEventListener("state", ({ detail: { state } }) => {
    const connected = ["open", "draining"].includes(state);
    document.body.classList.toggle("stale", !connected);
    if (!connected) known ??= [...$("log").querySelectorAll("li:not(.pending)")].at(-1) ?? null;
    $("cut").setAttribute("aria-pressed", String(state === "closed"));
    $("cut").textContent = state === "closed" ? "Come back" : "Go offline";
  });
  room = client.join(ROOM, {
    // The last messages: at first, and when some are lost. Those that are shown already stay where they are.
    load: async ({ recovered }) => {
      const { publications, ...position } = await client.request("$history", { room: ROOM, limit: 100, reverse: true });
      if (recovered === false) notice("The server cannot tell what was said meanwhile. This is what it has.", "anew");
      for (const { data } of publications.reverse()) if (data) hear(data); // else it was not for us
      return position;
    },
    publication: (data) => (data.typing === undefined ? hear(data) : showTyping(data.typing)),
    ready: ({ recovered, missed }) => {
      if (recovered && missed) notice(missed === 1 ? "One message came while you were away" : `${missed} messages came while you were away`, "good", known);
      known = null;
      if (document.hidden) client.send("away", { away: true });
    },
    presence: drawPeople,
    failed: (error) => problem(error.message),
  });
  showLink(client, $("link"));
  client.connect();
  $("text").focus();
}

// ---- messages

// Sent again by each connection until it is confirmed; the server knows by its id that it has it already.
async function say(text) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const line = show({ id, user: name, at: Date.now(), text });
  line.classList.add("pending");
  problem();
  try {
    await client.request("say", { id, text }, { idempotent: true });
  } catch (error) {
    line.remove();
    lines.delete(id);
    $("text").value ||= text; // refused as it is: back to where it can be changed
    problem(error.message);
  }
}

function hear(message) {
  if (document.hidden && !lines.has(message.id)) document.title = `(${++unread}) Chat`;
  stopTyping(message.user);
  const line = lines.get(message.id);
  if (!line) return show(message);
  if (!line.classList.contains("pending")) return;
  // Our own: now it has its place in the order of the room.
  line.classList.remove("pending");
  line.querySelector("time").replaceWith(time(message.at));
  append(line);
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });

function time(at) {
  const node = element("time", "", clock.format(at));
  node.dateTime = new Date(at).toISOString();
  return node;
}

function show({ id, user, at, text }) {
  const own = user === name;
  const line = element("li", own ? "message own" : "message", face(user), element("p", "by", element("b", "", own ? "You" : user), time(at)), element("p", "text", text));
  line.style.setProperty("--hue", hue(user));
  Object.assign(line.dataset, { id, user });
  lines.set(id, line);
  append(line);
  return line;
}

function notice(text, kind, after = null) {
  const line = element("li", `notice ${kind}`, text);
  if (after?.isConnected) after.after(line);
  else append(line);
  group(line.nextElementSibling);
}

// Who goes on speaking is named once.
function group(...lines) {
  for (const line of lines) {
    line?.classList.toggle("follows", line.dataset.user !== undefined && line.previousElementSibling?.dataset.user === line.dataset.user);
  }
}

function append(line) {
  const { scrollTop, clientHeight, scrollHeight } = $("scroller");
  const follows = scrollHeight - scrollTop - clientHeight < 60;
  // What is not confirmed yet stays last.
  const pending = line.classList.contains("pending") ? null : $("log").querySelector(".pending");
  $("log").insertBefore(line, pending);
  while ($("log").children.length > KEEP) {
    lines.delete($("log").firstChild.dataset.id);
    $("log").firstChild.remove();
  }
  group(line, line.nextElementSibling);
  if (follows || line.classList.contains("pending")) $("scroller").scrollTop = $("scroller").scrollHeight;
}

// ---- people

function drawPeople(users, { came = [], went = [] } = {}) {
  const sorted = [...users].sort(([a], [b]) => a.localeCompare(b));
  $("people").replaceChildren(
    ...sorted.map(([user, tabs]) => {
      const away = tabs.every((tab) => tab.away);
      const about = [user === name ? "you" : "", tabs.length > 1 ? `${tabs.length} tabs` : "", away ? "away" : ""];
      const chip = element(user === name ? "a" : "span", "", face(user), element("span", "", user), element("small", "", about.filter(Boolean).join(", ")));
      if (user === name) Object.assign(chip, { href: "?name=", title: "Take another name" });
      const item = element("li", away ? "away" : "", chip);
      item.dataset.user = user;
      return item;
    }),
  );
  for (const user of went) stopTyping(user);
  const others = [came.filter((user) => user !== name), went];
  const news = [others[0].length && `${others[0].join(", ")} came in`, others[1].length && `${others[1].join(", ")} left`];
  $("announcer").textContent = news.filter(Boolean).join(". ");
}

function showTyping(user) {
  if (user === name) return; // another tab of ours
  clearTimeout(typing.get(user));
  typing.set(user, setTimeout(() => stopTyping(user), TYPING_MS));
  drawTyping();
}

function stopTyping(user) {
  if (!typing.has(user)) return;
  clearTimeout(typing.get(user));
  typing.delete(user);
  drawTyping();
}

function drawTyping() {
  const names = [...typing.keys()];
  const who = names.length > 2 ? "Several people are" : names.length === 2 ? `${names[0]} and ${names[1]} are` : `${names[0]} is`;
  $("typing").textContent = names.length ? `${who} typing…` : "";
}

// ---- what the person does

function problem(text = "") {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

let toldTyping = -Infinity;
$("text").oninput = () => {
  problem();
  if (!$("text").value || performance.now() - toldTyping < TYPING_MS / 2 || !room.joined) return;
  if (client.send("typing")) toldTyping = performance.now();
};
$("say").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  toldTyping = -Infinity;
  say(text);
};
$("cut").onclick = () => ($("cut").ariaPressed === "true" ? client.connect() : client.close());
$("enter").onsubmit = (event) => {
  event.preventDefault();
  location.search = new URLSearchParams({ name: $("name").value.trim() }); // in the address, a reload is the same person
};
document.onvisibilitychange = () => {
  if (room?.joined) client.send("away", { away: document.hidden });
  unread = 0;
  document.title = "Chat";
};

if (name) open();
