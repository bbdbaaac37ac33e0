// The pages, drawn anew each second from what the node says.  Each question is on its way once at a
// time, none while nobody looks; what fails or is late leaves the others alone, and is called stale.
import { call, keepToken } from "./api.js";
import { buffers } from "./buffers.js";
import { Chart, Cluster, time, unitRates } from "./charts.js";
import { bytes, element, number, table } from "./tables.js";
import { TaskTable } from "./tasks.js";

const SECONDS = 1, PATIENCE_SECONDS = 2, NAMES_MAX = 8;
let wake = () => {};
const byId = (id) => document.getElementById(id);
const main = byId("main"), state = byId("state"), dialog = byId("ask");
const now = { stats: null, units: new Map(), counters: null, nodes: [], volumes: [], sessions: [], placement: [], reservations: [] };

// What was typed, or null if it was cancelled.
function ask(title, text, secret = false) {
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-label").hidden = !secret;
  byId("ask-input").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((told) => {
    dialog.onclose = () => told(dialog.returnValue === "yes" ? byId("ask-input").value : null);
  });
}
byId("ask-yes").addEventListener("click", () => dialog.close("yes"));
byId("ask-no").addEventListener("click", () => dialog.close("no"));
byId("ask-input").addEventListener("keydown", (event) => event.key === "Enter" && dialog.close("yes"));

const perSecond = (value) => `${number(value)}/s`;
const charts = [
  new Chart("I/O operations", ["read", "write", "other"], perSecond),
  new Chart("Throughput", ["read", "write"], (value) => `${bytes(value)}/s`),
  new Chart("Latency", ["p50", "p99", "p99.9"], time),
];
const tasks = new TaskTable(ask, () => wake());
const cluster = new Cluster();
const whose = element("p", { class: "none" });
const tiles = element("div", { class: "tiles" });
const rest = element("div", { class: "stack" });
const chartBox = element("div", { class: "charts" }, ...charts.map((it) => it.box));

const sum = (list) => list.reduce((total, it) => total + it, 0);

function overview() {
  const { stats, counters } = now;
  const rates = cluster.total();
  const told = counters?.nodes ?? [];
  const all = (of) => (counters ? sum(told.map(of)) : 0);
  const away = now.nodes.filter((it) => !["alone", "serving"].includes(it.state)).length;
  const workers = workerRows();
  const gone = workers.filter((it) => it.reasons.size).length;
  const found = [
    ["Nodes", `${now.nodes.length}${away ? `, ${away} away` : ""}`, away],
    ["Workers", `${workers.length}${gone ? `, ${gone} away` : ""}`, gone],
    ["Volumes", number(now.volumes.length)],
    ["Sessions", counters ? number(all((it) => it.sessions)) : "–"],
    ["IOPS", rates ? number(sum(rates.iops)) : "–"],
    ["Throughput", rates ? `${bytes(sum(rates.bytes))}/s` : "–"],
    ["Commands", counters ? number(all((it) => it.tasks)) : "–"],
    ["CPU", rates ? `${number(rates.cpu)} %` : "–"],
    ["Buffers", counters ? `${number((100 * all((it) => it.pool.used_bytes)) / all((it) => it.pool.total_bytes))} %` : "–"],
  ];
  const missing = counters?.missing ?? [];
  whose.className = missing.length ? "none bad" : "none";
  if (counters) {
    const those = told.length > 1 ? `Numbers of ${told.length} nodes together: ` : "Numbers of node ";
    const out = missing.length ? `; without ${names(missing)}, whose counters are not known here` : "";
    whose.textContent = those + names(told.map((it) => it.node)) + out;
  }
  tiles.replaceChildren(...found.map(([name, text, bad]) => element("section", {},
    element("dl", {}, element("dt", {}, name), element("dd", { class: bad ? "bad" : "", "data-tile": name }, text)))));
  const busy = (stats?.luns ?? []).map((it) => ({ ...it, ...(now.units.get(it.volume) ?? { iops: 0, bytes: 0 }) }));
  busy.sort((one, other) => other.iops - one.iops || one.lun - other.lun);
  const shares = told.map((it) => ({ ...it, rates: cluster.rates(it.node) }));
  const perNode = table("Nodes", [
    ["node", (it) => it.node],
    ["IOPS", (it) => (it.rates ? number(sum(it.rates.iops)) : "–"), "n"],
    ["throughput", (it) => (it.rates ? `${bytes(sum(it.rates.bytes))}/s` : "–"), "n"],
    ["commands", (it) => number(it.tasks), "n"],
    ["sessions", (it) => number(it.sessions), "n"],
    ["CPU", (it) => (it.rates ? `${number(it.rates.cpu)} %` : "–"), "n"],
    ["buffers", (it) => `${number((100 * it.pool.used_bytes) / it.pool.total_bytes)} %`, "n"],
    ["failed", (it) => number(it.failures), "n"],
    ["aborted", (it) => number(it.aborted), "n"],
  ], shares, "not known yet");
  rest.replaceChildren(...(told.length > 1 ? [perNode] : []), table(`Logical units, as node ${stats?.node ?? ""} serves them`, [
    ["LUN", (it) => String(it.lun)],
    ["volume", (it) => it.volume],
    ["IOPS", (it) => number(it.iops), "n"],
    ["throughput", (it) => `${bytes(it.bytes)}/s`, "n"],
    ["commands", (it) => number(it.tasks), "n"],
    ["oldest", (it) => (it.tasks ? time(it.oldest_task_seconds) : ""), "n"],
    ["failed", (it) => number(it.failures), "n"],
    ["aborted", (it) => number(it.aborted), "n"],
  ], busy, stats ? "no volumes" : "not known yet"));
}

