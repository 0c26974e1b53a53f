"""One picture of a result: six axial slices with the outlines of liver and lesions. For a look, not for reading.

Or of where it differs from a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.region import bounding_box, largest_component
from app.imaging.volume import Label, Mask, Segmentation, Volume

WINDOW_HU = (-100, 240)
COLUMNS, ROWS = 3, 2
TILE_PX = (440, 340)
#: Left free beside the body, for the letters of the sides.
EDGE_PX = 22
FOOTER_PX = 34
FONT_PX = 15
SCALE_BAR_MM = 50
#: What is denser is body and not air, in scans that were clipped at -160 HU too.
BODY_HU = -150
BODY_MARGIN_MM = 4.0
LIVER_COLOUR, LESION_COLOUR, TEXT_COLOUR = (60, 220, 100), (255, 70, 60), (235, 235, 235)
NUMBER_COLOUR = (255, 190, 180)
MISSED_COLOUR, TOO_MUCH_COLOUR = (70, 150, 255), (255, 190, 40)
#: How much of these covers the grey values.
COVER = 0.55
#: A lesion of which a chosen slice shows this much of its largest area needs no slice of its own.
SHOWN_WELL = 0.75
NOTICE = "Research use only. Not for diagnosis."

Grey = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _View:
    """Scan and labels as a radiologist looks at them: LPS, so that the patient's right is on the left."""

    volume: Volume
    segmentation: Segmentation
    lesions: NumberedLesions
    slices: tuple[int, ...]
    window: tuple[slice, slice]
    """The columns and rows that hold the body: all tiles show the same part, at the same scale."""
    reference: Segmentation | None = None

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Between columns and between rows."""
        across, down, _ = self.volume.geometry.spacing_mm
        return across, down

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of what is shown."""
        wide, high = ((cut.stop - cut.start) * mm for cut, mm in zip(self.window, self.spacing_mm, strict=True))
        return wide, high

    @property
    def pixels_per_mm(self) -> float:
        """The scale at which it fits into a tile."""
        (wide, high), (width, height) = self.size_mm, TILE_PX
        return min((width - 2 * EDGE_PX) / wide, height / high)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of a slice in the picture."""
        wide, high = (max(1, round(mm * self.pixels_per_mm)) for mm in self.size_mm)
        return wide, high


def write_preview(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """Write a PNG with key slices: through the largest lesions, and spread over the liver.

    Radiological convention, window -100..240 HU, pixels square in mm, cut to the body, liver green, lesions red with
    their ids of the report. It shows nothing about the patient but the images. Raises OSError if the file cannot be
    written.
    """
    _write_sheet(path, _view(volume, segmentation))


def write_differences(path: Path, volume: Volume, segmentation: Segmentation, reference: Segmentation) -> None:
    """Write a PNG with the slices where a segmentation differs most from a reference on its grid.

    Half of them at most are chosen by the lesions, the rest by all labels. Blue is what the segmentation lacks, yellow
    what it has too much; outlines and ids are its own. Raises OSError if the file cannot be written.
    """
    _write_sheet(path, _view(volume, segmentation, reference))


def _write_sheet(path: Path, view: _View) -> None:
    width, height = TILE_PX
    sheet = Image.new("RGB", (COLUMNS * width, ROWS * height + FOOTER_PX))
    for place, k in enumerate(view.slices):
        row, column = divmod(place, COLUMNS)
        sheet.paste(_tile(view, k), (column * width, row * height))
    _footer(sheet, view)
    sheet.save(path, format="PNG", compress_level=1)


def _view(volume: Volume, segmentation: Segmentation, reference: Segmentation | None = None) -> _View:
    turned, labels = volume.reoriented("LPS"), segmentation.reoriented("LPS")
    true = None if reference is None else reference.reoriented("LPS")
    lesions = number_lesions(labels)
    chosen = _key_slices(labels, lesions)
    slices = tuple(chosen if true is None else _worst_slices(labels, true, chosen))
    return _View(turned, labels, lesions, slices, _body_of(turned, labels, slices), true)


def _body_of(volume: Volume, segmentation: Segmentation, slices: tuple[int, ...]) -> tuple[slice, slice]:
    """Columns and rows around the body and the liver in these slices; everything if there is only air."""
    shown = largest_component(volume.voxels[:, :, slices] > BODY_HU) | (segmentation.labels[:, :, slices] > 0)
    if not shown.any():
        shown |= True
    columns, rows, _ = bounding_box(shown, volume.geometry.spacing_mm, BODY_MARGIN_MM).slices
    return columns, rows


def _key_slices(segmentation: Segmentation, lesions: NumberedLesions) -> list[int]:
    """Up to six slice numbers from head to foot: half at most show the largest lesions, the rest spread evenly."""
    wanted = COLUMNS * ROWS
    liver = np.flatnonzero(segmentation.labels.any(axis=(0, 1)))
    first, last = (liver[0], liver[-1]) if liver.size else (0, segmentation.geometry.shape[2] - 1)
    chosen: list[int] = []
    for number, box in enumerate(lesions.boxes, start=1):
        areas = lesions.mask(number).sum(axis=(0, 1))
        shown = [areas[k - box.start[2]] for k in chosen if 0 <= k - box.start[2] < len(areas)]
        if max(shown, default=0) < SHOWN_WELL * areas.max():
            chosen.append(box.start[2] + int(areas.argmax()))
        if len(chosen) == wanted // 2:
            break
    candidates = list(range(int(first), int(last) + 1))
    while len(chosen) < wanted and set(candidates) - set(chosen):
        # The slice farthest from all that are chosen, the ends of the liver counting as half chosen.
        def gap(k: int) -> float:
            return min([abs(k - c) for c in chosen] + [1.5 * (k - first + 0.5), 1.5 * (last - k + 0.5)])

        chosen.append(max(sorted(set(candidates) - set(chosen)), key=gap))
    return sorted(chosen, reverse=True)


def _worst_slices(segmentation: Segmentation, reference: Segmentation, key_slices: list[int]) -> list[int]:
    """Up to six slice numbers from head to foot: where most voxels differ, but not all in one place."""
    labels, true = segmentation.labels, reference.labels
    lesions = np.count_nonzero((labels == Label.LESION) != (true == Label.LESION), axis=(0, 1))
    anything = np.count_nonzero(labels != true, axis=(0, 1))
    wanted = COLUMNS * ROWS
    apart = max(1, int(np.count_nonzero(anything)) // (2 * wanted))
    chosen: list[int] = []
    for counts, most in zip((lesions, anything), (wanted // 2, wanted), strict=True):
        for k in np.argsort(-counts, kind="stable").tolist():
            if counts[k] and len(chosen) < most and all(abs(k - c) >= apart for c in chosen):
                chosen.append(k)
    spread = [k for k in key_slices if k not in chosen]
    return sorted((chosen + spread)[:wanted], reverse=True)


def _paint_differences(picture: Grey, labels: Labels, true: Labels) -> None:
    """Colour what is missed and what is too much. A lesion's label is above the liver's: one comparison tells both."""
    for inside, colour in ((true > labels, MISSED_COLOUR), (labels > true, TOO_MUCH_COLOUR)):
        where = _resized(inside, (picture.shape[1], picture.shape[0]))
        picture[where] = (1 - COVER) * picture[where] + COVER * np.array(colour)


def _tile(view: _View, k: int) -> Image.Image:
    """One slice with outlines, ids and its number, on black."""
    (width, height), size = TILE_PX, view.size_px
    grey = Image.fromarray(_windowed(view.volume.voxels[(*view.window, k)].T)).resize(size, Image.Resampling.BICUBIC)
    picture = np.array(grey.convert("RGB"))
    labels = view.segmentation.labels[(*view.window, k)].T
    if view.reference is not None:
        _paint_differences(picture, labels, view.reference.labels[(*view.window, k)].T)
    for inside, colour in ((labels >= 1, LIVER_COLOUR), (labels == 2, LESION_COLOUR)):
        picture[_outline(_resized(inside, size))] = colour
    tile = Image.new("RGB", TILE_PX)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    tile.paste(Image.fromarray(picture), (left, top))
    draw = ImageDraw.Draw(tile)
    _write_ids(draw, view, k, (left, top))
    _write(draw, (8, 6), f"slice {k + 1} of {view.volume.geometry.shape[2]}")
    _write(draw, (6, height // 2), "R")
    _write(draw, (width - 17, height // 2), "L")
    return tile


def _windowed(hounsfield: npt.NDArray[np.int16]) -> Grey:
    low, high = WINDOW_HU
    scaled = (np.clip(hounsfield, low, high).astype(np.int32) - low) * 255 // (high - low)
    return np.ascontiguousarray(scaled.astype(np.uint8))


def _resized(inside: Mask, size: tuple[int, int]) -> Mask:
    """A mask at the size of the picture, its staircase smoothed; thin parts stay."""
    soft = Image.fromarray(np.where(inside, np.uint8(255), np.uint8(0)))
    smooth = np.asarray(soft.resize(size, Image.Resampling.BILINEAR)) >= 128
    if smooth.any() or not inside.any():
        return smooth
    return np.asarray(soft.resize(size, Image.Resampling.BILINEAR)) > 0


def _outline(inside: Mask) -> Mask:
    """The pixels on both sides of the mask's edge: two wide, so that it can be seen in print."""
    wide = np.pad(inside, 2)
    near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:] | wide[1:-1, 1:-1]
    padded = wide[1:-1, 1:-1]
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return near[1:-1, 1:-1] & ~(inside & surrounded)


