"""Broken and odd series, each with the verdict it must get: no crash, no wrong picture, no word about the patient."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid

from app.errors import InputError
from app.imaging.scan import Scan, probe_scan, read_scan
from app.imaging.volume import Volume
from tests.dicom_faults import ACCEPTED, COUNT, LIMITS, REFUSED, VOLUME, slices
from tests.dicom_files import MARKED_WORDS, SHAPE, named, packed, zipped


def made(what: object, folder: Path) -> Path:
    return zipped(folder, what)


def silent(error: InputError) -> bool:
    """No word of the patient in the error, in what it came from, or in either's arguments."""
    chain, said = error, ""
    while chain is not None:
        said += f"{chain} {chain.args}"
        chain = None if chain.__suppress_context__ else (chain.__cause__ or chain.__context__)
    return not any(word in said for word in MARKED_WORDS)


def test_the_corpus_is_as_large_as_it_should_be():
    assert len(ACCEPTED) + len(REFUSED) >= 40


@pytest.mark.parametrize("what", ACCEPTED)
def test_odd_but_whole_series_are_read_with_the_notes_they_deserve(what, tmp_path):
    build, codes = ACCEPTED[what]
    path = made(build(), tmp_path)
    scan = read_scan(path, LIMITS)
    assert [note.code for note in scan.notes] == codes
    assert not any(word in str(scan.notes) + repr(scan) for word in MARKED_WORDS)
    same = scan.volume.voxels == VOLUME.voxels
    if what == "padding above all tissue":
        same[:, 0] = scan.volume.voxels[:, 0] == -1024
    assert same.all()
    assert scan.volume.geometry.apart_mm(VOLUME.geometry) < 1e-4
    assert probe_scan(path, LIMITS).shape == SHAPE


@pytest.mark.parametrize("what", REFUSED)
def test_broken_series_are_refused_with_their_code_and_nothing_about_the_patient(what, tmp_path):
    build, code = REFUSED[what]
    with pytest.raises(InputError) as caught:
        read_scan(made(build(), tmp_path), LIMITS)
    assert caught.value.code == code
    assert silent(caught.value)
    assert re.fullmatch(r"[A-Z0-9][^\n]{10,4000}", caught.value.detail)


CONTENT = packed(slices()[4])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_slice_with_any_bytes_changed_is_read_refused_or_differs_only_there(tmp_path_factory, data):
    """Bytes of the header change what the slice says; whatever comes of it, nothing but an InputError is raised."""
    header = len(CONTENT) - SHAPE[0] * SHAPE[1] * 2
    places = data.draw(st.lists(st.integers(130, header - 1), min_size=1, max_size=4))
    altered = bytearray(CONTENT)
    for place in places:
        altered[place] = data.draw(st.integers(0, 255))
    files = list(named(slices()).values())
    files[4] = bytes(altered)
    path = made({f"{k}": content for k, content in enumerate(files)}, tmp_path_factory.mktemp("fuzz"))
    try:
        scan = read_scan(path, LIMITS)
    except InputError as error:
        assert silent(error)  # noqa: PT017 - it may as well be read
        return
    assert isinstance(scan, Scan)
    assert isinstance(scan.volume, Volume)
    kept = [k for k in range(COUNT) if k != 4]
    assert scan.volume.geometry.shape[2] in (COUNT, COUNT - 1)
    if scan.volume.geometry.shape == SHAPE and scan.volume.geometry.apart_mm(VOLUME.geometry) < 0.2:
        assert np.array_equal(scan.volume.voxels[:, :, kept], VOLUME.voxels[:, :, kept])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_zip_with_any_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("zip")
    content = bytearray(zipped(folder, slices()[:2]).read_bytes())
    for place in data.draw(st.lists(st.integers(4, len(content) - 1), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / "scan").write_bytes(bytes(content))
    try:
        read_scan(folder / "scan", LIMITS)
    except InputError as error:
        assert silent(error)  # noqa: PT017 - it may as well be read


FUZZ = """
import sys
import numpy as np
from pydicom.encaps import encapsulate, get_frame
from app.errors import CorruptFile
from app.imaging.dicom_decoding import stored_values
from tests.dicom_files import compressed, series_of, small_volume

random, refused = np.random.default_rng(11), 0
dataset = compressed(series_of(small_volume())[0], sys.argv[1])
whole = get_frame(dataset.PixelData, 0, number_of_frames=1)
for _ in range(150):
    code = bytearray(whole)
    for _ in range(random.integers(1, 8)):
        code[random.integers(0, len(code) if random.random() < 0.6 else min(80, len(code)))] = random.integers(0, 256)
    dataset.PixelData = encapsulate([bytes(code)])
    try:
        stored_values(dataset, 0)
    except CorruptFile:
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
def test_no_damaged_picture_crashes_its_decoder(syntax):
    """In a process of its own: a decoder in C that crashes would take the tests with it, as it would the worker."""
    ran = subprocess.run([sys.executable, "-c", FUZZ, syntax], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout) > 10
