// One plan, ready to draw: its curves, levels and what is alive at a moment.
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
