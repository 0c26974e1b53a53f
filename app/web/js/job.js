// /view/{id}: a job from its place in the queue to its result.
import { eraseJob, getJob, names } from "./api.js";
import { announce, fill, h } from "./dom.js";
import { problemPanel } from "./problem.js";
import { progressPage } from "./progress.js";
import { resultPage } from "./result.js";
import { STATUS } from "./words.js";

export function jobPage(main, id, go) {
  const name = `Scan ${id.slice(0, 8)} – Hepaseg`;
  document.title = name;
  const body = h("div", { class: "job-body" }, h("p", { class: "muted" }, "Loading…"));
  const actions = h("div", { class: "job-actions" });
  fill(main, h("div", { class: "job" },
    h("div", { class: "job-head" },
      h("h1", {}, names.of(id) ?? "Scan", " ", h("code", { class: "muted", title: id }, id.slice(0, 12))),
      h("span", { class: "grow" }), actions),
    body));
  let left = false;
  let page = {};

  function show(job) {
    if (left) return;
    page.leave?.();
    page = {};
    fill(actions);
    document.title = name;
    if (job.status === "queued" || job.status === "running") {
      page = progressPage(body, job, show);
      return;
    }
    if (job.status === "expired") {  // erased by somebody else while it was watched: said as to whoever comes later
      load();
      return;
    }
    fill(actions, job.status === "succeeded" && h("a", { class: "button", href: `/?prior=${id}`, "data-route": true }, "Compare a later scan"),
      h("button", { type: "button", class: "quiet", onclick: () => erase() }, "Erase…"));
    if (job.status === "succeeded") page = resultPage(body, job);
    else if (job.status === "failed") fill(body, problemPanel(job.error, again()));
    else fill(body, h("section", { class: "panel" }, h("h2", {}, "Canceled"), h("p", {}, "This scan was not segmented."), again()));
    document.title = `${STATUS[job.status]} · ${name}`;
    announce(`Scan ${STATUS[job.status]}`);
  }

  const again = () => h("p", {}, h("a", { class: "button primary", href: "/", "data-route": true }, "Send another scan"));

  function erase() {
    const dialog = h("dialog", { "aria-label": "Erase this scan" },
      h("h2", {}, "Erase this scan and its results?"), h("p", {}, "Nothing of it is left on the service afterwards."),
      h("form", { method: "dialog", class: "row" },
        h("button", { value: "no" }, "Keep"), h("button", { value: "yes", class: "danger" }, "Erase")));
    dialog.addEventListener("close", async () => {
      dialog.remove();
      if (dialog.returnValue !== "yes") return;
      try { await eraseJob(id); go("/"); } catch (problem) { fill(body, problemPanel(problem)); }
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  function load() {
    getJob(id).then(show, (problem) => {
      if (left) return;
      fill(body, problemPanel(problem, h("p", {}, h("a", { class: "button", href: "/", "data-route": true }, "All scans"))));
    });
  }

  load();
  return {
    leave() { left = true; page.leave?.(); },
    onKey: (event) => page.onKey?.(event) ?? false,
  };
}
