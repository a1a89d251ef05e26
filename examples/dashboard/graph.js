// Draws a workflow: nodes in levels, from left to right, or from top to bottom where there is no width for it.

import { element, icon } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";

// Levels of nodes, each one level behind the last it comes after. An edge that crosses a level has a place in it, too,
// so that no edge runs behind a node: {node} or {from, to}.
export function levelsOf(graph) {
  const depth = new Map();
  for (const { id, after } of graph) depth.set(id, after.length ? 1 + Math.max(...after.map((before) => depth.get(before))) : 0);
  const levels = Array.from({ length: Math.max(...depth.values()) + 1 }, () => []);
  const before = new Map(); // place -> the places in the level before that lead to it
  const last = new Map(); // id of a node -> its place
  for (const node of graph) {
    const place = { node, key: node.id };
    const ahead = node.after.map((from) => {
      let at = last.get(from);
      for (let level = depth.get(from) + 1; level < depth.get(node.id); level++) {
        const passing = { from, to: node.id, key: `${from} ${node.id} ${level}` };
        levels[level].push(passing);
        before.set(passing, [at]);
        at = passing;
      }
      return at;
    });
    last.set(node.id, place);
    levels[depth.get(node.id)].push(place);
    before.set(place, ahead);
  }
  for (const [number, level] of levels.entries()) {
    if (!number) continue;
    const ahead = levels[number - 1];
    const middle = (place) => before.get(place).reduce((sum, one) => sum + ahead.indexOf(one), 0) / before.get(place).length;
    level.sort((a, b) => middle(a) - middle(b));
  }
  return { levels, before };
}

export class Graph {
  #box;
  #edges = document.createElementNS(SVG, "svg");
  #places = new Map(); // key of a place -> its element
  #paths = []; // {from, to, path}: elements at the ends, and the ids of the nodes
  #levels = null;

  constructor(box, onSelect) {
    this.#box = box;
    this.onSelect = onSelect;
    this.#edges.setAttribute("class", "edges");
    this.#edges.setAttribute("aria-hidden", "true");
    new ResizeObserver(() => this.#route()).observe(box);
  }

  // Lays out another workflow.
  show(graph) {
    const { levels, before } = levelsOf(graph);
    this.#places.clear();
    this.#levels = element("ol", "levels", ...levels.map((level) => element("li", "level", element("ul", "", ...level.map((place) => this.#place(place))))));
    this.#paths = [];
    for (const [place, ahead] of before) {
      for (const from of ahead) this.#paths.push({ from: from.key, to: place.key, begins: from.from ?? from.key, ends: place.to ?? place.key });
    }
    // A place that an edge passes through is bridged.
    for (const place of levels.flat()) if (!place.node) this.#paths.push({ from: place.key, to: place.key, begins: place.from, ends: place.to });
    for (const one of this.#paths) one.path = document.createElementNS(SVG, "path");
    this.#edges.replaceChildren(...this.#paths.map((one) => one.path));
    this.#box.replaceChildren(this.#edges, this.#levels);
    this.#route();
  }

  // Brings nodes and edges to a run's present state.
  draw(nodes, selected) {
    for (const [id, state] of Object.entries(nodes)) this.#drawNode(this.#places.get(id), state, id === selected);
    for (const { begins, ends, path } of this.#paths) {
      path.setAttribute("class", nodes[begins].status === "succeeded" ? (nodes[ends].status === "running" ? "taken flowing" : "taken") : "");
    }
  }

  #place({ node, key }) {
    const item = element("li", node ? "" : "passing");
    if (node) {
      const button = element("button", "node", icon("waiting"), element("b", "", node.title), element("small"), element("i", "bar"));
      button.type = "button";
      button.dataset.node = node.id;
      button.onclick = () => this.onSelect(node.id);
      item.append(button);
    }
    if (!node) item.ariaHidden = "true";
    this.#places.set(key, item);
    return item;
  }

  #drawNode(item, { status, progress, error }, selected) {
    const button = item.firstChild;
    const percent = Math.round(progress * 100);
    const text = status === "running" ? `running, ${percent} %` : status;
    if (button.dataset.status !== status) button.replaceChild(icon(status), button.firstChild);
    button.dataset.status = status;
    button.ariaPressed = String(selected);
    button.title = error ?? "";
    button.querySelector("small").textContent = text;
    button.querySelector(".bar").style.setProperty("--done", status === "waiting" ? 0 : progress);
  }

  #route() {
    if (!this.#levels?.isConnected) return;
    const down = getComputedStyle(this.#levels).flexDirection === "column";
    const origin = this.#box.getBoundingClientRect();
    const boxOf = (key) => {
      const item = this.#places.get(key);
      const { x, y, width, height } = (item.firstChild ?? item).getBoundingClientRect();
      return { x: x - origin.x, y: y - origin.y, width, height };
    };
    this.#edges.setAttribute("viewBox", `0 0 ${origin.width} ${origin.height}`);
    for (const { from, to, path } of this.#paths) {
      const [a, b] = [boxOf(from), boxOf(to)];
      const through = from === to;
      path.setAttribute("d", down ? vertical(a, b, through) : horizontal(a, b, through));
    }
  }
}

function horizontal(a, b, through) {
  const [x1, y1, x2, y2] = [through ? a.x : a.x + a.width, a.y + a.height / 2, through ? a.x + a.width : b.x, b.y + b.height / 2];
  const bend = through ? 0 : (x2 - x1) / 2;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function vertical(a, b, through) {
  const [x1, y1, x2, y2] = [a.x + a.width / 2, through ? a.y : a.y + a.height, b.x + b.width / 2, through ? a.y + a.height : b.y];
  const bend = through ? 0 : (y2 - y1) / 2;
  return `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`;
}
