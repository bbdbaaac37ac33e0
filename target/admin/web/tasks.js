// The table of outstanding commands.  Only the rows in sight are in the page, however many there are.
import { call } from "./api.js";
import { element } from "./tables.js";

const ROW = 28, SPARE = 8;
const HEADINGS = ["age", "state", "node", "LUN", "initiator", "request", ""];

export class TaskTable {
  constructor(confirm) {
    this.confirm = confirm;
    this.tasks = [];
    this.shown = [];
    this.note = element("p", { role: "status" });
    this.outcome = element("p", { role: "status" });
    this.filter = element("input", { type: "search", placeholder: "Filter: node, initiator, LUN, request" });
    this.filter.setAttribute("aria-label", "Filter");
    this.filter.addEventListener("input", () => this.select());
    this.inner = element("div", { role: "rowgroup" });
    this.rows = element("div", { class: "rows", tabindex: "0", role: "table", "aria-label": "Commands" });
    const head = element("div", { class: "task head", role: "row" });
    head.append(...HEADINGS.map((it) => element("span", { role: "columnheader" }, it || "abort")));
    this.rows.append(element("div", { role: "rowgroup" }, head), this.inner);
    this.rows.addEventListener("scroll", () => this.draw(), { passive: true });
    const row = element("div", { class: "row" }, this.filter, this.note, this.outcome);
    this.box = element("section", {}, element("h2", {}, "Commands that have not ended"), row, this.rows);
  }

  update(list) {
    this.tasks = list.tasks;
    this.more = list.more;
    this.select();
  }

  select() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (it) => `${it.node} lun=${it.lun} ${it.initiator} ${it.state} ${it.request}`.toLowerCase();
    this.shown = words.length
      ? this.tasks.filter((it) => { const all = text(it); return words.every((word) => all.includes(word)); })
      : this.tasks;
    const more = this.more ? " (the oldest; there are more)" : "";
    this.note.textContent = `${this.shown.length} of ${this.tasks.length}${more}`;
    this.draw();
  }

  draw() {
    this.inner.style.height = `${this.shown.length * ROW}px`;
    const first = Math.max(0, Math.floor(this.rows.scrollTop / ROW) - SPARE);
    const last = Math.ceil((this.rows.scrollTop + this.rows.clientHeight) / ROW) + SPARE;
    const held = document.activeElement?.dataset?.id;  // an abort button keeps the focus
    const made = this.shown.slice(first, last).map((it, n) => this.row(it, first + n));
    this.inner.replaceChildren(...made);
    if (held) [...this.inner.querySelectorAll("button")].find((it) => it.dataset.id === held)?.focus();
  }

  row(task, index) {
    const line = element("div", { class: "task", role: "row" });
    line.style.top = `${index * ROW}px`;
    const cells = [`${task.age_seconds.toFixed(2)} s`, task.state, task.node, String(task.lun)];
    for (const text of [...cells, task.initiator]) line.append(element("span", { role: "cell" }, text));
    const request = element("span", { role: "cell", class: "mono", title: task.request }, task.request);
    const button = element("button", { class: "small", "aria-label": `Abort ${task.request}` }, "Abort");
    button.dataset.id = task.id;
    button.addEventListener("click", () => this.abort(task));
    line.append(request, element("span", { role: "cell" }, button));
    return line;
  }

  async abort(task) {
    const sure = await this.confirm("Abort this command?", `${task.request}, of ${task.initiator}`);
    if (sure === null) return;
    try {
      await call("/v1/tasks/abort", { id: task.id });
      this.outcome.textContent = `aborted: ${task.request}`;
    } catch (error) {
      this.outcome.textContent = error.message;
    }
  }
}
