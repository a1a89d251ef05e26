// What the pages of the examples have in common. What others wrote becomes text nodes, never HTML.
import { RoomsClient } from "./client.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children); // strings become text nodes
  return node;
}

// One of twelve hues, by FNV-1a: the same name has the same colour everywhere.
export function hue(text) {
  let hash = 0x811c9dc5;
  for (const char of text) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193) >>> 0;
  return ((hash >>> 8) % 12) * 30;
}

export function face(name) {
  const words = name.trim().split(/\s+/);
  const letters = [words[0], words.length > 1 ? words.at(-1) : ""].map((word) => [...word][0] ?? "").join("");
  const node = element("span", "face", letters.toUpperCase());
  node.style.setProperty("--hue", hue(name));
  node.setAttribute("aria-hidden", "true");
  return node;
}

// Session storage belongs to one tab: two tabs may be two people, and a reload is the same one.
export const stored = (key, otherwise) => JSON.parse(sessionStorage.getItem(key)) ?? otherwise;
export const store = (key, value) => sessionStorage.setItem(key, JSON.stringify(value));

// A client of the server that the page is from; `query` is for the WebSocket's address.
export function openClient(query = {}) {
  const url = new URL("ws", location.href.replace(/^http/, "ws").split("#")[0]);
  url.search = new URLSearchParams(query);
  return new RoomsClient(url);
}

const WORDS = {
  connecting: "Connecting",
  open: "Connected",
  draining: "Restarting",
  waiting: "Reconnecting",
  offline: "Offline",
  closed: "Disconnected",
  ended: "Disconnected",
};

// Keeps an element of class `link` up to date: the state in words, the seconds until the next try, and a button for now.
export function showLink(client, place) {
  const [words, seconds, now] = [element("span"), element("span"), element("button", "quiet")];
  words.setAttribute("role", "status");
  seconds.setAttribute("aria-hidden", "true"); // a status is read aloud when it is set: what changes stands beside it
  now.type = "button";
  now.onclick = () => client.connect();
  place.replaceChildren(words, seconds, now);
  let link = { state: "connecting" };
  const draw = () => {
    const left = link.at ? Math.max(0, Math.ceil((link.at - Date.now()) / 1000)) : 0;
    place.dataset.state = link.state;
    if (words.textContent !== WORDS[link.state]) words.textContent = WORDS[link.state];
    seconds.textContent = link.state === "waiting" && left ? `in ${left} s` : "";
    now.hidden = !["waiting", "closed", "ended"].includes(link.state);
    now.textContent = link.state === "waiting" ? "Now" : "Reconnect";
  };
  client.addEventListener("state", ({ detail }) => {
    link = detail;
    draw();
  });
  setInterval(() => link.state === "waiting" && draw(), 250);
  draw();
}
