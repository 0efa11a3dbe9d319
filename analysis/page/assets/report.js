"use strict";
// The page works without this script too: tables and answers are in the HTML; this draws, switches, sorts and filters.
const study = JSON.parse(document.getElementById("study").textContent);
const COLOURS = { S: "#0072b2", B: "#e69f00", L: "#009e73" };
const OTHERS = ["#cc79a7", "#d55e00", "#56b4e9", "#000000"];
const SYMBOLS = ["circle", "square", "cross", "triangle-up", "diamond"];
const LINES = ["pixel_statistics", "imagenet", "profiles"]; // kinds of baselines that no training touches
const INKS = ["#aa4499", "#882255", "#117733", "#999933"];
const networks = study.points.filter((p) => !LINES.includes(p.kind));
const fixed = [...new Set(study.points.filter((p) => LINES.includes(p.kind)).map((p) => p.model))];
const sizes = [...new Set(networks.map((p) => p.size))].filter(Boolean);
const patches = [...new Set(networks.map((p) => p.patch))].filter((p) => p !== null).sort((a, b) => b - a);
const ink = (model) => INKS[fixed.indexOf(model) % INKS.length];
const colour = (size) => COLOURS[size] || OTHERS[sizes.filter((s) => !COLOURS[s]).indexOf(size) % OTHERS.length] || "#777";
const symbol = (patch) => SYMBOLS[Math.max(0, patches.indexOf(patch)) % SYMBOLS.length];
const isOpen = (run) => run.annealed === false; // stopped before its learning rate had decayed
const mark = (run) => symbol(run.patch) + (isOpen(run) ? "-open" : "");
const area = (rank) => 7 + 3.5 * (rank || 0);
const literal = (text) => String(text).replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`); // Plotly reads some HTML
const label = (p) => literal(`${p.model} on ${p.dataset}, seed ${p.seed}`);
const CONFIG = { responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" } };

function layout(title, y, convention) {
  const about = study.conventions.find((c) => c.name === convention);
  return {
    title: { text: literal(title), x: 0, xanchor: "left", font: { size: 15 } }, margin: { l: 58, r: 12, t: 36, b: 48 },
    xaxis: { type: "log", title: { text: `Training compute (${about.unit}, ${convention})` }, exponentformat: "power", dtick: 1 },
    yaxis: { title: { text: y } }, showlegend: false, hovermode: "closest", font: { family: "system-ui, sans-serif", size: 12 },
  };
}

function band(line) {
  return [
    { x: line.x, y: line.high, mode: "lines", line: { width: 0 }, hoverinfo: "skip" },
    { x: line.x, y: line.low, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: "rgba(120,120,120,.22)", hoverinfo: "skip" },
    { x: line.x, y: line.y, mode: "lines", line: { color: "#303030", width: 2 }, name: "fit", hovertemplate: "fit %{y:.3f}<extra></extra>" },
  ];
}

function drawSource(source, convention) {
  const points = study.points.filter((p) => p.source === source && p.trained);
  const fits = study.fits[convention] || {};
  const fit = Object.hasOwn(fits, source) ? fits[source] : null; // a source may be called "constructor"
  const flat = study.points.filter((p) => p.source === source && !p.trained);
  const traces = fit ? band(fit.line) : [];
  traces.push({
    x: points.map((p) => p.compute[convention]), y: points.map((p) => p.recall), mode: "markers", type: "scatter",
    marker: { color: points.map((p) => colour(p.size)), symbol: points.map(mark), size: points.map((p) => area(p.dataset_rank)), line: { color: "#fff", width: 1 } },
    error_y: { type: "data", symmetric: false, array: points.map((p) => p.recall_high - p.recall), arrayminus: points.map((p) => p.recall - p.recall_low), thickness: 1, width: 0, color: "#999" },
    text: points.map(label), hovertemplate: "%{text}<br>recall %{y:.3f} at %{x:.3g}<extra></extra>",
  });
  const drawing = layout(source, "recall", convention);
  drawing.shapes = flat.map((p) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: p.recall, y1: p.recall, line: fixed.includes(p.model) ? { color: ink(p.model), width: 1, dash: "dashdot" } : { color: "#56b4e9", width: 1, dash: "dot" } }));
  Plotly.react(document.querySelector(`[data-plot="${CSS.escape(source)}"]`), traces, drawing, CONFIG);
}

function drawLoss(convention) {
  const place = document.getElementById("loss");
  if (!place) return;
  const traces = study.curves.map((c) => ({
    x: c.compute[convention], y: c.loss, mode: "lines+markers", line: { color: colour(c.size), width: 1 },
    marker: { symbol: c.loss.map((_, i) => (i === c.loss.length - 1 ? mark(c) : symbol(c.patch))), size: 5 }, text: c.loss.map(() => literal(c.cell)), hovertemplate: "%{text}<br>loss %{y:.4f}<extra></extra>",
  }));
  const front = study.frontier[convention];
  traces.push({ x: front.x, y: front.y, mode: "lines", line: { color: "#303030", width: 2.5, shape: "hv" }, hovertemplate: "frontier %{y:.4f}<extra></extra>" });
  Plotly.react(place, traces, layout("Validation loss and its lower frontier", "loss", convention), CONFIG);
}

function drawAllocation(place, convention) {
  const allocation = (study.allocations[convention] || []).find((a) => a.metric === place.dataset.allocation);
  const shown = allocation && allocation.line.x;
  place.hidden = !shown;
  if (!shown) return;
  const first = new Map(study.points.map((p) => [p.cell, p]));
  const runs = allocation.cells.map((cell) => first.get(cell)).filter(Boolean);
  const traces = band(allocation.line);
  traces[2].hovertemplate = "best %{y:.3g} a crop at %{x:.3g}<extra></extra>";
  traces.push({
    x: runs.map((p) => p.compute[convention]), y: runs.map((p) => p.compute[convention] / p.crops), mode: "markers", type: "scatter",
    marker: { color: runs.map((p) => colour(p.size)), symbol: runs.map(mark), size: runs.map((p) => area(p.dataset_rank)), line: { color: "#fff", width: 1 } },
    text: runs.map(label), hovertemplate: "%{text}<br>%{y:.3g} a crop at %{x:.3g}<extra></extra>",
  });
  const drawing = layout(allocation.metric, "cost per crop", convention);
  const costs = runs.map((p) => p.compute[convention] / p.crops);
  const ends = [Math.min(...costs, ...allocation.line.y), Math.max(...costs, ...allocation.line.y)].map(Math.log10);
  Object.assign(drawing.yaxis, { type: "log", exponentformat: "power", dtick: 1, range: [ends[0] - 0.5, ends[1] + 0.5] });
  Plotly.react(place, traces, drawing, CONFIG);
}

function drawLife(place) {
  const life = study.lives.find((one) => one.metric === place.dataset.life);
  const traces = band(life.line);
  traces[2].hovertemplate = "best %{y:.3g} a crop for %{x:.3g} wells<extra></extra>";
  const drawing = layout(life.metric, `cost per crop (${life.convention})`, life.convention);
  const sizes = [...life.line.y, ...life.models.map((model) => model[1])];
  const ends = [Math.min(...sizes), Math.max(...sizes)].map(Math.log10);
  Object.assign(drawing.xaxis, { title: { text: "Wells embedded over the life" } });
  Object.assign(drawing.yaxis, { type: "log", exponentformat: "power", dtick: 1, range: [ends[0] - 0.3, ends[1] + 0.3] });
  drawing.shapes = life.models.map(([, size]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: size, y1: size, line: { color: "#56b4e9", width: 1, dash: "dot" } }));
  drawing.annotations = life.models.map(([name, size]) => ({ xref: "paper", x: 1, xanchor: "right", y: Math.log10(size), yanchor: "bottom", text: literal(name), showarrow: false, font: { size: 10 } }));
  Plotly.react(place, traces, drawing, CONFIG);
}

function legend() {
  const shape = { circle: "●", square: "■", cross: "✚", "triangle-up": "▲", diamond: "◆" };
  const place = document.getElementById("legend");
  const add = (text, ink) => { const part = document.createElement("span"); part.textContent = text; if (ink) part.style.color = ink; place.append(part); };
  add("Size: "); sizes.forEach((size) => { add("● ", colour(size)); add(`${size}  `); });
  add(" Patch: "); patches.forEach((patch) => add(`${shape[symbol(patch)]} ${patch}  `));
  add(" Larger marks: larger training data. Line and band: fit with its interval. Dotted: untrained. ");
  if (study.points.some(isOpen)) add("Open: stopped before its learning rate had decayed. ");
  if (fixed.length) add("Dash-dotted, not trained here: ");
  fixed.forEach((model) => add(`${model.replaceAll("_", " ")}  `, ink(model)));
}

function show(convention) {
  document.querySelectorAll("[data-convention]").forEach((part) => { part.hidden = part.dataset.convention !== convention; });
  study.sources.forEach((source) => drawSource(source, convention));
  drawLoss(convention);
  document.querySelectorAll("[data-allocation]").forEach((place) => drawAllocation(place, convention));
}

function value(cell) { const raw = cell.dataset.value ?? cell.textContent; const number = Number(raw); return raw !== "" && !Number.isNaN(number) ? number : raw; }

function sort(table, column, header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach((cell) => cell.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [value(a.cells[column]), value(b.cells[column])];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

function filter() {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = document.getElementById("state").value;
  let shown = 0;
  for (const row of document.querySelectorAll("#cells tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(words.every((word) => text.includes(word)) && (!state || row.dataset.state === state));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${study.cells} cells`;
}

document.querySelectorAll("input[name=convention]").forEach((input) => input.addEventListener("change", () => show(input.value)));
document.querySelectorAll("table.sortable").forEach((table) => table.querySelectorAll("th").forEach((header, column) => header.querySelector("button")?.addEventListener("click", () => sort(table, column, header))));
["words", "state"].forEach((id) => document.getElementById(id).addEventListener("input", filter));
filter();
legend();
show(document.querySelector("input[name=convention]:checked").value);
document.querySelectorAll("[data-life]").forEach(drawLife);
window.addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot)));
