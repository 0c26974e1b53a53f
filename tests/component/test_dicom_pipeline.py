"""A zipped DICOM series through the whole pipeline: the answer of the NIfTI, and nothing said about the patient."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from app.dicom.readback import SegmentationFile, measured_groups, voxels_on
from app.dicom.results import DICOM_FILES, DicomForm
from app.dicom.structures import StructureFile
from app.errors import InputError, NoLiver
from app.imaging.nifti import write_volume
from app.imaging.volume import Volume
from app.pipeline import FILES, SERIES_FILES, Request, run
from tests.dicom_files import MARKED_WORDS, MARKS, change, compressed, enhanced_of, series_of, zipped
from training.phantom import Phantom, abdomen


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return abdomen(seed=3, shape=(64, 56, 24), spacing_mm=(5.0, 5.5, 8.0), noise_hu=0)


@pytest.fixture(scope="module")
def by_nifti(cascade, phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nifti")
    write_volume(folder / "ct.nii.gz", phantom.volume)
    return run(Request(folder / "ct.nii.gz", None, folder / "out"), cascade)


def sent(folder: Path, files) -> Request:
    return Request(zipped(folder, files), None, folder / "out")


def text_of(report) -> str:
    return report.model_dump_json(exclude={"scan": {"sha256"}})


@pytest.mark.parametrize("form", ["single", "multi-frame", "JPEG 2000", "feet first, coronal"])
def test_a_series_gives_the_answer_of_the_nifti_and_every_file(cascade, phantom, by_nifti, tmp_path, form):
    volume = phantom.volume.reoriented("LSP") if form == "feet first, coronal" else phantom.volume
    files = [enhanced_of(volume)] if form == "multi-frame" else series_of(volume)
    if form == "JPEG 2000":
        files = [compressed(each, "1.2.840.10008.1.2.4.90") for each in files]
    report = run(sent(tmp_path, files[::-1]), cascade)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FILES, *SERIES_FILES}
    assert report.liver.volume_ml == pytest.approx(by_nifti.liver.volume_ml, rel=1e-6)
    for found, wanted in zip(report.lesions, by_nifti.lesions, strict=True):
        assert found.centroid_mm == pytest.approx(wanted.centroid_mm, abs=1e-3)
        assert found.longest_axial_diameter_mm == pytest.approx(wanted.longest_axial_diameter_mm, rel=1e-6)


def test_segmentation_labels_and_report_agree_voxel_by_voxel(cascade, phantom, tmp_path):
    report = run(sent(tmp_path, series_of(phantom.volume)), cascade)
    out = tmp_path / "out"
    labels = nib.load(out / "labels.nii.gz")
    assert np.allclose(labels.affine, phantom.volume.geometry.affine, atol=1e-4)
    assert np.array_equal(np.asarray(labels.dataobj), phantom.truth.labels)
    ids = np.asarray(nib.load(out / "lesions.nii.gz").dataobj)
    found = np.zeros((len(report.lesions) + 2, *phantom.volume.geometry.shape), bool)
    for plane in SegmentationFile((out / "seg.dcm").read_bytes()).planes():
        found[plane.segment][tuple(voxels_on(phantom.volume.geometry, plane.points_mm()).T)] = True
    assert np.array_equal(found[1], phantom.truth.liver)
    for lesion in report.lesions:
        assert np.array_equal(found[lesion.id + 1], ids == lesion.id)
    assert len(measured_groups((out / "sr.dcm").read_bytes())) == len(report.lesions) + 1
    assert json.loads((out / "report.json").read_text())["liver"]["volume_ml"] == report.liver.volume_ml


def test_masks_are_a_label_map_if_that_is_wanted(cascade, phantom, by_nifti, tmp_path):
    report = run(replace(sent(tmp_path, series_of(phantom.volume)), dicom=DicomForm("LABELMAP")), cascade)
    seg = SegmentationFile((tmp_path / "out" / "seg.dcm").read_bytes())
    assert seg.header.SegmentationType == "LABELMAP"
    drawn = sum(int(np.count_nonzero(plane.mask)) for plane in seg.planes())
    assert drawn == int(np.count_nonzero(phantom.truth.liver))
    assert report.lesion_count == by_nifti.lesion_count


def test_outlines_are_written_if_they_are_wanted(cascade, phantom, tmp_path):
    run(replace(sent(tmp_path, series_of(phantom.volume)), dicom=DicomForm(rtstruct=True)), cascade)
    found = np.zeros(phantom.volume.geometry.shape, int)
    for contour in StructureFile((tmp_path / "out" / "rtstruct.dcm").read_bytes()).contours():
        if contour.region == 1:
            np.add.at(found, tuple(contour.voxels(phantom.volume.geometry).T), 1)
    assert np.array_equal(found, phantom.truth.liver.astype(int))


def test_no_word_about_the_patient_leaves_the_dicom_files(cascade, phantom, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    report = run(sent(tmp_path, series_of(phantom.volume)), cascade)
    out = tmp_path / "out"
    written = {path.name: path.read_bytes() for path in out.iterdir() if path.name not in DICOM_FILES}
    assert not any(record.name.startswith(("pydicom", "highdicom")) for record in caplog.records)
    said = caplog.text + "".join(capfd.readouterr()) + repr(report)
    assert not any(word in said for word in MARKED_WORDS)
    for content in written.values():
        assert not any(word.encode() in content for word in MARKED_WORDS)
    for name in DICOM_FILES:
        dataset = dcmread(io.BytesIO((out / name).read_bytes()))
        assert dataset.StudyInstanceUID == MARKS["StudyInstanceUID"]
        assert str(dataset.PatientName) == MARKS["PatientName"]


def test_no_word_about_the_patient_is_in_what_a_failed_run_raises(cascade, phantom, tmp_path):
    air = Volume(
        np.asfortranarray(np.where(phantom.truth.liver, np.int16(-80), phantom.volume.voxels)), phantom.volume.geometry
    )
    with pytest.raises(NoLiver) as no_liver:
        run(sent(tmp_path, series_of(air)), cascade)
    broken = [change(each, {"PixelSpacing": None}) for each in series_of(phantom.volume)]
    with pytest.raises(InputError) as no_spacing:
        run(sent(tmp_path, broken), cascade)
    for caught in (no_liver, no_spacing):
        assert not any(word in caught.value.detail for word in MARKED_WORDS)


def test_one_of_several_series_is_segmented_if_it_is_named(cascade, phantom, by_nifti, tmp_path):
    other = [
        change(each, {"SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": f"1.2.3.4.{k}"})
        for k, each in enumerate(series_of(phantom.volume)[:5])
    ]
    path = zipped(tmp_path, [*other, *series_of(phantom.volume)])
    report = run(Request(path, None, tmp_path / "out", series_uid=MARKS["SeriesInstanceUID"]), cascade)
    assert report.liver.volume_ml == pytest.approx(by_nifti.liver.volume_ml, rel=1e-6)
