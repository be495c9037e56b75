"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  const read = (name) => { const found = byId(name); return found && JSON.parse(found.textContent); };
  const data = read("data");
  const narrow = matchMedia("(max-width: 700px)");
  const FIRST_PAIRS = 12, FEW_COLUMNS = 3, MANY_COLUMNS = 8;
  const SVG = "http://www.w3.org/2000/svg";

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((each) => each !== null && each !== undefined));
    return made;
  }

  function drawn(tag, attributes, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // Figures are drawn when they come into view.
  function drawFigure(place) {
    const { data: traces, layout, config } = read(`figure-${place.dataset.figure}`);
    Plotly.newPlot(place, traces, layout, config);
  }
  const watcher = new IntersectionObserver((entries) => {
    for (const each of entries.filter((entry) => entry.isIntersecting)) {
      watcher.unobserve(each.target);
      drawFigure(each.target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".plot").forEach((place) => watcher.observe(place));
  addEventListener("beforeprint", () => document.querySelectorAll(".plot:empty").forEach(drawFigure));
  if (!data || !data.views) return;

  // What is shown, kept in the address so that a reload and a copied link show the same.
  const first = data.views[0];
  const names = data.switches.map((each) => each.name);
  const state = { cell: null };
  for (const name of names) state[name] = first[name];
  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const name of names) if (asked.has(name)) state[name] = asked.get(name);
    const cell = Number(asked.get("cell"));
    state.cell = asked.has("cell") && data.cells[cell] ? cell : null;
  }
  function writeAddress() {
    const asked = new URLSearchParams(names.map((name) => [name, state[name]]));
    if (state.cell !== null) asked.set("cell", state.cell);
    history.replaceState(null, "", `#${asked}`);
  }
  const unique = (values) => [...new Set(values)];
  const matching = (wanted) => data.views.filter((view) => wanted.every((name) => view[name] === state[name]));
  const current = () => matching(names)[0];
  function settle() { // a switch keeps its value where the switches before it allow that
    names.forEach((name, place) => {
      const allowed = matching(names.slice(0, place));
      if (!allowed.some((view) => view[name] === state[name])) state[name] = allowed[0][name];
    });
  }

  // Numbers: as many decimals as the scale of the map needs; one that rounds to 0 has no sign.
  function number(value, digits) {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(digits);
    return (Number(text) === 0 ? "" : value < 0 ? "-" : "+") + text;
  }
  const span = (low, high, digits) => low === null ? "no interval" : `[${number(low, digits)}, ${number(high, digits)}]`;
  const decimals = (largest) => !(largest > 0) ? 2 : largest >= 20 ? (largest < 200 ? 1 : 0)
    : largest >= 0.2 ? 2 : 2 + Math.ceil(Math.log10(0.2 / largest) - 1e-9);
  const chance = (q) => q === null ? "–" : q < 0.001 ? "< 0.001" : Number(q.toPrecision(2)).toString();
  const percent = (share) => share === null ? "–" : `${Math.round(100 * share)} %`;

  function buildSettings() {
    byId("settings").replaceChildren(...data.switches.map(({ name, title }) => element("label", {}, `${title} `,
      element("select", { id: name, onchange: (event) => { state[name] = event.target.value; settle(); writeAddress(); show(); } }))),
    element("button", { type: "button", id: "csv", onclick: saveMap }, "CSV of this map"),
    data.absent ? element("p", { class: "note", id: "absent" }, data.absent) : "");
  }
  function fillSettings() {
    data.switches.forEach(({ name, words }, place) => {
      const values = unique(matching(names.slice(0, place)).map((view) => view[name]));
      byId(name).replaceChildren(...values.map((value) => element("option", { value }, words[value] || value)));
      byId(name).value = state[name];
    });
  }

  function caption(view) {
    const [total, low, high] = view.total;
    const digits = decimals(Math.max(...view.total.map(Math.abs)));
    const counts = view.n.filter((n) => n !== null);
    const groups = view.groups.filter((n) => n !== null);
    let text = `${view.about}. Numbers: ${view.words}, ${view.unit}, positive means ${view.positive}. `
      + `Total effect ${number(total, digits)} ${span(low, high, digits)}. n = ${Math.max(...counts)} pairs of `
      + `${Math.max(...groups)} ${data.subject}s. A dot in place of a number: q > ${data.threshold}. Hatched: 0 in every pair, or not measured.`;
    if (view.beyond) text += ` Colours end at ±${view.limit.toFixed(view.digits)}; cells beyond it (${view.beyond}) have a frame.`;
    return text;
  }

  function legend(view) {
    const end = view.limit.toFixed(view.digits);
    byId("legend").replaceChildren(
      `-${end} `, ...view.scale.map((colour) => element("i", { style: `background:${colour}` })), ` +${end} ${view.unit}`);
  }

  // Maps: a table of buttons for each component. One button is in the tab order; arrows move between them.
  function cellButton(cell, where) {
    if (cell < 0) return element("td", { class: "hatched", title: "not measured" });
    return element("td", {}, element("button", { type: "button", "data-cell": cell, "data-place": where, tabindex: "-1", onclick: () => choose(cell, true) }));
  }
  function mapTable(map, index) {
    if (map.list) return listTable(map, index);
    const upright = narrow.matches;
    const rows = upright ? map.layers.map(String) : map.rows;
    const columns = upright ? map.rows : map.layers.map(String);
    const cellAt = (row, column) => upright ? map.cells[column][row] : map.cells[row][column];
    const head = element("tr", {}, element("th", { scope: "col" }, upright ? "layer" : ""),
      ...columns.map((each) => element("th", { scope: "col" }, element("span", {}, each))));
    const lines = rows.map((name, row) => element("tr", {}, element("th", { scope: "row" }, name),
      ...columns.map((_, column) => cellButton(cellAt(row, column), `${index},${row},${column}`))));
    const shape = upright ? `upright ${columns.length <= FEW_COLUMNS ? "few" : columns.length > MANY_COLUMNS ? "dense" : ""}` : columns.length <= 32 ? "wide" : "dense";
    return element("table", { class: `map ${shape}` },
      element("caption", {}, upright ? map.name : `${map.name}, by layer`), element("thead", {}, head), element("tbody", {}, ...lines));
  }
  function listTable(map, index) {
    const lines = map.list.map((cell, row) => element("tr", {},
      element("th", { scope: "row" }, data.cells[cell].words), cellButton(cell, `${index},${row},0`)));
    return element("table", { class: "map wide" }, element("caption", {}, map.name), element("tbody", {}, ...lines));
  }
  function buildMaps() {
    byId("maps").replaceChildren(...data.maps.map((map, index) => element("div", { class: "scroll" }, mapTable(map, index))));
    document.querySelectorAll("table.map").forEach((table) => {
      const button = table.querySelector("button");
      if (button) button.tabIndex = 0;
    });
  }
  function move(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const button = event.target.closest("button[data-place]");
    if (!step || !button) return;
    event.preventDefault();
    const [map, row, column] = button.dataset.place.split(",").map(Number);
    let next = null;
    for (let far = 1; far < 200 && !next; far += 1) {
      next = document.querySelector(`button[data-place="${map},${row + far * step[0]},${column + far * step[1]}"]`);
    }
    if (next) next.focus();
  }
  function keepFocus(event) { // the tab key comes back to the cell that it left
    const button = event.target.closest("button[data-place]");
    if (!button) return;
    button.closest("table").querySelectorAll("button[tabindex='0']").forEach((each) => { each.tabIndex = -1; });
    button.tabIndex = 0;
  }
  function paint(view) {
    const zero = new Set(view.zero);
    document.querySelectorAll("table.map button").forEach((button) => {
      const cell = Number(button.dataset.cell);
      const missing = view.effect[cell] === null, nothing = zero.has(cell), passes = view.q[cell] !== null && view.q[cell] <= data.threshold;
      const dense = button.closest("table").classList.contains("dense");
      const told = missing ? "not measured" : nothing ? "0 in every pair"
        : `${number(view.effect[cell], view.digits)} ${span(view.low[cell], view.high[cell], view.digits)} ${view.unit}`;
      button.textContent = missing || nothing ? "" : !passes ? "·" : dense ? "" : number(view.effect[cell], view.digits);
      button.classList.toggle("hatched", missing || nothing);
      const beyond = !missing && !nothing && view.beyond > 0 && Math.abs(view.effect[cell]) > view.limit;
      button.classList.toggle("beyond", beyond);
      if (beyond && passes) button.textContent = dense ? "!" : number(view.effect[cell], view.digits);
      button.style.background = missing || nothing ? "" : view.fill[cell];
      button.style.color = missing || nothing ? "" : view.ink[cell];
      button.setAttribute("aria-label", `${data.cells[cell].words}: ${told}`);
      button.title = `${data.cells[cell].words}: ${told}`;
      button.setAttribute("aria-pressed", String(cell === state.cell));
    });
  }

  // Effects of single pairs: int16 in base64, a step for each row.
  const unpacked = {};
  function effectsOf(view) {
    const name = `${view.metric} ${view.direction}`;
    if (!unpacked[name]) {
      const bytes = Uint8Array.from(atob(data.effects[name].data), (each) => each.charCodeAt(0));
      unpacked[name] = { step: data.effects[name].step, view: new DataView(bytes.buffer) };
    }
    return unpacked[name];
  }
  function behind(view, row) {
    const { step, view: bytes } = effectsOf(view);
    return data.pairs.map((pair, place) => {
      const raw = bytes.getInt16(2 * (row * data.pairs.length + place), true);
      const sign = view.signed && view.view === "stereotype" ? pair.stereotype : 1;
      return raw === -32768 || sign === 0 ? null : raw * step[row] * sign;
    });
  }
  function pairsOf(view, cell) {
    const own = behind(view, cell), totals = behind(view, data.cells.length);
    return data.pairs.map((pair, place) => ({ ...pair, effect: own[place], total: totals[place] })).filter((pair) => pair.effect !== null);
  }
  function groupsOf(pairs) {
    const found = new Map();
    for (const pair of pairs) {
      const group = found.get(pair.group) || { group: pair.group, stereotype: pair.stereotype, sum: 0, n: 0 };
      group.sum += pair.effect * (pair.pairs || 1);
      group.n += pair.pairs || 1;
      found.set(pair.group, group);
    }
    return [...found.values()].map((group) => ({ ...group, effect: group.sum / group.n })).sort((a, b) => a.effect - b.effect);
  }

  function facts(view, cell) {
    const digits = view.digits + 1;
    const about = data.cells[cell];
    const [total] = view.total;
    const interval = (effect, low, high) => `${number(effect, digits)} ${span(low, high, digits)}`;
    const lines = [
      ["effect", `${interval(view.effect[cell], view.low[cell], view.high[cell])} ${view.unit} (${Math.round(100 * data.level)} % interval), positive means ${view.positive}`],
      ...view.beside.map((each) => [each.name, interval(each.effect[cell], each.low[cell], each.high[cell])]),
      ["n", `${view.n[cell]} pairs of ${view.groups[cell]} ${data.subject}s`],
      ["q", `${chance(view.q[cell])}${view.q[cell] <= data.threshold ? "" : `: above ${data.threshold}, so this may be chance`}`],
    ];
    if (view.share && view.share[cell] !== null) lines.splice(1, 0, ["share", `${percent(view.share[cell])} of the total effect ${number(total, decimals(Math.abs(total)))}`]);
    if (view.zero.includes(cell)) lines[lines.length - 1] = ["q", "none: 0 in every pair"];
    if (view.stability) lines.push(["stability", view.stability[cell] === null ? "not ranked" : `among the five strongest in ${percent(view.stability[cell])} of resamples`]);
    if ("module" in about) lines.push(["module", about.module || "none: no module writes it alone"]);
    for (const [name, effect, low, high, n] of view.controls[cell] || []) lines.push([`control: ${name}`, `${interval(effect, low, high)}, n ${n}`]);
    return element("dl", {}, ...lines.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }

  function dots(groups, view) {
    const width = Math.max(240, Math.min(520, byId("cell").clientWidth - 40)), high = 110, middle = 70, side = 28;
    const values = groups.map((group) => group.effect);
    const least = Math.min(0, ...values), most = Math.max(0, ...values);
    const x = (value) => side + (width - 2 * side) * (value - least) / ((most - least) || 1);
    const stacks = {};
    const marks = groups.map((group) => {
      const bin = Math.round(x(group.effect) / 7);
      stacks[bin] = (stacks[bin] || 0) + 1;
      const kind = group.stereotype > 0 ? "female" : group.stereotype < 0 ? "male" : "none";
      return drawn("circle", { cx: x(group.effect), cy: middle - 4 - 7 * (stacks[bin] - 1), r: 3.2, class: `dot ${kind}` },
        drawn("title", {}, `${group.group}: ${number(group.effect, view.digits + 1)}`));
    });
    const top = Math.min(0, ...marks.map((mark) => Number(mark.getAttribute("cy")) - 8));
    const ticks = unique([least, 0, most]).map((value) =>
      drawn("text", { x: x(value), y: middle + 18, "text-anchor": "middle" }, number(value, view.digits)));
    return drawn("svg", { viewBox: `0 ${top} ${width} ${high - top}`, role: "img", "aria-label": `effect of each ${data.subject}` },
      drawn("line", { x1: side, x2: width - side, y1: middle, y2: middle, class: "axis" }),
      drawn("line", { x1: x(0), x2: x(0), y1: top, y2: middle + 5, class: "axis" }), ...marks, ...ticks,
      drawn("text", { x: width / 2, y: middle + 36, "text-anchor": "middle" }, `effect of each ${data.subject}, ${view.unit}`));
  }
  function extremes(groups, view) {
    const text = (group) => `\u2068${group.group}\u2069 ${number(group.effect, view.digits)}`;
    const few = groups.length < 7 ? groups.length : 3;
    const most = groups.slice(-few).reverse().map(text).join(", ");
    const least = groups.length < 7 ? "" : `; least: ${groups.slice(0, few).map(text).join(", ")}`;
    const stereotyped = data.subject === "occupation" && groups.some((group) => group.stereotype !== 0);
    return element("p", { class: "note" }, `Most: ${most}${least}.`
      + (stereotyped ? " Orange: stereotypically female; purple: stereotypically male." : ""));
  }

  function pairTable(pairs, view) {
    const prompts = data.grouped ? [] : [["clean", "clean prompt"], ["corrupted", "corrupted prompt"]];
    const columns = [["group", data.subject], ...(data.grouped ? [["pairs", "pairs"]] : []),
      ["effect", `effect, ${view.unit}`], ["total", "total effect"], ...(narrow.matches ? [] : prompts)];
    const below = narrow.matches ? prompts : [];
    const promptOf = (pair, name) => name === "corrupted" && pair.corrupted === pair.clean ? "the same, with noise" : String(pair[name]);
    const order = { by: "effect", down: view.effect[state.cell] >= 0 };
    let all = false;
    const holder = element("div");
    const sorted = () => [...pairs].sort((a, b) => {
      const [one, two] = [a[order.by], b[order.by]];
      const sign = typeof one === "number" ? one - two : String(one).localeCompare(String(two));
      return order.down ? -sign : sign;
    });
    function show(focused) {
      const head = columns.map(([name, title]) => element("th", {
        scope: "col", "aria-sort": order.by === name ? (order.down ? "descending" : "ascending") : "none",
      }, element("button", { type: "button", "data-sorts": name, onclick: () => { order.down = order.by === name ? !order.down : typeof pairs[0][name] === "number"; order.by = name; show(name); } },
        title + (order.by === name ? (order.down ? " ↓" : " ↑") : ""))));
      const lines = sorted().slice(0, all ? undefined : FIRST_PAIRS).flatMap((pair) => [
        element("tr", {}, ...columns.map(([name]) => typeof pair[name] === "number" && name !== "pairs"
          ? element("td", { class: "number" }, number(pair[name], view.digits + 1))
          : element("td", { dir: "auto" }, promptOf(pair, name)))),
        ...below.map(([name, title]) => element("tr", {}, element("td", { colspan: columns.length, dir: "auto" }, `${title}: ${promptOf(pair, name)}`))),
      ]);
      const more = pairs.length > FIRST_PAIRS
        ? element("button", { type: "button", onclick: () => { all = !all; show(); } }, all ? "show fewer" : `show all ${pairs.length}`) : null;
      holder.replaceChildren(element("div", { class: "scroll" }, element("table", { class: "pairs" },
        element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines))), ...(more ? [more] : []));
      if (focused) holder.querySelector(`button[data-sorts="${focused}"]`).focus();
    }
    show();
    return holder;
  }

  function copied(view, pairs) {
    const example = data.grouped ? null : pairs.reduce((best, pair) => !best || Math.abs(pair.effect) > Math.abs(best.effect) ? pair : best, null);
    if (!example) return view.about;
    const noise = example.clean === example.corrupted;
    const [base, source] = view.direction === "denoising"
      ? [noise ? "the prompt with noise" : `“${example.corrupted}”`, `“${example.clean}”`]
      : [`“${example.clean}”`, noise ? "the prompt with noise" : `“${example.corrupted}”`];
    return `For example, ${base} is run, with this output taken from ${source}: that alone moves the answer by ${number(example.effect, view.digits + 1)} ${view.unit}, `
      + `where exchanging the whole prompt moves it by ${number(example.total, view.digits + 1)}.`;
  }

  function showCell(view) {
    const panel = byId("cell");
    const cell = state.cell;
    if (cell === null) return;
    const pairs = view.effect[cell] === null || !data.effects ? [] : pairsOf(view, cell);
    const groups = groupsOf(pairs);
    if (view.effect[cell] === null) {
      panel.replaceChildren(element("h3", {}, data.cells[cell].words), element("p", {}, "Not measured."));
      return;
    }
    const limit = data.grouped
      ? element("p", { class: "note" }, `This page holds means of each ${data.subject}: with single pairs it would be too large. The run's table has them.`) : null;
    const back = () => {
      const button = document.querySelector(`button[data-cell="${cell}"]`);
      button.focus();
      button.scrollIntoView({ block: "center" });
    };
    const columns = element("div", { class: "columns" }, element("div", {}, facts(view, cell)));
    if (pairs.length) columns.append(element("div", {}, dots(groups, view), extremes(groups, view)));
    panel.replaceChildren(element("h3", {}, data.cells[cell].words),
      element("p", { class: "note", dir: "auto" }, pairs.length ? copied(view, pairs) : view.about), columns);
    if (data.grouped) panel.append(element("p", { class: "note" }, `This page holds means of each ${data.subject}: with single pairs it would be too large. The run's table has them.`));
    if (pairs.length) panel.append(pairTable(pairs, view));
    panel.append(element("p", {}, ...(pairs.length ? [element("button", { type: "button", onclick: () => saveCell(view, cell, pairs) }, "CSV of this cell"), " "] : []),
      element("button", { type: "button", onclick: back }, "back to the map")));
  }

  // CSV
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  function save(name, head, rows) {
    const text = [head, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
    const link = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  function saveMap() {
    const view = current();
    const numbers = ["effect", "low", "high", "q", "share", "stability", "n", "groups"].filter((name) => view[name]);
    const site = ["component", "layer", "unit", "window", "role", "key"];
    save(`map_${names.map((name) => view[name]).join("_")}.csv`, [...names, "unit_of_effect", ...site, "module", ...numbers],
      data.cells.map((each, cell) => [...names.map((name) => view[name]), view.unit, ...site.map((name) => each.site[name]), each.module || "", ...numbers.map((name) => view[name][cell])])
        .filter((_, cell) => view.effect[cell] !== null));
  }
  function saveCell(view, cell, pairs) {
    const columns = data.grouped ? ["group", "pairs", "stereotype", "effect", "total"]
      : ["pair", "group", "template", "kind", "stereotype", "clean", "corrupted", "effect", "total"];
    const { component, layer, role } = data.cells[cell].site;
    save(`cell_${component}_${layer}_${role}_${view.metric}_${view.direction}.csv`, columns,
      pairs.map((pair) => columns.map((name) => name === "effect" || name === "total" ? Number(pair[name].toPrecision(6)) : pair[name])));
  }

  function show() {
    settle();
    fillSettings();
    const view = current();
    byId("caption").textContent = caption(view);
    legend(view);
    paint(view);
    showCell(view);
  }
  function choose(cell, byHand) {
    state.cell = cell;
    writeAddress();
    show();
    if (byHand) byId("cell").scrollIntoView({ block: "nearest" });
  }

  byId("settings").addEventListener("submit", (event) => event.preventDefault());
  byId("maps").addEventListener("keydown", move);
  byId("maps").addEventListener("focusin", keepFocus);
  narrow.addEventListener("change", () => { buildMaps(); show(); });
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { readAddress(); show(); } });
  readAddress();
  buildSettings();
  buildMaps();
  show();
})();
