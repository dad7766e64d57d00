"use strict";
const $ = id => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const signed = value => value.toFixed(2).replace("-", "\u2212");

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// What is asked of the server

function say(text) { $("message").textContent = text; }

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => { throw new Error("vae.explore does not answer; has it ended?"); });
  if (answer.ok) return answer;
  const { message } = await answer.json().catch(() => ({ message: answer.statusText }));
  throw new Error(message);
}

const json = async (path, options) => (await ask(path, options)).json();
const image = name => `/image/${name}.png`;

async function guarded(work) {  // says what the work has to say, or what went wrong
  try {
    const told = await work();
    if (told) say(told);
  } catch (error) {
    say(error.message);
  }
}

async function decode(codes) {  // a list of pictures for canvases
  const answer = await ask("/decode", { method: "POST", body: JSON.stringify({ codes, run: about.run }) });
  const bytes = new Uint8ClampedArray(await answer.arrayBuffer()), size = bytes.length / codes.length;
  return codes.map((_, i) => picture(bytes.subarray(i * size, (i + 1) * size)));
}

let about, width, height;
const bytesOf = base64 => Uint8ClampedArray.from(atob(base64), letter => letter.charCodeAt());
const picture = bytes => new ImageData(bytes, width, height);

function paint(canvas, data) {
  if (canvas.width !== data.width) canvas.width = data.width;
  if (canvas.height !== data.height) canvas.height = data.height;
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

// The code, and whoever shows it

let z = [];  // the code that is looked at
const latencies = [];  // milliseconds from a pointer, or a key, to its picture
let wanted = null, busy = false;

async function show(code, since = performance.now(), spot = onMap(code)) {
  z = code;
  view.spot = spot;
  wanted = [code, since];
  requestAnimationFrame(drawMap);
  requestAnimationFrame(setSliders);
  $("code").textContent = `z = ${code.map(signed).join("  ")}`;
  if (busy) return;
  busy = true;
  await guarded(async () => {
    while (wanted) {  // the newest alone: what came in between is not decoded
      const [code, since] = wanted;
      wanted = null;
      const [data] = await decode([code]);
      paint($("picture"), data);
      latencies.push(performance.now() - since);
    }
  });
  busy = false;
  const last = latencies.slice(-50).sort((a, b) => a - b);
  if (last.length) $("latency").textContent = `${Math.round(last[last.length >> 1])} ms from hand to picture`;
}

let turn = 0;  // how often something was asked to be seen: an answer that comes after the next time is not shown

function leave() {  // the code is no image's any more
  $("seen").hidden = true;
  compared = null;
  say("");
  return ++turn;
}

// The map

const COLOURS = [
  "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e08a3c", "#7a5195", "#8c6d46", "#777777",
  "#88aadd", "#f5a3ad", "#77c285", "#e6dc93", "#a9e2f5", "#d18bb3", "#f2c59b", "#b79cc9", "#c4ad8f", "#bbbbbb",
];
const AROUND = 12;  // dots that a point between them is the mean of
const view = { middle: [0, 0], span: 1, side: 1, spot: [0, 0], dots: document.createElement("canvas") };

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

function blend(at, places, values) {  // the mean of the values at the places around, the nearer the more
  const far = places.map((place, i) => [Math.hypot(...place.map((x, d) => x - at[d])), i]).sort((a, b) => a[0] - b[0]);
  const around = far.slice(0, AROUND), edge = far[Math.min(AROUND, far.length - 1)][0] || 1;
  const weights = around.map(([distance]) => ((edge - distance) / (edge * distance + 1e-9)) ** 2);
  const sum = weights.reduce((a, b) => a + b, 0) || 1;
  return values[0].map((_, d) => around.reduce((mean, [, i], n) => mean + weights[n] / sum * values[i][d], 0));
}

const onMap = code => about.plane  // a plane through the codes; or, by UMAP, places of codes, and the rest between them
  ? about.plane.axes.map(axis => dot(axis, code) - dot(axis, about.plane.origin))
  : blend(code, about.codes, about.points);
const toPixels = point => [0, 1].map(i => view.side * (0.5 + (i ? -1 : 1) * (point[i] - view.middle[i]) / view.span));
const toPoint = pixels => [0, 1].map(i => view.middle[i] + (i ? -1 : 1) * (pixels[i] / view.side - 0.5) * view.span);

function colour(label) {
  if (label === null) return COLOURS[0];
  if (about.kinds.length) return COLOURS[about.kinds.indexOf(label)];
  const labels = about.labels, part = labels.length > 1 ? (label - labels[0]) / (labels.at(-1) - labels[0]) : 0;
  return `hsl(${Math.round(260 - 220 * part)} 65% 48%)`;
}

function layMap() {
  const ratio = window.devicePixelRatio || 1, side = Math.round($("map").clientWidth * ratio);
  view.side = side;
  for (const canvas of [$("map"), view.dots]) Object.assign(canvas, { width: side, height: side });
  const on = view.dots.getContext("2d"), radius = ratio * clamp(160 / Math.sqrt(about.points.length), 2.2, 4.5);
  on.globalAlpha = 0.65;
  about.points.forEach((point, i) => {
    on.fillStyle = colour(about.images[i][2]);
    on.beginPath();
    on.arc(...toPixels(point), radius, 0, 7);
    on.fill();
  });
  on.globalAlpha = 1;
  on.fillStyle = "#5b6770";
  on.font = `${12 * ratio}px system-ui, sans-serif`;
  on.textAlign = "center";
  on.fillText(about.axes[0], side / 2, side - 6 * ratio);
  on.rotate(-Math.PI / 2);
  on.fillText(about.axes[1], -side / 2, 14 * ratio);
  on.resetTransform();
  drawMap();
}

function drawMap() {
  const on = $("map").getContext("2d"), ratio = window.devicePixelRatio || 1, [x, y] = toPixels(view.spot);
  on.clearRect(0, 0, view.side, view.side);
  on.drawImage(view.dots, 0, 0);
  for (const [style, width] of [["#fff", 5], ["#1c252c", 2.5]]) {
    Object.assign(on, { strokeStyle: style, lineWidth: width * ratio });
    on.beginPath();
    on.arc(clamp(x, 0, view.side), clamp(y, 0, view.side), 9 * ratio, 0, 7);
    on.stroke();
  }
}

function moveTo(point, since) {  // in the plane, the code's two coordinates there become these, and no other changes
  const { plane, points, codes } = about, by = [0, 1].map(i => point[i] - view.spot[i]);
  const shift = (value, d) => value + by[0] * plane.axes[0][d] + by[1] * plane.axes[1][d];
  leave();
  return show(plane ? z.map(shift) : blend(point, points, codes), since, point);
}

const place = event => [event.offsetX, event.offsetY].map(pixels => pixels * view.side / $("map").clientWidth);

function nearest([x, y], reach = 7 * (window.devicePixelRatio || 1)) {  // the dot under a place, or -1
  let found = -1, best = reach * reach;
  about.points.forEach((point, i) => {
    const [px, py] = toPixels(point), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < best) [found, best] = [i, far];
  });
  return found;
}

