// The page begins.
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
