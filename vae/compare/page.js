"use strict";
const { keys, terms, metrics, means, runs } = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();  // the indices of hidden runs
const $ = id => document.getElementById(id);
const finite = value => typeof value === "number";
// Plotly interprets tags and %{...} in text.
const escapeHtml = text => String(text).replace(/[&<>%]/g, letter => `&#${letter.charCodeAt()};`);
const truncate = (text, length) => text.length > length ? text.slice(0, length - 1) + "\u2026" : text;
const FONT = { family: "system-ui, sans-serif", size: 12, color: "#1c252c" };
const CONFIG = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };  // no uploads

function createElement(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Few runs: the palette of Okabe and Ito, first solid, then dashed. Many runs: a scale, dark for the best run.
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c8c8c"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [181, 222, 43]];

function scaleColour(fraction) {
  const place = fraction * (SCALE.length - 1), i = Math.min(Math.floor(place), SCALE.length - 2);
  return `rgb(${SCALE[i].map((low, c) => Math.round(low + (place - i) * (SCALE[i + 1][c] - low)))})`;
}

const few = runs.length <= 2 * PALETTE.length;
const colours = runs.map((_, i) => few ? PALETTE[i % PALETTE.length] : scaleColour(i / (runs.length - 1)));
const dashes = runs.map((_, i) => few && i >= PALETTE.length ? "dash" : "solid");
const badge = i => {
  const node = createElement("span", { className: "swatch" });
  node.style.borderTop = `4px ${dashes[i]}${dashes[i] === "dash" ? "ed" : ""} ${colours[i]}`;
  return [node, ` ${i + 1}${runs[i].best ? " \u2605" : ""}`];
};

// Curves

const values = runs.map(run => Object.values(run.values).join(" "));
const named = new Set(values).size === runs.length;
const labels = runs.map((run, i) => `${i + 1}  ${named ? values[i] : run.name}`);

function robustRange(traces) {  // not stretched by the first steps
  const values = traces.filter(trace => !hidden.has(trace.meta))
    .flatMap(trace => trace.y.slice(Math.floor(trace.y.length / 8))).filter(finite).sort((a, b) => a - b);
  if (!values.length) return undefined;
  const quantile = fraction => values[Math.round(fraction * (values.length - 1))];
  const pad = (quantile(0.98) - quantile(0.02)) * 0.12 || 1;
  return [quantile(0.02) - pad, quantile(0.98) + pad];
}

function curvesLayout() {
  const width = $("curves-plot").clientWidth;
  return { columnCount: Math.max(1, Math.min(terms.length, 3, Math.floor(width / 330))), narrow: width < 800 };
}

let drawnLayout = null;

// Plot heights are set on the elements: when the window is resized, Plotly discards a height in its layout.
function drawCurves() {
  const axis = $("axis").value, splits = $("split").value === "both" ? ["train", "val"] : [$("split").value];
  const { columnCount, narrow } = drawnLayout = curvesLayout();
  const rowCount = Math.max(1, Math.ceil(terms.length / columnCount)), traces = [], inLegend = new Set();
  $("curves-plot").style.height = `${60 + 290 * rowCount + (narrow ? 120 : 0)}px`;
  const layout = {
    font: FONT, margin: { l: 52, r: 10, t: 28, b: 46 }, annotations: [],
    grid: { rows: rowCount, columns: columnCount, pattern: "independent", xgap: 0.13, ygap: 0.26 },
    legend: { title: { text: escapeHtml(truncate(keys.join(" "), 44)), side: "top" }, font: { size: 11 } },
    hovermode: "closest",
  };
  if (narrow) Object.assign(layout.legend, { orientation: "h", y: -0.12 });
  terms.forEach((term, t) => {
    const id = t ? t + 1 : "", first = traces.length;
    runs.forEach((run, i) => splits.forEach(split => {
      const { [axis]: x, [term]: y } = run.curves[split];
      if (!x || !y) return;
      traces.push({
        x, y, meta: i, name: escapeHtml(truncate(labels[i], 40)), legendgroup: String(i), showlegend: !inLegend.has(i),
        xaxis: `x${id}`, yaxis: `y${id}`, mode: x.length > 1 ? "lines" : "markers",
        line: { color: colours[i], dash: dashes[i], width: split === "val" || splits.length === 1 ? 1.8 : 0.8 },
        marker: { color: colours[i] }, visible: hidden.has(i) ? "legendonly" : true,
        hovertemplate:
          `${escapeHtml(run.name)}<br>${split}/${escapeHtml(term)} %{y:.2f}, ${axis} %{x:,}<extra></extra>`,
      });
      inLegend.add(i);
    }));
    layout[`xaxis${id}`] = { title: { text: axis, standoff: 4 }, gridcolor: "#e8ecf0", zeroline: false };
    layout[`yaxis${id}`] = { range: robustRange(traces.slice(first)), gridcolor: "#e8ecf0", zeroline: false };
    layout.annotations.push({
      text: `<b>${escapeHtml(term)}</b>`, xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1, xanchor: "left",
      yanchor: "bottom", showarrow: false, font: { size: 13 },
    });
  });
  const missing = runs.filter((_, i) => !inLegend.has(i)).length;
  $("curves-note").textContent = "nats per image; drag to zoom, double-click to reset"
    + (few ? "" : "; dark: best, light: worst") + (missing ? `; no values from ${missing} of the runs` : "");
  Plotly.react("curves-plot", traces, layout, CONFIG);
}

// Table

const test = name => run => run.metrics[`test/${name}`];
const format = (value, digits = 2) => finite(value) ? value.toFixed(digits) : "\u2013";
const keyColumns = keys.map(key => ({ head: key, value: run => run.values[key] }));
const standardError = run => finite(test("log_px_se")(run)) ? ` \u00b1 ${format(test("log_px_se")(run))}` : "";
const resultColumns = [
  { head: "log_px", value: test("log_px"), show: (value, run) => format(value) + standardError(run) },
  ...["elbo", "kl", "squared_error"].map(name => ({ head: name, value: test(name), show: value => format(value) })),
  { head: "active_units", value: test("active_units"), show: value => format(value, 0) },
  { head: "seconds", value: run => run.metrics.seconds, show: value => format(value, 0) },
].filter(column => runs.some(run => column.value(run) != null));
const manyKeys = keys.length > 5;  // then results come first, to be visible without scrolling
const columns = manyKeys ? [...resultColumns, ...keyColumns] : [...keyColumns, ...resultColumns];
columns.push({ head: "status", value: run => run.status });
for (const column of columns) column.align = runs.some(run => finite(column.value(run))) ? "right" : "";
const tableRows = runs.map(createRow);
let sorted = null, direction = 1;

function createRow(run, i) {
  const box = createElement("input", { type: "checkbox", checked: true, onchange: () => setHidden([i], !box.checked) });
  box.setAttribute("aria-label", `show ${run.name}`);
  const first = createElement("td", {}, box, " ", ...badge(i));
  const row = createElement("tr", { className: run.best ? "best" : "", title: run.folder }, first);
  for (const column of columns) {
    const value = column.value(run);
    row.append(createElement("td", { className: column.align }, column.show ? column.show(value, run) : String(value)));
  }
  if (run.reason && run.status !== "finished")
    row.lastChild.append(createElement("span", { className: "reason faint", textContent: run.reason }));
  return { row, box, text: [row.textContent, run.name, run.folder].join(" ").toLowerCase() };
}

const compareValues = (a, b) => finite(a) !== finite(b) ? (finite(a) ? -1 : 1) : finite(a) ? a - b : a.localeCompare(b);

function compareRuns(a, b) {  // in both directions numbers come before text, and empty cells last
  const [x, y] = [a, b].map(i => sorted.value(runs[i]) ?? null);
  if (x === null || y === null) return (x === null) - (y === null);
  return finite(x) === finite(y) ? direction * compareValues(x, y) : compareValues(x, y);
}

function sortBy(column) {
  direction = sorted === column ? -direction : 1;
  sorted = column;
  document.querySelectorAll("th[scope]").forEach((head, n) => {
    head.setAttribute("aria-sort", columns[n] !== column ? "none" : direction > 0 ? "ascending" : "descending");
  });
  document.querySelector("tbody").append(...runs.map((_, i) => i).sort(compareRuns).map(i => tableRows[i].row));
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/);
  for (const { row, text } of tableRows) row.hidden = !words.every(word => text.includes(word));
  $("count").textContent = `${tableRows.filter(({ row }) => !row.hidden).length} of ${runs.length}`;
  showCards();
}

