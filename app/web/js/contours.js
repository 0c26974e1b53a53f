// Contours along the edges of voxels, drawn in two dimensions over the pictures: sharp at any zoom, and changed at no cost,
// where every change of a filled layer sends the whole volume to the graphics card again.

const LIVER_PX = 1.5;
const LESION_PX = 1.75;
const MARKED_PX = 2.75;
// For each plane (axial, coronal, sagittal): its axis across, its axis upwards, the axis it is cut along.
const PLANES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]];

/** Lines around equal numbers in a slice, row by row: Map from number to Path2D, in voxels. 0 is outside. */
export function trace(width, height, numbers) {
  const paths = new Map();
  const edge = (number, x0, y0, x1, y1) => {
    if (!number) return;
    if (!paths.has(number)) paths.set(number, new Path2D());
    paths.get(number).moveTo(x0, y0);
    paths.get(number).lineTo(x1, y1);
  };
  // Between two lines of voxels the edges that go on in the same way are one stroke.
  const scan = (lines, length, lineStep, step, draw) => {
    for (let line = 0; line <= lines; line += 1) {
      let [before, after, since] = [0, 0, 0];
      for (let n = 0; n <= length; n += 1) {
        const at = line * lineStep + n * step;
        const a = n < length && line > 0 ? numbers[at - lineStep] : 0;
        const b = n < length && line < lines ? numbers[at] : 0;
        if (a === before && b === after) continue;
        if (before !== after) { draw(before, line, since, n); draw(after, line, since, n); }
        before = a; after = b; since = n;
      }
    }
  };
  scan(height, width, width, 1, (number, line, from, to) => edge(number, from, line, to, line));
  scan(width, height, 1, width, (number, line, from, to) => edge(number, line, from, line, to));
  return paths;
}

/** The lines of one slice of a plane, columns towards right or front, rows upwards, whatever way the file stores its voxels. */
function contoursOf(image, values, [across, up, along], slice, change = (value) => value) {
  const [steps, start] = [image.img2RASstep, image.img2RASstart];
  const [width, height] = [image.dimsRAS[across + 1], image.dimsRAS[up + 1]];
  const first = start[0] + start[1] + start[2] + slice * steps[along];
  const numbers = new Uint16Array(width * height);
  for (let v = 0, n = 0; v < height; v += 1) {
    for (let u = 0, at = first + v * steps[up]; u < width; u += 1, at += steps[across], n += 1) numbers[n] = change(values[at]);
  }
  return trace(width, height, numbers);
}

/** From voxels of a plane to pixels of the tile that shows it. */
function matrixOf(tile, image, across, up) {
  const corner = (n) => image.convertFrac2MM([n, n, n], false);
  const [low, high] = [corner(0), corner(1)];
  let [left, top, width, height] = tile.leftTopWidthHeight;
  if (width < 0) { left += width; width = -width; }
  const mirrored = tile.leftTopWidthHeight[2] < 0;
  const px = (mm, n, size) => ((mm - tile.leftTopMM[n]) / tile.fovMM[n]) * size;
  const x = (mm) => left + (mirrored ? width - px(mm, 0, width) : px(mm, 0, width));
  const y = (mm) => top + height - px(mm, 1, height);
  const [x0, y0] = [x(low[across]), y(low[up])];
  const [columns, rows] = [image.dimsRAS[across + 1], image.dimsRAS[up + 1]];
  return new DOMMatrix([(x(high[across]) - x0) / columns, 0, 0, (y(high[up]) - y0) / rows, x0, y0]);
}

export class Contours {
  #traced = new Map();

  /** canvas: lies over the pictures. image: a NiiVue image of the grid. labels, ids: its voxels' labels and lesions. */
  constructor(canvas, image, labels, ids) {
    this.canvas = canvas;
    this.image = image;
    this.labels = labels;
    this.ids = ids;
  }

  /** tiles: NiiVue's screenSlices. style: { all, liver, lesions, hidden, marked, liverColour, lesionColour(id), markedColour }. */
  draw(tiles, size, style) {
    if (this.canvas.width !== size.width) this.canvas.width = size.width;
    if (this.canvas.height !== size.height) this.canvas.height = size.height;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    const seen = tiles.filter((tile) => tile.axCorSag in PLANES && tile.AxyzMxy.length);
    const drawn = seen.map((tile) => [tile, style.all || style.marked ? this.#linesOf(tile, style) : []]);
    for (const [tile, lines] of drawn) this.#stroke(context, tile, lines);
    // Of a canvas that was cleared Chromium may show what was drawn before.
    this.canvas.hidden = drawn.every(([, lines]) => !lines.length);
  }

  /** What is to be drawn in a tile: [path, colour, width in px], the last on top. */
  #linesOf(tile, { all, marked, ...style }) {
    const depth = this.image.dimsRAS[PLANES[tile.axCorSag][2] + 1];
    const slice = Math.min(depth - 1, Math.max(0, Math.floor(tile.sliceFrac * depth)));
    const { liver, lesions } = this.#traceOf(tile.axCorSag, slice);
    const lines = [];
    if (all && style.liver) liver.forEach((path) => lines.push([path, style.liverColour, LIVER_PX]));
    if (all && style.lesions) {
      lesions.forEach((path, id) => id === marked || style.hidden.has(id) || lines.push([path, style.lesionColour(id), LESION_PX]));
    }
    if (lesions.has(marked)) lines.push([lesions.get(marked), style.markedColour, MARKED_PX]);
    return lines;
  }

  #stroke(context, tile, lines) {
    const matrix = matrixOf(tile, this.image, ...PLANES[tile.axCorSag]);
    context.save();
    context.beginPath();
    context.rect(...tile.leftTopWidthHeight);
    context.clip();
    for (const [path, colour, px] of lines) {
      const placed = new Path2D();
      placed.addPath(path, matrix);
      context.strokeStyle = colour;
      context.lineWidth = px * devicePixelRatio;
      context.stroke(placed);
    }
    context.restore();
  }

  // The last slice of each plane is kept: the crosshair mostly moves in one of them.
  #traceOf(plane, slice) {
    const kept = this.#traced.get(plane);
    if (kept?.slice === slice) return kept;
    const made = {
      slice,
      liver: contoursOf(this.image, this.labels, PLANES[plane], slice, (label) => (label ? 1 : 0)),
      lesions: contoursOf(this.image, this.ids, PLANES[plane], slice),
    };
    this.#traced.set(plane, made);
    return made;
  }
}
