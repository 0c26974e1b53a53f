// A job on its way: place in the queue, then stage and progress as they come.
import { cancelJob, getJob, watchJob } from "./api.js";
import { announce, fill, h } from "./dom.js";
import { duration, percent } from "./format.js";
import { STAGES } from "./words.js";

const QUEUE_EVERY_MS = 2000;

export function progressPage(body, job, onEnd) {
  const title = h("h2", {});
  const said = h("p", { class: "muted" });
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Progress" });
  const share = h("span", { class: "share" });
  const lost = h("p", { class: "lost", role: "status", hidden: true });
  const steps = STAGES.map(([name, text]) => h("li", { dataset: { stage: name } }, text));
  const cancel = h("button", { type: "button", onclick: () => stop() }, "Cancel");
  fill(body, h("section", { class: "panel progress-panel" },
    h("div", { class: "row" }, title, h("span", { class: "grow" }), cancel), said,
    h("div", { class: "progress-line" }, bar, share), h("ol", { class: "steps" }, steps), lost));

  const name = document.title;
  const started = { at: job.started_at ? new Date(job.started_at) : null };
  let stage = null;

  function showQueue(queue) {
    title.textContent = "Waiting for its turn";
    const eta = queue?.eta_s ? ` · done in about ${duration(queue.eta_s)}` : "";
    said.textContent = queue ? (queue.position === 1 ? "Next in line" : `Place ${queue.position} in the queue`) + eta : "";
  }

  function showStep(step) {
    if (step.status === "queued") { showQueue(job.queue); return; }
    started.at ??= new Date();
    title.textContent = "Segmenting";
    document.title = `${percent(step.progress, 0)} · ${name}`;
    bar.value = step.progress;
    share.textContent = percent(step.progress, 0);
    const at = STAGES.findIndex(([name]) => name === step.stage);
    steps.forEach((element, n) => {
      element.dataset.state = n < at ? "done" : n === at ? "now" : "later";
      if (n === at) element.setAttribute("aria-current", "step"); else element.removeAttribute("aria-current");
    });
    if (step.stage !== stage && at >= 0) announce(STAGES[at][1]);
    stage = step.stage;
    tick();
  }

  function tick() {
    if (started.at) said.textContent = `Running for ${duration((Date.now() - started.at) / 1000)}`;
  }

  async function askQueue() {
    if (started.at) return;
    try {
      const now = await getJob(job.id);
      if (now.status === "queued") { job = now; showQueue(now.queue); }
    } catch { /* the event line says what is wrong */ }
  }

  async function stop() {
    cancel.disabled = true;
    cancel.textContent = "Canceling…";
    try { await cancelJob(job.id); } catch (problem) { said.textContent = problem.detail; cancel.disabled = false; }
  }

  showStep(job);
  const unwatch = watchJob(job.id, {
    onStep: showStep,
    onEnd,
    onLost(problem) {
      lost.hidden = !problem;
      lost.textContent = problem ? `${problem.title}. ${problem.detail}` : "";
    },
  });
  const clock = setInterval(tick, 1000);
  const queue = setInterval(askQueue, QUEUE_EVERY_MS);
  return { leave() { unwatch(); clearInterval(clock); clearInterval(queue); } };
}
