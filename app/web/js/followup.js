// What became of each lesion since the prior scan. A row goes to its place; of what is gone, to where it would lie.
import { h, table } from "./dom.js";
import { fixed, position } from "./format.js";

const HEAD = ["Lesion", "Then ml", "Now ml", "Change ml", "Then Ø", "Now Ø"];
const STATE = { not_covered: "outside the other scan" };

/** goTo(row) shows the place of a row. */
export function followUp(found, goTo) {
  if (!found.comparable) return h("p", { class: "verdict", dataset: { verdict: "warn" } }, "Cannot be compared. ", found.obstacle.detail);
  const { totals, recist, registration } = found;
  return h("div", {},
    found.lesions.length
      ? h("div", { class: "scroll lesion-scroll" }, table("Lesions since the prior scan", HEAD, found.lesions.map((row) => changed(row, goTo)), { class: "lesions follow-up" }))
      : h("p", { class: "muted" }, "No lesions, then or now."),
    h("dl", { class: "facts" },
      fact("All lesions", `${thenNow(totals.lesions_ml, 2)} ml, ${withInterval(totals.lesions_ml, 2)}`),
      fact("Burden", `${thenNow(totals.burden, 2, 100)} % of the liver, ${withInterval(totals.burden, 2, 100)}`),
      fact("RECIST sum", recist ? recistWords(recist) : "none: no lesion that could be a target"),
      fact("Registration", `Dice of the livers ${fixed(registration.dice, 3)}, surfaces ${fixed(registration.mean_surface_distance_mm, 1)} mm apart`)),
    h("p", { class: "small muted" }, "In brackets: what is uncertain. Grown and shrunk are said only beyond it; ? marks lesions that are matched by nearness alone."));
}

function changed(row, goTo) {
  const go = h("button", { type: "button", class: "lesion-name", title: position(row.where_mm), onclick: () => goTo(row) }, stateOf(row));
  return h("tr", { dataset: { state: row.state } },
    h("td", { title: idsOf(row) }, go),
    h("td", { title: interval(row.volume_ml.prior_interval) }, row.prior.length ? fixed(row.volume_ml.prior, 2) : "–"),
    h("td", { title: interval(row.volume_ml.current_interval) }, row.current.length ? fixed(row.volume_ml.current, 2) : "–"),
    h("td", {}, withInterval(row.volume_ml, 2)),
    h("td", {}, diameters(row.prior)), h("td", {}, diameters(row.current)));
}

const ids = (lesions) => lesions.map((lesion) => lesion.id).join(", ") || "none";
const idsOf = (row) => `then ${ids(row.prior)}, now ${ids(row.current)}`;
const diameters = (lesions) => lesions.map((lesion) => fixed(lesion.longest_axial_diameter_mm, 0)).join(" + ") || "–";
const interval = ([low, high]) => `${fixed(low, 2)} to ${fixed(high, 2)} ml`;
const plus = (value, digits) => `${value > 0 ? "+" : ""}${fixed(value, digits)}`;
const thenNow = (change, digits, by = 1) => `${fixed(by * change.prior, digits)} → ${fixed(by * change.current, digits)}`;

function stateOf(row) {
  const trend = ["merged", "split", "regrouped"].includes(row.state) && row.trend ? `, ${row.trend}` : "";
  return `${STATE[row.state] ?? row.state}${trend}${row.matched_by === "distance" ? "?" : ""}`;
}

function withInterval(change, digits, by = 1) {
  const [low, high] = change.change_interval;
  return `${plus(by * change.change, digits)} (${plus(by * low, digits)} to ${plus(by * high, digits)})`;
}

function recistWords({ sum_mm: sum, targets, new_lesions: fresh }) {
  const [low, high] = sum.change_percent_interval;
  return `${thenNow(sum, 1)} mm of ${targets.length} target${targets.length === 1 ? "" : "s"}, ${plus(sum.change_percent, 0)} % (${plus(low, 0)} to ${plus(high, 0)}); new lesions: ${fresh}`;
}

const fact = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