function setHidden(indices, hide) {
  for (const i of indices) {
    hide ? hidden.add(i) : hidden.delete(i);
    tableRows[i].box.checked = !hide;
    tableRows[i].row.classList.toggle("off", hide);
  }
  const plot = $("curves-plot");
  const visible = plot.data.map(trace => hidden.has(trace.meta) ? "legendonly" : true);
  if (visible.length) Plotly.restyle(plot, { visible });
  drawParameters();
  showCards();
}

function drawTable() {
  const all = createElement("input", { type: "checkbox", checked: true, title: "show all runs or none" });
  all.onchange = () => setHidden(tableRows.flatMap(({ row }, i) => row.hidden ? [] : [i]), !all.checked);
  all.setAttribute("aria-label", "show all runs or none");
  const heads = columns.map(column => createElement("th", { scope: "col", className: column.align },
    createElement("button", { textContent: column.head, onclick: () => sortBy(column) })));
  document.querySelector("thead").append(createElement("tr", {}, createElement("th", {}, all), ...heads));
  document.querySelector("tbody").append(...tableRows.map(({ row }) => row));
  const stars = runs.filter(run => run.best).length;
  $("stars").textContent = ["", "\u2605 best run"][stars]
    ?? "\u2605 best run of each group with comparable scores";
}

