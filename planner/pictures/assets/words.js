// Sizes in words, and elements; a part of the report's script, as are job.js, chart.js, report.js and page.js.
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
