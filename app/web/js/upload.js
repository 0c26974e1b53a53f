// Drop or choose a CT, add a reference if there is one, send it and see how fast it goes.
import { names, sendScan } from "./api.js";
import { announce, choice, fill, h } from "./dom.js";
import { bytes, duration, percent } from "./format.js";
import { problemPanel } from "./problem.js";

const LOOK_BACK_S = 3;

export function uploadForm(go) {
  const chosen = { file: null, reference: null, priority: "routine" };
  let sending = null;
  const status = h("div", { class: "upload-status" });
  const start = h("button", { class: "primary", type: "submit", disabled: true }, "Segment this scan");
  const drop = filePicker("file", "CT scan", "Drop a CT here or choose a file", "NIfTI (.nii, .nii.gz) or one DICOM series as a .zip", take);
  const reference = filePicker("reference", "Reference (optional)", "Add a reference", "labels 0, 1, 2 on the same grid: adds Dice and distances", take);
  reference.element.classList.add("lesser");
  const priority = choice("Priority",
    [["routine", "Routine"], ["urgent", "Urgent", "before routine scans"], ["stat", "Stat", "before all others"]],
    "routine", (value) => { chosen.priority = value; });
  const form = h("form", { class: "panel upload", onsubmit: submit },
    h("h2", { class: "unseen" }, "New scan"),
    h("div", { class: "pickers" }, drop.element, reference.element),
    h("div", { class: "upload-foot" }, h("span", { class: "muted small" }, "Priority"), priority.element, h("span", { class: "grow" }), start),
    status);

  function take(kind, file) {
    chosen[kind] = file;
    (kind === "file" ? drop : reference).show(file);
    start.disabled = !chosen.file || Boolean(sending);
    if (!sending) fill(status);
  }

  function submit(event) {
    event.preventDefault();
    if (!chosen.file || sending) return;
    const body = new FormData();
    // The name is left out: it may name a patient.
    body.append("priority", chosen.priority);
    body.append("file", chosen.file, "scan");
    if (chosen.reference) body.append("reference", chosen.reference, "reference");
    const progress = progressLine(() => sending?.abort());
    fill(status, progress.element);
    form.classList.add("busy");
    start.disabled = true;
    sending = sendScan(body, progress.show);
    sending.done.then(
      (job) => { names.keep(job.id, chosen.file.name); sending = null; go(`/view/${job.id}`); },
      (problem) => {
        sending = null;
        form.classList.remove("busy");
        start.disabled = false;
        fill(status, problem.code === "aborted" ? h("p", { class: "muted" }, "Upload canceled.") : problemPanel(problem));
        announce(problem.title);
      });
  }

  return { element: form, leave: () => sending?.abort() };
}

function filePicker(kind, label, invitation, hint, take) {
  const title = h("span", { class: "drop-title" }, invitation);
  const detail = h("span", { class: "muted small" }, hint);
  const input = h("input", { type: "file", name: kind, class: "unseen", "aria-label": label,
    onchange: () => input.files[0] && take(kind, input.files[0]) });
  const clear = h("button", { type: "button", class: "quiet", hidden: true, "aria-label": `Remove ${label}`,
    onclick: (event) => { event.preventDefault(); input.value = ""; take(kind, null); } }, "Remove");
  const zone = h("label", { class: "drop" }, input, h("span", { class: "drop-text" }, title, detail), clear);
  const over = (event) => { event.preventDefault(); zone.classList.add("over"); };
  zone.addEventListener("dragenter", over);
  zone.addEventListener("dragover", over);
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) take(kind, event.dataTransfer.files[0]);
  });
  const show = (file) => {
    zone.classList.toggle("filled", Boolean(file));
    title.textContent = file ? file.name : invitation;
    detail.textContent = file ? bytes(file.size) : hint;
    clear.hidden = !file;
  };
  return { element: zone, show };
}

/** Bar, share, speed over the last seconds, and what is left. */
function progressLine(abort) {
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  const said = h("span", { class: "upload-said" }, "Sending…");
  const marks = [];
  const show = (sent, total) => {
    const now = performance.now() / 1000;
    marks.push([now, sent]);
    while (marks.length > 2 && now - marks[0][0] > LOOK_BACK_S) marks.shift();
    const seconds = now - marks[0][0];
    const speed = seconds > 0.2 ? (sent - marks[0][1]) / seconds : null;
    bar.value = total ? sent / total : 0;
    said.textContent = sent >= total
      ? "Sent. Being checked…"
      : `${percent(sent / total, 0)} · ${bytes(sent)} of ${bytes(total)}` +
        (speed ? ` · ${bytes(speed)}/s · ${duration((total - sent) / speed)} left` : "");
  };
  return { element: h("div", { class: "upload-progress" }, bar, said, h("button", { type: "button", onclick: abort }, "Cancel")), show };
}