def _write_ids(draw: ImageDraw.ImageDraw, view: _View, k: int, corner: tuple[int, int]) -> None:
    """The number of each lesion of the slice, to the right of it; where there is no room, that of the larger one."""
    ids = view.lesions.on_grid[(*view.window, k)]
    step_x, step_y = (mm * view.pixels_per_mm for mm in view.spacing_mm)
    taken: list[tuple[float, float, float, float]] = []
    for number in np.unique(ids[ids > 0]):
        i, j = np.nonzero(ids == number)
        text = str(number)
        x = min(corner[0] + (int(i.max()) + 1) * step_x + 3, TILE_PX[0] - 18)
        y = corner[1] + (float(j.mean()) + 0.5) * step_y - FONT_PX / 2
        box = draw.textbbox((x, y), text, font=_font(), stroke_width=1)
        if all(box[2] < a or c < box[0] or box[3] < b or d < box[1] for a, b, c, d in taken):
            _write(draw, (x, y), text, NUMBER_COLOUR)
            taken.append(box)


def _footer(sheet: Image.Image, view: _View) -> None:
    draw = ImageDraw.Draw(sheet)
    y = ROWS * TILE_PX[1] + 8
    _write(draw, (10, y), "liver", LIVER_COLOUR)
    _write(draw, (56, y), "lesions", LESION_COLOUR)
    if view.reference is not None:
        _write(draw, (360, y), "missed", MISSED_COLOUR)
        _write(draw, (420, y), "too much", TOO_MUCH_COLOUR)
    length = SCALE_BAR_MM * view.pixels_per_mm
    draw.line([(140, y + 10), (140 + length, y + 10)], fill=TEXT_COLOUR, width=2)
    for end in (140, 140 + length):
        draw.line([(end, y + 5), (end, y + 15)], fill=TEXT_COLOUR, width=2)
    _write(draw, (150 + length, y), f"{SCALE_BAR_MM} mm")
    _write(draw, (sheet.width - 10 - draw.textlength(NOTICE, font=_font()), y), NOTICE)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int] = TEXT_COLOUR
) -> None:
    draw.text(at, text, fill=colour, font=_font(), stroke_width=1, stroke_fill=(0, 0, 0))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=FONT_PX)
