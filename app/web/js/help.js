// The keys, in a dialog.
import { h } from "./dom.js";

const KEYS = [
  ["Everywhere", [["g", "all scans"], ["t", "light or dark"], ["?", "this list"]]],
  ["Result", [
    ["1 2 3", "axial, coronal, sagittal"], ["4 5", "all planes, 3-D"],
    ["a l b u", "window: abdomen, liver, bone, lung"],
    ["n p", "next, previous lesion"], ["↑ ↓", "one slice up or down"], ["Page ↑ ↓", "five slices up or down"],
    ["o", "overlays on or off"], ["c", "filled or contours"], ["d", "differences from the reference"], ["m", "measure by dragging"],
  ]],
  ["Mouse", [["click", "move the crosshair"], ["wheel", "next slice"], ["right drag", "brightness and contrast"]]],
];

let dialog = null;

/** Open the list of keys, or close it. */
export function showHelp() {
  if (dialog?.open) { dialog.close(); return; }
  dialog?.remove();
  dialog = h("dialog", { class: "help", "aria-label": "Keyboard shortcuts" },
    h("h2", {}, "Keys"),
    KEYS.map(([title, keys]) => [
      h("h3", {}, title),
      h("dl", {}, keys.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    ]).flat(),
    h("form", { method: "dialog" }, h("button", { class: "primary", autofocus: true }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
