
"use strict";
// What makes the page handier: tables that sort, and show what is looked for. Everything can be read without it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const value = (cell) => cell.dataset.v ?? cell.textContent.trim();
  const compared = (one, other) => {
    const numbers = [Number(one), Number(other)];
    return numbers.some(Number.isNaN) || one === "" || other === ""
      ? one.localeCompare(other, "en", { numeric: true })
      : numbers[0] - numbers[1];
  };

  const sort = (table, head) => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = all("tr", body).map((row, place) => [value(row.cells[head.cellIndex]), place, row]);
    rows.sort((one, other) => (ascending ? 1 : -1) * compared(one[0], other[0]) || one[1] - other[1]);
    body.append(...rows.map((row) => row[2]));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };

  for (const table of all("table[data-sort]")) {
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head));
      head.append(button);
      head.setAttribute("aria-sort", "none");
    }
  }

  const words = (input) => (input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : []);
  const has = (text, wanted) => wanted.every((word) => text.includes(word));

  const filter = (id) => {
    const table = document.getElementById(id);
    const wanted = words(document.querySelector(`[data-rows="${id}"]`));
    const picked = document.querySelector(`[data-pick="${id}"]`)?.value.split(" ") ?? [""];
    const isMatrix = table.classList.contains("matrix");
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = (isMatrix ? row.cells[0] : row).textContent.toLowerCase();
      row.hidden = !has(text, wanted) || !(picked[0] === "" || picked.includes(row.dataset.pick));
      shown += row.hidden ? 0 : 1;
    }
    const total = table.tBodies[0].rows.length;
    const count = document.querySelector(`[data-count="${id}"]`);
    if (count) count.textContent = shown === total ? "" : `${shown} of ${total} shown`;
  };

  const columns = (id, input) => {
    const table = document.getElementById(id);
    const wanted = words(input);
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (!place) return;
      const hide = !has(head.textContent.toLowerCase(), wanted);
      for (const row of table.rows) row.cells[place].hidden = hide;
    });
  };

  for (const input of all("[data-rows]")) input.addEventListener("input", () => filter(input.dataset.rows));
  for (const input of all("select[data-pick]")) input.addEventListener("change", () => filter(input.dataset.pick));
  for (const input of all("[data-columns]")) {
    input.addEventListener("input", () => columns(input.dataset.columns, input));
  }
  for (const hidden of all(".controls[hidden]")) hidden.hidden = false;

  const reveal = () => {
    const goal = document.getElementById(location.hash.slice(1));
    const folded = goal?.closest("details");
    if (folded && !folded.open) {
      folded.open = true;
      goal.scrollIntoView();
    }
  };
  addEventListener("hashchange", reveal);
  reveal();

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });

  for (const button of all("[data-open]")) {
    button.addEventListener("click", () => {
      const open = button.textContent.startsWith("Open");
      for (const one of all("details.per-kernel")) one.open = open;
      button.textContent = `${open ? "Close" : "Open"} all kernels`;
    });
  }
})();