// The first few, and how many more.
function names(list) {
  const more = list.length - NAMES_MAX;
  return more > 0 ? `${list.slice(0, NAMES_MAX).join(", ")} and ${number(more)} more` : list.join(", ");
}

function workerRows() {
  const found = new Map();
  for (const volume of now.volumes) {
    for (const worker of volume.workers) {
      const it = found.get(worker.address) ?? { address: worker.address, volumes: 0, reasons: new Set() };
      it.volumes += 1;
      if (!worker.served) it.reasons.add(worker.reason || "away");
      found.set(worker.address, it);
    }
  }
  return [...found.values()].sort((one, other) => (one.address < other.address ? -1 : 1));
}

function place(volume) {
  const map = element("div", { class: "map" });
  for (const it of volume.workers) {
    const text = it.served ? it.address : `${it.address}: ${it.reason || "away"}`;
    map.append(element("span", { class: it.served ? "" : "away" }, text));
  }
  return volume.workers.length ? map : volume.path ?? volume.pool ?? "";
}

function moving(volume) {
  const it = volume.migration;
  if (!it) return "";
  const done = `${it.chunks_done} of ${it.chunks_total} chunks`;
  const bar = element("progress", { max: it.chunks_total, value: it.chunks_done, "aria-label": done });
  return element("div", {}, bar, it.trouble || `${done}, ${bytes(it.bytes_per_second)}/s`);
}

// A cell for each chunk (of large volumes: for chunks at even distances), in the worker's colour.
function placementMap(it) {
  const counts = it.workers.map(() => 0);
  const cells = element("div", { class: "cells", "aria-hidden": "true" });
  for (const worker of it.chunks) {
    counts[worker] += 1;
    cells.append(element("i", { class: `w${worker % 6}` }));
  }
  const share = (n) => `${it.workers[n]}: ${number((100 * counts[n]) / it.chunks.length)} %`;
  const key = element("ul", { class: "shares" });
  it.workers.forEach((_, n) => key.append(element("li", {}, element("i", { class: `w${n % 6}` }), share(n))));
  const title = `Chunks of ${it.volume}: ${number(it.chunks_total)}`;
  return element("section", {}, element("h2", {}, title), cells, key);
}

function volumes() {
  rest.replaceChildren(table("Volumes", [
    ["LUN", (it) => (it.lun === null ? "deleted" : String(it.lun))],
    ["name", (it) => it.name + (it.read_only ? " (read-only)" : "")],
    ["target", (it) => it.target],
    ["size", (it) => bytes(it.size_bytes), "n"],
    ["allocated", (it) => (it.allocated_bytes == null ? "" : bytes(it.allocated_bytes)), "n"],
    ["block", (it) => bytes(it.block_bytes), "n"],
    ["chunk", (it) => bytes(it.chunk_bytes), "n"],
    ["where", place],
    ["moving", moving],
  ], now.volumes, "no volumes"), ...now.placement.map(placementMap));
}

function sessions() {
  const digests = (it) => [it.header_digest && "header", it.data_digest && "data"].filter(Boolean).join(", ");
  rest.replaceChildren(table("Sessions", [
    ["node", (it) => it.node],
    ["TSIH", (it) => String(it.tsih)],
    ["initiator", (it) => it.initiator],
    ["ISID", (it) => it.isid, "mono"],
    ["target", (it) => it.target],
    ["address", (it) => it.address],
    ["commands", (it) => (it.commands == null ? "" : number(it.commands)), "n"],
    ["digests", digests],
  ], now.sessions, "nobody is logged in"),
  table("Reservations", [
    ["LUN", (it) => String(it.lun)],
    ["type", (it) => it.type || (it.holder ? "RESERVE of SPC-2" : "none")],
    ["holder", (it) => it.holder],
    ["registered", (it) => it.registered.join(", ")],
    ["generation", (it) => number(it.generation), "n"],
    ["kept", (it) => (it.aptpl ? "through a loss of power" : "")],
  ], now.reservations, "nothing is reserved, nobody is registered"));
}

