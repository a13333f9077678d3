// The page of `planner ui`: a form, one question that follows it, and the answer as it comes in.
// State is the form; the address has all of it. Text of others is only ever set as textContent.
"use strict";
(() => {
const $ = id => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const GIB = 2 ** 30;
const CLIENT = crypto.randomUUID();
const PATIENCE = 400; // milliseconds
const LONGEST_LINK = 6000; // characters of pasted text that a link carries
const FITS = {yes: "Fits", slow: "Fits, but slowly", no: "Does not fit", "not said": "Not said"};

const rounded = (from, to, step, unit) => { // values in quarter octaves
  const values = [];
  for (let at = Math.log2(from); at <= Math.log2(to) + 1e-9; at += step) {
    values.push(Math.max(unit, Math.round(2 ** at / unit) * unit));
  }
  return [...new Set(values)];
};
const SLIDERS = {
  samples: {label: "Samples", stops: rounded(8, 4096, 0.25, 4)},
  seq_len: {label: "Tokens in each", stops: rounded(128, 32768, 0.25, 64)},
  batch_size: {label: "Samples in a batch", stops: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]},
  ram: {label: "RAM, GiB", stops: rounded(8, 4096, 0.5, 4)},
};
const NUMBERS = {images: "Images in each", "image-height": "Height", "image-width": "Width", gpus: "Number of cards", ranks: "Ranks"};
const LABELS = {disk: "Free disk, GiB", ...NUMBERS, ...Object.fromEntries(Object.entries(SLIDERS).map(([name, {label}]) => [name, label]))};
const OTHER_SIZE = "size";

let choices = null;   // what the server offers
let first = {};       // what the plain numbers begin with
let changes = {};     // fields of the job that a strategy changed, beside the form's own
let asking = null;    // the AbortController of the question under way
let shownPlan = null; // the last whole plan
let later = null;     // timer of a question that waits for the one before it
let isJudged = false; // the question under way has its verdict
let began = 0;        // when it was asked

// ---------------------------------------------------------------- the form
function buildSliders() {
  for (const box of document.querySelectorAll(".ui-slide[data-field]")) {
    const name = box.dataset.field, {label, stops} = SLIDERS[name], max = choices.limits[name];
    const slider = make("input", {type: "range", id: `${name}-slider`, min: 0, max: stops.length - 1, step: 1});
    const number = make("input", {type: "number", id: name, min: 1, max, step: name === "ram" ? "any" : 1, inputMode: "numeric"});
    slider.setAttribute("aria-label", `${label}, slider`);
    number.setAttribute("aria-describedby", "error");
    number.value = choices.start[name];
    box.append(make("label", {htmlFor: name, textContent: label}), number, slider);
    slider.addEventListener("input", () => { number.value = stops[slider.value]; follow(slider, name); moved(false); });
    slider.addEventListener("change", () => moved(true));
    number.addEventListener("input", () => { toSlider(name); moved(false); });
    number.addEventListener("change", () => moved(true));
    toSlider(name);
  }
}
function follow(slider, name) {
  slider.setAttribute("aria-valuetext", `${$(name).value}${name === "ram" ? " GiB" : ""}`);
  slider.style.setProperty("--at", `${100 * slider.value / slider.max}%`);
}
function toSlider(name) {
  const {stops} = SLIDERS[name], value = Number($(name).value), slider = $(`${name}-slider`);
  let nearest = 0;
  stops.forEach((stop, index) => { if (Math.abs(stop - value) < Math.abs(stops[nearest] - value)) nearest = index; });
  slider.value = nearest;
  follow(slider, name);
}
function fillChoices() {
  $("version").textContent = choices.llmcompressor;
  $("recipe").append(...choices.recipes.map(each => make("option", {value: each.name, textContent: each.name})));
  const cards = [...choices.gpus].sort((a, b) => a.gib - b.gib || a.name.localeCompare(b.name));
  $("gpu").append(...cards.map(each => make("option", {value: each.name, textContent: `${each.name} (${each.gib.toFixed(1)} GiB)`})));
  $("gpu").append(make("option", {value: OTHER_SIZE, textContent: "another size ..."}));
}
function hints() {
  const preset = choices.models.find(each => each.name === $("model").value.trim().toLowerCase());
  const billions = preset && `${preset.title}, ${(preset.parameters / 1e9).toFixed(1)} billion parameters`;
  $("model-hint").textContent = pasted("config") ? "the pasted config below is planned" : billions || "from the Hub: its config.json alone is downloaded";
  const recipe = choices.recipes.find(each => each.name === $("recipe").value);
  $("recipe-hint").textContent = pasted("yaml") ? "the pasted recipe below is planned" : recipe ? recipe.summary : "";
  $("size-box").hidden = $("gpu").value !== OTHER_SIZE;
  $("ranks-box").hidden = !(Number($("gpus").value) > 1 || Number($("ranks").value) > 1);
  $("second-box").hidden = !(Number($("gpus").value) > 1 || radio("offload_device") === "gpu:1");
  showChips();
}
const pasted = id => $(`${id}-box`).open && $(id).value.trim() !== "";
const radio = name => document.querySelector(`input[name="${name}"]:checked`).value;
const pick = (name, value) => {
  const found = [...document.getElementsByName(name)].find(each => each.value === value);
  if (found) found.checked = true;
};

// ---------------------------------------------------------------- the list of models
function buildCombo() {
  const input = $("model"), list = $("models");
  let at = -1;
  const options = () => [...list.children];
  const open = isAll => {
    const typed = isAll ? "" : input.value.trim().toLowerCase();
    const found = choices.models.filter(each => `${each.name} ${each.title}`.toLowerCase().includes(typed));
    list.replaceChildren(...found.map((each, index) => {
      const option = make("li", {id: `model-${index}`, textContent: each.name}, make("small", {textContent: `${(each.parameters / 1e9).toFixed(1)} B`}));
      option.setAttribute("role", "option");
      option.dataset.name = each.name;
      option.setAttribute("aria-selected", String(each.name === input.value));
      option.addEventListener("pointerdown", event => { event.preventDefault(); choose(option); });
      return option;
    }));
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(-1);
    options().find(each => each.ariaSelected === "true")?.scrollIntoView({block: "nearest"});
  };
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const mark = index => {
    at = index;
    options().forEach((each, place) => each.classList.toggle("ui-marked", place === at));
    const marked = options()[at];
    if (marked) { input.setAttribute("aria-activedescendant", marked.id); marked.scrollIntoView({block: "nearest"}); }
    else input.removeAttribute("aria-activedescendant");
  };
  const anew = () => { $("config-box").open = false; close(); moved(true); };
  const choose = option => { if (option.dataset.name !== input.value) $("images").value = 0; input.value = option.dataset.name; anew(); };
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => open(true));
  input.addEventListener("input", () => open(false));
  input.addEventListener("blur", close);
  input.addEventListener("change", () => { $("images").value = 0; anew(); });
  input.addEventListener("keydown", event => {
    const count = options().length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open(true);
      else mark((at + (event.key === "ArrowDown" ? 1 : -1) + count) % count);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!list.hidden && at >= 0) choose(options()[at]);
      else anew();
    } else if (event.key === "Escape") close();
  });
}

