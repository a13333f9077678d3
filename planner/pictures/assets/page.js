// The one way in: `plannerReport(element, data)`, and the data of a page; docs/report.md has them.
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
