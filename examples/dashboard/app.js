// The dashboard's page: the list of executions, and the one that is watched. What the server says is put in place as
// text, never as HTML.
import { RoomsClient } from "./client.js";
import { element, icon } from "./elements.js";
import { Graph } from "./graph.js";
import { Run } from "./run.js";

const LIST = "executions";

const $ = (id) => document.getElementById(id);

const executions = new Map(); // id -> the newest summary
let early = null; // changes of the list that came before the reply to our `list`
let run = null; // the execution that is watched
let only = null; // the node whose events are listed; all if null
let link = { state: "connecting" };
let restarting = false; // the last connection ended because the server restarts
let following = true; // the list of events is at its end, and stays there

const client = new RoomsClient(new URL("ws", location.href.split("#")[0].replace(/^http/, "ws")));
const graph = new Graph($("graph"), (id) => showOnly(id === only ? null : id));

// ---- talking to the server

async function list() {
  early = [];
  const data = await quietly(client.request("list", {}));
  if (!data) return;
  executions.clear();
  for (const summary of [...data.executions, ...early]) update(summary);
  early = null;
  const chosen = $("workflow").value;
  $("workflow").replaceChildren(...data.workflows.map(({ id, title }) => new Option(title, id, false, id === chosen)));
  drawList();
  drawRun();
  if (run) watch(run);
  else if (location.hash) select(location.hash.slice(1));
  else if (executions.size) select(inOrder()[0].execution_id);
}

async function watch(which) {
  which.expect();
  try {
    const snapshot = await client.request("watch", { execution_id: which.id });
    if (which !== run) return;
    which.begin(snapshot);
    graph.show(which.graph);
  } catch (error) {
    if (isLost(error) || which !== run) return; // the next connection watches again
    which.gone = error.message;
  }
  if (only && !run.nodes[only]) only = null;
  drawLog();
  drawRun();
}

function select(id) {
  if (run?.id === id) return;
  if (run) quietly(client.request("unwatch", { execution_id: run.id }));
  run = new Run(id);
  only = null;
  history.replaceState(null, "", `#${id}`);
  following = true;
  drawList();
  watch(run);
}

async function start() {
  $("start-button").disabled = true;
  problem("start-problem");
  try {
    const wish = { workflow: $("workflow").value, fail: $("fail").checked };
    select((await client.request("start", wish)).execution_id);
  } catch (error) {
    problem("start-problem", error.message);
  } finally {
    drawState(); // which knows whether there is a connection for another try
  }
}

const isLost = ({ code }) => code === "NOT_CONFIRMED" || code === "NOT_CONNECTED";

// The reply, or null where the connection is lost before it comes: the next one asks anew.
async function quietly(request) {
  try {
    return await request;
  } catch (error) {
    if (!isLost(error)) throw error;
    return null;
  }
}

function update(summary) {
  const known = executions.get(summary.execution_id);
  if (summary.gone) executions.delete(summary.execution_id);
  else if (!known || known.seq < summary.seq) executions.set(summary.execution_id, summary);
}

client.addEventListener("state", ({ detail }) => {
  link = detail;
  restarting = detail.state !== "open" && (restarting || detail.state === "draining" || detail.code === 1012);
  drawState();
});
client.addEventListener("welcome", list);
client.addEventListener("closed", ({ detail }) => {
  if (run && detail.room.endsWith(run.id)) run.gone = detail.message || "The server has ended this execution's room.";
  drawRun();
});
client.addEventListener("publication", ({ detail: { room, data } }) => {
  if (room === LIST) {
    if (early) return early.push(data);
    update(data);
    drawList();
  } else if (data.workflow_execution_id === run?.id && run.hear(data)) {
    logEvent(data);
    drawRun();
    announce(data);
  }
});

// ---- drawing

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const inOrder = () => [...executions.values()].sort((a, b) => b.started_at.localeCompare(a.started_at));

// A button stays the same element for as long as its execution is listed: replacing it under a finger, or under the
// focus, would lose the click.
function listItem(id) {
  const button = element("button");
  button.type = "button";
  button.dataset.execution = id;
  button.onclick = () => select(id);
  return element("li", "", button);
}

function drawList() {
  const items = new Map([...$("executions").children].map((item) => [item.firstChild.dataset.execution, item]));
  for (const [id, item] of items) if (!executions.has(id)) item.remove();
  for (const [place, summary] of inOrder().entries()) {
    const item = items.get(summary.execution_id) ?? listItem(summary.execution_id);
    if ($("executions").children[place] !== item) $("executions").insertBefore(item, $("executions").children[place] ?? null);
    const button = item.firstChild;
    button.dataset.status = summary.status;
    button.ariaCurrent = summary.execution_id === run?.id ? "true" : null;
    const bar = element("i", "bar");
    bar.style.setProperty("--done", summary.done / summary.total);
    const about = element("small", "", `${summary.status} · ${clock.format(new Date(summary.started_at))}`);
    button.replaceChildren(icon(summary.status), element("b", "", summary.title), element("small", "count", `${summary.done}/${summary.total}`), about, bar);
  }
  $("none").hidden = executions.size > 0;
}