function drawMeans() {  // one row per setting: means and standard deviations over its seeds
  $("means").hidden = !means.length;
  if (!means.length) return;
  const cells = (tag, texts) => texts.map(textContent => createElement(tag, { textContent }));
  $("means").append(createElement("table", {},
    createElement("tr", {}, ...cells("th", Object.keys(means[0]))),
    ...means.map(line => createElement("tr", {}, ...cells("td", Object.values(line))))));
}

// Parameters

const uniqueSorted = values => [...new Set(values)].sort(compareValues);

function dimension(label, values) {
  const distinct = uniqueSorted(values), numbers = distinct.every(finite), low = distinct[0], high = distinct.at(-1);
  const log = numbers && low > 0 && high / low >= 20;
  const place = value => !numbers ? distinct.indexOf(value) : log ? Math.log10(value) : value;
  const logTicks = log ? uniqueSorted([low, Math.sqrt(low * high), high]) : null;
  const ticks = !numbers || distinct.length <= 8 ? distinct : logTicks;
  const tickText = value => finite(value) ? String(+value.toPrecision(5)) : truncate(value, 18);  // shown without tags
  return {
    label: escapeHtml(truncate(label, 24)), values: values.map(place),
    ...(ticks && { tickvals: ticks.map(place), ticktext: ticks.map(tickText) }),
    ...(distinct.length === 1 && { range: [place(low) - 1, place(low) + 1] }),
  };
}

function drawParallel(shown, metric) {
  const steps = runs.flatMap((_, i) => [[i / runs.length, colours[i]], [(i + 1) / runs.length, colours[i]]]);
  const dimensions = keys.map(key => dimension(key, shown.map(i => runs[i].values[key])));
  const scores = { label: escapeHtml(metric), values: shown.map(i => runs[i].metrics[metric]) };
  const line = { color: shown.map(i => i + 0.5), colorscale: steps, cmin: 0, cmax: runs.length };
  const trace = {
    type: "parcoords", dimensions: [...dimensions, scores], line, labelfont: { size: 11 },
    labelangle: manyKeys ? -15 : 0,
  };
  const layout = { font: FONT, margin: { l: 110, r: 60, t: manyKeys ? 80 : 60, b: 24 } };
  Plotly.react("parallel-plot", shown.length ? [trace] : [], layout, CONFIG);
}

