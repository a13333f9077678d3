// The answer as it comes in: verdict, charts, other ways.
const SHOW = {
  progress: line => { doing = line.text; },
  verdict: line => { succeed(); showVerdict(line); },
  plan: line => { succeed(); showVerdict(line); showPlan(line); },
  smallest: line => { showVerdict(line); showPlan(line); },
  picture: line => { showPicture(line); },
  choice: line => { addWay(line.choice, line.missing); },
  card: line => { showCard(line); },
  idle: line => { leaveOut(line); },
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
  const there = has === null ? " of ?" : demand.at_least_bytes && demand.gpus > demand.has_gpus ? `, ${demand.has_gpus} of ${demand.gpus} GPUs` : ` of ${size(has)}`;
  const sizes = make("span", {className: "ui-sizes", textContent: `${size(demand.needs_bytes)}${there}`});
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
  if (!rows) { rows = new Map(); $("ways").tBodies[0].replaceChildren(); $("idle").hidden = true; }
  const row = wayRow(choice, missing);
  rows.set(choice.strategy, row);
  $("ways").tBodies[0].append(row);
}
function wayRow(choice, missing, card) {
  const demand = name => choice.demands.find(each => each.resource === name);
  const gib = (name, field) => demand(name) ? (demand(name)[field] / GIB).toFixed(2) + (demand(name).what.startsWith("an estimate") ? "~" : "") : "-";
  const name = make("th", {scope: "row", textContent: choice.strategy});
  if (!choice.is_same_result) name.append(make("small", {textContent: " another result"}));
  const cells = [FITS[choice.fits], cardCell(demand("GPU"), card), gib("RAM", "needs_bytes"), ((choice.moved_to_gpu_bytes + choice.moved_from_gpu_bytes) / 1e9).toFixed(0), missing];
  const row = make("tr", {}, name, ...cells.map(textContent => make("td", {textContent})));
  ["card GiB", "RAM GiB", "moved GB"].forEach((title, index) => { row.children[index + 2].dataset.title = title; });
  row.dataset.fits = choice.fits;
  const use = make("button", {type: "button", textContent: "Use"});
  use.setAttribute("aria-label", `Use ${choice.strategy}`);
  use.addEventListener("click", () => apply(choice));
  const isAsked = !Object.keys(choice.changes).length && !Object.keys(choice.recipe_changes).length;
  row.append(make("td", {}, ...(isAsked ? [] : [use])));
  if (isAsked) row.classList.add("ui-asked");
  return row;
}
function cardCell(gpu, card) { // what is reserved with room is enough; the smallest card comes later
  const bytes = card ?? gpu?.needs_bytes;
  return bytes && gpu ? `${card === undefined ? "≤ " : ""}${(bytes / GIB).toFixed(2)}` : "-";
}
function showCard({choice, bytes, missing}) {
  const before = rows?.get(choice.strategy), row = wayRow(choice, missing, bytes);
  if (!before) return;
  if (before.contains(document.activeElement)) requestAnimationFrame(() => row.querySelector("button")?.focus());
  before.replaceWith(row);
  rows.set(choice.strategy, row);
}
function leaveOut({names, notes}) { // what changes nothing is a sentence, no row
  for (const name of names) rows?.get(name)?.remove();
  $("idle").textContent = notes.join(" ");
  $("idle").hidden = !notes.length;
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
