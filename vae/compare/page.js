"use strict";
const { keys, terms, metrics, runs } = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();  // the indices of runs that are not to be seen
const $ = id => document.getElementById(id);
const finite = value => typeof value === "number";
const escape = text => String(text).replace(/[&<>%]/g, letter => `&#${letter.charCodeAt()};`);  // for Plotly
const clip = (text, length) => text.length > length ? text.slice(0, length - 1) + "\u2026" : text;
const FONT = { family: "system-ui, sans-serif", size: 12, color: "#1c252c" };
const CONFIG = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "" };  // sends nothing

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Colours: those of Okabe and Ito for few, solid and then dashed; for many, from the best, dark, to the worst, light.
const FEW = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c8c8c"];
const MANY = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [181, 222, 43]];

function between(part) {
  const place = part * (MANY.length - 1), i = Math.min(Math.floor(place), MANY.length - 2);
  return `rgb(${MANY[i].map((low, c) => Math.round(low + (place - i) * (MANY[i + 1][c] - low)))})`;
}

const few = runs.length <= 2 * FEW.length;
const colours = runs.map((_, i) => few ? FEW[i % FEW.length] : between(i / (runs.length - 1)));
const dashes = runs.map((_, i) => few && i >= FEW.length ? "dash" : "solid");
const badge = i => {
  const node = make("span", { className: "swatch" });
  node.style.borderTop = `4px ${dashes[i]}${dashes[i] === "dash" ? "ed" : ""} ${colours[i]}`;
  return [node, ` ${i + 1}${runs[i].best ? " \u2605" : ""}`];
};

// Curves

const values = runs.map(run => Object.values(run.values).join(" "));
const labels = runs.map((run, i) => `${i + 1}  ${new Set(values).size === runs.length ? values[i] : run.name}`);

function settled(traces) {  // a range that the first steps do not stretch
  const values = traces.filter(trace => !hidden.has(trace.meta))
    .flatMap(trace => trace.y.slice(Math.floor(trace.y.length / 8))).filter(finite).sort((a, b) => a - b);
  if (!values.length) return undefined;
  const at = part => values[Math.round(part * (values.length - 1))];
  const pad = (at(0.98) - at(0.02)) * 0.12 || 1;
  return [at(0.02) - pad, at(0.98) + pad];
}

function drawCurves() {
  const axis = $("axis").value, splits = $("split").value === "both" ? ["train", "val"] : [$("split").value];
  const across = Math.max(1, Math.min(terms.length, 3, Math.floor($("curves-plot").clientWidth / 330)));
  const down = Math.max(1, Math.ceil(terms.length / across)), traces = [], told = new Set();
  const narrow = $("curves-plot").clientWidth < 800;
  const layout = {
    font: FONT, height: 60 + 290 * down + (narrow ? 120 : 0), margin: { l: 52, r: 10, t: 28, b: 46 }, annotations: [],
    grid: { rows: down, columns: across, pattern: "independent", xgap: 0.13, ygap: 0.26 },
    legend: { title: { text: escape(clip(keys.join(" "), 44)), side: "top" }, font: { size: 11 } },
    hovermode: "closest",
  };
  if (narrow) Object.assign(layout.legend, { orientation: "h", y: -0.12 });
  terms.forEach((term, t) => {
    const id = t ? t + 1 : "", first = traces.length;
    runs.forEach((run, i) => splits.forEach(split => {
      const { [axis]: x, [term]: y } = run.curves[split];
      if (!x || !y) return;
      traces.push({
        x, y, meta: i, name: escape(clip(labels[i], 40)), legendgroup: String(i), showlegend: !told.has(i),
        xaxis: `x${id}`, yaxis: `y${id}`, mode: x.length > 1 ? "lines" : "markers",
        line: { color: colours[i], dash: dashes[i], width: split === "val" || splits.length === 1 ? 1.8 : 0.8 },
        marker: { color: colours[i] }, visible: hidden.has(i) ? "legendonly" : true,
        hovertemplate: `${escape(run.name)}<br>${split}/${escape(term)} %{y:.2f}, ${axis} %{x:,}<extra></extra>`,
      });
      told.add(i);
    }));
    layout[`xaxis${id}`] = { title: { text: axis, standoff: 4 }, gridcolor: "#e8ecf0", zeroline: false };
    layout[`yaxis${id}`] = { range: settled(traces.slice(first)), gridcolor: "#e8ecf0", zeroline: false };
    layout.annotations.push({
      text: `<b>${escape(term)}</b>`, xref: `x${id} domain`, yref: `y${id} domain`, x: 0, y: 1, xanchor: "left",
      yanchor: "bottom", showarrow: false, font: { size: 13 },
    });
  });
  const without = runs.filter((_, i) => !told.has(i)).length;
  $("curves-note").textContent = "nats per image; drag to zoom, double-click for the whole range"
    + (few ? "" : "; dark: the best, light: the worst") + (without ? `; ${without} without such records` : "");
  Plotly.react("curves-plot", traces, layout, CONFIG);
}

