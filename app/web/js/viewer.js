// NiiVue with what this page needs of it: a scan, the liver, the lesions, and the difference from a reference.
import { LIVER, MARKED, css, differenceMap, lesionColour, lesionMap, liverMap } from "./colours.js";
import { Contours } from "./contours.js";
import { atMost, difference, fetchNifti, without } from "./volumes.js";

const LIBRARY = "/web/vendor/niivue/niivue-0.69.0.js";
const SEE_THROUGH = 0.12;
// NiiVue leaves room to turn the longest diagonal of a volume; bodies are flatter.
const CLOSE = 1.4;
// The last colour is for all lesions from this one on: the table of colours must fit the graphics card.
const MOST_COLOURS = 4000;

export const WINDOWS = {
  abdomen: { level: 40, width: 400 },
  liver: { level: 80, width: 160 },
  bone: { level: 400, width: 1800 },
  lung: { level: -600, width: 1500 },
};
/** How opaque the layers are at first: what lies under them must stay readable. */
export const FILL = { liver: 0.2, lesions: 0.5 };
const LAYOUTS = { axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL", planes: "MULTIPLANAR", volume: "RENDER" };

export class Viewer {
  #library = null;
  #nv = null;
  #scan = null;
  #layers = {};
  #labels = null;
  #lesionIds = null;
  #hidden = new Set();
  #marked = 0;
  #shown = { liver: true, lesions: true, difference: false };
  #opacity = { liver: FILL.liver, lesions: FILL.lesions, difference: 1 };
  #contours = null;
  #layout = "planes";
  #outline = false;
  #redraw = 0;
  #changed = [];
  #resize = null;

  /**
   * canvas: for the pictures; over: one above it, for contours. onMove({ mm, slice, slices, hounsfield, what, lesion })
   * when the crosshair moves; onWindow({ level, width }) when brightness changes.
   */
  constructor(canvas, over, { onMove, onWindow }) {
    this.canvas = canvas;
    this.over = over;
    this.onMove = onMove;
    this.onWindow = onWindow;
  }

  /** Fetch and show a result. `onProgress(received, total)` in bytes. Throws Problem, or Error where WebGL2 is missing. */
  async load(paths, lesionCount, onProgress) {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("This browser cannot draw in 3-D (WebGL 2 is off).");
    this.lesionCount = lesionCount;
    const [library, scan, labels, lesions] = await Promise.all([
      import(LIBRARY), fetchNifti(paths.scan, onProgress), fetchNifti(paths.labels), fetchNifti(paths.lesions),
    ]);
    this.#library = library;
    this.#nv = new library.Niivue({
      isRadiologicalConvention: true, backColor: [0, 0, 0, 1], crosshairColor: [0.3, 0.85, 1, 0.75],
      crosshairWidthUnit: "mm", crosshairWidth: 1, crosshairGap: 16, showAllOrientationMarkers: true,
      dragMode: library.DRAG_MODE.windowing, dragAndDropEnabled: false, multiplanarShowRender: library.SHOW_RENDER.ALWAYS,
      multiplanarPadPixels: 4, fontColor: [0.75, 0.82, 0.88, 1], fontMinPx: 12, fontSizeScaling: 0.25,
      show3Dcrosshair: true, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", logLevel: "error", loadingText: "",
      measureLineColor: [1, 0.85, 0.2, 1], measureTextColor: [1, 0.85, 0.2, 1], sagittalNoseLeft: true,
    });
    await this.#nv.attachToCanvas(this.canvas);
    this.#nv.onLocationChange = (place) => this.#moved(place);
    this.#nv.onIntensityChange = (volume) => this.#tellWindow(volume);
    const { level, width } = WINDOWS.abdomen;
    this.#scan = await this.#read(scan, "scan", { colormap: "gray", cal_min: level - width / 2, cal_max: level + width / 2 });
    this.#layers.liver = await this.#read(labels, "liver");
    this.#layers.liver.setColormapLabel(liverMap());
    this.#labels = this.#layers.liver.img;
    this.#layers.lesions = await this.#read(lesions, "lesions");
    this.#lesionIds = atMost(this.#layers.lesions.img, lesionCount, MOST_COLOURS);
    this.#layers.lesions.img = this.#lesionIds;
    this.#layers.lesions.setColormapLabel(lesionMap(Math.min(Math.max(1, lesionCount), MOST_COLOURS)));
    this.#contours = new Contours(this.over, this.#scan, this.#labels, this.#lesionIds);
    const draw = this.#nv.drawScene.bind(this.#nv);
    this.#nv.drawScene = () => { const said = draw(); this.#drawContours(); return said; };
    this.#stack();
    this.#nv.updateGLVolume();
    this.#nv.setCustomLayout(this.#tiles());
    this.#nv.setSliceType(library.SLICE_TYPE.MULTIPLANAR);
    this.#resize = new ResizeObserver(() => this.#layout === "planes" && this.#nv?.setCustomLayout(this.#tiles()));
    this.#resize.observe(this.canvas);
    this.#nv.setRenderAzimuthElevation(160, 12);
    this.#tellWindow(this.#scan);
  }

  #read(buffer, name, options = {}) {
    return this.#library.NVImage.loadFromUrl({ url: buffer, name: `${name}.nii`, ...options });
  }

  /** Show the differences from the reference at `path`; it is fetched the first time. */
  async showDifference(path, on) {
    this.#shown.difference = on;
    if (on && !this.#layers.difference) {
      const reference = await this.#read(await fetchNifti(path), "reference");
      const image = this.#layers.liver.clone();
      image.name = "difference.nii";
      image.img = difference(this.#labels, reference.img);
      image.setColormapLabel(differenceMap());
      this.#layers.difference = image;
    }
    this.#compose();
  }

  /** name: a key of LAYOUTS; all planes are the axial one large and the others beside or below it. */
  setLayout(name) {
    this.#layout = name;
    const { SLICE_TYPE } = this.#library;
    if (name === "planes") this.#nv.setCustomLayout(this.#tiles());
    else this.#nv.clearCustomLayout();
    this.#nv.setSliceType(SLICE_TYPE[LAYOUTS[name]]);
    this.#nv.setScale(name === "volume" ? CLOSE : 1);
    this.#compose();
  }

  #tiles() {
    const { AXIAL, CORONAL, SAGITTAL, RENDER } = this.#library.SLICE_TYPE;
    const wide = this.canvas.clientWidth > this.canvas.clientHeight;
    const others = [CORONAL, SAGITTAL, RENDER].map((sliceType, n) =>
      ({ sliceType, position: wide ? [0.64, n / 3, 0.36, 1 / 3] : [n / 3, 0.68, 1 / 3, 0.32] }));
    return [{ sliceType: AXIAL, position: wide ? [0, 0, 0.635, 1] : [0, 0, 1, 0.675] }, ...others];
  }

  setWindow({ level, width }) {
    this.#scan.cal_min = level - width / 2;
    this.#scan.cal_max = level + width / 2;
    this.#refresh([this.#scan]);
    this.#tellWindow(this.#scan);
  }

  /** what: "liver", "lesions". */
  setShown(what, on) { this.#shown[what] = on; this.#compose(); }
  setOpacity(what, opacity) { this.#opacity[what] = opacity; this.#compose(); }

  /** Show or hide one lesion. */
  setLesionShown(id, on) {
    if (on) this.#hidden.delete(id); else this.#hidden.add(id);
    this.#layers.lesions.img = without(this.#lesionIds, this.#hidden);
    this.#compose();
  }

  /** Make one lesion stand out; 0 marks none. */
  mark(id) { this.#marked = Math.min(id, MOST_COLOURS); this.#drawContours(); }

  /** Contours instead of filled areas. */
  setOutline(on) {
    this.#outline = on;
    this.#showFills();
    this.#nv.drawScene();
  }

  // In the planes only: the picture in 3-D has no contours. Differences are areas in any case.
  #showFills() { this.#nv.overlayAlphaShader = this.#outline && !this.#shown.difference ? 0 : 1; }

  #drawContours() {
    const { liver, lesions, difference } = this.#shown;
    this.#contours.draw(this.#nv.screenSlices, this.canvas, {
      all: this.#outline && !difference, liver, lesions, hidden: this.#hidden, marked: this.#marked,
      liverColour: css(LIVER), lesionColour: (id) => css(lesionColour(id)), markedColour: css(MARKED),
    });
  }

  /** Drag with the first button to measure instead of moving the crosshair. */
  setMeasuring(on) {
    const { measurement, crosshair } = this.#library.DRAG_MODE;
    this.#nv.opts.dragModePrimary = on ? measurement : crosshair;
    if (!on) { this.#nv.clearAllMeasurements?.(); this.#nv.drawScene(); }
  }

  /** Move the crosshair to RAS+ millimetres. */
  goTo(mm) {
    // Exactly: NiiVue's own rule is for upright grids and misses by centimetres in tilted ones.
    this.#nv.scene.crosshairPos = this.#nv.mm2frac(mm, 0, true);
    this.#nv.createOnLocationChange();
    this.#nv.drawScene();
  }

  /** Move along the body axis, up for positive steps. */
  step(slices) { this.#nv.moveCrosshairInVox(0, 0, slices); }

  /** Give the graphics memory back. */
  dispose() {
    clearTimeout(this.#redraw);
    this.#resize?.disconnect();
    const gl = this.#nv?.gl;
    this.#nv?.cleanup?.();
    gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.#nv = null;
  }

  // In 3-D alone the body would hide the liver, and the liver its lesions.
  #stack() {
    const inside = this.#layout === "volume";
    const names = this.#shown.difference ? ["difference"] : ["liver", "lesions"].filter((name) => this.#shown[name]);
    for (const name of names) {
      this.#layers[name].opacity = inside && name === "lesions" ? 1 : this.#opacity[name] * (inside && name === "liver" ? SEE_THROUGH : 1);
    }
    this.#scan.opacity = inside ? 0.25 : 1;
    this.#nv.volumes = [this.#scan, ...names.map((name) => this.#layers[name])];
    this.#nv.back = this.#scan;
    this.#nv.overlays = this.#nv.volumes.slice(1);
  }

  #compose() {
    const [before, scanBefore] = [this.#nv.volumes.length, this.#scan.opacity];
    this.#stack();
    this.#showFills();
    // Fewer layers than before, and the old ones would stay.
    const all = this.#nv.volumes.length < before || this.#scan.opacity !== scanBefore;
    this.#refresh(all ? null : this.#nv.volumes.slice(1));
  }

  // Several changes in one frame cost one upload to the graphics card, of what has changed alone; null is everything.
  #refresh(changed) {
    this.#changed = changed && this.#changed ? [...this.#changed, ...changed] : null;
    clearTimeout(this.#redraw);
    this.#redraw = setTimeout(() => {
      const nv = this.#nv;
      if (!nv) return;
      if (this.#changed) {
        nv.refreshColormaps();
        nv.volumes.forEach((volume, layer) => this.#changed.includes(volume) && nv.refreshLayers(volume, layer));
        nv.drawScene();
      } else nv.updateGLVolume();
      this.#changed = [];
    }, 0);
  }

  #moved(place) {
    const value = (name) => place.values.find((each) => each.name === `${name}.nii`)?.value;
    const lesion = Math.round(value("lesions") ?? 0);
    const what = lesion ? `lesion ${lesion}${lesion === MOST_COLOURS ? " or smaller" : ""}` : value("liver") ? "liver" : "";
    this.onMove({ mm: [...place.mm].slice(0, 3), slice: place.vox[2] + 1, slices: this.#scan.dimsRAS[3], hounsfield: value("scan"), what, lesion });
  }

  #tellWindow({ cal_min: low, cal_max: high }) {
    this.onWindow({ level: Math.round((low + high) / 2), width: Math.round(high - low) });
  }
}
