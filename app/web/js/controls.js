// The tool bar over the pictures and the keys that do the same.
import { choice, h } from "./dom.js";
import { DIFFERENCE_COLOURS, DIFFERENCE_WORDS, LIVER, css } from "./colours.js";
import { FILL, WINDOWS } from "./viewer.js";

const LAYOUTS = [
  ["planes", "All", "Three planes and 3-D (4)"], ["axial", "Axial", "1"], ["coronal", "Coronal", "2"], ["sagittal", "Sagittal", "3"], ["volume", "3-D", "5"],
];
const WINDOW_NAMES = [["abdomen", "Abdomen", "a"], ["liver", "Liver", "l"], ["bone", "Bone", "b"], ["lung", "Lung", "u"]];
const LAYOUT_KEYS = { 1: "axial", 2: "coronal", 3: "sagittal", 4: "planes", 5: "volume" };
const WINDOW_KEYS = { a: "abdomen", l: "liver", b: "bone", u: "lung" };
const STEPS = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 };

/** Gives { elements, showWindow, onKey }; `reference` is the address of the reference, or null. */
export function controls(viewer, reference) {
  const layout = choice("Layout", LAYOUTS, "planes", (name) => viewer.setLayout(name));
  const windows = choice("Window", WINDOW_NAMES, "abdomen", (name) => viewer.setWindow(WINDOWS[name]));
  const levels = h("span", { class: "levels muted small", title: "window width and level in HU; drag with the right button to change" });
  const liver = layer(viewer, "liver", "Liver", FILL.liver, css(LIVER));
  const lesions = layer(viewer, "lesions", "Lesions", FILL.lesions, "conic-gradient(#ff7043, #ffca28, #ab82ff, #42a5f5, #ff7043)");
  const outline = toggle("Contours", "Contours instead of areas (c)", (on) => viewer.setOutline(on));
  const measure = toggle("Measure", "Drag to measure a distance (m)", (on) => viewer.setMeasuring(on));
  const legend = differenceLegend();
  const differ = reference && toggle("Differences", "Where the result and the reference differ (d)", (on) => {
    legend.hidden = !on;
    viewer.showDifference(reference, on);
  });

  function onKey({ key }) {
    if (key in LAYOUT_KEYS) layout.element.querySelector(`[data-value="${LAYOUT_KEYS[key]}"]`).click();
    else if (key in WINDOW_KEYS) windows.element.querySelector(`[data-value="${WINDOW_KEYS[key]}"]`).click();
    else if (key in STEPS) viewer.step(STEPS[key]);
    else if (key === "o") { const on = !(liver.on() || lesions.on()); liver.set(on); lesions.set(on); }
    else if (key === "c") outline.click();
    else if (key === "m") measure.click();
    else if (key === "d" && differ) differ.click();
    else return false;
    return true;
  }

  function showWindow({ level, width }) {
    levels.textContent = `W ${width} L ${level}`;
    const preset = Object.entries(WINDOWS).find(([, window]) => window.level === level && window.width === width);
    windows.show(preset?.[0]);
  }

  return {
    elements: [
      h("div", { class: "tools" }, layout.element, windows.element, levels),
      h("div", { class: "tools layers" }, liver.element, lesions.element, h("span", { class: "grow" }), h("div", { class: "row" }, [outline, measure, differ].filter(Boolean))),
      legend,
    ],
    showWindow,
    onKey,
  };
}

function differenceLegend() {
  return h("div", { class: "legend small", hidden: true }, Object.entries(DIFFERENCE_WORDS).map(([name, text]) =>
    h("span", {}, h("span", { class: "swatch", style: { background: css(DIFFERENCE_COLOURS[name]) } }), text)));
}

function toggle(text, title, change) {
  const button = h("button", { type: "button", class: "toggle", title, "aria-pressed": "false",
    onclick: () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      change(on);
    } }, text);
  return button;
}

function layer(viewer, what, text, opacity, colour) {
  const box = h("input", { type: "checkbox", checked: true, onchange: () => viewer.setShown(what, box.checked) });
  const slider = h("input", { type: "range", min: "0", max: "1", step: "0.05", value: String(opacity), "aria-label": `${text} opacity`,
    oninput: () => viewer.setOpacity(what, Number(slider.value)) });
  const set = (on) => { box.checked = on; viewer.setShown(what, on); };
  return {
    element: h("div", { class: "layer" }, h("label", {}, box, h("span", { class: "swatch", style: { background: colour } }), text), slider),
    on: () => box.checked,
    set,
  };
}