// Table

const test = name => run => run.metrics[`test/${name}`];
const decimals = (value, digits = 2) => finite(value) ? value.toFixed(digits) : "\u2013";
const settings = keys.map(key => ({ head: key, of: run => run.values[key] }));
const spread = run => finite(test("log_px_se")(run)) ? ` \u00b1 ${decimals(test("log_px_se")(run))}` : "";
const outcomes = [
  { head: "log_px", of: test("log_px"), show: (value, run) => decimals(value) + spread(run) },
  ...["elbo", "kl", "squared_error"].map(name => ({ head: name, of: test(name), show: value => decimals(value) })),
  { head: "active_units", of: test("active_units"), show: value => decimals(value, 0) },
  { head: "seconds", of: run => run.metrics.seconds, show: value => decimals(value, 0) },
].filter(column => runs.some(run => column.of(run) != null));
const many = keys.length > 5;  // then what came of a run is to be seen without scrolling
const columns = many ? [...outcomes, ...settings] : [...settings, ...outcomes];
columns.push({ head: "status", of: run => run.status });
for (const column of columns) column.side = runs.some(run => finite(column.of(run))) ? "right" : "";
const lines = runs.map(line);
let sorted = null, direction = 1;

function line(run, i) {
  const box = make("input", { type: "checkbox", checked: true, onchange: () => hide([i], !box.checked) });
  box.setAttribute("aria-label", `show ${run.name}`);
  const first = make("td", {}, box, " ", ...badge(i));
  const row = make("tr", { className: run.best ? "best" : "", title: run.folder }, first);
  for (const column of columns) {
    const value = column.of(run);
    row.append(make("td", { className: column.side }, column.show ? column.show(value, run) : String(value)));
  }
  if (run.reason && run.status !== "finished")
    row.lastChild.append(make("span", { className: "reason faint", textContent: run.reason }));
  return { row, box, words: [row.textContent, run.name, run.folder].join(" ").toLowerCase() };
}

const order = (a, b) => finite(a) !== finite(b) ? (finite(a) ? -1 : 1) : finite(a) ? a - b : a.localeCompare(b);

function compare(a, b) {  // numbers before words, and nothing last, whichever way
  const [x, y] = [a, b].map(i => sorted.of(runs[i]) ?? null);
  if (x === null || y === null) return (x === null) - (y === null);
  return finite(x) === finite(y) ? direction * order(x, y) : order(x, y);
}

