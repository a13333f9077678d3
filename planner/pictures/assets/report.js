// All that a reader sees of plans, and how he moves in it.
class Report {
  constructor(element, data, kept) {
    this.element = element;
    this.options = data.options || {};
    const names = this.options.parts || ["weights", "activations", "Hessians", "workspace", "observers", "activation cache", "other tensors"];
    this.jobs = data.plans.map(entry => new Job(entry, names));
    this.key_ = `planner-${++numbers}`;
    this.chosen = Math.min(kept.chosen || 0, this.jobs.length - 1);
    this.toScale = Boolean(kept.toScale);
    this.device = this.job.devices.includes(kept.device) ? kept.device : "gpu";
    this.start(kept);
    this.build();
  }
  get job() { return this.jobs[this.chosen]; }
  get kept() { return { atPeak: this.x === this.job.highest(this.job.peak(this.device).peak_step, this.device), chosen: this.chosen, device: this.device, x: this.x, range: this.range, steps: this.job.steps.length, toScale: this.toScale, theme: this.element.dataset.theme }; }

  /** The range and the moment: those of before where the job has as many steps, else all. What was the peak stays it. */
  start(kept) {
    const steps = this.job.steps.length, isSame = kept.range && kept.steps === steps;
    if (!this.job.plan.gpu.peak_bytes) this.device = kept.device || "cpu";
    this.range = isSame ? kept.range : [0, steps];
    this.x = isSame && !kept.atPeak ? Math.min(kept.x, steps) : this.job.highest(this.job.peak(this.device).peak_step, this.device);
  }

  build() {
    const { job } = this;
    this.help = make("p", { class: "pr-help", id: `${this.key_}-help` }, "Click for what is alive then; drag to zoom, double-click to open a step. Keys: ← → moment, Shift+← → step, + − zoom, P peak, Esc out.");
    this.charts = job.devices.map(device => new Chart(this, device));
    this.trail = make("nav", { class: "pr-trail", "aria-label": "zoom" });
    this.lives = make("section", { class: "pr-lives" });
    this.alive = make("section", { class: "pr-alive", "aria-label": "what is alive" });
    this.said = make("p", { class: "pr-said", "aria-live": "polite" });
    this.element.replaceChildren(...[
      this.head(), this.jobs.length > 1 ? this.side() : null, this.verdict(), this.cards(),
      make("section", { class: "pr-charts", "aria-label": "memory over the steps" }, make("h2", {}, "Memory over the steps"), this.trail, ...this.charts.map(each => each.element), this.help, this.said),
      this.lives, this.alive, this.paste(), this.facts(), this.table(), this.notes(), this.foot(),
    ].filter(Boolean));
    this.draw();
  }
  draw() {
    this.crumbs();
    this.charts.forEach(each => each.draw());
    this.details();
  }
  details() {
    this.charts.forEach(each => each.mark());
    this.showAlive();
    this.showLives();
  }
  chartOf(device) { return this.charts.find(each => each.device === device); }

