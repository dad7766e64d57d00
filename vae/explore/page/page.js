"use strict";
const $ = id => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const signed = value => value.toFixed(2).replace("-", "\u2212");

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// Requests to the server

function showMessage(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

async function request(path, options) {
  const response = await fetch(path, options).catch(() => {
    throw new Error("vae.explore does not respond; is it still running?");
  });
  if (response.ok) return response;
  const { message } = await response.json().catch(() => ({ message: response.statusText }));
  throw new Error(message);
}

const requestJSON = async (path, options) => (await request(path, options)).json();
const imageURL = name => `/image/${name}.png`;

async function withErrors(work) {  // runs a task and shows the message that it returns or throws
  try {
    const message = await work();
    if (message) showMessage(message);
  } catch (error) {
    showMessage(error.message, true);
  }
}

async function decode(codes, previous) {  // returns one ImageData per code: drafts, if a previous picture is given
  const body = JSON.stringify({ codes, label: givenLabel(), previous: previous && toBase64(previous), run: about.run });
  const response = await request("/decode", { method: "POST", body });
  const bytes = new Uint8ClampedArray(await response.arrayBuffer()), size = bytes.length / codes.length;
  return codes.map((_, i) => toImageData(bytes.subarray(i * size, (i + 1) * size)));
}

let about, width, height;  // the description of the run, and the size of its images
const toBytes = base64 => Uint8ClampedArray.from(atob(base64), letter => letter.charCodeAt());
const toBase64 = image => btoa(Array.from(image.data, byte => String.fromCharCode(byte)).join(""));
const toImageData = bytes => new ImageData(bytes, width, height);

function paint(canvas, data) {
  if (canvas.width !== data.width) canvas.width = data.width;
  if (canvas.height !== data.height) canvas.height = data.height;
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

// The label that a conditional model is given

const isConditional = () => about.label_choices.length > 0;
const givenLabel = () => isConditional() ? $("label").selectedIndex : undefined;

function withLabel(path, ...query) {  // adds the label to the query of a request
  if (isConditional()) query.push(`label=${givenLabel()}`);
  return [path, ...(query.length ? [query.join("&")] : [])].join("?");
}

function setLabel(label) {  // to that of an image, so that its picture is its reconstruction
  if (isConditional() && label !== null) $("label").selectedIndex = about.label_choices.indexOf(labelName(label));
}

$("label").addEventListener("change", event => withErrors(async () => {  // the same codes, with another label
  showCode(z, event.timeStamp, view.point);
  await drawKept();
  await drawStrip();
}));

// The current code

let z = [];
const latencies = [];  // milliseconds from an input event to its picture
const REST = 100;  // milliseconds without an event until a draft is replaced by the picture
let pending = null, busy = false, shown = null, resting = 0;

async function showCode(code, since, point = toMap(code)) {  // `since` is the time of an event that may be one of many
  z = code;
  view.point = point;
  pending = { code, since: since ?? performance.now(), draft: about.has_drafts && since !== undefined };
  requestAnimationFrame(drawMap);
  requestAnimationFrame(updateSliders);
  $("code").textContent = code.map((value, d) => `z${d + 1}\u00a0=\u00a0${signed(value)}`).join("   ");
  await showPending();
}

async function showPending() {
  clearTimeout(resting);
  resting = 0;
  if (busy) return;
  busy = true;
  await withErrors(async () => {
    while (pending) {  // decode only the latest code, and skip those that came while the server was busy
      const { code, since, draft } = pending;
      pending = null;
      [shown] = await decode([code], draft ? shown : undefined);
      paint($("picture"), shown);
      if (since) latencies.push(performance.now() - since);
      if (draft && !pending) resting = setTimeout(() => { pending = { code }; showPending(); }, REST);
    }
  });
  busy = false;
  const last = latencies.slice(-50).sort((a, b) => a - b);
  if (last.length) $("latency").textContent = `response time: ${Math.round(last[last.length >> 1])} ms`;
}

let nActions = 0;  // responses to earlier actions are dropped

function beginAction() {  // the current code is no longer that of an image
  $("selected").hidden = true;
  $("hover").textContent = "";
  compared = null;
  showMessage("");
  return ++nActions;
}

// The map

const N_NEIGHBOURS = 12;  // dots whose codes are averaged on a UMAP map
const RING = 9, FINGER = 28, DOT = 7, DOT_BY_FINGER = 16;  // radii in CSS pixels: drawn, and to hit
const view = { middle: [0, 0], span: 1, side: 1, point: [0, 0], dots: document.createElement("canvas") };

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name);

function weightedMean(at, places, values) {  // Shepard's mean of the values at the nearest places
  const far = places.map((place, i) => [Math.hypot(...place.map((x, d) => x - at[d])), i]).sort((a, b) => a[0] - b[0]);
  const nearest = far.slice(0, N_NEIGHBOURS), edge = far[Math.min(N_NEIGHBOURS, far.length - 1)][0] || 1;
  const weights = nearest.map(([distance]) => ((edge - distance) / (edge * distance + 1e-9)) ** 2);
  const sum = weights.reduce((a, b) => a + b, 0) || 1;
  return values[0].map((_, d) => nearest.reduce((mean, [, i], n) => mean + weights[n] / sum * values[i][d], 0));
}

const toMap = code => about.plane
  ? about.plane.axes.map(axis => dot(axis, code) - dot(axis, about.plane.origin))
  : weightedMean(code, about.codes, about.points);
const toPixels = point => [0, 1].map(i => view.side * (0.5 + (i ? -1 : 1) * (point[i] - view.middle[i]) / view.span));
const fromPixels = pixels =>
  [0, 1].map(i => view.middle[i] + (i ? -1 : 1) * (pixels[i] / view.side - 0.5) * view.span);
const pixelRatio = () => view.side / $("map").clientWidth;
const toCanvas = event => [event.offsetX, event.offsetY].map(pixels => pixels * pixelRatio());

function colour(label) {  // as in latents.png
  if (label === null) return about.colours[0];
  if (about.classes.length) return about.colours[about.classes.indexOf(label)];
  const { labels, colours } = about, span = labels.at(-1) - labels[0];
  return colours[span ? Math.round((label - labels[0]) / span * (colours.length - 1)) : 0];
}

function layoutMap() {
  const ratio = window.devicePixelRatio || 1, side = Math.round($("map").clientWidth * ratio);
  view.side = side;
  for (const canvas of [$("map"), view.dots]) Object.assign(canvas, { width: side, height: side });
  const context = view.dots.getContext("2d"), radius = ratio * clamp(160 / Math.sqrt(about.points.length), 2.2, 4.5);
  context.globalAlpha = 0.65;
  about.points.forEach((point, i) => {
    context.fillStyle = colour(about.images[i][2]);
    context.beginPath();
    context.arc(...toPixels(point), radius, 0, 7);
    context.fill();
  });
  context.globalAlpha = 1;
  context.fillStyle = style("--faint");
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.fillText(about.axes[0], side / 2, side - 6 * ratio);
  context.rotate(-Math.PI / 2);
  context.fillText(about.axes[1], -side / 2, 14 * ratio);
  context.resetTransform();
  drawMap();
}

function drawMap() {
  const context = $("map").getContext("2d"), ratio = window.devicePixelRatio || 1, [x, y] = toPixels(view.point);
  context.clearRect(0, 0, view.side, view.side);
  context.drawImage(view.dots, 0, 0);
  for (const [strokeStyle, width] of [[style("--page"), 5], [style("--ink"), 2.5]]) {
    Object.assign(context, { strokeStyle, lineWidth: width * ratio });
    context.beginPath();
    context.arc(clamp(x, 0, view.side), clamp(y, 0, view.side), RING * ratio, 0, 7);
    context.stroke();
  }
}

function movePoint(point, since) {  // on a plane, only the two directions of the plane change
  const { plane, points, codes } = about, by = [0, 1].map(i => point[i] - view.point[i]);
  const shift = (value, d) => value + by[0] * plane.axes[0][d] + by[1] * plane.axes[1][d];
  beginAction();
  return showCode(plane ? z.map(shift) : weightedMean(point, points, codes), since, point);
}

function directions() {  // what the two directions of the map are
  const d = z.length;
  if (!about.plane) return `UMAP has no inverse: the ring's code is a weighted mean of the ${N_NEIGHBOURS} nearest dots.`;
  if (d === 1) return "The latent space has one dimension: only the horizontal position changes the code.";
  if (d === 2) return "The map shows both dimensions of the latent space.";
  return `The map shows 2 of ${d} directions: moving the ring does not change the other ${d - 2}.`;
}

function nearestDot([x, y], reach = DOT * pixelRatio()) {  // the index of the dot within reach, or -1
  let found = -1, best = reach * reach;
  about.points.forEach((point, i) => {
    const [px, py] = toPixels(point), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < best) [found, best] = [i, far];
  });
  return found;
}