// ---------------------------------------------------------------- state and address
function state() {
  const form = {model: $("model").value.trim(), recipe: $("recipe").value, gpu: $("gpu").value,
    weights: radio("weights"), offload_device: radio("offload_device")};
  if (form.gpu === OTHER_SIZE) form.gpu = `${$("size").value}GiB`;
  for (const name of Object.keys(SLIDERS)) form[name] = $(name).value;
  if ($("disk").value.trim()) form.disk = $("disk").value;
  for (const name of Object.keys(NUMBERS)) if ($(name).value !== String(first[name])) form[name] = $(name).value;
  if (pasted("config")) form.config = $("config").value;
  if (pasted("yaml")) form.yaml = $("yaml").value;
  if (Object.keys(changes).length) form.with = JSON.stringify(changes);
  return form;
}
function address(form) {
  const texts = ["config", "yaml"].filter(name => form[name]);
  const query = new URLSearchParams(form);
  if (texts.reduce((sum, name) => sum + form[name].length, 0) > LONGEST_LINK) texts.forEach(name => query.set(name, "@here"));
  return `?${query}`;
}
function restore(form) {
  $("model").value = form.model ?? choices.start.model;
  $("recipe").value = form.recipe ?? choices.start.recipe;
  const card = form.gpu ?? choices.start.gpu, size = /^([\d.]+)GiB$/.exec(card);
  $("gpu").value = size ? OTHER_SIZE : card;
  if (size) $("size").value = size[1];
  if (!$("gpu").value) $("gpu").value = choices.start.gpu;
  if (!$("recipe").value) $("recipe").value = choices.start.recipe;
  $("disk").value = form.disk ?? "";
  pick("weights", choices.start.weights);
  pick("weights", form.weights);
  pick("offload_device", choices.start.offload_device);
  pick("offload_device", form.offload_device);
  for (const name of Object.keys(SLIDERS)) { $(name).value = form[name] ?? choices.start[name]; toSlider(name); }
  for (const name of Object.keys(NUMBERS)) $(name).value = form[name] ?? first[name];
  if (Number($("images").value)) $("images-box").hidden = false;
  for (const name of ["config", "yaml"]) {
    $(`${name}-box`).open = Boolean(form[name]);
    if (form[name]) $(name).value = form[name] === "@here" ? sessionStorage.getItem(name) ?? "" : form[name];
  }
  changes = {};
  try { changes = Object.fromEntries(Object.entries(JSON.parse(form.with ?? "{}") ?? {})); } catch { /* a link that somebody cut */ }
  lost = ["config", "yaml"].find(name => form[name] === "@here" && !$(name).value);
  hints();
}
const fromAddress = () => Object.fromEntries(new URLSearchParams(location.search));
function remember(isDone) {
  const form = state(), url = address(form);
  for (const name of ["config", "yaml"]) if (form[name]) try { sessionStorage.setItem(name, form[name]); } catch { /* too large: kept in the field */ }
  if (isDone && url !== committed) { history.pushState(null, "", url); committed = url; }
}
let committed = null;
let lost = null; // the pasted text that a link stands for, and that is not in this tab

