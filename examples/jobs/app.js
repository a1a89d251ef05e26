// The jobs' page. What it shows is the state as it was loaded, and each change since. What others wrote is put in place
// as text.
import { $, element, openClient, showLink } from "./page.js";

const KEEP = 50; // lines of the log

const client = openClient();
const jobs = new Map(); // id -> {job, title, done, steps, status} as the server told it, or as we asked for it
const rows = new Map(); // id -> the elements that show it

client.join("jobs", {
  // The first time, and when the server cannot tell what we have missed, such as after its restart.
  load: async ({ recovered }) => {
    const { jobs: all, ...position } = await client.request("list", {});
    for (const [id, { status }] of jobs) if (status !== "waiting") jobs.delete(id);
    for (const job of all) jobs.set(job.job, job);
    draw();
    if (recovered === false) note("The server is not the one that we knew: loaded the state anew", "anew");
    else note(`Loaded the state: ${count(all.length, "job")}`);
    return position;
  },
  publication: (job) => {
    if (job.gone) jobs.delete(job.job);
    else jobs.set(job.job, job);
    draw();
  },
  ready: ({ recovered, missed }) => {
    if (recovered) note(`Caught up: ${count(missed, "change")}, none missing, none twice`, "good");
  },
  failed: (error) => problem(error.message),
});

// Started once, however often the connection is lost before the answer: the server knows the job by the id that we make.
async function start(title) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  jobs.set(id, { job: id, title, done: 0, steps: 1, status: "waiting" });
  draw();
  await ask("start", { job: id, title });
  if (jobs.get(id)?.status === "waiting") jobs.delete(id); // refused
  draw();
}

async function ask(action, data) {
  problem();
  try {
    await client.request(action, data, { idempotent: true });
  } catch (error) {
    problem(error.message);
  }
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const about = ({ status, done, steps }) => (status === "running" ? `${Math.round((100 * done) / steps)} %` : status);

function draw() {
  for (const [id, row] of rows) {
    if (jobs.has(id)) continue;
    row.item.remove();
    rows.delete(id);
  }
  for (const [id, job] of jobs) {
    if (!rows.has(id)) rows.set(id, newRow(id));
    const { item, title, state, bar, cancel } = rows.get(id);
    item.dataset.status = job.status;
    title.textContent = job.title;
    state.textContent = about(job);
    bar.max = job.steps;
    bar.value = job.done;
    bar.setAttribute("aria-label", job.title);
    cancel.hidden = job.status !== "running";
    cancel.setAttribute("aria-label", `Cancel ${job.title}`);
  }
  const running = [...jobs.values()].filter(({ status }) => status === "running");
  $("none").hidden = jobs.size > 0;
  document.title = running.length ? `${about(running[0])} · Jobs` : "Jobs";
}

// A row stays the same elements for as long as its job is listed: replacing a button under a finger would lose the click.
function newRow(id) {
  const [title, state, bar] = [element("b"), element("span", "about"), element("progress")];
  const cancel = element("button", "quiet", "Cancel");
  cancel.type = "button";
  cancel.onclick = () => ask("cancel", { job: id });
  const item = element("li", "", title, state, cancel, bar);
  item.dataset.job = id;
  $("jobs").prepend(item);
  return { item, title, state, bar, cancel };
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function note(text, kind = "") {
  $("log").prepend(element("li", "", element("time", "", clock.format(Date.now())), element("span", kind, text)));
  while ($("log").children.length > KEEP) $("log").lastChild.remove();
}

function problem(text = "") {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

let connected = false;
client.addEventListener("state", ({ detail: { state, code } }) => {
  const is = ["open", "draining"].includes(state);
  document.body.classList.toggle("stale", !is);
  if (connected && !is) note(state === "offline" ? "Offline" : code === 1012 ? "The server restarts" : "The connection was lost");
  connected = is;
});
$("start").onsubmit = (event) => {
  event.preventDefault();
  start($("title").value);
  $("title").value = "";
};

showLink(client, $("link"));
draw();
client.connect();
