"use strict";
document.documentElement.classList.add("scripted");
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one), key(two)];
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return falling ? -order : order;
      });
      body.append(...rows);
    });
  });
}
const choice = document.getElementById("mistake-class");
if (choice) {
  choice.addEventListener("change", () => {
    for (const card of document.querySelectorAll("[data-classes]")) {
      card.hidden = choice.value !== "" && !card.dataset.classes.split(" ").includes(choice.value);
    }
  });
}