function moved(isDone) {
  if (lost && ($(lost).value || !$(`${lost}-box`).open)) lost = null;
  hints();
  remember(isDone);
  // while something moves, each question gets a moment for its verdict, so that the page follows
  clearTimeout(later);
  const left = asking && !isJudged ? PATIENCE - (performance.now() - began) : 0;
  if (left > 0) later = setTimeout(ask, left);
  else ask();
}

// ---------------------------------------------------------------- the question
function question() {
  const form = state(), job = {};
  for (const name of ["samples", "seq_len", "batch_size"]) job[name] = wholeNumber(name);
  for (const name of ["images", "ranks"]) if (form[name] !== undefined) job[name] = wholeNumber(name, name === "images" ? 0 : 1);
  if (job.images) job.image_size = [wholeNumber("image-height"), wholeNumber("image-width")];
  const {one_by_one: oneByOne = false, ...others} = changes;
  return {
    client: CLIENT,
    model: form.config ? {config: form.config} : {name: form.model},
    recipe: form.yaml ? {text: form.yaml} : {name: form.recipe},
    job: {...job, weights: form.weights, offload_device: form.offload_device, ...others},
    gpu: form.gpu, gpus: form.gpus === undefined ? null : wholeNumber("gpus"), ram_gib: number("ram"), disk_gib: form.disk ? number("disk") : null, one_by_one: oneByOne,
  };
}
function number(name, least = Number.MIN_VALUE) {
  const value = Number($(name).value);
  if ($(name).value.trim() === "" || !Number.isFinite(value) || value < least) throw new BadInput(name, `${LABELS[name]}: write a number ${least === 0 ? "from 0 on" : "above 0"}`);
  return value;
}
function wholeNumber(name, least) {
  const value = number(name, least);
  if (!Number.isInteger(value)) throw new BadInput(name, `${LABELS[name]}: write a whole number`);
  return value;
}
class BadInput extends Error {
  constructor(field, text) { super(text); this.field = field; }
}