const labelName = label => about.class_names ? about.class_names[label] : String(label);
const isLabelled = label => label !== null && (about.classes.length || about.class_names);
const caption = ([, title, label]) => isLabelled(label) ? `${title}, label ${labelName(label)}` : title;

function showHover(position) {  // the caption of the dot at this position, beside the dot
  const found = nearestDot(position);
  $("hover").textContent = found < 0 ? "" : caption(about.images[found]);
  if (found < 0) return;
  const [x, y] = toPixels(about.points[found]).map(value => value / pixelRatio()), side = $("map").clientWidth;
  const sides = x < side / 2 ? { left: `${x + 12}px`, right: "auto" } : { left: "auto", right: `${side - x + 12}px` };
  Object.assign($("hover").style, sides, { top: `${clamp(y - 12, 0, side - 24)}px` });
}

let pressed = null;  // where the pointer went down, until it has moved away
let dragging = null;  // the id of the pointer that drags the ring
const fromRing = event => {
  const [x, y] = toPixels(view.point), [px, py] = toCanvas(event);
  return Math.hypot(clamp(x, 0, view.side) - px, clamp(y, 0, view.side) - py) / pixelRatio();
};
$("map").addEventListener("pointerdown", event => {
  if (event.button || !event.isPrimary) return;
  pressed = [event.offsetX, event.offsetY];
  if (event.pointerType === "touch" && fromRing(event) > FINGER) return;  // a tap, or a finger that scrolls the page
  dragging = event.pointerId;
  $("map").setPointerCapture(event.pointerId);
  movePoint(fromPixels(toCanvas(event)), event.timeStamp);
});
$("map").addEventListener("touchstart", event => {
  if (dragging !== null) event.preventDefault();  // do not scroll while the ring is dragged
}, { passive: false });
$("map").addEventListener("pointermove", event => {
  if (event.pointerId !== dragging) {
    if (event.pointerType !== "touch") showHover(toCanvas(event));
    return;
  }
  if (pressed && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) > 3) pressed = null;
  movePoint(fromPixels(toCanvas(event)), event.timeStamp);
});
$("map").addEventListener("pointerup", event => {
  if (!event.isPrimary) return;
  const touch = event.pointerType === "touch";
  const found = pressed ? nearestDot(toCanvas(event), (touch ? DOT_BY_FINGER : DOT) * pixelRatio()) : -1;
  if (pressed && dragging === null) movePoint(fromPixels(toCanvas(event)), event.timeStamp);
  pressed = dragging = null;
  if (found >= 0) selectImage(about.images[found][0]);
});
$("map").addEventListener("pointercancel", event => { if (event.isPrimary) pressed = dragging = null; });
$("map").addEventListener("pointerleave", () => { $("hover").textContent = ""; });
$("map").addEventListener("blur", () => { $("hover").textContent = ""; });
$("map").addEventListener("keydown", event => {
  if (event.key === "Enter") selectImage(about.images[nearestDot(toPixels(view.point), Infinity)][0]);
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!by) return;
  event.preventDefault();
  const step = view.span * (event.shiftKey ? 0.1 : 0.02), now = view.point;
  movePoint([now[0] + step * by[0], now[1] + step * by[1]], event.timeStamp);
  showHover(toPixels(view.point));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (about) layoutMap(); });

