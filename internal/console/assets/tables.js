// Small tables stand on a page whole (table[data-small]): they are sorted and
// saved here. Long ones are sorted, paged and exported by the server.
"use strict";
(() => {
  const value = (cell) => cell?.querySelector("time")?.dateTime ?? cell?.textContent.trim().replace(/\s+/g, " ") ?? "";
  const number = (s) => /^-?[\d,. ]+$/.test(s) ? Number(s.replace(/[, ]/g, "")) : NaN;
  function before(a, b) {
    const [x, y] = [number(a), number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  }

  function sort(table, column) {
    const heads = [...table.tHead.rows[0].cells];
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((h, i) => i === column ? h.setAttribute("aria-sort", down ? "descending" : "ascending") : h.removeAttribute("aria-sort"));
    const rows = [...table.tBodies[0].rows].sort((a, b) => before(value(a.cells[column]), value(b.cells[column])));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  }

  // A cell that a spreadsheet would take for a formula gets an apostrophe, as in
  // the server's exports.
  const field = (s) => `"${(/^[=+\-@\t\r]/.test(s) ? "'" + s : s).replaceAll('"', '""')}"`;
  function save(table) {
    const lines = [...table.rows].map((row) => [...row.cells].map((c) => field(value(c))).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = table.dataset.small + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  for (const table of document.querySelectorAll("table[data-small]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const b = document.createElement("button");
      b.type = "button";
      b.textContent = head.textContent;
      b.addEventListener("click", () => sort(table, i));
      head.replaceChildren(b);
    });
    const b = document.createElement("button");
    b.type = "button";
    b.className = "quiet";
    b.textContent = "Export";
    b.addEventListener("click", () => save(table));
    table.parentElement.after(b);
  }
})();