async function ask() {
  clearTimeout(later);
  later = null;
  if (asking) asking.abort();
  const own = asking = new AbortController();
  let body;
  if (lost) { fail("What was pasted is too long for a link, and is not in this tab: paste it again", lost); return; }
  try { body = JSON.stringify(question()); } catch (error) { fail(error.message, error.field); return; }
  began = performance.now();
  isJudged = false;
  wait();
  try {
    const response = await fetch("/api/plan", {method: "POST", headers: {"Content-Type": "application/json"}, body, signal: own.signal});
    if (!response.ok) { fail((await response.json()).error); return; }
    for await (const line of lines(response.body)) {
      if (own !== asking) return;
      show(line, performance.now() - began);
      isJudged ||= line.kind !== "progress";
      if (isJudged && later) { ask(); return; }
    }
  } catch (error) {
    if (own === asking && error.name !== "AbortError") fail("the server does not answer: is `planner ui` still running?");
  } finally {
    if (own === asking) rest();
  }
}
async function* lines(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += decoder.decode(value, {stream: true});
    const parts = text.split("\n");
    text = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

// ---------------------------------------------------------------- waiting and errors
let clock = null;
function wait() {
  document.body.dataset.state = "asking";
  rows = null;
  $("way").hidden = true;
  clearInterval(clock);
  clock = setInterval(() => {
    const seconds = (performance.now() - began) / 1000;
    $("progress").textContent = seconds > 0.6 ? `${doing}, ${seconds.toFixed(0)} s` : "";
    $("cancel").hidden = seconds < 1.5;
  }, 200);
}
let doing = "asking";
function rest() {
  clearInterval(clock);
  asking = null;
  $("progress").textContent = "";
  $("cancel").hidden = true;
  if (document.body.dataset.state === "asking") document.body.dataset.state = "done";
}
const titled = text => { document.title = `${text}: ${pasted("config") ? "config.json" : $("model").value.trim()}`; };
function fail(text, field = null) {
  rest();
  titled("Cannot be planned");
  document.body.dataset.state = "failed";
  $("error").textContent = text;
  $("error").hidden = false;
  $("verdict").dataset.fits = "error";
  $("way").hidden = true;
  $("badge").textContent = "Cannot be planned";
  $("answer").textContent = shownPlan ? "below is the last plan that could" : "";
  document.querySelectorAll("[aria-invalid]").forEach(each => each.removeAttribute("aria-invalid"));
  if (field) $(field).setAttribute("aria-invalid", "true");
}
function succeed() {
  $("error").hidden = true;
  document.querySelectorAll("[aria-invalid]").forEach(each => each.removeAttribute("aria-invalid"));
  document.body.dataset.state = "asking";
}

// ---------------------------------------------------------------- the answer
const SHOW = {
  progress: line => { doing = line.text; },
  verdict: line => { succeed(); showVerdict(line); },
  plan: line => { succeed(); showVerdict(line); showPlan(line); },
  smallest: line => { showVerdict(line); showPlan(line); },
  picture: line => { showPicture(line); },
  choice: line => { addWay(line.choice, line.missing); },
  card: line => { showCard(line); },
  strategies: line => { orderWays(line.order); },
  error: line => { fail(line.text); },
};
function show(line, milliseconds) {
  SHOW[line.kind]?.(line);
  document.body.dataset[`${line.kind}Ms`] = Math.round(milliseconds);
}
function showVerdict(line) {
  $("verdict").dataset.fits = line.fits;
  $("way").hidden = true;
  $("badge").textContent = FITS[line.fits];
  // yes and no are the badge, and what nobody said is a bar without a line
  const text = line.answer.replace(/^(YES, BUT SLOWLY|YES|NO): /, "").replace(/ \(not said: [^)]*\)$/, "");
  titled(FITS[line.fits]);
  $("answer").textContent = line.draft && text.includes("GPU") ? `${text} (the smallest card is being looked for)` : text;
  $("bars").replaceChildren(...line.demands.map(bar));
  const facts = line.header.filter(([name]) => name !== "method").map(([, text]) => text);
  $("facts").textContent = [...facts, line.words?.result].filter(Boolean).join(" · ");
}
function bar(demand) {
  const has = demand.has_bytes, full = Math.max(demand.needs_bytes, demand.at_least_bytes, has ?? 0) || 1;
  const percent = bytes => `${Math.min(100, 100 * bytes / full)}%`;
  const must = make("i", {className: "ui-must"}), more = make("i", {className: "ui-more"}), mark = make("i", {className: "ui-has"});
  must.style.width = percent(Math.min(demand.at_least_bytes, demand.needs_bytes));
  more.style.width = percent(demand.needs_bytes);
  const track = make("span", {className: "ui-track"}, more, must);
  track.setAttribute("aria-hidden", "true");
  if (has) { mark.style.left = percent(has); track.append(mark); }
  if (has === null) track.replaceChildren();
  const size = bytes => `${(bytes / GIB).toLocaleString("en", {maximumFractionDigits: 1})} GiB`;
  const sizes = make("span", {className: "ui-sizes", textContent: `${size(demand.needs_bytes)}${has === null ? " of ?" : ` of ${size(has)}`}`});
  const row = make("li", {title: demand.words}, make("b", {textContent: demand.resource}), track, sizes, make("span", {className: "ui-hidden", textContent: demand.words}));
  row.dataset.outcome = demand.outcome;
  return row;
}
function showPlan(line) {
  const {call, command, notes} = line.words;
  shownPlan = {plan: line.plan, words: line.words};
  $("python").textContent = call;
  $("command").textContent = command;
  $("notes-box").hidden = !notes.length;
  $("notes").replaceChildren(...notes.map(text => make("li", {textContent: text})));
  if (!line.entry) return; // the smallest card came, nothing else is new
  $("images-box").hidden = !line.vision && !Number($("images").value);
  showPicture(line); // peaks of the steps, until the picture comes
}
function showPicture({entry, options}) {
  plannerReport($("chart"), {plans: [{...shownPlan, ...entry}], options});
}