// An image: of the dataset, from a file, or drawn

let referenceScores = null;  // a promise of the scores of test images, after the first request
let compared = null;  // the image that is compared with them

async function showImage(image) {
  setLabel(image.label);
  showCode(image.z);
  paint($("original"), toImageData(toBytes(image.pixels)));
  $("title").textContent = caption([, image.title, image.label]);
  $("scale").replaceChildren();
  $("selected").hidden = false;
  const likelihood = about.score === "log_px";
  const score = likelihood
    ? `log p(x${isConditional() ? "|y" : ""}) \u2248 ${signed(image.score)} nats, estimated with ${about.K} samples`
    : `squared reconstruction error: ${signed(-image.score)}`;
  $("score").textContent = `${score}; comparing\u2026`;
  compared = image;
  referenceScores ??= requestJSON("/reference_scores").catch(error => { referenceScores = null; throw error; });
  const scores = await referenceScores;
  if (compared !== image) return;
  const worse = scores.filter(score => score < image.score).length;
  const relation = likelihood ? "more likely than" : "lower than for";
  $("score").textContent = `${score}; ${relation} ${worse} of ${scores.length} test images`;
  drawScale(image.score, scores);
}

function drawScale(score, others) {
  const all = [...others, score], low = Math.min(...all), span = Math.max(...all) - low || 1;
  const mark = (value, half, name) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line"), x = 4 + 192 * (value - low) / span;
    const attributes = { x1: x, x2: x, y1: 13 - half, y2: 13 + half, class: name };
    for (const [key, value] of Object.entries(attributes)) line.setAttribute(key, value);
    return line;
  };
  $("scale").replaceChildren(...others.map(value => mark(value, 6, "reference")), mark(score, 12, "score"));
}

