// One row per lesion: click to go there, point at it to make it stand out.
import { css, lesionColour } from "./colours.js";
import { h, table } from "./dom.js";
import { fixed, position } from "./format.js";

const BATCH = 100;
const HEAD = ["Lesion", "ml", "Ø mm", "% liver", "HU"];
const SURE = h("abbr", { title: "mean of the network's probability over the lesion; not calibrated" }, "Prob. %");

/** actions: { goTo(lesion), mark(id), show(id, on) }. Gives { element, select(id), next(step) }. */
export function lesionTable(report, actions) {
  const rows = new Map();
  const body = h("tbody", {});
  const more = h("button", { type: "button", hidden: true, onclick: () => grow(rows.size + BATCH) });
  let selected = 0;

  // Thousands of rows at once would hold up the page.
  function grow(count) {
    const added = report.lesions.slice(rows.size, count);
    for (const lesion of added) rows.set(lesion.id, lesionRow(lesion, report, actions, choose));
    body.append(...added.map((lesion) => rows.get(lesion.id)));
    more.hidden = rows.size >= report.lesions.length;
    more.textContent = `Show more (${report.lesions.length - rows.size} smaller)`;
  }

  function select(id) {
    selected = id;
    for (const [each, row] of rows) row.setAttribute("aria-selected", String(each === id));
    if (rows.has(id)) bringIntoView(rows.get(id));
  }

  function choose(lesion) { select(lesion.id); actions.goTo(lesion); }

  function next(step) {
    const count = report.lesions.length;
    if (!count) return;
    const n = (selected ? selected - 1 + step : step > 0 ? 0 : -1) + count;
    grow((n % count) + 1);
    choose(report.lesions[n % count]);
  }

  grow(BATCH);
  const head = hasProbability(report) ? [...HEAD, SURE] : HEAD;
  const element = report.lesions.length
    ? h("div", { class: "scroll lesion-scroll" }, table("Lesions, the largest first", head, body, { class: "lesions" }), more)
    : h("p", { class: "muted" }, "No lesion was found. That does not mean that there is none.");
  return { element, select, next };
}

function lesionRow(lesion, report, actions, choose) {
  const shown = h("input", { type: "checkbox", checked: true, "aria-label": `Show lesion ${lesion.id}`, title: "show or hide",
    onclick: (event) => event.stopPropagation(), onchange: () => actions.show(lesion.id, shown.checked) });
  const go = h("button", { type: "button", class: "lesion-name", title: position(lesion.centroid_mm),
    onfocus: () => actions.mark(lesion.id), onblur: () => actions.mark(0),
    onclick: (event) => { event.stopPropagation(); choose(lesion); } },
  h("span", { class: "swatch", style: { background: css(lesionColour(lesion.id)) } }), String(lesion.id));
  const share = report.liver.volume_ml ? lesion.volume_ml / report.liver.volume_ml : null;
  return h("tr", { dataset: { lesion: lesion.id }, "aria-selected": "false",
    onclick: () => choose(lesion), onmouseenter: () => actions.mark(lesion.id), onmouseleave: () => actions.mark(0) },
  h("td", {}, h("span", { class: "lesion-cell" }, shown, go, lesion.touches_border && edgeMark())),
  h("td", { title: intervalOf(lesion) }, millilitres(lesion.volume_ml)),
  h("td", { title: "longest axial × perpendicular" },
    `${fixed(lesion.longest_axial_diameter_mm, 1)} × ${fixed(lesion.perpendicular_diameter_mm, 1)}`),
  h("td", {}, share === null ? "–" : fixed(100 * share, 2)),
  h("td", {}, fixed(lesion.mean_hu, 0)),
  hasProbability(report) && h("td", {}, share100(lesion.mean_probability)));
}

// Reports of older versions, and networks without probabilities, have none.
const hasProbability = (report) => report.lesions.some((lesion) => typeof lesion.mean_probability === "number");
const share100 = (share) => (typeof share === "number" ? fixed(100 * share, 0) : "–");
const millilitres = (ml) => fixed(ml, ml < 10 ? 2 : 1);
const intervalOf = ({ volume_interval_ml: interval }) =>
  interval && `${interval.map(millilitres).join(" to ")} ml at a higher and a lower threshold`;

const edgeMark = () => h("span", { class: "tag warn", title: "reaches the edge of the scan; part of it may be missing" }, "edge");

/** Scroll the list, and it alone: the page stays where its reader has put it. */
function bringIntoView(row) {
  const list = row.closest(".lesion-scroll");
  const head = list.querySelector("thead").offsetHeight;
  const [top, bottom] = [row.offsetTop - head, row.offsetTop + row.offsetHeight - list.clientHeight];
  if (list.scrollTop > top) list.scrollTop = top;
  else if (list.scrollTop < bottom) list.scrollTop = bottom;
}
