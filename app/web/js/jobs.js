// The list of scans: newest first, by state, searched by id or by the file name that this tab remembers.
import { listJobs, names } from "./api.js";
import { fill, h, table } from "./dom.js";
import { counted, duration, moment, percent } from "./format.js";
import { STATUS } from "./words.js";

const REFRESH_MS = 3000;
const SEARCH_PAGES = 10;
const STATES = [["", "All states"], ...Object.entries(STATUS)];

export function jobList(go) {
  const shown = { status: "", search: "", pages: 1 };
  let timer = 0;
  let left = false;
  let asked = 0;
  const body = h("div", { class: "jobs-body" });
  const trouble = h("p", { class: "lost", role: "status", hidden: true });
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search scans by id or file name", title: "by id or file name ( / )",
    oninput: () => { shown.search = search.value.trim().toLowerCase(); refresh(); },
    onkeydown: (event) => { if (event.key === "Enter" && /^[0-9a-f]{32}$/.test(shown.search)) go(`/view/${shown.search}`); } });
  const state = h("select", { "aria-label": "State",
    onchange: () => { shown.status = state.value; shown.pages = 1; refresh(); } },
  STATES.map(([value, text]) => h("option", { value }, text)));
  const element = h("section", { class: "panel jobs" },
    h("div", { class: "panel-head" }, h("h2", {}, "Scans"), h("span", { class: "grow" }), search, state), trouble, body);

  async function refresh() {
    clearTimeout(timer);
    const turn = ++asked;
    try {
      const found = await pages();
      if (left || turn !== asked) return;
      draw(found);
      trouble.hidden = true;
    } catch (problem) {
      if (left || turn !== asked) return;
      // What was there stays: it is old, and not wrong.
      trouble.hidden = false;
      trouble.textContent = `${problem.title}. ${problem.detail} Trying again…`;
    }
    const seldom = shown.search || document.visibilityState !== "visible";
    timer = setTimeout(refresh, seldom ? 5 * REFRESH_MS : REFRESH_MS);
  }

  async function pages() {
    let cursor = null;
    const jobs = [];
    // Who searches means all scans, not those that happen to be listed.
    const [most, limit] = shown.search ? [SEARCH_PAGES, 100] : [shown.pages, 25];
    for (let n = 0; n < most; n += 1) {
      const page = await listJobs({ status: shown.status, cursor, limit });
      jobs.push(...page.jobs);
      cursor = page.next;
      if (!cursor) break;
    }
    return { jobs, more: Boolean(cursor) };
  }

  function draw({ jobs, more }) {
    const fitting = jobs.filter((job) => job.id.startsWith(shown.search) || (names.of(job.id) ?? "").toLowerCase().includes(shown.search));
    const focused = document.activeElement?.getAttribute?.("href");
    if (!fitting.length) {
      const none = shown.search || shown.status ? "No scan fits." : "No scans yet. Drop one above.";
      fill(body, h("p", { class: "muted empty" }, none));
    } else {
      fill(body,
        h("div", { class: "scroll" }, table("Scans", ["Scan", "State", "Sent", "Took", "Remarks"], fitting.map((job) => row(job)), { class: "list" })),
        more && !shown.search && h("button", { type: "button", onclick: () => { shown.pages += 1; refresh(); } }, "Show more"));
    }
    if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  refresh();
  return { element, search: () => search.focus(), leave: () => { left = true; clearTimeout(timer); } };
}

function row(job) {
  const name = names.of(job.id);
  const took = job.completed_at && job.started_at ? (new Date(job.completed_at) - new Date(job.started_at)) / 1000 : null;
  const urgent = job.priority !== "routine" && h("span", { class: "tag" }, job.priority);
  return h("tr", {},
    h("td", {}, h("a", { href: `/view/${job.id}`, "data-route": true }, name ?? h("code", {}, job.id.slice(0, 12))), " ", urgent),
    h("td", {}, h("span", { class: "state", dataset: { state: job.status } }, STATUS[job.status]), progressOf(job)),
    h("td", {}, moment(job.created_at)),
    h("td", {}, duration(took)),
    h("td", {}, remark(job)));
}

function progressOf(job) {
  if (job.status === "running") return ` ${percent(job.progress, 0)}`;
  return job.queue ? ` place ${job.queue.position}` : "";
}

function remark(job) {
  if (job.error) return job.error.title;
  return job.warnings.length ? counted(job.warnings.length, "remark") : "";
}