// ---------------------------------------------------------------- strategies
let rows = null; // of the answer that comes in; null until its first
function addWay(choice, missing) {
  if (!rows) { rows = new Map(); $("ways").tBodies[0].replaceChildren(); }
  const demand = name => choice.demands.find(each => each.resource === name);
  const gib = (name, field) => demand(name) ? (demand(name)[field] / GIB).toFixed(2) + (demand(name).what.startsWith("an estimate") ? "~" : "") : "-";
  const name = make("th", {scope: "row", textContent: choice.strategy});
  if (!choice.is_same_result) name.append(make("small", {textContent: " another result"}));
  const cells = [FITS[choice.fits], demand("GPU") ? `≤ ${gib("GPU", "needs_bytes")}` : "-", gib("RAM", "needs_bytes"), ((choice.moved_to_gpu_bytes + choice.moved_from_gpu_bytes) / 1e9).toFixed(0), missing];
  const row = make("tr", {}, name, ...cells.map(textContent => make("td", {textContent})));
  ["card GiB", "RAM GiB", "moved GB"].forEach((title, index) => { row.children[index + 2].dataset.title = title; });
  row.dataset.fits = choice.fits;
  const use = make("button", {type: "button", textContent: "Use"});
  use.setAttribute("aria-label", `Use ${choice.strategy}`);
  use.addEventListener("click", () => apply(choice));
  const isAsked = !Object.keys(choice.changes).length && !Object.keys(choice.recipe_changes).length;
  row.append(make("td", {}, ...(isAsked ? [] : [use])));
  if (isAsked) row.classList.add("ui-asked");
  rows.set(choice.strategy, row);
  $("ways").tBodies[0].append(row);
}
function showCard({strategy, bytes}) {
  const row = rows?.get(strategy);
  if (row) row.children[2].textContent = bytes ? (bytes / GIB).toFixed(2) : "-";
}
function orderWays(order) {
  if (!rows) return;
  $("ways").tBodies[0].replaceChildren(...order.map(name => rows.get(name)).filter(Boolean));
  if ($("verdict").dataset.fits !== "no") return;
  const best = rows.get(order[0]), fits = ["yes", "slow"].includes(best.dataset.fits);
  $("way-text").textContent = fits ? `It fits this way: ${order[0]}` : "No other way to run it fits either";
  $("way-use").hidden = !fits;
  $("way-use").onclick = () => best.querySelector("button").click();
  $("way").hidden = false;
}
function apply(choice) {
  const {weights, offload_device: offload, samples, seq_len: length, batch_size: batch, ranks, ...others} = choice.changes;
  if (ranks !== undefined) $("ranks").value = ranks;
  pick("weights", weights);
  pick("offload_device", offload);
  for (const [name, value] of Object.entries({samples, seq_len: length, batch_size: batch})) {
    if (value !== undefined) { $(name).value = value; toSlider(name); }
  }
  changes = {...changes, ...others};
  if (Object.keys(choice.recipe_changes).length) changes.one_by_one = true;
  for (const [name, value] of Object.entries(changes)) if (value === null) delete changes[name];
  moved(true);
  $("verdict").scrollIntoView({block: "nearest"});
}
function showChips() {
  $("chips").replaceChildren(...Object.entries(changes).map(([name, value]) => {
    const text = name === "one_by_one" ? "GPTQ one module at a time" : `${name.replaceAll("_", " ")}: ${Array.isArray(value) ? value.join(", ") : value}`;
    const drop = make("button", {type: "button", textContent: "×"});
    drop.setAttribute("aria-label", `Without ${text}`);
    drop.addEventListener("click", () => { delete changes[name]; moved(true); });
    return make("li", {textContent: text}, drop);
  }));
}

