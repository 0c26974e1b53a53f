// The colours of what is drawn over the scan, the same in the pictures, the table and the legend.

export const LIVER = [38, 198, 160];
const LESIONS = [
  [255, 112, 67], [255, 202, 40], [171, 130, 255], [66, 165, 245], [236, 64, 122], [156, 204, 101], [255, 167, 112], [77, 208, 225],
];
export const MARKED = [255, 255, 255];

export const lesionColour = (id) => LESIONS[(id - 1) % LESIONS.length];
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** Look-up table of labels.nii.gz: only the liver around the lesions is drawn, lesions have their own layer. */
export const liverMap = () => map([[0, 0, 0], LIVER, LIVER], [0, 255, 0], ["", "liver", "lesion"]);

/** Look-up table of lesions.nii.gz: each in its colour. */
export function lesionMap(count) {
  const colours = [[0, 0, 0]];
  const alpha = [0];
  const labels = [""];
  for (let id = 1; id <= count; id += 1) {
    colours.push(lesionColour(id));
    alpha.push(255);
    labels.push(`lesion ${id}`);
  }
  return map(colours, alpha, labels);
}

export const DIFFERENCE_COLOURS = {
  liverMissed: [66, 135, 245], liverExtra: [255, 214, 0], lesionMissed: [213, 0, 249], lesionExtra: [255, 61, 0],
};
export const DIFFERENCE_WORDS = {
  liverMissed: "liver missed", liverExtra: "not liver", lesionMissed: "lesion missed", lesionExtra: "not a lesion",
};

export function differenceMap() {
  const names = Object.keys(DIFFERENCE_COLOURS);
  return map([[0, 0, 0], ...names.map((name) => DIFFERENCE_COLOURS[name])], [0, 255, 255, 255, 255], ["", ...names.map((name) => DIFFERENCE_WORDS[name])]);
}

function map(colours, alpha, labels) {
  return {
    R: colours.map((c) => c[0]), G: colours.map((c) => c[1]), B: colours.map((c) => c[2]),
    A: alpha, I: colours.map((_, n) => n), labels,
  };
}