const called = ([, title, label]) => about.kinds.length && label !== null ? `${title}, label ${label}` : title;

function tell(place) {
  const under = nearest(place);
  $("under").textContent = under < 0 ? "" : called(about.images[under]);
}

let pressed = null;  // where the pointer went down, until it has moved away from there
$("map").addEventListener("pointerdown", event => {
  if (event.button || !event.isPrimary) return;
  pressed = [event.offsetX, event.offsetY];
  $("map").setPointerCapture(event.pointerId);
  moveTo(toPoint(place(event)), event.timeStamp);
});
$("map").addEventListener("pointermove", event => {
  if (!$("map").hasPointerCapture(event.pointerId)) {
    tell(place(event));
    return;
  }
  if (pressed && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) > 3) pressed = null;
  moveTo(toPoint(place(event)), event.timeStamp);
});
$("map").addEventListener("pointerup", event => {
  const under = pressed ? nearest(place(event)) : -1;
  pressed = null;
  if (under >= 0) take(about.images[under][0]);
});
$("map").addEventListener("keydown", event => {
  if (event.key === "Enter") take(about.images[nearest(toPixels(view.spot), Infinity)][0]);
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const step = view.span * (event.shiftKey ? 0.1 : 0.02), now = view.spot;
  moveTo([now[0] + step * way[0], now[1] + step * way[1]], event.timeStamp);
  tell(toPixels(view.spot));
});

// An image: of the dataset, from a file, or drawn

let others = null, compared = null;  // the scores of test images, once asked for; and what is compared with them

