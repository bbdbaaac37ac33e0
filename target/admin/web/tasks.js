// The table of outstanding commands: a page of them at a time, the oldest first.  The node filters and
// counts all there are; `cursor` says behind which command a page begins, whatever has ended meanwhile.
import { call } from "./api.js";
import { element, number } from "./tables.js";

const PAGE_ROWS = 100;
const FILTER_CHARS_MAX = 200;
const HEADINGS = ["age", "state", "node", "LUN", "initiator", "request", "abort"];

export class TaskTable {
  // `changed` is called when another question is to be asked.
  constructor(confirm, changed) {
    this.confirm = confirm;
    this.changed = changed;
    this.cursors = [""];  // of this page, and of those before it
    this.next = "";
    this.answered = null;  // what the rows are the answer to
    this.lines = new Map();  // by task
    this.note = element("p", { role: "status" });
    this.outcome = element("p", { role: "status" });
    this.filter = element("input", { type: "search", placeholder: "Filter: node, initiator, lun=0, request",
      maxlength: FILTER_CHARS_MAX, "aria-label": "Filter" });
    this.filter.addEventListener("input", () => this.go([""]));
    this.first = this.turn("First", () => this.go([""]));
    this.back = this.turn("Previous", () => this.go(this.cursors.slice(0, -1)));
    this.on = this.turn("Next", () => this.go([...this.cursors, this.next]));
    this.inner = element("div", { role: "rowgroup" });
    this.rows = element("div", { class: "rows", tabindex: "0", role: "table", "aria-label": "Commands" });
    const head = element("div", { class: "task head", role: "row" });
    head.append(...HEADINGS.map((it) => element("span", { role: "columnheader" }, it)));
    this.rows.append(element("div", { role: "rowgroup" }, head), this.inner);
    const pages = element("nav", { class: "turns", "aria-label": "Pages of commands" }, this.first, this.back, this.on);
    const row = element("div", { class: "row" }, this.filter, this.note, pages, this.outcome);
    this.box = element("section", {}, element("h2", {}, "Commands that have not ended"), row, this.rows);
    this.enable();
  }

  // A button that cannot be used stays where it is, and keeps the focus.
  turn(text, act) {
    const button = element("button", {}, text);
    button.addEventListener("click", () => button.getAttribute("aria-disabled") !== "true" && act());
    return button;
  }

  enable() {
    const begun = this.cursors.length > 1;
    for (const [button, can] of [[this.first, begun], [this.back, begun], [this.on, this.settled && this.next]]) {
      button.setAttribute("aria-disabled", can ? "false" : "true");
    }
  }

  get path() {
    const asked = new URLSearchParams({ limit: PAGE_ROWS });
    if (this.filter.value.trim()) asked.set("filter", this.filter.value);
    if (this.cursors.at(-1)) asked.set("cursor", this.cursors.at(-1));
    return `/v1/tasks?${asked}`;
  }

  get settled() { return this.answered === this.path; }

  go(cursors) {
    this.cursors = cursors;
    this.rows.scrollTop = 0;
    this.enable();
    this.changed();
  }

  // `several`: there are other nodes.
  update(list, path, several) {
    if (path !== this.path) return;  // something else is wanted by now
    if (!list.tasks.length && this.cursors.length > 1) { this.go(this.cursors.slice(0, -1)); return; }
    this.answered = path;
    this.next = list.next;
    const all = list.total === list.known ? "" : ` of ${number(list.known)}`;
    const page = list.next || this.cursors.length > 1 ? `, page ${number(this.cursors.length)}` : "";
    const text = `${number(list.total)}${all} commands${page}${several && !list.others ? "; not all of other nodes are known" : ""}`;
    if (this.note.textContent !== text) this.note.textContent = text;  // or it would be read out each second
    this.enable();
    this.draw(list.tasks);
  }

  // What stays in the table stays the same element: it keeps the focus, and what is selected in it.
  draw(tasks) {
    const ids = new Set(tasks.map((it) => it.id));
    for (const [id, line] of this.lines) {
      if (ids.has(id)) continue;
      if (line.contains(document.activeElement)) this.rows.focus({ preventScroll: true });
      line.remove();
      this.lines.delete(id);
    }
    tasks.forEach((task, n) => {
      let line = this.lines.get(task.id);
      if (!line) this.lines.set(task.id, line = this.line(task.id));
      const texts = [`${task.age_seconds.toFixed(2)} s`, task.state, task.node, String(task.lun), task.initiator, task.request];
      texts.forEach((text, at) => {
        if (line.children[at].textContent !== text) line.children[at].textContent = text;
      });
      line.children[5].title = `${task.initiator}: ${task.request}`;
      line.querySelector("button").setAttribute("aria-label", `Abort ${task.request}`);
      if (this.inner.children[n] !== line) this.inner.insertBefore(line, this.inner.children[n] ?? null);
    });
  }

  line(id) {
    const line = element("div", { class: "task", role: "row" });
    const button = element("button", { class: "small" }, "Abort");
    button.addEventListener("click", () => this.abort(id, line));
    line.append(...HEADINGS.map(() => element("span", { role: "cell" })));
    line.children[5].className = "mono";
    line.lastChild.append(button);
    return line;
  }

  async abort(id, line) {
    const request = line.children[5].textContent;
    const sure = await this.confirm("Abort this command?", `${request}, of ${line.children[4].textContent}`);
    if (sure === null) return;
    try {
      await call("/v1/tasks/abort", { id });
      this.outcome.textContent = `aborted: ${request}`;
    } catch (error) {
      this.outcome.textContent = error.message;
    }
  }
}