// ---------------------------------------------------------------- start
async function copy(text, said) {
  try { await navigator.clipboard.writeText(text); said("copied"); } catch { said("could not copy"); }
}
function listen() {
  for (const name of ["recipe", "gpu"]) $(name).addEventListener("change", () => { if (name === "recipe") $("yaml-box").open = false; moved(true); });
  for (const name of ["size", "disk", ...Object.keys(NUMBERS)]) {
    $(name).addEventListener("input", () => moved(false));
    $(name).addEventListener("change", () => moved(true));
  }
  for (const name of ["weights", "offload_device"]) document.getElementsByName(name).forEach(each => each.addEventListener("change", () => { delete changes.ram_for_weights_bytes; moved(true); }));
  for (const name of ["config", "yaml"]) {
    $(name).addEventListener("input", () => moved(false));
    $(name).addEventListener("change", () => moved(true));
    $(`${name}-box`).addEventListener("toggle", () => { if ($(name).value.trim()) moved(true); });
  }
  $("form").addEventListener("submit", event => event.preventDefault());
  $("cancel").addEventListener("click", () => { asking?.abort(); rest(); $("progress").textContent = "stopped"; });
  $("reset").addEventListener("click", () => { restore({}); moved(true); });
  $("share").addEventListener("click", () => copy(location.href, text => { $("shared").textContent = text; }));
  document.querySelectorAll("[data-copy]").forEach(button => button.addEventListener("click", () => copy($(button.dataset.copy).textContent, text => { button.textContent = text; })));
  window.addEventListener("popstate", () => { committed = location.search; restore(fromAddress()); ask(); });
}
async function start() {
  try { choices = await (await fetch("/api/choices")).json(); } catch { fail("the server does not answer: is `planner ui` still running?"); return; }
  buildSliders();
  const {images, ranks, image_size: [high, wide]} = choices.start;
  first = {images, "image-height": high, "image-width": wide, gpus: 1, ranks};
  fillChoices();
  buildCombo();
  listen();
  restore(fromAddress());
  committed = address(state());
  history.replaceState(null, "", committed);
  ask();
}
start();
})();