function drawRun() {
  const known = run !== null && run.seq > 0;
  $("run").hidden = !known;
  $("empty").hidden = known;
  document.title = known ? `${run.title}: ${run.status} · Workflows` : "Workflows";
  drawState();
  if (!known) return;
  const states = Object.values(run.nodes);
  $("title").textContent = run.title;
  $("execution").textContent = run.id;
  if ($("status").dataset.status !== run.status) $("status").replaceChildren(icon(run.status), run.status);
  $("status").dataset.status = run.status;
  $("done").textContent = `${states.filter(({ status }) => status === "succeeded").length} of ${states.length}`;
  $("stop").hidden = !run.live || run.gone !== "";
  $("run").classList.toggle("gone", run.gone !== "");
  graph.draw(run.nodes, only);
  drawElapsed();
}

function drawElapsed() {
  const seconds = run.elapsedMs / 1000;
  $("elapsed").textContent = seconds < 60 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

const isListed = (event) => ($("progress").checked || event.type !== "node.progress") && (!only || event.node_id === only);
const titleOf = (id) => run.graph.find((node) => node.id === id)?.title ?? run.title;

const took = ({ data }) => (data.seconds === undefined ? "" : `${data.seconds.toFixed(1)} s`);

function line(event) {
  const verb = event.type.split(".")[1];
  const detail = event.data.error ?? { progress: `${Math.round(event.data.progress * 100)} %`, completed: took(event) }[verb] ?? "";
  const time = element("time", "", clock.format(new Date(event.timestamp)));
  time.dateTime = event.timestamp;
  const item = element("li", verb, time, element("code", "", event.type), element("b", "", titleOf(event.node_id)), element("span", "", detail));
  item.dataset.seq = event.seq;
  return item;
}

function logEvent(event) {
  if (isListed(event)) $("log").append(line(event));
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function drawLog() {
  $("log").replaceChildren(...run.events.filter(isListed).map(line));
  $("only").textContent = only ? `of ${titleOf(only)}` : "";
  $("all").hidden = !only;
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function showOnly(id) {
  only = id;
  following = true;
  drawLog();
  drawRun();
}

// For who listens: what ends badly, and the end. Each step would be too much.
function announce({ type, node_id, data }) {
  if (type === "node.failed") $("announcer").textContent = `${titleOf(node_id)} failed: ${data.error}`;
  else if (!run.live) $("announcer").textContent = `${run.title} ${run.status}`;
}

function drawState() {
  const left = link.at ? Math.max(0, Math.ceil((link.at - Date.now()) / 1000)) : 0;
  const [short, long] = {
    connecting: ["Connecting", ""],
    open: ["Connected", run?.gone],
    draining: ["Restarting", "The server is about to restart."],
    waiting: ["Reconnecting", `${restarting ? "The server is restarting" : "The connection was lost"}. What is shown may have changed.`],
    offline: ["Offline", "You are offline. What is shown may have changed."],
    ended: ["Disconnected", `The server has ended the connection${link.reason ? `: ${link.reason}` : "."}`],
  }[link.state];
  $("state").dataset.state = link.state;
  // Only what is new: a status is read aloud whenever it is set.
  if ($("state-text").textContent !== short) $("state-text").textContent = short;
  $("state-in").textContent = link.state === "waiting" && left ? `in ${left} s` : "";
  $("retry").hidden = !["waiting", "ended"].includes(link.state);
  $("retry").textContent = link.state === "ended" ? "Reconnect" : "Now";
  $("banner").classList.toggle("bad", link.state === "ended");
  document.body.classList.toggle("stale", !["open", "draining"].includes(link.state));
  $("start-button").disabled = link.state !== "open";
  if (link.state !== "connecting") problem("banner", long);
}

function problem(id, text = "") {
  $(id).textContent = text;
  $(id).hidden = !text;
}

// ---- what the person does

$("start").onsubmit = (event) => {
  event.preventDefault();
  start();
};
$("stop").onclick = async () => {
  try {
    await client.request("stop", { execution_id: run.id });
  } catch (error) {
    problem("banner", error.message);
  }
};
$("all").onclick = () => showOnly(null);
$("progress").onchange = drawLog;
$("retry").onclick = () => client.connect();
$("log").onscroll = ({ target }) => {
  following = target.scrollHeight - target.scrollTop - target.clientHeight < 30;
};
onhashchange = () => location.hash && select(location.hash.slice(1));
setInterval(() => {
  if (link.state === "waiting") drawState();
  if (run?.seq && run.live && !run.gone && link.state === "open") drawElapsed();
}, 100);

client.connect();
