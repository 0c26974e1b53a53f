"""One picture of a result: six axial slices with the outlines of liver and lesions. For a look, not for reading.

Or of where it differs from a reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from app.imaging.lesions import NumberedLesions, number_lesions
from app.imaging.volume import Label, Mask, Segmentation, Volume

WINDOW_HU = (-100, 240)
COLUMNS, ROWS = 3, 2
TILE_PX = 380
FOOTER_PX = 30
SCALE_BAR_MM = 50
LIVER_COLOUR, LESION_COLOUR, TEXT_COLOUR = (60, 220, 100), (255, 70, 60), (235, 235, 235)
MISSED_COLOUR, TOO_MUCH_COLOUR = (70, 150, 255), (255, 190, 40)
#: How much of these covers the grey values.
COVER = 0.55
NOTICE = "Research use only. Not for diagnosis."

Grey = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _View:
    """Scan and labels as a radiologist looks at them: LPS, so that the patient's right is on the left."""

    volume: Volume
    segmentation: Segmentation
    lesions: NumberedLesions
    pixels_per_mm: float
    reference: Segmentation | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of a slice in the picture."""
        (width, height, _), spacing = self.volume.geometry.shape, self.volume.geometry.spacing_mm
        wide, high = (n * mm * self.pixels_per_mm for n, mm in zip((width, height), spacing[:2], strict=True))
        return max(1, round(wide)), max(1, round(high))


def write_preview(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """Write a PNG with key slices: through the largest lesions, and spread over the liver.

    Radiological convention, window -100..240 HU, pixels square in mm, liver green, lesions red with their ids of the
    report. It shows nothing about the patient but the images. Raises OSError if the file cannot be written.
    """
    view = _view(volume, segmentation)
    _write_sheet(path, view, _key_slices(view))


def write_differences(path: Path, volume: Volume, segmentation: Segmentation, reference: Segmentation) -> None:
    """Write a PNG with the slices where a segmentation differs most from a reference on its grid.

    Half of them at most are chosen by the lesions, the rest by all labels. Blue is what the segmentation lacks, yellow
    what it has too much; outlines and ids are its own. Raises OSError if the file cannot be written.
    """
    turned = reference.reoriented("LPS")
    view = replace(_view(volume, segmentation), reference=turned)
    _write_sheet(path, view, _worst_slices(view, turned))


def _write_sheet(path: Path, view: _View, slices: list[int]) -> None:
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, ROWS * TILE_PX + FOOTER_PX))
    for place, k in enumerate(slices):
        row, column = divmod(place, COLUMNS)
        sheet.paste(_tile(view, k), (column * TILE_PX, row * TILE_PX))
    _footer(sheet, view)
    sheet.save(path, format="PNG", compress_level=1)


def _view(volume: Volume, segmentation: Segmentation) -> _View:
    turned = volume.reoriented("LPS"), segmentation.reoriented("LPS")
    geometry = turned[0].geometry
    widest_mm = max(n * mm for n, mm in zip(geometry.shape[:2], geometry.spacing_mm[:2], strict=True))
    return _View(*turned, number_lesions(turned[1]), TILE_PX / widest_mm)


def _key_slices(view: _View) -> list[int]:
    """Up to six slice numbers from head to foot: half at most show the largest lesions, the rest spread evenly."""
    wanted = COLUMNS * ROWS
    liver = np.flatnonzero(view.segmentation.labels.any(axis=(0, 1)))
    first, last = (liver[0], liver[-1]) if liver.size else (0, view.volume.geometry.shape[2] - 1)
    chosen: list[int] = []
    for number in range(1, len(view.lesions.boxes) + 1):
        area = view.lesions.mask(number).sum(axis=(0, 1))
        k = view.lesions.boxes[number - 1].start[2] + int(area.argmax())
        if k not in chosen and len(chosen) < wanted // 2:
            chosen.append(k)
    candidates = list(range(int(first), int(last) + 1))
    while len(chosen) < wanted and set(candidates) - set(chosen):
        # The slice farthest from all that are chosen, the ends of the liver counting as half chosen.
        def gap(k: int) -> float:
            return min([abs(k - c) for c in chosen] + [1.5 * (k - first + 0.5), 1.5 * (last - k + 0.5)])

        chosen.append(max(sorted(set(candidates) - set(chosen)), key=gap))
    return sorted(chosen, reverse=True)


def _worst_slices(view: _View, reference: Segmentation) -> list[int]:
    """Up to six slice numbers from head to foot: where most voxels differ, but not all in one place."""
    labels, true = view.segmentation.labels, reference.labels
    lesions = np.count_nonzero((labels == Label.LESION) != (true == Label.LESION), axis=(0, 1))
    anything = np.count_nonzero(labels != true, axis=(0, 1))
    wanted = COLUMNS * ROWS
    apart = max(1, int(np.count_nonzero(anything)) // (2 * wanted))
    chosen: list[int] = []
    for counts, most in zip((lesions, anything), (wanted // 2, wanted), strict=True):
        for k in np.argsort(-counts, kind="stable").tolist():
            if counts[k] and len(chosen) < most and all(abs(k - c) >= apart for c in chosen):
                chosen.append(k)
    spread = [k for k in _key_slices(view) if k not in chosen]
    return sorted((chosen + spread)[:wanted], reverse=True)


def _paint_differences(picture: Grey, labels: Labels, true: Labels) -> None:
    """Colour what is missed and what is too much. A lesion's label is above the liver's: one comparison tells both."""
    for inside, colour in ((true > labels, MISSED_COLOUR), (labels > true, TOO_MUCH_COLOUR)):
        where = _resized(inside, (picture.shape[1], picture.shape[0]))
        picture[where] = (1 - COVER) * picture[where] + COVER * np.array(colour)


def _tile(view: _View, k: int) -> Image.Image:
    """One slice with outlines, ids and its number, on a black square."""
    size = view.size_px
    grey = Image.fromarray(_windowed(view.volume.voxels[:, :, k].T)).resize(size, Image.Resampling.BICUBIC)
    picture = np.array(grey.convert("RGB"))
    labels = view.segmentation.labels[:, :, k].T
    if view.reference is not None:
        _paint_differences(picture, labels, view.reference.labels[:, :, k].T)
    for inside, colour in ((labels >= 1, LIVER_COLOUR), (labels == 2, LESION_COLOUR)):
        picture[_outline(_resized(inside, size))] = colour
    tile = Image.new("RGB", (TILE_PX, TILE_PX))
    left, top = (TILE_PX - size[0]) // 2, (TILE_PX - size[1]) // 2
    tile.paste(Image.fromarray(picture), (left, top))
    draw = ImageDraw.Draw(tile)
    _write_ids(draw, view, k, (left, top))
    _write(draw, (8, 6), f"slice {k + 1} of {view.volume.geometry.shape[2]}")
    _write(draw, (8, TILE_PX // 2), "R")
    _write(draw, (TILE_PX - 18, TILE_PX // 2), "L")
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
    """The pixels of a mask that have a neighbour outside it."""
    padded = np.pad(inside, 1)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~surrounded


def _write_ids(draw: ImageDraw.ImageDraw, view: _View, k: int, corner: tuple[int, int]) -> None:
    """The number of each lesion of the slice, to the right of it."""
    width, height = view.size_px
    columns, rows, _ = view.volume.geometry.shape
    ids = view.lesions.on_grid[:, :, k]
    for number in np.unique(ids[ids > 0]):
        i, j = np.nonzero(ids == number)
        x = corner[0] + (int(i.max()) + 1) * width / columns
        y = corner[1] + (float(j.mean()) + 0.5) * height / rows
        _write(draw, (min(x + 3, TILE_PX - 16), y - 8), str(number), LESION_COLOUR)


def _footer(sheet: Image.Image, view: _View) -> None:
    draw = ImageDraw.Draw(sheet)
    y = ROWS * TILE_PX + 7
    _write(draw, (10, y), "liver", LIVER_COLOUR)
    _write(draw, (52, y), "lesions", LESION_COLOUR)
    if view.reference is not None:
        _write(draw, (330, y), "missed", MISSED_COLOUR)
        _write(draw, (385, y), "too much", TOO_MUCH_COLOUR)
    length = SCALE_BAR_MM * view.pixels_per_mm
    draw.line([(130, y + 10), (130 + length, y + 10)], fill=TEXT_COLOUR, width=2)
    for end in (130, 130 + length):
        draw.line([(end, y + 5), (end, y + 15)], fill=TEXT_COLOUR, width=2)
    _write(draw, (140 + length, y), f"{SCALE_BAR_MM} mm")
    _write(draw, (sheet.width - 10 - draw.textlength(NOTICE, font=_font()), y), NOTICE)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int] = TEXT_COLOUR
) -> None:
    draw.text(at, text, fill=colour, font=_font(), stroke_width=1, stroke_fill=(0, 0, 0))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=14)
