// Puts the page together: which part belongs to which address, and the keys that work everywhere.
import { ask } from "./api.js";
import { homePage } from "./home.js";
import { showHelp } from "./help.js";
import { jobPage } from "./job.js";

const main = document.getElementById("main");
let page = {};

/** Show what an address stands for. A page gives { mayLeave, leave, onKey }, all optional. */
function show() {
  page.leave?.();
  const found = /^\/view\/([^/]+)\/?$/.exec(location.pathname);
  page = found ? jobPage(main, decodeURIComponent(found[1]), go) : homePage(main, go);
}

/** Go to an address of this page without loading it anew. */
export function go(path) {
  if (page.mayLeave?.() === false) return;
  history.pushState(null, "", path);
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function onLink(event) {
  const link = event.target.closest("a[data-route]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute("href"));
}

function onKey(event) {
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.ctrlKey || event.metaKey || event.altKey || (typing && typing.type !== "range" && typing.type !== "checkbox")) return;
  const everywhere = { "?": showHelp, t: window.toggleTheme, g: () => go("/") };
  const action = everywhere[event.key];
  if (action) action();
  else if (!page.onKey?.(event)) return;
  event.preventDefault();
}

async function showService() {
  const chip = document.getElementById("service");
  try {
    await ask("/health/ready");
    chip.dataset.state = "ready";
    chip.textContent = "Ready";
    chip.title = "Networks are loaded; scans are worked on at once.";
  } catch (problem) {
    chip.dataset.state = "waiting";
    chip.textContent = problem.code === "network" ? "Offline" : "Not ready";
    chip.title = problem.detail;
  }
}

document.addEventListener("click", onLink);
document.addEventListener("keydown", onKey);
document.getElementById("theme").addEventListener("click", () => window.toggleTheme());
document.getElementById("help").addEventListener("click", showHelp);
addEventListener("popstate", show);
show();
showService();
setInterval(() => document.visibilityState === "visible" && showService(), 10000);