function drawHeat(shown, metric) {
  const [across, down] = [$("across").value, $("down").value];
  const at = (i, key) => key ? runs[i].values[key] : "";
  const [xs, ys] = [across, down].map(key => uniqueSorted(shown.map(i => at(i, key))));
  const cells = ys.map(y => xs.map(x => shown.filter(i => at(i, across) === x && at(i, down) === y)));
  const mean = cell => cell.length ? cell.reduce((sum, i) => sum + runs[i].metrics[metric], 0) / cell.length : null;
  const z = cells.map(row => row.map(mean));
  const label = value => escapeHtml(truncate(String(value), 18));
  const trace = {
    type: "heatmap", z, x: xs.map((_, i) => i), y: ys.map((_, i) => i), xgap: 2, ygap: 2, hoverongaps: false,
    colorscale: "YlGnBu", reversescale: true, texttemplate: xs.length * ys.length <= 80 ? "%{z:.2f}" : "",
    colorbar: { thickness: 12, title: { text: escapeHtml(metric), side: "right" } },
    hovertemplate: "%{z:.2f}, %{customdata}<extra></extra>",
    customdata: cells.map(row => row.map(cell => `mean of runs ${cell.map(i => i + 1).join(", ")}`)),
  };
  const axis = (key, values) => ({
    title: { text: escapeHtml(key), standoff: 6 }, tickvals: values.map((_, i) => i), ticktext: values.map(label),
    showgrid: false, zeroline: false, automargin: true,
  });
  Plotly.react("heat-plot", shown.length ? [trace] : [], {
    font: FONT, margin: { l: 40, r: 10, t: 30, b: 40 }, xaxis: axis(across, xs), yaxis: axis(down, ys),
  }, CONFIG);
}

function drawParameters() {
  const metric = $("metric").value;
  const shown = runs.map((_, i) => i).filter(i => !hidden.has(i) && finite(runs[i].metrics[metric]));
  $("parameters-note").textContent = keys.length
    ? `${shown.length} runs with ${metric}; each cell of the heat map is the mean of its runs`
    : "no key differs between the runs";
  const plots = document.querySelector("#parameters .halves");
  plots.classList.toggle("stacked", manyKeys);
  plots.hidden = !keys.length || !metric;
  if (plots.hidden) return;
  drawParallel(shown, metric);
  drawHeat(shown, metric);
}

// Pictures

const cards = runs.map((run, i) => createElement("article", {},
  createElement("h3", {}, ...badge(i), `  ${run.name}`),
  createElement("div", {}, ...Object.entries(run.pictures).map(([name, src]) => createElement("figure", {}, src
    ? createElement("img", { loading: "lazy", decoding: "async", alt: `${name} of ${run.name}`, src })
    : createElement("p", { className: "missing faint", textContent: `${name}.png is missing` }))))));

function showCards() {
  cards.forEach((card, i) => { card.hidden = hidden.has(i) || tableRows[i].row.hidden; });
}

// Page

const count = status => runs.filter(run => run.status === status).length;
document.title = document.querySelector("h1").textContent = `${runs.length} run${runs.length === 1 ? "" : "s"}`;
const statuses = ["finished", "failed", "unfinished"].filter(count);
$("about").textContent = statuses.map(status => `${count(status)} ${status}`).join(", ");
const option = name => createElement("option", { value: name, textContent: name || "(none)" });
const addOptions = (id, names) => $(id).append(...names.map(option));
addOptions("metric", metrics.filter(metric => runs.some(run => finite(run.metrics[metric]))));
$("metric").value = ["test/log_px", "test/elbo"].find(name => metrics.includes(name)) ?? $("metric").value;
addOptions("across", keys);
addOptions("down", ["", ...keys]);
$("down").value = keys[1] ?? "";
if (!runs.some(run => Object.keys(run.curves.val).length)) $("split").value = "train";
drawTable();
drawMeans();
$("cards").append(...cards);
drawCurves();
drawParameters();
filter();
for (const id of ["split", "axis"]) $(id).onchange = drawCurves;
for (const id of ["metric", "across", "down"]) $(id).onchange = drawParameters;
$("filter").oninput = filter;
addEventListener("resize", () => {
  const { columnCount, narrow } = curvesLayout();
  if (columnCount !== drawnLayout.columnCount || narrow !== drawnLayout.narrow) drawCurves();
});
const indexOf = event => event.data[event.curveNumber].meta;
$("curves-plot").on("plotly_legendclick", event => {
  setHidden([indexOf(event)], !hidden.has(indexOf(event)));
  return false;
});
$("curves-plot").on("plotly_legenddoubleclick", event => {
  const others = runs.map((_, i) => i).filter(i => i !== indexOf(event)), isolated = others.every(i => hidden.has(i));
  setHidden(others, !isolated);
  setHidden([indexOf(event)], false);
  return false;
});
document.body.dataset.ready = "true";