const selectImage = name => withErrors(async () => {
  const action = beginAction(), image = await requestJSON(`/encode/${name}`);
  if (action === nActions) await showImage(image);
});

const upload = (content, ...query) => withErrors(async () => {
  const size = (content.size / 1e6).toFixed(1), action = ++nActions;
  showMessage("");
  if (content.size > about.max_bytes) throw new Error(`${size} MB: expected at most ${about.max_bytes / 1e6} MB`);
  const image = await requestJSON(withLabel("/encode", ...query), { method: "POST", body: await content.arrayBuffer() });
  if (action !== nActions) return;
  showMessage(image.remarks.join("; "));
  await showImage(image);
});

$("file").addEventListener("change", event => {
  if (event.target.files.length) upload(event.target.files[0]);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    document.body.classList.toggle("dragged", kind === "dragover");
    if (kind !== "drop") return;
    if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
    else showMessage("this is not a file; save the picture first, then drop the file", true);
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
const isDrawing = event => $("paper").hasPointerCapture(event.pointerId);
$("paper").addEventListener("pointermove", event => { if (isDrawing(event)) stroke(event); });
$("paper").addEventListener("pointerup", event => { if (isDrawing(event)) uploadDrawing(); });
const uploadDrawing = () =>  // toDataURL is immediate, toBlob would wait until the browser is idle
  upload(new Blob([toBytes($("paper").toDataURL().split(",")[1])]), "drawn");
$("clear").addEventListener("click", clearPaper);

// The dimensions

const N_SLIDERS = 12, SLIDER_STEPS = 200;
let sliders = [];

function buildSliders() {
  sliders = about.dimensions.map(({ d, information, low, high }) => {
    const range = make("input", { type: "range", min: 0, max: SLIDER_STEPS, ariaLabel: `z${d + 1}` });
    const output = make("output");
    range.addEventListener("input", event => {
      beginAction();
      showCode(z.with(d, low + (high - low) * range.value / SLIDER_STEPS), event.timeStamp);
    });
    const amount = `${information.toFixed(2)} ${about.unit}`;
    const cell = make("span", { className: "faint information", textContent: amount });
    const row = make("div", { className: "dimension" }, `z${d + 1}`, cell, range, output);
    $("dimensions").append(row);
    return { d, low, high, range, output, row };
  });
  const explanation = about.unit === "nats"
    ? "mean KL(q(z|x) || p(z)) of the dimension, in nats: how much information about an image it carries"
    : "variance of the dimension over the codes of training images";
  $("information-help").textContent = `The number beside each name is the ${explanation}. Near 0, it is unused.`;
  $("all").textContent = `Show all ${sliders.length}`;
  $("all").hidden = sliders.length <= N_SLIDERS;
  sliders.slice(N_SLIDERS).forEach(({ row }) => { row.hidden = true; });
  $("all").addEventListener("click", () => {
    sliders.forEach(({ row }) => { row.hidden = false; });
    $("all").hidden = true;
    sliders[N_SLIDERS].range.focus();
  });
}

function updateSliders() {
  for (const { d, low, high, range, output } of sliders) {
    range.value = Math.round(SLIDER_STEPS * (z[d] - low) / (high - low));
    range.ariaValueText = output.textContent = signed(z[d]);
  }
}

const showSample = () => withErrors(async () => {
  const action = beginAction(), code = await requestJSON(withLabel("/sample"));
  if (action === nActions) await showCode(code);
});
const reset = () => { beginAction(); showCode(about.mean_code); };

// Fusion of two images

function buildPicker(root, name, choose) {
  const thumbnail = make("img", { alt: "", hidden: true });
  const list = make("ul", { id: `${name}-list`, role: "listbox", hidden: true, ariaLabel: `images for the ${name}` });
  const input = make("input", {
    type: "text", role: "combobox", autocomplete: "off", spellcheck: false, placeholder: "name or number",
    ariaLabel: `the ${name} image`, ariaExpanded: "false", ariaAutoComplete: "list",
  });
  input.setAttribute("aria-controls", list.id);
  root.className = "picker";
  root.append(thumbnail, input, list);
  let nSearches = 0, marked = -1, results = [], chosen = "", latest = null;

  function close() {
    nSearches++;
    list.hidden = true;
    input.ariaExpanded = "false";
    input.removeAttribute("aria-activedescendant");
  }
  function pick([id, title, label]) {
    input.value = chosen = title;
    Object.assign(thumbnail, { src: imageURL(id), hidden: false });
    close();
    return choose(id, label);
  }
  function mark(i) {
    marked = i;
    [...list.children].forEach((node, n) => node.setAttribute("aria-selected", String(n === i)));
    if (i >= 0) input.setAttribute("aria-activedescendant", list.children[i].id);
  }
  async function search() {
    const number = ++nSearches, found = await requestJSON(`/search?q=${encodeURIComponent(input.value)}`);
    if (number !== nSearches) return;
    results = found;
    list.replaceChildren(...results.map((entry, i) => {
      const image = make("img", { src: imageURL(entry[0]), alt: "" });
      const node = make("li", { role: "option", id: `${list.id}-${i}` }, image, caption(entry));
      node.addEventListener("pointerdown", event => { event.preventDefault(); withErrors(() => pick(entry)); });
      return node;
    }));
    if (!results.length) list.append(make("li", { role: "option", ariaDisabled: "true", textContent: "no match" }));
    list.hidden = false;
    input.ariaExpanded = "true";
    mark(results.length ? 0 : -1);
  }
  const startSearch = () => { latest = withErrors(search); };
  input.addEventListener("input", startSearch);
  input.addEventListener("focus", () => { input.select(); startSearch(); });
  input.addEventListener("click", () => { if (list.hidden) startSearch(); });
  input.addEventListener("blur", () => { close(); input.value = chosen; });
  input.addEventListener("keydown", event => {
    if (event.key === "Escape") close();
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by) event.preventDefault();
    if (by && list.hidden) startSearch();
    else if (by && results.length) mark((marked + by + results.length) % results.length);
    if (event.key === "Enter") withErrors(async () => {
      await latest;  // the results for the current text
      if (!list.hidden && results[marked]) await pick(results[marked]);
    });
  });
  return pick;
}

const parents = {}, N_THUMBNAILS = 5;
let path = [];  // the codes from the first image to the second

async function fuse() {
  const { first, second } = parents;
  if (!first || !second) return;
  const action = beginAction(), codes = await requestJSON(`/interpolate?first=${first}&second=${second}`);
  if (first !== parents.first || second !== parents.second) return;
  path = codes;
  Object.assign($("fraction"), { max: codes.length - 1, value: (codes.length - 1) / 2, disabled: false });
  await drawStrip();
  if (action === nActions) await showFraction();
}

async function drawStrip() {
  if (!path.length) return;
  const codes = path, last = codes.length - 1;
  const stops = Array.from({ length: N_THUMBNAILS }, (_, i) => Math.round(i * last / (N_THUMBNAILS - 1)));
  const thumbnails = await decode(stops.map(stop => codes[stop]));
  if (codes !== path) return;
  $("strip").replaceChildren(...thumbnails.map((data, i) => {
    const percent = Math.round(100 * stops[i] / last);
    const button = make("button", { ariaLabel: `${percent} % of the second image` }, paint(make("canvas"), data));
    button.addEventListener("click", event => { $("fraction").value = stops[i]; showFraction(event.timeStamp); });
    return button;
  }));
}

function showFraction(since) {
  beginAction();
  const { value, max } = $("fraction");
  $("fraction").ariaValueText = `${Math.round(100 * value / max)} % of the second image`;
  return showCode(path[value], since);
}
$("fraction").addEventListener("input", event => showFraction(event.timeStamp));

const pickers = ["first", "second"].map(name =>
  buildPicker($(name), name, (id, label) => {
    parents[name] = id;
    if (name === "first") setLabel(label);
    return fuse();
  }));

async function chooseRandomPair() {
  const n = about.images.length, one = Math.floor(Math.random() * n), other = one + 1 + Math.floor(Math.random() * (n - 1));
  delete parents.second;
  await pickers[0](about.images[one]);
  await pickers[1](about.images[other % n]);
}

// Kept codes, which this browser stores per run

let kept = [];

function loadKept() {  // an empty list if the stored value is missing, forbidden or damaged
  const isCode = code => code.length === z.length && code.every(Number.isFinite);
  try {
    return JSON.parse(localStorage.getItem(about.storageKey)).filter(isCode);
  } catch {
    return [];
  }
}

async function drawKept() {
  const codes = kept, pictures = [];
  for (let i = 0; i < codes.length; i += 64) pictures.push(...await decode(codes.slice(i, i + 64)));
  if (codes !== kept) return;
  $("favourites").replaceChildren(...pictures.map((data, i) => {
    const canvas = paint(make("canvas"), data);
    const use = make("button", { className: "use", ariaLabel: `show kept picture ${i + 1}` }, canvas);
    const remove = make("button", { className: "remove", ariaLabel: `remove kept picture ${i + 1}` }, "\u00d7");
    use.addEventListener("click", () => { beginAction(); showCode(codes[i]); });
    remove.addEventListener("click", () => setKept(kept.filter(code => code !== codes[i])));
    return make("figure", {}, use, remove);
  }));
  $("kept").hidden = !kept.length;
}

const setKept = codes => withErrors(async () => {
  kept = codes;
  await drawKept();
  try {
    localStorage.setItem(about.storageKey, JSON.stringify(kept));
  } catch {
    return "kept only until this page is closed, because the browser cannot store it";
  }
});
addEventListener("storage", event => {  // another tab has changed the list
  if (event.key !== about?.storageKey) return;
  kept = loadKept();
  withErrors(drawKept);
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
  const page = make("canvas", { width: columns * w + gap, height: rows * h + gap }), context = page.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, page.width, page.height);
  context.imageSmoothingEnabled = false;
  document.querySelectorAll("#favourites canvas").forEach((canvas, i) => context.drawImage(
    canvas, gap + i % columns * w, gap + Math.floor(i / columns) * h, width * zoom, height * zoom));
  page.toBlob(blob => download(blob, "pictures.png"));
});