  // ---------------------------------------------------------------- moving
  go(x, chart) {
    if (chart) this.device = chart.device;
    const moment = this.job.moment(x, this.device);
    this.x = this.job.place(moment.step, this.device, moment.index);
    if (this.x < this.range[0] || this.x > this.range[1]) this.zoom(...this.around(this.x, this.range[1] - this.range[0]));
    else this.details();
  }
  around(x, span) {
    const all = this.job.steps.length, from = Math.max(0, Math.min(all - span, x - span / 2));
    return [from, from + Math.min(span, all)];
  }
  zoom(from, to) {
    const all = this.job.steps.length, least = 1e-3;
    this.range = [Math.max(0, from), Math.min(all, Math.max(to, from + least))];
    if (this.x < this.range[0] || this.x > this.range[1]) this.x = this.job.place(Math.floor(this.range[0]), this.device, this.job.moment(this.range[0], this.device).index);
    this.draw();
  }
  closer(factor) {
    const span = (this.range[1] - this.range[0]) * factor, step = Math.floor(this.x);
    if (span < 1 && this.range[1] - this.range[0] > 1) this.zoom(step, step + 1);
    else this.zoom(...this.around(this.x, Math.min(span, this.job.steps.length)));
  }
  into(chart) { const { step } = this.job.moment(chart && chart.plot.cursor.left >= 0 ? chart.plot.posToVal(chart.plot.cursor.left, "x") : this.x, this.device); this.zoom(step, step + 1); }
  out() { if (this.range[1] - this.range[0] < 1) { const step = Math.floor(this.x); this.zoom(step, step + 1); } else this.zoom(0, this.job.steps.length); }
  toPeak(chart) {
    const device = chart ? chart.device : this.device;
    this.go(this.job.highest(this.job.peak(device).peak_step, device), this.chartOf(device));
  }
  /** The next moment in this direction: a point of the step's curves where few steps are in view, else a step. */
  next(by, whole) {
    const moment = this.job.moment(this.x, this.device), isClose = this.range[1] - this.range[0] <= FEW;
    if (whole || !isClose) {
      const step = moment.step + by;
      if (step >= 0 && step < this.job.steps.length) this.go(this.job.highest(step, this.device), this.chartOf(this.device));
      return;
    }
    let { step } = moment, index = moment.index + by;
    if (index < 0 || index >= moment.curves.ticks.length) {
      step += by;
      if (step < 0 || step >= this.job.steps.length) return;
      index = by > 0 ? 0 : this.job.curves(step, this.device).ticks.length - 1;
    }
    this.go(this.job.place(step, this.device, index), this.chartOf(this.device));
  }
  key(event, chart) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    this.device = chart.device;
    const steps = this.job.steps.length;
    const action = {
      ArrowLeft: () => this.next(-1, event.shiftKey), ArrowRight: () => this.next(1, event.shiftKey),
      PageUp: () => this.next(-1, true), PageDown: () => this.next(1, true),
      Home: () => this.go(this.range[0], chart), End: () => this.go(Math.min(steps, this.range[1]) - 1e-9, chart),
      "+": () => this.closer(0.5), "=": () => this.closer(0.5), "-": () => this.closer(2), "_": () => this.closer(2),
      Enter: () => this.zoom(Math.floor(this.x), Math.floor(this.x) + 1), Escape: () => this.out(), p: () => this.toPeak(chart), P: () => this.toPeak(chart),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
    this.said.textContent = chart.slider.getAttribute("aria-valuetext");
  }
  choose(number) {
    const kept = this.kept;
    this.chosen = number;
    this.start({ ...kept, steps: this.job.steps.length === kept.steps ? kept.steps : -1 });
    this.build();
  }

