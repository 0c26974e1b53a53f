// Drop or choose a CT, add a reference if there is one, send it and see how fast it goes.
import { names, newKey, sendScan } from "./api.js";
import { announce, choice, fill, h } from "./dom.js";
import { bytes, duration, percent } from "./format.js";
import { problemPanel } from "./problem.js";

const LOOK_BACK_S = 3;
const STALLED_S = 8;

export function uploadForm(go) {
  const chosen = { file: null, reference: null, prior: new URLSearchParams(location.search).get("prior"), priority: "routine", key: newKey() };
  let sending = null;
  const status = h("div", { class: "upload-status" });
  const start = h("button", { class: "primary", type: "submit", disabled: true }, "Segment this scan");
  const drop = filePicker("file", "CT scan", "Drop a CT here or choose a file", "NIfTI (.nii, .nii.gz) or one DICOM series as a .zip", take);
  const reference = filePicker("reference", "Reference (optional)", "Add a reference", "labels 0, 1, 2 on the same grid: adds Dice and distances", take);
  reference.element.classList.add("lesser");
  const priority = choice("Priority",
    [["routine", "Routine"], ["urgent", "Urgent", "before routine scans"], ["stat", "Stat", "before all others"]],
    "routine", (value) => { chosen.priority = value; chosen.key = newKey(); });
  const form = h("form", { class: "panel upload", onsubmit: submit },
    h("h2", { class: "unseen" }, "New scan"),
    h("div", { class: "pickers" }, drop.element, reference.element),
    chosen.prior && priorLine(chosen.prior, () => { chosen.prior = null; chosen.key = newKey(); }),
    h("div", { class: "upload-foot" }, h("span", { class: "muted small" }, "Priority"), priority.element, h("span", { class: "grow" }), start),
    status);

  const beside = (event) => { event.preventDefault(); takeDropped("file", event.dataTransfer, take); };
  const stay = (event) => event.preventDefault();

  function take(kind, file, fault = "") {
    chosen[kind] = file;
    chosen.key = newKey();
    (kind === "file" ? drop : reference).show(file);
    start.disabled = !chosen.file || Boolean(sending);
    if (!sending) fill(status, fault && h("p", { class: "lost", role: "alert" }, fault));
  }

  function submit(event) {
    event.preventDefault();
    if (!chosen.file || sending) return;
    const body = new FormData();
    // The name is left out: it may name a patient.
    body.append("priority", chosen.priority);
    body.append("file", chosen.file, "scan");
    if (chosen.prior) body.append("prior", chosen.prior);
    if (chosen.reference) body.append("reference", chosen.reference, "reference");
    const progress = progressLine(() => sending?.abort());
    fill(status, progress.element);
    form.classList.add("busy");
    start.disabled = true;
    sending = sendScan(body, chosen.key, progress.show);
    sending.done.finally(progress.stop).then(
      (job) => { names.keep(job.id, chosen.file.name); sending = null; go(`/view/${job.id}`); },
      (problem) => {
        sending = null;
        form.classList.remove("busy");
        start.disabled = false;
        fill(status, problem.code === "aborted" ? h("p", { class: "muted" }, "Upload canceled.") : problemPanel(problem));
        announce(problem.title);
      });
  }

  const warn = (event) => { if (sending) event.preventDefault(); };
  addEventListener("beforeunload", warn);
  // A file that is dropped beside the fields would take the place of the page: it is taken for the scan instead.
  document.addEventListener("dragover", stay);
  document.addEventListener("drop", beside);
  return {
    element: form,
    mayLeave: () => !sending || confirm("The scan is still being sent. Leave, and stop sending it?"),
    leave() {
      sending?.abort();
      removeEventListener("beforeunload", warn);
      document.removeEventListener("dragover", stay);
      document.removeEventListener("drop", beside);
    },
  };
}

/** Which earlier scan this one will be compared with, until that is taken back. */
function priorLine(id, drop) {
  const line = h("p", { class: "small upload-prior" }, "Will be compared with ", names.of(id) ?? "scan", " ", h("code", {}, id.slice(0, 12)), " ",
    h("button", { type: "button", class: "quiet", onclick: () => { drop(); line.remove(); } }, "Do not compare"));
  return line;
}

/** What was dropped, if it is one file; otherwise the reason why it cannot be sent. */
function takeDropped(kind, { files, items }, take) {
  const folder = [...items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folder) take(kind, null, "A folder cannot be sent. Pack the series into one .zip and drop that.");
  else if (files.length > 1) take(kind, null, "These are several files. Pack the series into one .zip and drop that.");
  else if (files.length) take(kind, files[0]);
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
    event.stopPropagation();
    zone.classList.remove("over");
    takeDropped(kind, event.dataTransfer, take);
  });
  const show = (file) => {
    zone.classList.toggle("filled", Boolean(file));
    title.textContent = file ? file.name : invitation;
    detail.textContent = file ? bytes(file.size) : hint;
    clear.hidden = !file;
  };
  return { element: zone, show };
}

/** Bar, share, speed over the last seconds, and what is left; it says so if nothing moves. */
function progressLine(abort) {
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  const said = h("span", { class: "upload-said" }, "Sending…");
  const marks = [];
  let [moved, whole] = [performance.now() / 1000, false];
  const show = (sent, total) => {
    const now = performance.now() / 1000;
    [moved, whole] = [now, sent >= total];
    marks.push([now, sent]);
    while (marks.length > 2 && now - marks[0][0] > LOOK_BACK_S) marks.shift();
    const seconds = now - marks[0][0];
    const speed = seconds > 0.2 ? (sent - marks[0][1]) / seconds : null;
    bar.value = total ? sent / total : 0;
    said.textContent = whole
      ? "Sent. Being checked…"
      : `${percent(sent / total, 0)} · ${bytes(sent)} of ${bytes(total)}` +
        (speed ? ` · ${bytes(speed)}/s · ${duration((total - sent) / speed)} left` : "");
  };
  const timer = setInterval(() => {
    const still = performance.now() / 1000 - moved;
    if (still > STALLED_S && !whole) said.textContent = `Nothing has been sent for ${duration(still)}. Is the connection still there?`;
  }, 1000);
  return {
    element: h("div", { class: "upload-progress" }, bar, said, h("button", { type: "button", onclick: abort }, "Cancel")),
    show,
    stop: () => clearInterval(timer),
  };
}
