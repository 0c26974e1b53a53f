// What stands beside the pictures: agreement, findings, files, facts.
import { h, table } from "./dom.js";
import { duration, fixed, percent } from "./format.js";
import { VERDICT, findingTitle } from "./words.js";

const MEASURES = [
  ["Dice", (m) => fixed(m.dice, 3), "twice the overlap over the sum of both; 1 is perfect"],
  ["Overlap error", (m) => percent(m.voe), "1 − overlap over union; 0 is perfect"],
  ["Volume difference", (m) => percent(m.rvd), "positive if the result is too large"],
  ["Mean distance mm", (m) => fixed(m.assd_mm, 2), "between the surfaces, both ways"],
  ["95 % distance mm", (m) => fixed(m.hd95_mm, 2), "95 % of the surface is nearer than this"],
];

/** How well liver and lesions agree with the reference that was sent. */
export function agreementTable({ liver, lesion }) {
  const rows = MEASURES.map(([name, show, title]) =>
    h("tr", { title }, h("th", { scope: "row" }, name), h("td", {}, show(liver)), h("td", {}, show(lesion))));
  const { by_lesion: by } = lesion;
  return h("div", {}, h("div", { class: "scroll" }, table("Agreement with the reference", ["", "Liver", "Lesions"], rows, { class: "agreement" })),
    h("p", { class: "small muted" },
      `${by.found_count} of ${by.reference_count} lesions of the reference found; ` +
      `${by.true_count} of ${by.predicted_count} found lesions are in the reference. F1 ${fixed(by.f1, 2)}.`));
}

/** The quality findings in plain words. */
export function findings({ verdict, findings: found }) {
  return h("div", {},
    h("p", { class: "verdict", dataset: { verdict } }, VERDICT[verdict]),
    found.length ? h("ul", { class: "findings" }, found.map(({ code, severity, detail }) =>
      h("li", { dataset: { severity } }, h("strong", {}, findingTitle(code)), " ", detail))) : null);
}

const FILES = [
  ["labels.nii.gz", "Labels", "0 background, 1 liver, 2 lesion"], ["liver.nii.gz", "Liver mask", ""],
  ["lesions.nii.gz", "Lesion masks", "each with its number"], ["lesions.csv", "Lesion table", "CSV"],
  ["report.json", "Report", "JSON"], ["preview.png", "Picture", "PNG"], ["scan", "Scan", "NIfTI"],
];
const IF_MADE = {
  receipt: ["receipt.json", "Receipt", "hashes of all"], seg: ["seg.dcm", "DICOM SEG", ""],
  sr: ["sr.dcm", "DICOM SR", ""], rtstruct: ["rtstruct.dcm", "DICOM RTSTRUCT", "outlines"],
};

/** Every file of a result; the sheet opens for printing. Receipt and DICOM objects are listed where the service made them. */
export function downloads(job) {
  const here = `/jobs/${job.id}`;
  const table = job.report.follow_up ? [["follow_up.csv", "Changes since then", "CSV"]] : [];
  const made = Object.entries(IF_MADE).filter(([name]) => job.links[name]).map(([, file]) => file);
  return h("div", {},
    h("p", {}, h("a", { class: "button primary", href: `${here}/sheet.html`, target: "_blank", rel: "noopener" }, "Open the printable sheet")),
    h("ul", { class: "files" }, [...FILES, ...table, ...made].map(([name, title, what]) =>
      h("li", {}, h("a", { href: `${here}/${name}`, download: true }, title), h("span", { class: "muted small" }, what)))));
}

/** Grid, networks and times. */
export function facts({ scan, models, timings_s: times }) {
  const lines = [
    ["Grid", `${scan.shape.join(" × ")} voxels, ${scan.spacing_mm.map((mm) => fixed(mm, 2)).join(" × ")} mm, ${scan.orientation}`],
    ["Scan sha256", h("code", {}, scan.sha256)],
    ...Object.entries(models).map(([task, model]) => [`${task} network`, h("span", { title: model.sha256 }, `${model.name} ${model.version} `, h("code", {}, model.sha256.slice(0, 12)))]),
    ["Time", `${duration(times.total)} (liver ${fixed(times.liver, 1)} s, lesions ${fixed(times.lesion, 1)} s, edges ${fixed(times.crf, 1)} s)`],
  ];
  return h("dl", { class: "facts" }, lines.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]).flat());
}
