// The page of what is bounded: pools of buffers, command windows, credits between nodes and workers.
import { bytes, element, number, table } from "./tables.js";

// How much of something is in use, as text and as a bar.
function used(part, whole) {
  const text = `${bytes(part)} of ${bytes(whole)}`;
  return element("div", {}, element("progress", { max: Math.max(whole, 1), value: part, "aria-label": text }), text);
}

export function buffers(counters, sessions) {
  const nodes = counters?.nodes ?? [];
  const ways = nodes.flatMap((it) => it.workers.map((worker) => ({ ...worker, node: it.node })));
  const more = nodes.reduce((total, it) => total + it.workers_total - it.workers.length, 0);
  const missing = counters?.missing ?? [];
  const parts = [];
  if (missing.length) {
    const text = `Not known here: ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? " and others" : ""}`;
    parts.push(element("p", { class: "none bad" }, text));
  }
  parts.push(table("Pools of buffers", [
    ["node", (it) => it.node],
    ["in use", (it) => used(it.pool.used_bytes, it.pool.total_bytes)],
    ["set aside for unsolicited data", (it) => used(it.pool.reserved_bytes, it.pool.reserve_limit_bytes)],
    ["shares", (it) => number(it.pool.shares), "n"],
    ["limit of a share", (it) => (it.pool.shares ? bytes(it.pool.share_limit_bytes) : ""), "n"],
    ["waiting", (it) => element("span", { class: it.pool.waiting ? "bad" : "" }, number(it.pool.waiting)), "n"],
  ], nodes, "not known yet"));
  parts.push(table("Credits between nodes and workers", [
    ["node", (it) => it.node],
    ["worker", (it) => it.address],
    ["state", (it) => element("span", { class: it.served ? "good" : "bad" }, it.served ? "served" : it.reason || "away")],
    ["the worker takes", (it) => bytes(it.credit_bytes), "n"],
    ["the node takes", (it) => bytes(it.answer_credit_bytes), "n"],
    ["with the worker", (it) => number(it.unanswered), "n"],
    ["waited for", (it) => number(it.waiting), "n"],
  ], ways, counters ? "volumes are kept by the nodes themselves" : "not known yet"));
  if (more) parts.push(element("p", { class: "none" }, `and ${number(more)} more`));
  const here = sessions.filter((it) => it.window);
  parts.push(table(`Sessions of node ${counters?.node ?? ""}: command windows and shares`, [
    ["TSIH", (it) => String(it.tsih)],
    ["initiator", (it) => it.initiator],
    ["commands", (it) => `${number(it.window.outstanding)} of ${number(it.window.credits)}`, "n"],
    ["share", (it) => used(it.window.held_bytes, it.window.limit_bytes)],
    ["set aside", (it) => used(it.window.reserved_used_bytes, it.window.reserved_bytes)],
  ], here, "nobody is logged in here"));
  return parts;
}