async function see(found) {
  show(found.z);
  paint($("original"), picture(bytesOf(found.pixels)));
  $("title").textContent = called([, found.title, found.label]);
  $("scale").replaceChildren();
  $("seen").hidden = false;
  const is = about.score === "log_px"
    ? `log p(x) \u2248 ${signed(found.score)} nats (K = ${about.K})`
    : `squared error of its reconstruction: ${signed(-found.score)}`;
  $("likely").textContent = `${is}; comparing\u2026`;
  compared = found;
  others ??= json("/others").catch(error => { others = null; throw error; });
  const scores = await others;
  if (compared !== found) return;
  const less = scores.filter(score => score < found.score).length;
  $("likely").textContent = `${is}; likelier than ${less} of ${scores.length} test images`;
  drawScale(found.score, scores);
}

function drawScale(score, others) {
  const all = [...others, score], low = Math.min(...all), span = Math.max(...all) - low || 1;
  const mark = (value, height, properties) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line"), x = 4 + 192 * (value - low) / span;
    const given = { x1: x, x2: x, y1: 13 - height, y2: 13 + height, ...properties };
    for (const [name, value] of Object.entries(given)) line.setAttribute(name, value);
    return line;
  };
  $("scale").replaceChildren(
    ...others.map(value => mark(value, 6, { stroke: "#0072b2", "stroke-opacity": 0.35 })),
    mark(score, 12, { stroke: "#d55e00", "stroke-width": 3 }),
  );
}

const take = name => guarded(async () => {
  const mine = leave(), found = await json(`/seen/${name}`);
  if (mine === turn) await see(found);
});

const send = (content, query = "") => guarded(async () => {
  const size = (content.size / 1e6).toFixed(1), mine = ++turn;
  say("");
  if (content.size > about.most) throw new Error(`${size} MB: expected ${about.most / 1e6} MB at most`);
  const found = await json(`/seen${query}`, { method: "POST", body: await content.arrayBuffer() });
  if (mine !== turn) return;
  say(found.remarks.join("; "));
  await see(found);
});

$("file").addEventListener("change", event => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    document.body.classList.toggle("dragged", kind === "dragover");
    if (kind !== "drop") return;
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
    else say("this is no file; save the picture, and drop its file");
  });

