// What happened between two looks at the counters (as target/telemetry/rates.py), drawn as lines.
import { element, number } from "./tables.js";

const SAMPLES_MAX = 120;
const WIDTH = 600, HEIGHT = 150;
const SVG = "http://www.w3.org/2000/svg";

const NOTHING = () => ({ iops: [0, 0, 0], bytes: [0, 0], buckets: [], cpu: 0 });

// What a node did between two answers, a second; null where it has begun anew.
export function sample(before, after) {
  const seconds = after.clock_seconds - before.clock_seconds;
  if (seconds <= 0 || after.cpu_seconds < before.cpu_seconds) return null;
  const found = NOTHING();
  found.cpu = (100 * (after.cpu_seconds - before.cpu_seconds)) / seconds;
  for (const [name, it] of Object.entries(after.classes)) {
    const was = before.classes[name];
    const kind = name === "read" ? 0 : name === "write" ? 1 : 2;
    it.buckets.forEach((value, n) => {
      const change = (value - (was?.buckets[n] ?? 0)) / seconds;
      found.buckets[n] = (found.buckets[n] ?? 0) + change;
      found.iops[kind] += change;
    });
    if (kind < 2) found.bytes[kind] += (it.bytes - (was?.bytes ?? 0)) / seconds;
  }
  return found;
}

// The last samples of all nodes.  One node tells of itself each second, the others every few; one that
// says nothing for longer than it may has nothing to say.
export class Cluster {
  constructor() { this.nodes = new Map(); }

  take(list, now) {
    const names = new Set(list.nodes.map((it) => it.node));
    for (const name of this.nodes.keys()) if (!names.has(name)) this.nodes.delete(name);
    for (const it of list.nodes) {
      const known = this.nodes.get(it.node);
      const same = known && known.last.epoch === it.epoch;
      if (!same) this.nodes.set(it.node, { last: it, at: now, rates: null });
      else if (it.clock_seconds !== known.last.clock_seconds) {
        this.nodes.set(it.node, { last: it, at: now, rates: sample(known.last, it) });
      } else if (now - known.at > 1000 * (2 * it.every_seconds + 1)) known.rates = NOTHING();
    }
    this.bounds = list.bounds_seconds;
  }

  rates(name) { return this.nodes.get(name)?.rates ?? null; }

  // Of all nodes; null while there is nothing of any.
  total() {
    const told = [...this.nodes.values()].map((it) => it.rates).filter(Boolean);
    if (!told.length) return null;
    const found = NOTHING();
    for (const it of told) {
      for (const what of ["iops", "bytes", "buckets"]) {
        it[what].forEach((value, n) => { found[what][n] = (found[what][n] ?? 0) + value; });
      }
      found.cpu += it.cpu;
    }
    found.latency = [0.5, 0.99, 0.999].map((part) => quantile(found.buckets, this.bounds, part));
    return found;
  }
}

// IOPS and bytes of each logical unit, by volume.
export function unitRates(before, after) {
  const seconds = after.clock_seconds - before.clock_seconds;
  const found = new Map();
  if (seconds <= 0 || after.cpu_seconds < before.cpu_seconds) return found;
  const sum = (lun, of) => Object.values(lun?.classes ?? {}).reduce((total, it) => total + of(it), 0);
  const commands = (it) => it.buckets.reduce((total, value) => total + value, 0);
  const earlier = new Map(before.luns.map((it) => [it.volume, it]));
  for (const lun of after.luns) {
    const change = (of) => (sum(lun, of) - sum(earlier.get(lun.volume), of)) / seconds;
    found.set(lun.volume, { iops: change(commands), bytes: change((it) => it.bytes) });
  }
  return found;
}

// Within a bucket commands count as evenly spread; in the last, which has no end, as its begin.
export function quantile(buckets, bounds, part) {
  const all = buckets.reduce((sum, it) => sum + it, 0);
  if (!all) return null;
  const wanted = part * all;
  let total = 0;
  for (let n = 0; n < bounds.length; n += 1) {
    total += buckets[n];
    if (total >= wanted && buckets[n]) {
      const low = n ? bounds[n - 1] : 0;
      return low + (bounds[n] - low) * (1 - (total - wanted) / buckets[n]);
    }
  }
  return bounds.at(-1);
}

export class Chart {
  constructor(title, names, format) {
    this.names = names;
    this.format = format;
    this.samples = [];
    this.most = element("span");
    this.key = element("ul", { class: "key" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "chart");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", `${title}: nothing yet`);
    this.title = title;
    for (const part of [0.02, 0.5, 0.98]) {
      const y = String(part * HEIGHT);
      this.add("line", { x1: "0", x2: String(WIDTH), y1: y, y2: y });
    }
    this.paths = names.map((_, n) => this.add("path", { class: `c${n}` }));
    const top = element("div", { class: "top" }, this.most, element("span", {}, "last 2 minutes"));
    this.box = element("section", {}, element("h2", {}, title), top, this.svg, this.key);
  }

  add(kind, attributes) {
    const made = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    this.svg.append(made);
    return made;
  }

  push(values) {
    this.samples.push(values);
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
    const most = Math.max(0, ...this.samples.flat());
    const begin = SAMPLES_MAX - this.samples.length;
    this.paths.forEach((path, line) => {
      let drawn = "", gap = true;
      this.samples.forEach((it, n) => {
        if (it[line] === null) { gap = true; return; }
        const x = ((begin + n) / (SAMPLES_MAX - 1)) * WIDTH;
        const y = HEIGHT * (0.98 - (most ? (0.96 * it[line]) / most : 0));
        drawn += `${gap ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
        gap = false;
      });
      path.setAttribute("d", drawn);
    });
    this.most.textContent = most ? `top: ${this.format(most)}` : "nothing yet";
    const now = this.names.map((name, n) => `${name} ${values[n] === null ? "–" : this.format(values[n])}`);
    this.key.replaceChildren(...now.map((text, n) => element("li", { class: `c${n}` }, text)));
    this.svg.setAttribute("aria-label", `${this.title}: ${now.join(", ")}`);
  }
}

export function time(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3)} ms` : `${number(seconds)} s`;
}
