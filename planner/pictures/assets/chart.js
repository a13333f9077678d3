// One device over the steps in view.
const css = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

/** One device over the steps in view. */
class Chart {
  constructor(report, device) {
    this.report = report;
    this.device = device;
    this.box = make("div", { class: "pr-plot" });
    this.line = make("div", { class: "pr-moment" });
    this.above = make("p", { class: "pr-above" });
    this.ribbon = make("div", { class: "pr-ribbon", "aria-hidden": "true" });
    this.tip = make("div", { class: "pr-tip", hidden: true });
    this.legend = make("ul", { class: "pr-legend" });
    this.element = make("figure", { class: "pr-chart", "data-device": device },
      make("figcaption", {}, make("h3", {}, `${DEVICES[device]} memory`), this.above), this.legend,
      this.slider = make("div", {
        class: "pr-slider", tabindex: "0", role: "slider", "aria-label": `moment of the job, ${DEVICES[device]} memory`,
        "aria-orientation": "horizontal", "aria-describedby": report.help.id, onkeydown: event => report.key(event, this),
      }, this.box, this.tip), this.ribbon);
  }
  get job() { return this.report.job; }

  draw() {
    const { range } = this.report, job = this.job, look = name => css(this.element, name);
    const wide = Math.max(240, this.element.clientWidth), span = range[1] - range[0];
    const { x, parts, allocated, reserved } = job.series(this.device, range[0], range[1], span > FEW ? Math.max(1, Math.round(wide / span / 4)) : Infinity);
    const used = parts.map((part, which) => which).filter(which => parts[which].some(Boolean));
    const sums = [], running = x.map(() => 0);
    for (const which of used) { parts[which].forEach((bytes, i) => running[i] += bytes); sums.push(running.slice()); }
    const total = sums.length ? sums[sums.length - 1] : running, isOnCard = reserved.some(each => each !== null);
    const stepped = uPlot.paths.stepped({ align: 1 }), quiet = { show: false };
    const series = [{}], data = [x];
    used.slice().reverse().forEach((which, n) => {
      series.push({ paths: stepped, points: quiet, fill: look(`--pr-part-${which}`), stroke: look("--pr-paper"), width: 0 });
      data.push(sums[used.length - 1 - n]);
    });
    series.push({ paths: stepped, points: quiet, stroke: look("--pr-ink"), width: 1 });
    data.push(total);
    if (isOnCard) {
      series.push({ paths: stepped, points: quiet, stroke: look("--pr-allocated"), width: 1.25, dash: [2, 2] }, { paths: stepped, points: quiet, stroke: look("--pr-reserved"), width: 1.75 });
      data.push(allocated, reserved);
    }
    let top = 0;
    for (const each of [total, ...(isOnCard ? [allocated, reserved] : [])]) for (const bytes of each) top = Math.max(top, bytes || 0);
    const lines = ((job.picture && job.picture.capacities) || []).filter(each => each.device === this.device);
    const shown = lines.filter(each => this.report.toScale || each.bytes < 1.5 * top);
    this.above.textContent = lines.filter(each => !shown.includes(each)).map(each => `${each.label}: ${size(each.bytes)}, above this chart`).join(" · ");
    top = Math.max(top, ...shown.map(each => each.bytes)) * 1.07 || 1;
    const unit = top > 0.2 * GIB ? [GIB, "GiB"] : [MIB, "MiB"];
    if (this.plot) this.plot.destroy();
    this.isReady = false;
    const font = "12px " + (look("--pr-font") || "sans-serif");
    this.plot = new uPlot({
      width: wide, height: this.device === "cpu" ? 200 : 260, legend: { show: false }, padding: [8, 12, 0, 0],
      scales: { x: { time: false, range: () => [range[0], range[1]] }, y: { range: () => [0, top] } },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false }, sync: { key: this.report.key_, setSeries: false }, bind: { dblclick: () => () => { this.report.into(this); return null; } } },
      axes: [
        { stroke: look("--pr-soft"), grid: { show: false }, ticks: { stroke: look("--pr-rule"), size: 4 }, font, size: 30, splits: () => this.ticks(wide), values: (_, splits) => splits.map(each => this.tickText(each)) },
        { stroke: look("--pr-soft"), grid: { stroke: look("--pr-rule"), width: 1 }, ticks: { show: false }, font, size: 58, label: unit[1], labelSize: 18, labelFont: font, splits: () => gridLines(top, unit[0]), values: (_, splits) => splits.map(each => trimmed(each / unit[0], Math.max(0, -Math.floor(Math.log10(round(top / unit[0] / 5)))))) },
      ],
      series, hooks: { ready: [() => { this.isReady = true; this.phases(); this.mark(); }], draw: [plot => this.capacities(plot, shown)], setCursor: [plot => this.hover(plot)], setSelect: [plot => this.selected(plot)] },
    }, data, this.box);
    this.plot.over.append(this.line);
    this.plot.over.addEventListener("click", event => { if (!this.dragged) this.report.go(this.plot.posToVal(event.offsetX, "x"), this); this.dragged = false; });
    this.plot.over.addEventListener("mouseleave", () => this.tip.hidden = true);
    this.used = used;
    this.isOnCard = isOnCard;
  }
  /** Where the axis has a mark: at steps, or at round numbers of a step's events. */
  ticks(wide) {
    const { range } = this.report, [from, to] = range, count = Math.max(2, Math.floor(wide / 90));
    if (to - from > 1.5) {
      const gap = Math.max(1, round((to - from) / count)), first = Math.ceil(from / gap) * gap;
      return Array.from({ length: Math.max(0, Math.floor((Math.min(to, this.job.steps.length - 1) - first) / gap) + 1) }, (_, n) => first + n * gap);
    }
    const step = Math.floor(from), ticks = this.job.ticks(step) + 1, gap = Math.max(1, round((to - from) * ticks / count)), first = Math.ceil((from - step) * ticks / gap) * gap;
    return Array.from({ length: Math.max(0, Math.floor(((to - step) * ticks - 1 - first) / gap) + 1) }, (_, n) => step + (first + n * gap) / ticks);
  }
  tickText(value) {
    const { range } = this.report, step = Math.floor(range[0]);
    return range[1] - range[0] > 1.5 ? `${Math.round(value)}` : trimmed(Math.round((value - step) * (this.job.ticks(step) + 1)), 0);
  }
  capacities(plot, lines) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = css(this.element, "--pr-limit");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.font = `${12 * devicePixelRatio}px ${css(this.element, "--pr-font") || "sans-serif"}`;
    ctx.textAlign = "right";
    for (const each of lines) {
      const y = plot.valToPos(each.bytes, "y", true);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(`${each.label}: ${size(each.bytes)}`, bbox.left + bbox.width - 6 * devicePixelRatio, y - 5 * devicePixelRatio);
    }
    ctx.restore();
  }
  hover(plot) {
    const { left, top } = plot.cursor;
    if (left === undefined || left < 0 || !plot.over.matches(":hover")) { this.tip.hidden = true; return; }
    const moment = this.job.moment(plot.posToVal(left, "x"), this.device);
    this.tip.replaceChildren(make("strong", {}, `${moment.step}: ${this.job.title(moment.step)}`), ...this.figures(moment));
    this.tip.hidden = false;
    const wide = this.tip.offsetWidth, x = left + plot.over.offsetLeft;
    this.tip.style.left = `${Math.max(0, x + 16 + wide > this.box.clientWidth ? x - wide - 16 : x + 16)}px`;
    this.tip.style.top = `${Math.max(0, (top < 0 ? 0 : top) - 8)}px`;
  }
  /** Lines of a tooltip: what is held at a moment. */
  figures({ curves, index }) {
    const rows = [["requested", curves.total[index], "ink"]];
    if (curves.reserved[index] !== null) rows.push([`allocated${curves.flat ? ", at most" : ""}`, curves.allocated[index], "allocated"], [`reserved${curves.flat ? ", at most" : ""}`, curves.reserved[index], "reserved"]);
    const parts = (this.used || []).slice().reverse().filter(which => curves.parts[which][index]).map(which => [this.job.names[which], curves.parts[which][index], `part-${which}`]);
    return [...rows, ...parts].map(([name, bytes, colour]) => make("span", { class: "pr-tip-row" }, swatch(colour), make("span", {}, name), make("b", {}, size(bytes))));
  }
  selected(plot) {
    const { left, width } = plot.select;
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (width < 6) return;
    this.dragged = true;
    this.report.zoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
  }
  /** The strip of phases below the plot. */
  phases() {
    const { range } = this.report, span = range[1] - range[0], over = this.plot.over;
    this.ribbon.style.marginLeft = `${over.offsetLeft}px`;
    this.ribbon.style.width = `${over.offsetWidth}px`;
    const last = Math.min(this.job.steps.length, Math.ceil(range[1]));
    const cells = [];
    for (let step = Math.floor(range[0]); step < last; step++) {
      const { phase } = this.job.steps[step], from = Math.max(step, range[0]), to = Math.min(step + 1, range[1]);
      const width = (to - from) / span * over.offsetWidth;
      cells.push(make("div", { class: `pr-phase pr-phase-${phase}`, title: `${step}: ${this.job.title(step)}`, style: { left: `${(from - range[0]) / span * 100}%`, width: `${(to - from) / span * 100}%` }, onclick: () => { this.report.go(this.job.highest(step, this.device), this); }, ondblclick: () => this.report.zoom(step, step + 1) }, width > 60 ? make("span", {}, width > 200 ? `${step}: ${this.job.title(step)}` : phase) : ""));
      if (span <= 2) for (const [tick, text] of this.job.milestones(step)) {
        const where = step + tick / (this.job.ticks(step) + 1);
        if (where >= range[0] && where <= range[1]) cells.push(make("i", { class: "pr-milestone", title: text, style: { left: `${(where - range[0]) / span * 100}%` } }));
      }
    }
    this.ribbon.replaceChildren(...cells);
  }
  /** Show the chosen moment. */
  mark() {
    if (!this.isReady) return;
    const { job, report } = this, moment = job.moment(report.x, this.device), { curves, index } = moment;
    const left = this.plot.valToPos(report.x, "x");
    this.line.hidden = left < 0 || left > this.plot.over.offsetWidth;
    this.line.style.left = `${left}px`;
    const text = `step ${moment.step}, ${job.title(moment.step)}: ${size(curves.total[index])} requested`;
    for (const [name, value] of [["valuemin", 0], ["valuemax", job.steps.length], ["valuenow", report.x.toFixed(4)], ["valuetext", text]]) this.slider.setAttribute("aria-" + name, value);
    const item = (colour, name, bytes) => make("li", {}, swatch(colour), make("span", {}, name), bytes === null ? null : make("b", {}, size(bytes)));
    const atMost = curves.flat && curves.reserved[index] !== null ? ", at most" : "";
    this.legend.replaceChildren(
      item("ink", "requested", curves.total[index]),
      ...(this.isOnCard ? [item("allocated", "allocated" + atMost, curves.allocated[index]), item("reserved", "reserved" + atMost, curves.reserved[index])] : []),
      ...this.used.map(which => item(`part-${which}`, job.names[which], curves.parts[which][index])));
  }
}
const swatch = colour => make("i", { class: `pr-swatch pr-swatch-${colour.replace(/-\d+$/, "")}`, style: { "--pr-colour": `var(--pr-${colour})` } });
function round(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map(n => n * power).find(each => each >= rough * 0.999);
}
function gridLines(top, unit) {
  const gap = round(top / unit / 5) * unit;
  return Array.from({ length: Math.floor(top / gap) + 1 }, (_, n) => n * gap);
}