const paper = $("paper").getContext("2d");
function clearPaper() {
  paper.fillStyle = "#000";
  paper.fillRect(0, 0, 280, 280);
}
$("paper").addEventListener("pointerdown", event => {
  if (event.button || !event.isPrimary) return;
  $("paper").setPointerCapture(event.pointerId);
  Object.assign(paper, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
  paper.beginPath();
  stroke(event);
});
const stroke = event => {
  const scale = 280 / $("paper").clientWidth;
  paper.lineTo(event.offsetX * scale, event.offsetY * scale + 0.01);
  paper.stroke();
};
const drawing = event => $("paper").hasPointerCapture(event.pointerId);
$("paper").addEventListener("pointermove", event => { if (drawing(event)) stroke(event); });
$("paper").addEventListener("pointerup", event => { if (drawing(event)) sendDrawing(); });
const sendDrawing = () =>  // at once, where toBlob waits until the browser is idle
  send(new Blob([bytesOf($("paper").toDataURL().split(",")[1])]), "?drawn");
$("clear").addEventListener("click", clearPaper);

// The dimensions

const FEW = 12, STOPS = 200;
let sliders = [];

function laySliders() {
  sliders = about.dimensions.map(({ d, amount, low, high }) => {
    const range = make("input", { type: "range", min: 0, max: STOPS, ariaLabel: `z${d + 1}` });
    const told = make("output");
    range.addEventListener("input", event => {
      leave();
      show(z.with(d, low + (high - low) * range.value / STOPS), event.timeStamp);
    });
    const carried = make("span", { className: "faint", textContent: `${amount.toFixed(2)} ${about.unit}` });
    const row = make("div", { className: "dimension" }, `z${d + 1}`, carried, range, told);
    $("dimensions").append(row);
    return { d, low, high, range, told, row };
  });
  $("all").textContent = `Show all ${sliders.length}`;
  $("all").hidden = sliders.length <= FEW;
  sliders.slice(FEW).forEach(({ row }) => { row.hidden = true; });
  $("all").addEventListener("click", () => {
    sliders.forEach(({ row }) => { row.hidden = false; });
    $("all").hidden = true;
    sliders[FEW].range.focus();
  });
}

function setSliders() {
  for (const { d, low, high, range, told } of sliders) {
    range.value = Math.round(STOPS * (z[d] - low) / (high - low));
    range.ariaValueText = told.textContent = signed(z[d]);
  }
}

const random = () => guarded(async () => {
  const mine = leave(), code = await json("/draw");
  if (mine === turn) await show(code);
});
const reset = () => { leave(); show(about.home); };

// Two images and what is between them

function picker(root, name, choose) {
  const shown = make("img", { alt: "", hidden: true });
  const list = make("ul", { id: `${name}-list`, role: "listbox", hidden: true, ariaLabel: `images for the ${name}` });
  const input = make("input", {
    type: "text", role: "combobox", autocomplete: "off", spellcheck: false, placeholder: "name or number",
    ariaLabel: `the ${name} image`, ariaExpanded: "false", ariaAutoComplete: "list",
  });
  input.setAttribute("aria-controls", list.id);
  root.className = "picker";
  root.append(shown, input, list);
  let asked = 0, at = -1, found = [], chosen = "", latest = null;

  function close() {
    asked++;
    list.hidden = true;
    input.ariaExpanded = "false";
    input.removeAttribute("aria-activedescendant");
  }
  function pick([id, title]) {
    input.value = chosen = title;
    Object.assign(shown, { src: image(id), hidden: false });
    close();
    return choose(id);
  }
  function mark(i) {
    at = i;
    [...list.children].forEach((node, n) => node.setAttribute("aria-selected", String(n === i)));
    if (i >= 0) input.setAttribute("aria-activedescendant", list.children[i].id);
  }
  async function search() {
    const mine = ++asked, results = await json(`/search?q=${encodeURIComponent(input.value)}`);
    if (mine !== asked) return;
    found = results;
    list.replaceChildren(...found.map((entry, i) => {
      const thumb = make("img", { src: image(entry[0]), alt: "" });
      const node = make("li", { role: "option", id: `${list.id}-${i}` }, thumb, called(entry));
      node.addEventListener("pointerdown", event => { event.preventDefault(); guarded(() => pick(entry)); });
      return node;
    }));
    const none = "no image is called so";
    if (!found.length) list.append(make("li", { role: "option", ariaDisabled: "true", textContent: none }));
    list.hidden = false;
    input.ariaExpanded = "true";
    mark(found.length ? 0 : -1);
  }
  const look = () => { latest = guarded(search); };
  input.addEventListener("input", look);
  input.addEventListener("focus", () => { input.select(); look(); });
  input.addEventListener("click", () => { if (list.hidden) look(); });
  input.addEventListener("blur", () => { close(); input.value = chosen; });
  input.addEventListener("keydown", event => {
    if (event.key === "Escape") close();
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) event.preventDefault();
    if (by && list.hidden) look();
    else if (by && found.length) mark((at + by + found.length) % found.length);
    if (event.key === "Enter") guarded(async () => {
      await latest;  // what was typed last
      if (!list.hidden && found[at]) await pick(found[at]);
    });
  });
  return pick;
}

const parents = {}, THUMBS = 5;
let way = [];  // codes from the first image to the second

async function fuse() {
  const { first, second } = parents;
  if (!first || !second) return;
  const mine = leave(), codes = await json(`/between?first=${first}&second=${second}`), last = codes.length - 1;
  const stops = Array.from({ length: THUMBS }, (_, i) => Math.round(i * last / (THUMBS - 1)));
  const thumbs = await decode(stops.map(stop => codes[stop]));
  if (first !== parents.first || second !== parents.second) return;
  way = codes;
  Object.assign($("part"), { max: last, value: last / 2, disabled: false });
  $("strip").replaceChildren(...thumbs.map((data, i) => {
    const part = Math.round(100 * stops[i] / last);
    const button = make("button", { ariaLabel: `${part} % of the second image` }, paint(make("canvas"), data));
    button.addEventListener("click", event => { $("part").value = stops[i]; slide(event.timeStamp); });
    return button;
  }));
  if (mine === turn) await slide();
}

function slide(since) {
  leave();
  $("part").ariaValueText = `${Math.round(100 * $("part").value / $("part").max)} % of the second image`;
  return show(way[$("part").value], since);
}
$("part").addEventListener("input", event => slide(event.timeStamp));

const pickers = ["first", "second"].map(name => picker($(name), name, id => { parents[name] = id; return fuse(); }));

