"use strict";
// Buttons of the maps and tables tell the page which cell or pair is open; arrows move between cells.
(() => {
  let focused = null, asked = null;
  const tell = (name, value) => window.dash_clientside.set_props("chosen", { data: { [name]: Number(value), at: Date.now() } });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-cell], button[data-pair]");
    if (!button) return;
    asked = button.dataset.cell !== undefined ? "cell" : "pair";
    focused = asked === "cell" ? button.dataset.place : null;
    tell(asked, button.dataset[asked]);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const button = event.target.closest("button[data-place]");
    if (!step || !button) return;
    event.preventDefault();
    const [map, row, column] = button.dataset.place.split(",").map(Number);
    for (let far = 1; far < 200; far += 1) {
      const next = document.querySelector(`button[data-place="${map},${row + far * step[0]},${column + far * step[1]}"]`);
      if (next) { next.focus(); return; }
    }
  });
  document.addEventListener("focusin", (event) => {
    const button = event.target.closest("button[data-place]");
    if (!button) return;
    button.closest("table").querySelectorAll("button[tabindex='0']").forEach((each) => { each.tabIndex = -1; });
    button.tabIndex = 0;
  });
  // What was asked for is made anew: the focus stays on its cell, and the panel comes into view.
  new MutationObserver((changes) => {
    const lost = document.activeElement === document.body && focused !== null;
    const same = lost && document.querySelector(`button[data-place="${focused}"]`);
    if (same) same.focus();
    const panel = asked && document.getElementById(asked);
    if (panel && !panel.hidden && changes.some((each) => panel.contains(each.target))) {
      panel.scrollIntoView({ block: "nearest" });
      asked = null;
    }
  }).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["hidden"] });
})();
