"""A disk that really fills, page by page, under the writers of the real files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import tiny

from app.jobs.job import Status
from app.jobs.results import RESULT_NAMES, JobFiles
from app.jobs.store import Order, Store
from app.jobs.worker import Worker
from app.settings import Settings

PAGE = 4096


@contextlib.contextmanager
def filled_but(disk: Path, left: int) -> Iterator[None]:
    """So many bytes are free on the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE))
    os.truncate(ballast, ballast.stat().st_size - left)
    try:
        yield
    finally:
        ballast.unlink()


def test_wherever_the_disk_fills_while_results_are_written_nothing_is_published_by_halves(
    small_disk: Path, tmp_path: Path
):
    settings = Settings(data_dir=tmp_path / "data", storage_url=str(small_disk))  # the database is elsewhere
    store, files = Store.open(settings), JobFiles.of(settings)
    scan = tiny.save_scan(tmp_path / "ct.nii.gz")
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    tiny.run(tiny.Work(scan, None, undisturbed), tiny.in_silence)
    ends = []
    for pages in range(40):
        folder = files.create(f"job{pages}")
        (folder / "scan").write_bytes(scan.read_bytes())
        store.add(Order(folder.name))
        with filled_but(small_disk, PAGE * pages):
            Worker(store, settings, tiny.run).run_once()
        job = store.get(folder.name)
        ends.append((job.status, job.error and job.error.code))
        if job.status is Status.SUCCEEDED:
            break
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["scan"]
    store.engine.dispose()
    assert len(ends) > len(RESULT_NAMES)
    assert set(ends[:-1]) == {(Status.FAILED, "storage_full")}
    assert ends[-1] == (Status.SUCCEEDED, None)
    for name in RESULT_NAMES:
        assert files.result(job.id, 1, name).read_bytes() == (undisturbed / name).read_bytes(), name