  // ---------------------------------------------------------------- sections
  head() {
    const { plan } = this.job, model = plan.model;
    const button = (text, label, action) => make("button", { type: "button", "aria-label": label, title: label, onclick: action }, text);
    return make("header", { class: "pr-head" },
      make("div", {}, make("h1", {}, model.name), make("p", {}, `${this.jobs.length > 1 ? `${this.jobs.length} plans` : this.job.name} · ${trimmed(model.parameters, 0)} parameters, ${size(model.bytes)} of weights`)),
      make("div", { class: "pr-tools" },
        button("◐", "light or dark", () => this.theme()), button("Print", "print this report", () => print()),
        button("JSON", "download the plan as JSON", () => this.download())));
  }
  theme() {
    const isDark = this.element.dataset.theme ? this.element.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    this.element.dataset.theme = isDark ? "light" : "dark";
    if (this.element.parentElement === document.body) document.body.dataset.theme = this.element.dataset.theme;
    this.draw();
  }
  download() {
    const plans = this.jobs.map(job => job.plan), text = JSON.stringify(plans.length > 1 ? plans : plans[0], null, 1);
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "plan.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  /** Every plan in a line: the verdict, its bars on one scale, its steps as a small curve. */
  side() {
    const most = { gpu: 1, cpu: 1 };
    for (const { plan } of this.jobs) {
      most.gpu = Math.max(most.gpu, onDevice(plan));
      most.cpu = Math.max(most.cpu, ram(plan));
    }
    const bar = (bytes, scale) => make("div", { class: "pr-bar" }, make("i", { style: { width: `${bytes / scale * 100}%` } }), make("b", {}, size(bytes)));
    const row = (job, number) => make("tr", { "aria-selected": String(number === this.chosen), class: number === this.chosen ? "pr-chosen" : null, onclick: () => this.choose(number) },
      make("th", { scope: "row" }, make("button", { type: "button", "aria-pressed": String(number === this.chosen), onclick: event => { event.stopPropagation(); this.choose(number); this.element.querySelectorAll(".pr-side button")[number].focus(); } }, job.name)),
      make("td", {}, this.pill(job)), make("td", { "data-title": "GPU" }, bar(onDevice(job.plan), most.gpu)),
      make("td", { "data-title": "smallest card" }, job.plan.gpu.smallest_card_bytes ? size(job.plan.gpu.smallest_card_bytes) : "–"),
      make("td", { "data-title": "RAM" }, bar(ram(job.plan), most.cpu)),
      make("td", { "data-title": "result" }, job.plan.result ? size(job.plan.result.file_bytes) : "–"), make("td", { class: "pr-spark" }, this.spark(job)));
    return make("section", { class: "pr-side" }, make("h2", {}, "Side by side"), make("table", {},
      make("thead", {}, make("tr", {}, ...["plan", "", "GPU", "smallest card", "RAM", "result", "GPU over the steps"].map(each => make("th", { scope: "col" }, each)))),
      make("tbody", {}, this.jobs.map(row))));
  }
  /** The plan's own shape, to its own height. */
  spark(job) {
    const peaks = job.steps.map(step => step.gpu.peak_reserved_bytes ?? step.gpu.peak_bytes), wide = 120, high = 28, most = Math.max(1, ...peaks);
    const path = peaks.map((bytes, i) => `${(i / peaks.length * wide).toFixed(1)},${(high - bytes / most * high).toFixed(1)} ${((i + 1) / peaks.length * wide).toFixed(1)},${(high - bytes / most * high).toFixed(1)}`).join(" ");
    return make("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", role: "img", "aria-label": `GPU memory of ${job.name} over its steps` }, make("path", { d: `M0,${high} L${path} L${wide},${high} Z` }));
  }
  pill(job) {
    const [kind, text] = FITS[job.words.fits] || ["", "planned"];
    return make("span", { class: `pr-pill pr-${kind}` }, text);
  }
  verdict() {
    const { words } = this.job, [kind] = FITS[words.fits] || [""], lines = words.verdict || [];
    const cased = text => text.charAt(0).toUpperCase() + text.slice(1);
    return make("section", { class: `pr-verdict pr-${kind}`, "aria-label": "verdict" },
      make("p", { class: "pr-answer" }, this.pill(this.job), make("strong", {}, cased(lines[0] || this.job.name))),
      ...lines.slice(1).map(each => make("p", {}, cased(each))), words.advice ? make("p", { class: "pr-advice" }, words.advice) : null);
  }
  cards() {
    const { plan, words } = this.job, { gpu, cpu, host } = plan;
    const card = (title, bytes, lines, step, device) => make("div", { class: "pr-card" }, make("h3", {}, title), make("p", { class: "pr-figure", title: exact(bytes) }, size(bytes)), ...lines.filter(Boolean).map(each => make("p", {}, each)),
      step === null || !bytes ? null : make("button", { type: "button", onclick: () => { this.zoom(step, step + 1); this.toPeak(this.chartOf(device)); } }, `${step}: ${this.job.title(step)}`));
    return make("section", { class: "pr-cards", "aria-label": "peaks" },
      card("GPU, requested", gpu.peak_bytes, ["at most, by tensors"], gpu.peak_step, "gpu"),
      gpu.device_total_bytes && gpu.peak_reserved_bytes ? card("GPU, as nvidia-smi shows it", gpu.device_total_bytes, [`${size(gpu.peak_reserved_bytes)} reserved and ${size(gpu.context_bytes)} of CUDA context`, gpu.smallest_card_bytes ? `the smallest card that gets through: ${size(gpu.smallest_card_bytes)}` : ""], null) : null,
      plan.second_gpu ? card("second GPU, requested", plan.second_gpu.peak_bytes, [words.second_gpu], plan.second_gpu.peak_step, "gpu1") : null,
      card("RAM, tensors", cpu.peak_bytes, ["without the Python process"], cpu.peak_step, "cpu"),
      host ? card("RAM of the process", host.peak_resident_bytes, [`resident, at ${host.peak_resident_phase}; without ${size(host.peak_must_have_bytes)} it is killed`], null) : null,
      plan.result ? card("Result", plan.result.file_bytes, [`on disk, ${plan.result.bits_per_weight.toFixed(2)} bits per weight`, `${size(plan.result.serving_bytes)} to serve one sequence of ${trimmed(plan.result.context, 0)} tokens`], null) : null);
  }
  crumbs() {
    const all = this.job.steps.length, [from, to] = this.range, isAll = from <= 0 && to >= all, first = Math.floor(from), last = Math.ceil(to) - 1;
    const button = (text, label, action, off) => make("button", { type: "button", title: label, "aria-label": label, onclick: action, disabled: off || null }, text);
    const place = isAll ? null : first === last ? `${first}: ${this.job.title(first)}` : `steps ${first} to ${last}`;
    this.trail.replaceChildren(
      make("span", { class: "pr-path" }, button(`all ${all} steps`, "show the whole job", () => this.zoom(0, all), isAll), place ? make("span", { "aria-current": "true" }, " › ", place) : ""),
      make("span", { class: "pr-buttons" }, button("‹", "step before", () => { this.next(-1, true); this.follow(); }), button("›", "next step", () => { this.next(1, true); this.follow(); }),
        button("−", "zoom out", () => this.closer(2), isAll), button("+", "zoom in", () => this.closer(0.5)), button("peak", "go to the peak", () => this.toPeak()),
        make("label", {}, make("input", { type: "checkbox", checked: this.toScale || null, onchange: event => { this.toScale = event.target.checked; this.draw(); } }), " to scale of the machine")));
  }
  /** Where one step is in view, keep the view at the moment's step. */
  follow() { if (this.range[1] - this.range[0] <= 1) { const step = Math.floor(this.x); this.zoom(step, step + 1); } }

