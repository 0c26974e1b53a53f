"""docs/pictures/pacs.png: a synthetic CT, and what came back from Orthanc drawn on it.

python -m tests.pacs.picture OUT.png [FOLDER] pushes the phantom, or the CT series in FOLDER, into an Orthanc of its own
with dcmtk, lets it be routed, and draws what Orthanc has of the results in the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.append(str(Path(__file__).parent))
from test_orthanc import Hospital

from app.dicom.readback import SegmentationFile, voxels_on
from app.dicom.structures import StructureFile
from app.imaging.scan import read_scan
from app.imaging.volume import Volume
from tests.dicom_files import series_in, zipped
from tests.pacs_peers import Program, until
from training.phantom import abdomen

SCALE, SHOWN = 2, 6
GREEN, RED = np.array([60, 220, 100]), np.array([255, 70, 60])


def brought_back(hospital: Hospital) -> tuple[bytes, bytes]:
    """SEG and RTSTRUCT, as Orthanc has them."""
    hospital.push()
    found = [until(lambda kind=kind: hospital.orthanc.instances(kind), 900)[0] for kind in ("SEG", "RTSTRUCT")]
    return hospital.orthanc.file(found[0]), hospital.orthanc.file(found[1])


def drawn(volume: Volume, seg: SegmentationFile, structures: StructureFile, k: int) -> Image.Image:
    """One slice, as its rows and columns are stored."""
    grey = np.clip((volume.voxels[:, :, k].T + 100.0) * 255 / 340, 0, 255)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    for plane in sorted(seg.planes(), key=lambda each: each.segment > 1):
        ijk = voxels_on(volume.geometry, plane.points_mm())
        i, j, _ = ijk[ijk[:, 2] == k].T
        colour = GREEN if plane.segment == 1 else RED
        picture[j, i] = 0.65 * np.repeat(grey[j, i, None], 3, axis=1) + 0.35 * colour
    image = Image.fromarray(picture.astype(np.uint8)).resize(np.multiply(picture.shape[1::-1], SCALE), Image.NEAREST)
    pen = ImageDraw.Draw(image)
    into = np.linalg.inv(volume.geometry.affine)
    for contour in structures.contours():
        ijk = contour.points_mm @ into[:3, :3].T + into[:3, 3]
        if abs(ijk[0, 2] - k) < 0.25:
            line = (ijk[:, :2] + 0.5) * SCALE
            pen.line([tuple(point) for point in (*line, line[0])], fill="white", width=1)
    return image


def main(path: Path, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as where:
        phantom = abdomen(seed=3, shape=(256, 224, 24), spacing_mm=(1.3, 1.4, 8.0), noise_hu=12)
        hospital = Hospital(Path(where), phantom)
        settings = hospital.settings.model_copy(update={"rtstruct": True})
        hospital.node = Program(settings, Path(where) / "node.log", "dicom-node")
        hospital.service = Program(settings, Path(where) / "service.log", "serve")
        if folder is not None:
            for each in hospital.slices.iterdir():
                each.unlink()
            for name, content in series_in(folder).items():
                (hospital.slices / name).write_bytes(content)
        try:
            hospital.start()
            masks, outlines = brought_back(hospital)
        finally:
            hospital.stop()
        volume = read_scan(zipped(Path(where), series_in(hospital.slices))).volume
    seg, structures = SegmentationFile(masks), StructureFile(outlines)
    counts = np.zeros(volume.geometry.shape[2], int)
    for plane in seg.planes():
        counts[voxels_on(volume.geometry, plane.points_mm())[0, 2]] += plane.segment > 1
    within = np.flatnonzero(counts)
    chosen = within[np.linspace(0, len(within) - 1, min(SHOWN, len(within))).astype(int)]
    pictures = [np.asarray(drawn(volume, seg, structures, int(k))) for k in chosen]
    rows = [np.concatenate(pictures[n : n + 3], axis=1) for n in range(0, len(pictures) - len(pictures) % 3, 3)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