function sortBy(column) {
  direction = sorted === column ? -direction : 1;
  sorted = column;
  document.querySelectorAll("th[scope]").forEach((head, n) => {
    head.setAttribute("aria-sort", columns[n] !== column ? "none" : direction > 0 ? "ascending" : "descending");
  });
  document.querySelector("tbody").append(...runs.map((_, i) => i).sort(compare).map(i => lines[i].row));
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/);
  for (const { row, words: own } of lines) row.hidden = !words.every(word => own.includes(word));
  $("count").textContent = `${lines.filter(({ row }) => !row.hidden).length} of ${runs.length}`;
  showCards();
}

function hide(which, away) {
  for (const i of which) {
    away ? hidden.add(i) : hidden.delete(i);
    lines[i].box.checked = !away;
    lines[i].row.classList.toggle("away", away);
  }
  const plot = $("curves-plot");
  const visible = plot.data.map(trace => hidden.has(trace.meta) ? "legendonly" : true);
  if (visible.length) Plotly.restyle(plot, { visible });
  drawParameters();
  showCards();
}

function layTable() {
  const all = make("input", { type: "checkbox", checked: true, title: "show all rows or none" });
  all.onchange = () => hide(lines.flatMap(({ row }, i) => row.hidden ? [] : [i]), !all.checked);
  all.setAttribute("aria-label", "show all rows or none");
  const heads = columns.map(column => make("th", { scope: "col", className: column.side },
    make("button", { textContent: column.head, onclick: () => sortBy(column) })));
  document.querySelector("thead").append(make("tr", {}, make("th", {}, all), ...heads));
  document.querySelector("tbody").append(...lines.map(({ row }) => row));
  const stars = runs.filter(run => run.best).length;
  $("stars").textContent = ["", "\u2605 the best"][stars]
    ?? "\u2605 the best of each kind of pixels: nats of others do not compare";
}

// Parameters

const ordered = values => [...new Set(values)].sort(order);

function dimension(label, values) {
  const each = ordered(values), numbers = each.every(finite), low = each[0], high = each.at(-1);
  const log = numbers && low > 0 && high / low >= 20;
  const place = value => !numbers ? each.indexOf(value) : log ? Math.log10(value) : value;
  const ticks = !numbers || each.length <= 8 ? each : log ? ordered([low, Math.sqrt(low * high), high]) : null;
  const told = value => finite(value) ? String(+value.toPrecision(5)) : clip(value, 18);  // no tags are read here
  return {
    label: escape(clip(label, 24)), values: values.map(place),
    ...(ticks && { tickvals: ticks.map(place), ticktext: ticks.map(told) }),
    ...(each.length === 1 && { range: [place(low) - 1, place(low) + 1] }),
  };
}

function drawParallel(shown, metric) {
  const steps = runs.flatMap((_, i) => [[i / runs.length, colours[i]], [(i + 1) / runs.length, colours[i]]]);
  const dimensions = keys.map(key => dimension(key, shown.map(i => runs[i].values[key])));
  const scores = { label: escape(metric), values: shown.map(i => runs[i].metrics[metric]) };
  const line = { color: shown.map(i => i + 0.5), colorscale: steps, cmin: 0, cmax: runs.length };
  const trace = {
    type: "parcoords", dimensions: [...dimensions, scores], line, labelangle: many ? -15 : 0, labelfont: { size: 11 },
  };
  const layout = { font: FONT, height: 360, margin: { l: 110, r: 60, t: many ? 80 : 60, b: 24 } };
  Plotly.react("parallel-plot", shown.length ? [trace] : [], layout, CONFIG);
}

