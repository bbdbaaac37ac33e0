// What happened between two looks at the counters (as target/telemetry/rates.py), drawn as lines.
import { element, number } from "./tables.js";

const SAMPLES_MAX = 120;
const WIDTH = 600, HEIGHT = 150;
const SVG = "http://www.w3.org/2000/svg";

// One sample from two answers of /v1/stats; null where the node has begun anew.
export function sample(before, after) {
  const seconds = after.clock_seconds - before.clock_seconds;
  if (seconds <= 0 || after.cpu_seconds < before.cpu_seconds) return null;
  const found = { iops: [0, 0, 0], bytes: [0, 0], buckets: [], cpu: 0, luns: new Map() };
  found.cpu = (100 * (after.cpu_seconds - before.cpu_seconds)) / seconds;
  const earlier = new Map(before.luns.map((it) => [it.volume, it]));
  for (const lun of after.luns) {
    const old = earlier.get(lun.volume);
    const own = { iops: 0, bytes: 0 };
    for (const [name, it] of Object.entries(lun.classes)) {
      const was = old?.classes[name];
      const kind = name === "read" ? 0 : name === "write" ? 1 : 2;
      let count = 0;
      it.buckets.forEach((value, n) => {
        const change = value - (was?.buckets[n] ?? 0);
        found.buckets[n] = (found.buckets[n] ?? 0) + change;
        count += change;
      });
      const bytes = (it.bytes - (was?.bytes ?? 0)) / seconds;
      found.iops[kind] += count / seconds;
      if (kind < 2) found.bytes[kind] += bytes;
      own.iops += count / seconds;
      own.bytes += bytes;
    }
    found.luns.set(lun.volume, own);
  }
  found.latency = [0.5, 0.99, 0.999].map((part) => quantile(found.buckets, after.bounds_seconds, part));
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