function nodes() {
  const behind = (it) => Object.entries(it.behind).map(([what, why]) => `; behind: ${what}: ${why}`).join("");
  const well = (it) => ["alone", "serving"].includes(it.state) && !behind(it);
  const health = (it) => element("span", { class: well(it) ? "good" : "bad" }, it.state + behind(it));
  rest.replaceChildren(
    table("Nodes", [
      ["node", (it) => it.id + (it.here ? " (here)" : "")],
      ["state", health],
      ["lease", (it) => (it.lease_seconds_left === null ? "" : `${it.lease_seconds_left} s`), "n"],
      ["epoch", (it) => String(it.epoch), "n"],
      ["port", (it) => String(it.number), "n"],
      ["portals", (it) => it.portals.join(", ")],
    ], now.nodes, "none"),
    table("Workers", [
      ["worker", (it) => it.address],
      ["state", (it) => element("span", { class: it.reasons.size ? "bad" : "good" }, [...it.reasons].join("; ") || "served")],
      ["volumes", (it) => number(it.volumes), "n"],
    ], workerRows(), "volumes are kept by the node itself"),
  );
}

// By page: what is in it, what draws it, and what it asks for beside the counters.
const PAGES = {
  overview: { parts: [whose, tiles, chartBox, rest], draw: overview, asks: ["stats", "nodes", "volumes"] },
  commands: { parts: [tasks.box], draw: () => {}, asks: ["tasks"] },
  volumes: { parts: [rest], draw: volumes, asks: ["volumes", "placement"] },
  sessions: { parts: [rest], draw: sessions, asks: ["sessions", "reservations"] },
  buffers: { parts: [rest], draw: () => rest.replaceChildren(...buffers(now.counters, now.sessions)), asks: ["sessions"] },
  nodes: { parts: [rest], draw: nodes, asks: ["nodes", "volumes"] },
};
const pageName = () => (location.hash.slice(1) in PAGES ? location.hash.slice(1) : "overview");

const nodesKnown = () => (now.counters ? now.counters.nodes.length + now.counters.missing.length : 1);

function take(name, said, path) {
  if (name === "tasks") tasks.update(said, path, nodesKnown() > 1);
  else if (name === "stats") {
    if (now.stats) now.units = unitRates(now.stats, said);
    now.stats = said;
  } else if (name === "counters") {
    cluster.take(said, performance.now());
    now.counters = said;
    const rates = cluster.total();
    if (rates) [rates.iops, rates.bytes, rates.latency].forEach((it, n) => charts[n].push(it));
    byId("node").textContent = said.node;
  } else now[name] = said[name];
}

const asked = new Map();  // on their way
const failed = new Map();  // why, of the last answer

function question(name) {
  if (!asked.has(name)) {
    const path = name === "tasks" ? tasks.path : `/v1/${name}`;
    const answer = call(path).then((said) => { take(name, said, path); failed.delete(name); });
    asked.set(name, answer.catch((error) => failed.set(name, error)).finally(() => asked.delete(name)));
  }
  return asked.get(name);
}

// What is stale; throws if that is all.
async function look(name) {
  const asks = ["counters", ...PAGES[name].asks];
  const late = new Promise((done) => setTimeout(done, PATIENCE_SECONDS * 1000));
  await Promise.race([Promise.all(asks.map(question)), late]);
  const errors = asks.map((it) => failed.get(it)).filter(Boolean);
  const refused = errors.find((it) => it.status === 401);
  if (refused || errors.length === asks.length) throw refused ?? errors[0];
  return asks.filter((it) => asked.has(it) || failed.has(it))
    .map((it) => `${it} (${failed.get(it)?.message ?? "no answer yet"})`);
}

function held() {  // who selects text in a table is not to lose it
  const selection = getSelection();
  return !selection.isCollapsed && rest.contains(selection.anchorNode);
}

// Tables are drawn anew; where they were scrolled to, and which has the focus, stays.
function redraw(draw) {
  const label = (it) => it.getAttribute("aria-label");
  const before = new Map([...rest.querySelectorAll(".wide")].map((it) => [label(it), it.scrollLeft]));
  const focused = rest.contains(document.activeElement) ? label(document.activeElement) : null;
  draw();
  for (const it of rest.querySelectorAll(".wide")) {
    it.scrollLeft = before.get(label(it)) ?? 0;
    if (label(it) === focused) it.focus({ preventScroll: true });
  }
}

function show() {
  const name = pageName();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name} – lunmesh`;
  rest.replaceChildren();
  main.replaceChildren(...PAGES[name].parts);
  wake();
}

const pause = () => new Promise((done) => { wake = done; setTimeout(done, SECONDS * 1000); });

async function run() {
  for (;;) {
    const name = pageName();
    let stale = ["all"];
    if (!document.hidden) {
      try {
        stale = await look(name);
        if (name === pageName() && !held()) redraw(PAGES[name].draw);
        state.textContent = stale.length ? `stale: ${stale.join(", ")}` : "live";
        state.className = stale.length ? "bad" : "";
      } catch (error) {
        state.textContent = error.message;
        state.className = "bad";
        if (error.status === 401) {
          const token = await ask("Token", "This node asks for the token of its admin API.", true);
          if (token) keepToken(token.trim());
        }
      }
    }
    const more = name === "commands" && !stale.length && !tasks.settled;  // what was asked for is not wanted any more
    if (!more) await pause();
  }
}

window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => wake());
show();
run();
