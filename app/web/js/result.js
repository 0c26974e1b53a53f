// A finished job: the numbers, the pictures, the lesions, what to be careful about, and everything to take away.
import { agreementTable, downloads, facts, findings } from "./details.js";
import { announce, fill, h } from "./dom.js";
import { controls } from "./controls.js";
import { followUp } from "./followup.js";
import { bytes, counted, fixed, percent, position } from "./format.js";
import { lesionTable } from "./lesions.js";
import { problemPanel } from "./problem.js";
import { Viewer } from "./viewer.js";

const MARK_AFTER_MS = 60;

export function resultPage(body, job) {
  const report = job.report;
  const here = `/jobs/${job.id}`;
  const reference = report.agreement ? `${here}/reference` : null;
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "CT with liver and lesions; arrow keys move through the slices" });
  const veil = h("div", { class: "veil", role: "status" }, h("span", {}, "Loading the scan…"));
  const readout = h("div", { class: "readout", dataset: { ready: "no" } });
  const over = h("canvas", { class: "over", "aria-hidden": "true" });
  const stage = h("div", { class: "stage" }, canvas, over, veil, readout);
  const lesions = lesionTable(report, { goTo, mark: markSoon, show: (id, on) => ready && viewer.setLesionShown(id, on) });
  const viewer = new Viewer(canvas, over, { onMove, onWindow: (window) => bar?.showWindow(window) });
  let ready = false;
  let left = false;
  let marking = 0;
  const bar = controls(viewer, reference);
  const tools = h("fieldset", { class: "viewer-tools", disabled: true, "aria-label": "Viewer" }, bar.elements);
  fill(body,
    keyNumbers(report),
    h("div", { class: "result" },
      h("section", { class: "viewer", "aria-label": "Pictures" }, tools, stage),
      h("div", { class: "side" },
        panel(`Lesions (${report.lesion_count})`, lesions.element),
        report.follow_up && panel("Since the prior scan", followUp(report.follow_up, goToChange), { id: "follow-up" }),
        report.agreement && panel("Against the reference", agreementTable(report.agreement)),
        panel("Quality", findings(report.quality), { id: "quality" }),
        panel("Take away", downloads(job)),
        panel("Scan and networks", facts(report)))));

  function onMove({ mm, slice, slices, hounsfield, what, lesion }) {
    readout.dataset.mm = mm.map((x) => x.toFixed(2)).join(",");
    readout.textContent = `slice ${slice} of ${slices}   ${position(mm)} mm   ${fixed(hounsfield, 0)} HU${what ? `   ${what}` : ""}`;
    lesions.select(lesion);
  }

  function goTo(lesion) {
    if (!ready) return;
    viewer.goTo(lesion.centroid_mm);
    lesions.select(lesion.id);
    announce(`Lesion ${lesion.id}, ${fixed(lesion.volume_ml, 1)} millilitres`);
  }

  function goToChange(row) {
    if (!ready) return;
    viewer.goTo(row.where_mm);
    lesions.select(row.current[0]?.id ?? 0);
    announce(`Lesion ${row.state}`);
  }

  function markSoon(id) {
    clearTimeout(marking);
    marking = setTimeout(() => ready && viewer.mark(id), MARK_AFTER_MS);
  }

  const loading = (received, total) =>
    fill(veil, h("span", {}, `Loading the scan… ${bytes(received)}${total ? ` of ${bytes(total)}` : ""}`));
  const began = performance.now();
  viewer.load({ scan: `${here}/scan`, labels: `${here}/labels.nii.gz`, lesions: `${here}/lesions.nii.gz` }, report.lesion_count, loading)
    .then(() => {
      if (left) { viewer.dispose(); return; }
      ready = true;
      tools.disabled = false;
      veil.remove();
      readout.dataset.ready = "yes";
      readout.dataset.seconds = ((performance.now() - began) / 1000).toFixed(2);
      if (report.lesions.length) goTo(report.lesions[0]);
    })
    .catch(cannotShow);

  function cannotShow(error) {
    stage.append(veil);
    fill(veil, problemPanel({ title: "The pictures cannot be shown", code: error.code ?? "viewer", detail: error.message }));
  }
  canvas.addEventListener("webglcontextlost", () => left || cannotShow(new Error("The graphics card gave up. Reload the page.")));

  return {
    leave() { left = true; clearTimeout(marking); if (ready) viewer.dispose(); ready = false; },
    onKey(event) {
      if (!ready) return false;
      if (event.key === "n" || event.key === "p") { lesions.next(event.key === "n" ? 1 : -1); return true; }
      return bar.onKey(event);
    },
  };
}

const panel = (title, child, more = {}) => h("section", { class: "panel", ...more }, h("h2", {}, title), child);

function keyNumbers(report) {
  const { verdict, findings: found } = report.quality;
  const remarks = counted(found.length, "remark");
  const items = [
    ["Liver", `${fixed(report.liver.volume_ml, 0)} ml`, report.liver.touches_border ? "may be cut off" : `mean ${fixed(report.liver.mean_hu, 0)} HU`],
    ["Lesions", String(report.lesion_count), report.lesions[0] ? `largest ${fixed(report.lesions[0].longest_axial_diameter_mm, 0)} mm` : ""],
    ["Lesion volume", `${fixed(report.lesion_volume_ml, 1)} ml`, "together"],
    ["Burden", percent(report.lesion_burden, 2), "of the liver"],
    ["Quality", verdict === "accept" ? "Good" : "Look closely", found.length ? h("a", { href: "#quality" }, remarks) : remarks],
  ];
  return h("dl", { class: "key" }, items.map(([name, value, more]) =>
    h("div", { dataset: name === "Quality" ? { verdict } : {} }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("span", { class: "muted small" }, more)))));
}
