"""A zip cannot make the service take more memory than allowed, write anywhere, or open what is locked."""

import struct
import subprocess
import sys
import textwrap
import zipfile

import pytest

from app.errors import CorruptFile, InputError, TooLarge, UnsupportedFormat
from app.imaging.archive import MOST_MEMBERS, open_archive
from app.imaging.scan import probe_scan
from tests.dicom_files import named, series_of, small_volume, zipped

LIMIT = 1_000_000


def stored(folder, files, **options):
    path = folder / "scan"
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_members_are_read_by_number_whatever_their_names(tmp_path):
    path = stored(tmp_path, {"a": b"first", "b/c/d": b"second" * 1000, "b/": b""}, compression=zipfile.ZIP_DEFLATED)
    with open_archive(path, LIMIT) as archive:
        assert len(archive) == 2
        assert archive.read(0) == b"first"
        assert archive.read(1) == b"second" * 1000
        assert archive.head(1, 10) == b"secondseco"


def test_more_bytes_than_allowed_are_refused_by_what_the_directory_says(tmp_path):
    path = stored(tmp_path, {"a": bytes(LIMIT + 1)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TooLarge), open_archive(path, LIMIT):
        pass


def lying(folder, size):
    """A bomb whose directory claims that it is small."""
    path = stored(folder, {"a": bytes(10 * LIMIT)}, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    real = struct.pack("<I", 10 * LIMIT)
    at = content.rfind(real)
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(bytes(content))
    return path


def test_a_bomb_that_lies_about_its_size_is_unpacked_no_farther_than_it_claims(tmp_path):
    with open_archive(lying(tmp_path, 5000), LIMIT) as archive, pytest.raises(CorruptFile):
        archive.read(0)


def test_reading_again_and_again_ends_at_the_limit(tmp_path):
    path = stored(tmp_path, {"a": bytes(LIMIT - 10)})
    with open_archive(path, LIMIT) as archive:
        archive.read(0)
        with pytest.raises(TooLarge):
            archive.read(0)
        archive.renew()
        archive.read(0)


def test_too_many_members_are_refused(tmp_path):
    path = stored(tmp_path, {str(n): b"" for n in range(MOST_MEMBERS + 1)})
    with pytest.raises(TooLarge, match="10001 files"), open_archive(path, LIMIT):
        pass


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x"])
def test_names_that_climb_out_are_not_even_read(tmp_path, name):
    with open_archive(stored(tmp_path, {name: b"x", "fine": b"y"}), LIMIT) as archive:
        assert (len(archive), archive.unsafe) == (1, 1)
        assert archive.read(0) == b"y"


def test_an_encrypted_zip_is_called_so(tmp_path):
    path = zipped(tmp_path, series_of(small_volume())[:1])
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UnsupportedFormat) as caught:
        probe_scan(path)
    assert caught.value.code == "encrypted_zip"


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused_with_their_code(tmp_path, kind):
    with pytest.raises(UnsupportedFormat) as caught:
        probe_scan(zipped(tmp_path, series_of(small_volume()), kind))
    assert caught.value.code == "unsupported_zip"


def test_a_damaged_member_is_told_from_its_checksum_without_its_name(tmp_path):
    path = zipped(tmp_path, named(series_of(small_volume()), "ERIKA"), zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(bytes(content))
    from app.imaging.scan import read_scan

    with pytest.raises(InputError) as caught:
        read_scan(path)
    assert caught.value.code == "corrupt_file"
    assert "ERIKA" not in caught.value.detail


def test_a_zip_cut_off_is_damaged(tmp_path):
    path = zipped(tmp_path, series_of(small_volume()))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFile):
        probe_scan(path)


def test_a_directory_longer_than_any_series_needs_is_not_loaded(tmp_path):
    """Half a million empty members: a directory of 25 MB that would become half a gigabyte of objects."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"
    count = 500_000
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(entry) * count, 4, 0)
    path = tmp_path / "scan"
    path.write_bytes(b"PK\x03\x04" + entry * count + end)
    code = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        from app.errors import TooLarge
        from app.imaging.scan import probe_scan
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            probe_scan(Path(sys.argv[1]))
        except TooLarge:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 40_000  # kilobytes
