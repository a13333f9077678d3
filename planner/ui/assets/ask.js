// One question that follows the form, waiting for it, and errors.
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