  showAlive() {
    const { job, device } = this, moment = job.moment(this.x, device), { rows, left } = job.alive(moment, device), { curves, index, step } = moment;
    const total = curves.total[index], shown = this.all ? rows : rows.slice(0, ROWS), widest = rows.length ? rows[0].bytes : 1;
    const tab = each => make("button", { type: "button", role: "tab", "aria-selected": String(each === device), onclick: () => { this.device = each; this.showAlive(); this.showLives(); this.alive.querySelector('[aria-selected="true"]').focus(); } }, DEVICES[each]);
    const what = row => [make("span", { class: "pr-owner" }, row.name, row.copies > 1 ? ` and ${trimmed(row.copies - 1, 0)} more` : "", row.role ? make("em", {}, ` ${row.role}`) : null),
      row.shape || row.dtype || row.line ? make("small", {}, [row.shape ? row.shape.join(" × ") : "", row.dtype || ""].filter(Boolean).join(" "), row.line ? make("code", {}, row.line) : null) : null];
    const line = row => make("tr", {}, make("td", { class: "pr-bytes", title: exact(row.bytes) }, size(row.bytes)),
      make("td", { class: "pr-share", "aria-hidden": "true" }, make("i", { style: { width: `${row.bytes / widest * 100}%`, background: `var(--pr-part-${row.part === undefined ? 6 : row.part})` } })), make("td", {}, what(row)), make("td", { class: "pr-kind" }, row.part === undefined ? "" : job.names[row.part]));
    const rest = left.map((bytes, which) => [bytes, which]).filter(([bytes]) => bytes).map(([bytes, part]) => line({ bytes, part, name: curves.drawn ? "not listed one by one" : "all else", copies: 1 }));
    const begun = job.milestones(step).filter(([tick]) => tick <= moment.tick).map(([, text]) => text).pop();
    const when = curves.drawn ? (this.job.ticks(step) > 1 ? `event ${trimmed(moment.tick, 0)} of ${trimmed(job.ticks(step), 0)}` : "") : "at its peak";
    this.alive.replaceChildren(...[make("h2", {}, "Alive at this moment"), make("div", { class: "pr-tabs", role: "tablist", "aria-label": "device" }, job.devices.map(tab)),
      make("p", {}, make("b", {}, size(total)), ` of ${DEVICES[device]} memory in step ${step}, ${job.title(step)}`, when ? `, ${when}` : "", begun ? ` (${begun})` : "", job.like(step) !== step ? `; the step does what step ${job.like(step)} did, under its own names` : ""),
      rows.length || rest.length ? make("table", {}, make("thead", {}, make("tr", {}, ...["bytes", "", "whose, and what", "part"].map(each => make("th", { scope: "col" }, each)))), make("tbody", {}, shown.map(line), rest)) : make("p", {}, "Nothing."),
      rows.length > ROWS ? make("button", { type: "button", onclick: () => { this.all = !this.all; this.showAlive(); } }, this.all ? "fewer" : `all ${rows.length}`) : null].filter(Boolean));
  }
  /** The lives of the largest tensors of the step in view, one bar each. */
  showLives() {
    const [from, to] = this.range, step = Math.floor(from), { job, device } = this;
    const curves = job.curves(step, device);
    if (to - from > 1 || !curves.drawn || to > step + 1 + 1e-9) { this.lives.replaceChildren(); return; }
    const ticks = job.ticks(step) + 1, [first, last] = [(from - step) * ticks, (to - step) * ticks];
    const lanes = new Map();
    for (const each of curves.held) {
      const [end, left] = each.changes[each.changes.length - 1], born = each.changes[0][0], dies = left ? ticks : end;
      if (born >= last || dies <= first) continue;
      const said = job.described(each, step), name = `${said.name}${said.copies > 1 ? ` and ${said.copies - 1} more` : ""} ${said.role}`.trim();
      const lane = lanes.get(name) || { name, part: each.part, lives: [], most: 0, born, weight: 0 };
      lane.lives.push([born, dies]);
      lane.most = Math.max(lane.most, ...each.changes.map(change => change[1]));
      lane.weight = Math.max(lane.weight, lane.most * Math.sqrt(Math.min(dies, last) - Math.max(born, first)));
      lanes.set(name, lane);
    }
    const chosen = [...lanes.values()].sort((a, b) => b.weight - a.weight).slice(0, ROWS).sort((a, b) => a.born - b.born || b.most - a.most);
    const percent = tick => Math.min(100, Math.max(0, (tick - first) / (last - first) * 100)), now = (this.x - step) * ticks;
    const bar = ([born, dies], part) => make("i", { style: { left: `${percent(born)}%`, width: `max(2px, ${percent(dies) - percent(born)}%)`, background: `var(--pr-part-${part})` } });
    const row = lane => make("button", { type: "button", class: "pr-life", title: `${lane.name}: ${size(lane.most)}`, onclick: () => this.go(step + Math.max(lane.born, first) / ticks + 1e-9, this.chartOf(device)) },
      make("span", { class: "pr-life-name" }, lane.name), make("b", {}, size(lane.most)),
      make("span", { class: "pr-track" }, lane.lives.map(life => bar(life, lane.part)), now >= first && now <= last ? make("u", { style: { left: `${percent(now)}%` } }) : null));
    this.lives.replaceChildren(make("h2", {}, "From birth to death"),
      make("p", {}, `${DEVICES[device]} memory of step ${step}, ${job.title(step)}: ${lanes.size > chosen.length ? `the ${chosen.length} that weigh most, of ${lanes.size},` : "all"} in the order in which they come. A line has all tensors of one owner and role.`),
      make("div", { class: "pr-lanes" }, chosen.map(row)));
  }
  paste() {
    const { words } = this.job;
    const block = (title, text) => text ? make("div", {}, make("h3", {}, title), make("pre", { tabindex: "0" }, make("code", {}, text)),
      make("button", { type: "button", class: "pr-copy", onclick: event => navigator.clipboard.writeText(text).then(() => { event.target.textContent = "copied"; setTimeout(() => { event.target.textContent = "copy"; }, 1500); }) }, "copy")) : null;
    return words.command || words.call ? make("section", { class: "pr-paste" }, make("h2", {}, "To paste"), block("this plan, on the command line", words.command), block("the job, with LLM Compressor", words.call)) : null;
  }
  facts() {
    const { plan, words } = this.job;
    const demands = plan.demands && plan.demands.length ? make("table", {}, make("thead", {}, make("tr", {}, ...["machine", "asks for", "at least", "has", ""].map(each => make("th", { scope: "col" }, each)))),
      make("tbody", {}, plan.demands.map(each => make("tr", {}, make("th", { scope: "row" }, each.resource), make("td", {}, size(each.needs_bytes)), make("td", {}, size(each.at_least_bytes)), make("td", {}, each.has_bytes === null ? "not said" : each.at_least_bytes && each.gpus > each.has_gpus ? `${trimmed(each.has_gpus, 0)} of ${trimmed(each.gpus, 0)} GPUs` : size(each.has_bytes)), make("td", {}, each.outcome))))) : null;
    const lines = (words.header || []).map(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
    return lines.length || demands ? make("section", { class: "pr-facts" }, make("h2", {}, "Job and machine"), lines.length ? make("dl", {}, lines) : null, demands) : null;
  }
  /** Every step in figures; made when it is opened. */
  table() {
    const { job } = this, body = make("tbody");
    const fill = () => {
      if (body.childElementCount) return;
      body.append(...job.steps.map((step, index) => make("tr", {}, make("td", {}, make("button", { type: "button", onclick: () => { this.zoom(index, index + 1); this.go(job.highest(index, this.device), this.chartOf(this.device)); } }, `${index}`)), make("td", {}, job.title(index)), make("td", {}, step.modifier || ""),
        make("td", { class: "pr-bytes" }, size(step.gpu.peak_bytes)), make("td", { class: "pr-bytes" }, step.gpu.peak_reserved_bytes === null ? "–" : size(step.gpu.peak_reserved_bytes)), make("td", { class: "pr-bytes" }, size(step.cpu.peak_bytes)))));
    };
    return make("details", { class: "pr-steps", ontoggle: fill }, make("summary", {}, `All ${job.steps.length} steps in figures`), make("table", {}, make("thead", {}, make("tr", {}, ...["", "step", "modifier", "GPU requested", "GPU reserved", "RAM, tensors"].map(each => make("th", { scope: "col" }, each)))), body));
  }
  notes() {
    const notes = [...(this.job.words.notes || (this.job.plan.notes || []).map(each => each.text)), ...((this.job.picture && this.job.picture.notes) || [])];
    return notes.length ? make("section", { class: "pr-notes" }, make("h2", {}, "Notes"), make("ul", {}, notes.map(each => make("li", {}, each)))) : null;
  }
  foot() {
    const { plan } = this.job;
    return make("footer", {}, `Planned by compression-planner as llmcompressor ${plan.llmcompressor} runs it${plan.torch ? `, GPU memory as PyTorch ${plan.torch} has it` : ""}. 1 GiB is 2^30 bytes. The axis has the steps in their order, not to scale in time; within a step, its events in their order.`);
  }
}
const onDevice = plan => plan.gpu.peak_reserved_bytes ? plan.gpu.device_total_bytes : plan.gpu.peak_bytes;
const ram = plan => plan.host ? plan.host.peak_resident_bytes : plan.cpu.peak_bytes;
