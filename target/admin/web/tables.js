// Elements and tables.  What a peer has said (a name, a printed request) is only ever set as text.
export function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value) {
  let unit = 0, left = value;
  while (left >= 1024 && unit < UNITS.length - 1) { left /= 1024; unit += 1; }
  return `${number(left)} ${UNITS[unit]}`;
}

// `columns`: [heading, cell of a row, class]; a cell is text or an element.  On a phone a row is a card
// (style.css), which takes the roles of a table from its elements: they are said.
export function table(title, columns, rows, none) {
  const box = element("section", {}, element("h2", {}, title));
  if (!rows.length) {
    box.append(element("p", { class: "none" }, none));
    return box;
  }
  const head = element("tr", { role: "row" });
  for (const [heading, , kind] of columns) {
    head.append(element("th", { scope: "col", role: "columnheader", class: kind ?? "" }, heading));
  }
  const body = element("tbody", { role: "rowgroup" });
  for (const row of rows) {
    const line = element("tr", { role: "row" });
    for (const [heading, cell, kind] of columns) {
      line.append(element("td", { role: "cell", class: kind ?? "", "data-heading": heading }, cell(row)));
    }
    body.append(line);
  }
  const wide = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title });
  wide.append(element("table", { role: "table" }, element("thead", { role: "rowgroup" }, head), body));
  box.append(wide);
  return box;
}
