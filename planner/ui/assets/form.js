// The form, the list of models, and the address that has all of the form; text of others is only ever textContent.
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

const SLIDERS = {samples: "Samples", seq_len: "Tokens in each", batch_size: "Samples in a batch", ram: "RAM, GiB"};
const NUMBERS = {images: "Images in each", "image-height": "Height", "image-width": "Width", gpus: "Number of cards", ranks: "Ranks"};
const LABELS = {disk: "Free disk, GiB", ...NUMBERS, ...SLIDERS};
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
    const name = box.dataset.field, label = SLIDERS[name], stops = choices.stops[name], max = choices.limits[name];
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
  const stops = choices.stops[name], value = Number($(name).value), slider = $(`${name}-slider`);
  let nearest = 0;
  stops.forEach((stop, index) => { if (Math.abs(stop - value) < Math.abs(stops[nearest] - value)) nearest = index; });
  slider.value = nearest;
  follow(slider, name);
}
function fillChoices() {
  $("version").textContent = choices.llmcompressor;
  $("recipe").append(...choices.recipes.map(each => make("option", {value: each.name, textContent: each.name})));
  $("gpu").append(...choices.gpus.map(each => make("option", {value: each.name, textContent: `${each.name} (${each.gib.toFixed(1)} GiB)`})));
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