// Buttons, keys, tabs

$("random").addEventListener("click", showSample);
$("reset").addEventListener("click", reset);
$("keep").addEventListener("click", () => setKept([...kept, z]));
$("pair").addEventListener("click", () => withErrors(chooseRandomPair));
document.addEventListener("keydown", event => {
  if (event.target.matches("[type=text]") || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  ({ r: showSample, 0: reset, k: () => $("keep").click() })[event.key]?.();
});

const tabs = [...document.querySelectorAll("[role=tab]")];
function openTab(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = tabs[(i + by + tabs.length) % tabs.length];
    openTab(next);
    next.focus();
  });
});

async function start() {
  about = await requestJSON("/about");
  [, height, width] = about.shape;
  about.storageKey = `vae ${about.run}`;
  about.labels = about.images.map(([, , label]) => label).filter(label => label !== null).sort((a, b) => a - b);
  const ranges = [0, 1].map(i => about.points.map(point => point[i]).sort((a, b) => a - b));
  view.middle = ranges.map(range => (range[0] + range.at(-1)) / 2);
  view.span = 1.12 * Math.max(...ranges.map(range => range.at(-1) - range[0])) || 1;
  document.title = document.querySelector("h1").textContent = about.title;
  $("run").textContent = about.run;
  $("legend").replaceChildren(...about.classes.map(label => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colour(label);
    return make("span", {}, swatch, labelName(label));
  }));
  $("label").replaceChildren(...about.label_choices.map(name => make("option", { textContent: name })));
  $("given").hidden = !isConditional();
  $("drawing").hidden = !about.background;
  clearPaper();
  z = about.mean_code;
  view.point = toMap(z);
  $("map-directions").textContent = directions();
  buildSliders();
  new ResizeObserver(layoutMap).observe($("map"));
  kept = loadKept();
  await drawKept();
  selectImage(about.images[0][0]);
  document.body.dataset.ready = "";
}
withErrors(start);