async function anyTwo() {
  const n = about.images.length, one = Math.floor(Math.random() * n), other = one + 1 + Math.floor(Math.random() * (n - 1));
  delete parents.second;
  await pickers[0](about.images[one]);
  await pickers[1](about.images[other % n]);
}

// What is kept, in this browser, for this run

let kept = [];

function stored() {  // nothing where the browser has nothing, or forbids to look, or has what is no list of codes
  const isCode = code => code.length === z.length && code.every(Number.isFinite);
  try {
    return JSON.parse(localStorage.getItem(about.place)).filter(isCode);
  } catch {
    return [];
  }
}

async function layKept() {
  const codes = kept, pictures = [];
  for (let i = 0; i < codes.length; i += 64) pictures.push(...await decode(codes.slice(i, i + 64)));
  if (codes !== kept) return;
  $("favourites").replaceChildren(...pictures.map((data, i) => {
    const shown = paint(make("canvas"), data);
    const use = make("button", { className: "take", ariaLabel: `show kept picture ${i + 1}` }, shown);
    const away = make("button", { className: "away", ariaLabel: `remove kept picture ${i + 1}` }, "\u00d7");
    use.addEventListener("click", () => { leave(); show(codes[i]); });
    away.addEventListener("click", () => keepOnly(kept.filter(code => code !== codes[i])));
    return make("figure", {}, use, away);
  }));
  $("kept").hidden = !kept.length;
}

const keepOnly = codes => guarded(async () => {
  kept = codes;
  await layKept();
  try {
    localStorage.setItem(about.place, JSON.stringify(kept));
  } catch {
    return "kept until this page is closed: this browser lets it store no more";
  }
});
addEventListener("storage", event => {  // another tab has kept something
  if (event.key !== about?.place) return;
  kept = stored();
  guarded(layKept);
});

function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `${about.run}-${name}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

$("save-codes").addEventListener("click", () =>
  download(new Blob([JSON.stringify(kept)], { type: "application/json" }), "codes.json"));
$("save-pictures").addEventListener("click", () => {
  const zoom = Math.max(1, Math.round(256 / height)), columns = Math.ceil(Math.sqrt(kept.length)), gap = 8;
  const w = width * zoom + gap, h = height * zoom + gap, rows = Math.ceil(kept.length / columns);
  const page = make("canvas", { width: columns * w + gap, height: rows * h + gap }), on = page.getContext("2d");
  on.fillStyle = "#fff";
  on.fillRect(0, 0, page.width, page.height);
  on.imageSmoothingEnabled = false;
  document.querySelectorAll("#favourites canvas").forEach((canvas, i) =>
    on.drawImage(canvas, gap + i % columns * w, gap + Math.floor(i / columns) * h, width * zoom, height * zoom));
  page.toBlob(blob => download(blob, "pictures.png"));
});

// Buttons, keys, tabs

$("random").addEventListener("click", random);
$("reset").addEventListener("click", reset);
$("keep").addEventListener("click", () => keepOnly([...kept, z]));
$("pair").addEventListener("click", () => guarded(anyTwo));
document.addEventListener("keydown", event => {
  if (event.target.matches("[type=text]") || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  ({ r: random, 0: reset, k: () => $("keep").click() })[event.key]?.();
});

const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = tabs[(i + by + tabs.length) % tabs.length];
    open(next);
    next.focus();
  });
});

async function begin() {
  about = await json("/about");
  [, height, width] = about.shape;
  about.place = `vae ${about.run}`;
  about.labels = about.images.map(([, , label]) => label).filter(label => label !== null).sort((a, b) => a - b);
  const ranges = [0, 1].map(i => about.points.map(point => point[i]).sort((a, b) => a - b));
  view.middle = ranges.map(range => (range[0] + range.at(-1)) / 2);
  view.span = 1.12 * Math.max(...ranges.map(range => range.at(-1) - range[0])) || 1;
  document.title = document.querySelector("h1").textContent = about.title;
  $("about").textContent = about.run;
  $("legend").replaceChildren(...about.kinds.map(kind => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colour(kind);
    return make("span", {}, swatch, String(kind));
  }));
  $("drawing").hidden = !about.ground;
  clearPaper();
  z = about.home;
  view.spot = onMap(z);
  laySliders();
  new ResizeObserver(layMap).observe($("map"));
  kept = stored();
  await layKept();
  take(about.images[0][0]);
  document.body.dataset.ready = "";
}
guarded(begin);