function drawHeat(shown, metric) {
  const [across, down] = [$("across").value, $("down").value];
  const at = (i, key) => key ? runs[i].values[key] : "";
  const [xs, ys] = [across, down].map(key => ordered(shown.map(i => at(i, key))));
  const inside = ys.map(y => xs.map(x => shown.filter(i => at(i, across) === x && at(i, down) === y)));
  const mean = cell => cell.length ? cell.reduce((sum, i) => sum + runs[i].metrics[metric], 0) / cell.length : null;
  const z = inside.map(row => row.map(mean));
  const label = value => escape(clip(String(value), 18));
  const trace = {
    type: "heatmap", z, x: xs.map((_, i) => i), y: ys.map((_, i) => i), xgap: 2, ygap: 2, hoverongaps: false,
    colorscale: "YlGnBu", reversescale: true, texttemplate: xs.length * ys.length <= 80 ? "%{z:.2f}" : "",
    colorbar: { thickness: 12, title: { text: escape(metric), side: "right" } },
    hovertemplate: "%{z:.2f}, %{customdata}<extra></extra>",
    customdata: inside.map(row => row.map(cell => `the mean of runs ${cell.map(i => i + 1).join(", ")}`)),
  };
  const axis = (key, values) => ({
    title: { text: escape(key), standoff: 6 }, tickvals: values.map((_, i) => i), ticktext: values.map(label),
    showgrid: false, zeroline: false, automargin: true,
  });
  Plotly.react("heat-plot", shown.length ? [trace] : [], {
    font: FONT, height: 360, margin: { l: 40, r: 10, t: 30, b: 40 }, xaxis: axis(across, xs), yaxis: axis(down, ys),
  }, CONFIG);
}

function drawParameters() {
  const metric = $("metric").value;
  const shown = runs.map((_, i) => i).filter(i => !hidden.has(i) && finite(runs[i].metrics[metric]));
  $("parameters-note").textContent = keys.length
    ? `${shown.length} runs with ${metric}; a cell is the mean of its runs`
    : "the runs differ in nothing that was typed";
  document.querySelector("#parameters .halves").classList.toggle("whole", many);
  if (!keys.length || !metric) return;
  drawParallel(shown, metric);
  drawHeat(shown, metric);
}

// Pictures

const cards = runs.map((run, i) => make("article", {},
  make("h3", {}, ...badge(i), `  ${run.name}`),
  make("div", {}, ...Object.entries(run.pictures).map(([name, src]) => make("figure", {}, src
    ? make("img", { loading: "lazy", decoding: "async", alt: `${name} of ${run.name}`, src })
    : make("p", { className: "missing faint", textContent: `${name}.png is missing` }))))));

function showCards() {
  cards.forEach((card, i) => { card.hidden = hidden.has(i) || lines[i].row.hidden; });
}

// The whole

const count = status => runs.filter(run => run.status === status).length;
document.title = document.querySelector("h1").textContent = `${runs.length} run${runs.length === 1 ? "" : "s"}`;
const ends = ["finished", "failed", "unfinished"].filter(count);
$("about").textContent = ends.map(status => `${count(status)} ${status}`).join(", ");
const option = name => make("option", { value: name, textContent: name || "(nothing)" });
const options = (id, names) => $(id).append(...names.map(option));
options("metric", metrics.filter(metric => runs.some(run => finite(run.metrics[metric]))));
$("metric").value = ["test/log_px", "test/elbo"].find(name => metrics.includes(name)) ?? $("metric").value;
options("across", keys);
options("down", ["", ...keys]);
$("down").value = keys[1] ?? "";
if (!runs.some(run => Object.keys(run.curves.val).length)) $("split").value = "train";
layTable();
$("cards").append(...cards);
drawCurves();
drawParameters();
filter();
for (const id of ["split", "axis"]) $(id).onchange = drawCurves;
for (const id of ["metric", "across", "down"]) $(id).onchange = drawParameters;
$("filter").oninput = filter;
const indexOf = event => event.data[event.curveNumber].meta;
$("curves-plot").on("plotly_legendclick", event => {
  hide([indexOf(event)], !hidden.has(indexOf(event)));
  return false;
});
$("curves-plot").on("plotly_legenddoubleclick", event => {
  const others = runs.map((_, i) => i).filter(i => i !== indexOf(event)), alone = others.every(i => hidden.has(i));
  hide(others, !alone);
  hide([indexOf(event)], false);
  return false;
});
document.body.dataset.ready = "true";
