// The pages, drawn anew each second from what the node says.  One round of questions at a time, none
// while nobody looks.
import { call, keepToken } from "./api.js";
import { Chart, sample, time } from "./charts.js";
import { bytes, element, number, table } from "./tables.js";
import { TaskTable } from "./tasks.js";

const SECONDS = 1;
const byId = (id) => document.getElementById(id);
const main = byId("main"), state = byId("state"), dialog = byId("ask");
const now = { stats: null, rates: null, nodes: [], volumes: [], sessions: [], placement: [], reservations: [], tasks: 0 };

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
const tasks = new TaskTable(ask);
const tiles = element("div", { class: "tiles" });
const rest = element("div", { class: "stack" });
const chartBox = element("div", { class: "charts" }, ...charts.map((it) => it.box));

function overview() {
  const { stats, rates } = now;
  const away = now.nodes.filter((it) => !["alone", "serving"].includes(it.state)).length;
  const workers = workerRows();
  const gone = workers.filter((it) => it.reasons.size).length;
  const sum = (list) => list.reduce((total, it) => total + it, 0);
  const found = [
    ["Nodes", `${now.nodes.length}${away ? `, ${away} away` : ""}`, away],
    ["Workers", `${workers.length}${gone ? `, ${gone} away` : ""}`, gone],
    ["Volumes", number(now.volumes.length)],
    ["Sessions here", number(stats.sessions)],
    ["IOPS", rates ? number(sum(rates.iops)) : "–"],
    ["Throughput", rates ? `${bytes(sum(rates.bytes))}/s` : "–"],
    ["Commands", number(sum(stats.luns.map((it) => it.tasks)))],
    ["CPU", rates ? `${number(rates.cpu)} %` : "–"],
    ["Buffers", `${number((100 * stats.buffer_used_bytes) / stats.buffer_total_bytes)} %`],
  ];
  tiles.replaceChildren(...found.map(([name, text, bad]) => element("section", {},
    element("dl", {}, element("dt", {}, name), element("dd", { class: bad ? "bad" : "", "data-tile": name }, text)))));
  const busy = stats.luns.map((it) => ({ ...it, ...(rates?.luns.get(it.volume) ?? { iops: 0, bytes: 0 }) }));
  busy.sort((one, other) => other.iops - one.iops || one.lun - other.lun);
  rest.replaceChildren(table("Logical units", [
    ["LUN", (it) => String(it.lun), "n"],
    ["volume", (it) => it.volume],
    ["IOPS", (it) => number(it.iops), "n"],
    ["throughput", (it) => `${bytes(it.bytes)}/s`, "n"],
    ["commands", (it) => number(it.tasks), "n"],
    ["oldest", (it) => (it.tasks ? time(it.oldest_task_seconds) : ""), "n"],
    ["failed", (it) => number(it.failures), "n"],
    ["aborted", (it) => number(it.aborted), "n"],
  ], busy, "no volumes"));
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
    ["LUN", (it) => (it.lun === null ? "deleted" : String(it.lun)), "n"],
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
  rest.replaceChildren(table("Sessions of this node", [
    ["TSIH", (it) => String(it.tsih), "n"],
    ["initiator", (it) => it.initiator],
    ["ISID", (it) => it.isid, "mono"],
    ["target", (it) => it.target],
    ["address", (it) => it.address],
    ["commands", (it) => number(it.commands), "n"],
    ["digests", digests],
  ], now.sessions, "nobody is logged in"),
  table("Reservations", [
    ["LUN", (it) => String(it.lun), "n"],
    ["type", (it) => it.type || (it.holder ? "RESERVE of SPC-2" : "none")],
    ["holder", (it) => it.holder],
    ["registered", (it) => it.registered.join(", ")],
    ["generation", (it) => number(it.generation), "n"],
    ["kept", (it) => (it.aptpl ? "through a loss of power" : "")],
  ], now.reservations, "nothing is reserved, nobody is registered"));
}

function nodes() {
  const health = (it) => element("span", { class: ["alone", "serving"].includes(it.state) ? "good" : "bad" }, it.state);
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
  overview: { parts: [tiles, chartBox, rest], draw: overview, asks: ["nodes", "volumes"] },
  commands: { parts: [tasks.box], draw: () => tasks.draw(), asks: ["tasks"] },
  volumes: { parts: [rest], draw: volumes, asks: ["volumes", "placement"] },
  sessions: { parts: [rest], draw: sessions, asks: ["sessions", "reservations"] },
  nodes: { parts: [rest], draw: nodes, asks: ["nodes", "volumes"] },
};
const pageName = () => (location.hash.slice(1) in PAGES ? location.hash.slice(1) : "overview");

async function look(name) {
  const asks = PAGES[name].asks;
  const [stats, ...said] = await Promise.all(["stats", ...asks].map((it) => call(`/v1/${it}`)));
  if (now.stats) {
    now.rates = sample(now.stats, stats);
    if (now.rates) [now.rates.iops, now.rates.bytes, now.rates.latency].forEach((it, n) => charts[n].push(it));
  }
  now.stats = stats;
  asks.forEach((it, n) => (it === "tasks" ? tasks.update(said[n]) : (now[it] = said[n][it])));
  byId("node").textContent = stats.node;
}

function held() {  // who reads or selects text in a table is not to lose it
  return rest.contains(document.activeElement) && document.activeElement.matches("a, button");
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

let wake = () => {};
const pause = () => new Promise((done) => { wake = done; setTimeout(done, SECONDS * 1000); });

async function run() {
  for (;;) {
    const name = pageName();
    if (!document.hidden) {
      try {
        await look(name);
        const scroll = rest.querySelector(".wide")?.scrollLeft;
        const focused = rest.querySelector(".wide") === document.activeElement;
        if (name === pageName() && !held()) PAGES[name].draw();
        const wide = rest.querySelector(".wide");
        if (wide && scroll) wide.scrollLeft = scroll;
        if (wide && focused) wide.focus({ preventScroll: true });
        state.textContent = "live";
        state.className = "";
      } catch (error) {
        state.textContent = error.message;
        state.className = "bad";
        if (error.status === 401) {
          const token = await ask("Token", "This node asks for the token of its admin API.", true);
          if (token) keepToken(token.trim());
        }
      }
    }
    await pause();
  }
}

window.addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => wake());
show();
run();
