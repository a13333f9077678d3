/* Draws plans: memory over the steps, and what lies where. `plannerReport(element, data)`; docs/report.md has the data. */
"use strict";
(function () {
  const GIB = 2 ** 30, MIB = 2 ** 20, KIB = 2 ** 10;
  const DEVICES = { gpu: "GPU", gpu1: "second GPU", cpu: "CPU (RAM)" };
  const PHASES = ["load", "setup", "prepare", "calibrate", "compress", "propagate", "between", "finalize", "save", "script"];
  const FEW = 8, ROWS = 40;
  const FITS = { fits: ["ok", "fits"], tight: ["tight", "only just"], over: ["no", "does not fit"] };
  let numbers = 0;

  // ------------------------------------------------------------------ words and elements
  const trimmed = (value, digits) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  function size(bytes) {
    const all = Math.abs(bytes);
    if (all >= 100 * GIB) return trimmed(bytes / GIB, 1) + " GiB";
    if (all >= 0.1 * GIB) return trimmed(bytes / GIB, 2) + " GiB";
    if (all >= 0.1 * MIB) return trimmed(bytes / MIB, all >= 10 * MIB ? 1 : 2) + " MiB";
    return all >= KIB ? trimmed(bytes / KIB, 1) + " KiB" : trimmed(bytes, 0) + " B";
  }
  const exact = bytes => trimmed(bytes, 0) + " bytes";

  /** An element with attributes and children; texts are texts, never markup. */
  function make(name, attributes, ...children) {
    const found = /^(svg|path|line|rect|polyline|g)$/.test(name)
      ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
      else if (key === "style") for (const [k, v] of Object.entries(value)) found.style.setProperty(k, v);
      else found.setAttribute(key, value === true ? "" : value);
    }
    found.append(...children.flat(Infinity).filter(each => each !== null && each !== undefined && each !== false));
    return found;
  }

  // ------------------------------------------------------------------ reading a picture
  function points(flat, begin) {
    const found = [];
    for (let i = 0, tick = begin || 0; i < flat.length; i += 2) found.push([tick += flat[i], flat[i + 1]]);
    return found;
  }
  function at(changes, tick) {
    let low = 0, high = changes.length;
    while (low < high) { const middle = (low + high) >> 1; if (changes[middle][0] <= tick) low = middle + 1; else high = middle; }
    return low ? changes[low - 1][1] : 0;
  }
  function summed(gaps) { let tick = 0; return gaps.map(gap => tick += gap); }

  /** A step's curves with ticks from its beginning: holdings, and levels at every moment at which they are exact. */
  function unfolded(curves, picture, device, count) {
    const deltas = [];
    const births = summed(curves.begins);
    const held = summed(curves.whats).map((what, n) => ({
      what, part: picture.kinds[picture.whats[what].kind][device === "cpu" ? "cpu_part" : "gpu_part"],
      changes: points(curves.changes[n], births[n]),
    }));
    const add = (changes, which) => { let last = 0; for (const [tick, bytes] of changes) { deltas.push([tick, which, bytes - last]); last = bytes; } };
    held.forEach(each => add(each.changes, each.part));
    (curves.rest || []).forEach((rest, which) => add(points(rest), which));
    deltas.sort((a, b) => a[0] - b[0]);
    const slack = points(curves.slack || []), reserved = points(curves.reserved || []);
    const ticks = curves.moments && curves.moments.length ? summed(curves.moments)
      : [...new Set([0, ...deltas.map(d => d[0]), ...slack.map(s => s[0]), ...reserved.map(s => s[0])])].sort((a, b) => a - b);
    const level = new Array(count).fill(0), parts = Array.from({ length: count }, () => []), total = [], allocated = [], segments = [];
    let done = 0;
    for (const tick of ticks) {
      for (; done < deltas.length && deltas[done][0] <= tick; done++) level[deltas[done][1]] += deltas[done][2];
      let sum = 0;
      level.forEach((bytes, which) => { parts[which].push(bytes); sum += bytes; });
      total.push(sum);
      allocated.push(reserved.length ? sum + at(slack, tick) : null);
      segments.push(reserved.length ? at(reserved, tick) : null);
    }
    return { held, ticks, parts, total, allocated, reserved: segments };
  }

  /** One plan, ready to draw. */
  class Job {
    constructor(entry, names) {
      this.plan = entry.plan;
      this.words = entry.words || {};
      this.picture = entry.picture;
      this.kinds = entry.parts || { gpu: {}, cpu: {} };
      this.names = names;
      this.cache = new Map();
      this.devices = ["gpu", ...(this.plan.second_gpu ? ["gpu1"] : []), "cpu"];
      this.name = this.words.name || [this.plan.recipe, this.plan.strategy].filter(Boolean).join(", ");
    }
    get steps() { return this.plan.steps; }
    planned(step, device) { return this.steps[step][{ gpu: "gpu", gpu1: "second_gpu", cpu: "cpu" }[device]]; }
    look(step, device) { return this.picture ? this.picture.steps[step] : null; }
    ticks(step) { return Math.max(1, this.picture ? this.picture.steps[step].ticks : 1); }
    like(step) { const found = this.picture && this.picture.steps[step].like; return found === null || found === undefined ? step : found; }
    milestones(step) { return (this.picture && this.picture.steps[this.like(step)].milestones) || []; }
    peak(device) { return device === "gpu" ? this.plan.gpu : device === "gpu1" ? this.plan.second_gpu : this.plan.cpu; }

    /** Levels of one step on one device: {ticks, parts, total, allocated, reserved, held}. */
    curves(step, device) {
      const key = device + step;
      if (!this.cache.has(key)) this.cache.set(key, this._curves(step, device));
      return this.cache.get(key);
    }
    _curves(step, device) {
      const place = this.picture && this.picture.steps[step].devices[device];
      if (!place || place.curves === null || place.curves === undefined) return this._outline(step, device);
      const key = "curves" + place.curves + device;
      if (!this.cache.has(key)) this.cache.set(key, unfolded(this.picture.curves[place.curves], this.picture, device, this.names.length));
      const drawn = this.cache.get(key), planned = this.planned(step, device), shifts = place.shifts || [];
      const base = place.whats ? { ...drawn, held: summed(place.whats).map((what, n) => ({ ...drawn.held[n], what })) } : drawn;
      const copy = { ...base, drawn: true };
      if (shifts.length) {
        copy.parts = base.parts.map(part => part.slice());
        copy.total = base.total.slice();
        copy.allocated = base.allocated.slice();
        const isSame = (a, b) => a.name === b.name && (a.role || "") === (b.role || "") && a.kind === b.kind, whats = this.picture.whats;
        for (const shift of shifts) {
          const which = this.picture.kinds[whats[shift.what].kind][device === "cpu" ? "cpu_part" : "gpu_part"];
          copy.ticks.forEach((_, i) => { copy.parts[which][i] += shift.bytes; copy.total[i] += shift.bytes; if (copy.allocated[i] !== null) copy.allocated[i] += shift.bytes; });
        }
        let open = shifts; // each goes to one holding, the first of several that are called alike
        copy.held = base.held.map(each => {
          const mine = open.filter(shift => isSame(whats[shift.what], whats[each.what])), more = mine.reduce((sum, shift) => sum + shift.bytes, 0);
          open = open.filter(shift => !mine.includes(shift));
          return more ? { ...each, changes: each.changes.map(([tick, bytes]) => [tick, bytes && bytes + more]) } : each;
        });
      }
      if (place.own_card === false) { // its allocator's peaks are known, where in the step they come is not
        copy.allocated = base.ticks.map(() => planned.peak_allocated_bytes);
        copy.reserved = base.ticks.map(() => planned.peak_reserved_bytes);
        copy.flat = true;
      }
      return copy;
    }
    /** Where only peak and end are known. */
    _outline(step, device) {
      const planned = this.planned(step, device), kinds = this.kinds[device === "cpu" ? "cpu" : "gpu"] || {};
      const peak = this.names.map(() => 0);
      if (planned) for (const [kind, bytes] of Object.entries(planned.by_kind)) peak[kinds[kind] === undefined ? peak.length - 1 : kinds[kind]] += bytes;
      const total = planned ? planned.peak_bytes : 0;
      const held = planned ? planned.largest.map(each => ({ name: each.name, role: each.role, copies: each.copies, part: kinds[each.kind], changes: [[0, each.bytes]] })) : [];
      const card = planned && planned.peak_reserved_bytes !== null && planned.peak_reserved_bytes !== undefined;
      return {
        held, ticks: [0], parts: peak.map(bytes => [bytes]), total: [total], flat: true, drawn: false,
        allocated: [card ? planned.peak_allocated_bytes : null], reserved: [card ? planned.peak_reserved_bytes : null],
      };
    }

    /** The series between two places on the axis, where step n lies from n to n + 1; thinned to so many points a step. */
    series(device, from, to, most) {
      const first = Math.max(0, Math.floor(from)), last = Math.min(this.steps.length - 1, Math.ceil(to) - 1);
      const x = [], parts = this.names.map(() => []), allocated = [], reserved = [];
      for (let step = first; step <= last; step++) {
        const curves = this.curves(step, device), ticks = this.ticks(step);
        for (const i of this.thinned(curves, most)) {
          x.push(step + curves.ticks[i] / (ticks + 1));
          parts.forEach((part, which) => part.push(curves.parts[which][i]));
          allocated.push(curves.allocated[i]);
          reserved.push(curves.reserved[i]);
        }
      }
      if (x.length) { // the last level holds to the end of its step
        x.push(last + 1);
        [...parts, allocated, reserved].forEach(each => each.push(each[each.length - 1]));
      }
      return { x, parts, allocated, reserved };
    }
    /** Places of so many points of a step at most: of each stretch the highest. */
    thinned(curves, most) {
      const count = curves.ticks.length;
      if (count <= most) return curves.ticks.keys();
      const kept = new Set([0]);
      for (let n = 0; n < most; n++) {
        let high = Math.floor(n * count / most);
        for (let i = high; i < Math.floor((n + 1) * count / most); i++) if (curves.total[i] > curves.total[high]) high = i;
        kept.add(high);
      }
      return [...kept].sort((a, b) => a - b);
    }

    /** The step and the place among its points that this place on the axis is in. */
    moment(x, device) {
      const step = Math.min(this.steps.length - 1, Math.max(0, Math.floor(x)));
      const curves = this.curves(step, device), tick = (x - step) * (this.ticks(step) + 1);
      let index = 0;
      while (index + 1 < curves.ticks.length && curves.ticks[index + 1] <= tick + 1e-6) index++;
      return { step, index, tick: curves.ticks[index], curves };
    }
    place(step, device, index) { return step + this.curves(step, device).ticks[index] / (this.ticks(step) + 1); }
    /** Where most is requested in a step, on the axis. */
    highest(step, device) {
      const { total } = this.curves(step, device);
      return this.place(step, device, total.reduce((best, bytes, i) => bytes > total[best] ? i : best, 0));
    }

    /** What is alive at a moment, the largest first, and what is left over by part. */
    alive(moment, device) {
      const { step, tick, index, curves } = moment, left = this.names.map((_, which) => curves.parts[which][index]);
      const rows = [];
      for (const each of curves.held) {
        const bytes = at(each.changes, tick);
        if (!bytes) continue;
        if (each.part !== undefined) left[each.part] -= bytes;
        rows.push({ ...this.described(each, step), bytes, part: each.part, born: each.changes[0][0] });
      }
      rows.sort((a, b) => b.bytes - a.bytes);
      return { rows, left };
    }
    described(held, step) {
      const what = held.what === undefined ? held : this.picture.whats[held.what];
      const look = this.picture && this.picture.steps[step];
      return {
        name: this.renamed(what.name, (look && look.renames) || []), role: what.role || "", copies: what.copies || 1,
        shape: what.shape, dtype: what.dtype,
        line: what.line === undefined || what.line === null ? "" : this.picture.lines[what.line],
      };
    }
    renamed(name, renames) {
      for (const [old, now] of renames) if (name === old || name.startsWith(old + ".") || name.startsWith(old + " ")) return now + name.slice(old.length);
      return name;
    }
    title(step) {
      const found = this.steps[step];
      return found.phase === found.unit ? found.phase : `${found.phase} of ${found.unit}`;
    }
  }

  // ------------------------------------------------------------------ charts
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

  // ------------------------------------------------------------------ the report
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
      const { plan } = this.job, { gpu, cpu, host } = plan;
      const card = (title, bytes, lines, step, device) => make("div", { class: "pr-card" }, make("h3", {}, title), make("p", { class: "pr-figure", title: exact(bytes) }, size(bytes)), ...lines.filter(Boolean).map(each => make("p", {}, each)),
        step === null || !bytes ? null : make("button", { type: "button", onclick: () => { this.zoom(step, step + 1); this.toPeak(this.chartOf(device)); } }, `${step}: ${this.job.title(step)}`));
      return make("section", { class: "pr-cards", "aria-label": "peaks" },
        card("GPU, requested", gpu.peak_bytes, ["at most, by tensors"], gpu.peak_step, "gpu"),
        gpu.device_total_bytes && gpu.peak_reserved_bytes ? card("GPU, as nvidia-smi shows it", gpu.device_total_bytes, [`${size(gpu.peak_reserved_bytes)} reserved and ${size(gpu.context_bytes)} of CUDA context`, gpu.smallest_card_bytes ? `the smallest card that gets through: ${size(gpu.smallest_card_bytes)}` : ""], null) : null,
        plan.second_gpu ? card("second GPU, requested", plan.second_gpu.peak_bytes, ["activations wait there"], plan.second_gpu.peak_step, "gpu1") : null,
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
        make("tbody", {}, plan.demands.map(each => make("tr", {}, make("th", { scope: "row" }, each.resource), make("td", {}, size(each.needs_bytes)), make("td", {}, size(each.at_least_bytes)), make("td", {}, each.has_bytes === null ? "not said" : size(each.has_bytes)), make("td", {}, each.outcome))))) : null;
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

  // ------------------------------------------------------------------ the one way in
  const reports = new WeakMap();

  /** Draw `data` into `element`; a second time it replaces what is there, and keeps plan, device, zoom and moment. */
  function plannerReport(element, data) {
    const before = reports.get(element);
    element.classList.add("planner-report");
    const report = new Report(element, data, before ? before.report.kept : {});
    if (before) { before.report = report; return; }
    const entry = { report };
    reports.set(element, entry);
    let width = element.clientWidth;
    new ResizeObserver(() => { if (Math.abs(element.clientWidth - width) > 1) { width = element.clientWidth; entry.report.draw(); } }).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => entry.report.draw());
    let theme;
    addEventListener("beforeprint", () => { theme = element.dataset.theme; element.dataset.theme = "light"; element.classList.add("pr-printing"); entry.report.draw(); });
    addEventListener("afterprint", () => { if (theme) element.dataset.theme = theme; else delete element.dataset.theme; element.classList.remove("pr-printing"); entry.report.draw(); });
  }
  /** The data of a page: base64 of gzip of JSON. */
  plannerReport.unpack = async text => {
    const bytes = Uint8Array.from(atob(text.trim()), each => each.charCodeAt(0));
    return rows(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json());
  };
  /** Objects of what planner/pictures/columns.py has made columns of. */
  function rows(value) {
    if (Array.isArray(value)) return value.map(rows);
    if (value === null || typeof value !== "object") return value;
    if (value.$columns) {
      const columns = Object.entries(value.$columns).map(([key, column]) => [key, rows(column)]), missing = new Set(value.$missing);
      return Array.from({ length: value.$of }, (_, n) => missing.has(n) ? "$none" : Object.fromEntries(columns.filter(([, column]) => column[n] !== "$none").map(([key, column]) => [key, column[n]])));
    }
    if (value.$lengths) {
      const all = rows(value.$all);
      let at = 0;
      return value.$lengths.map(length => all.slice(at, at += length));
    }
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, rows(each)]));
  }
  globalThis.plannerReport = plannerReport;
})();
