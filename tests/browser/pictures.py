"""Pictures of docs/viewer.md and docs/answers.md, of pages as they are: python -m tests.browser.pictures docs/pictures.

They show synthetic phantoms, segmented by the tests' hand-written networks.
"""

from __future__ import annotations

import html
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from app.imaging.nifti import write_labels, write_volume
from tests.analytic_networks import phantom_models
from tests.browser.visits import Service, Visit, until
from training.phantom import abdomen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SIZE = {"width": 1280, "height": 800}


def test_take_them(visit: Visit, service: Service):
    """Walk through the page and press the button of the camera."""
    into = Path(os.environ["PICTURES_INTO"])
    visit.page.set_viewport_size(SIZE)

    def take(name: str, **more: object) -> None:
        _save(into / f"{name}.png", visit.page.screenshot(**more))

    for scene in (_send, _progress, _result, _sheet):
        scene(visit, service, take)


Camera = Callable[..., None]


def _send(visit: Visit, service: Service, take: Camera) -> None:
    service.send()
    service.send(service.reference)
    visit.open("/")
    visit.page.set_input_files("input[name=file]", service.scan)
    until(lambda: visit.page.locator(".list").count())
    take("send")


def _progress(visit: Visit, service: Service, take: Camera) -> None:
    service.hold("lesion")
    visit.page.get_by_role("button", name="Segment this scan").click()
    until(lambda: visit.page.locator(".steps [data-state=now][data-stage=lesion]").count())
    take("progress", clip={"x": 0, "y": 0, "width": 1280, "height": 480})
    service.release()
    visit.wait_for_pictures()


def _result(visit: Visit, service: Service, take: Camera) -> None:
    visit.open_result(service.send(service.reference))
    take("result")
    stage = visit.page.locator(".viewer").bounding_box()
    for name, keys in (("contours", "1c"), ("differences", "cd"), ("volume", "d5")):
        for key in keys:
            visit.page.keyboard.press(key)
        visit.settle()
        take(name, clip=stage)
    visit.page.keyboard.press("4")
    visit.page.emulate_media(color_scheme="dark")
    visit.page.keyboard.press("n")
    visit.settle()
    take("dark")


def _sheet(visit: Visit, service: Service, take: Camera) -> None:
    job = service.send(service.reference)
    visit.page.set_viewport_size({"width": 900, "height": 1180})
    visit.open(f"/jobs/{job['id']}/sheet.html")
    take("sheet")


def test_take_those_of_answers(chromium: Browser, tmp_path: Path):
    """Four phantoms with references that are off by 0 to 3 voxels, evaluated; the receipt of one checked by hand."""
    into, models = Path(os.environ["PICTURES_INTO"]), phantom_models(tmp_path / "models")
    scans = tmp_path / "set"
    scans.mkdir()
    for number in range(4):
        phantom = abdomen(seed=number, shape=(96, 80, 32), spacing_mm=(3.8, 4.0, 6.3), noise_hu=0)
        write_volume(scans / f"volume-{number}.nii.gz", phantom.volume)
        drawn = np.asfortranarray(np.roll(phantom.truth.labels, number, axis=0))
        write_labels(scans / f"segmentation-{number}.nii.gz", drawn, phantom.truth.geometry, header_of=None)
    page = chromium.new_page(viewport={"width": 1100, "height": 2000})
    _typed(tmp_path, f"hepaseg evaluate set -o evaluated --models {models}")
    page.goto((tmp_path / "evaluated/evaluation.html").as_uri())
    _save(into / "evaluation.png", page.screenshot())
    steps = (
        "openssl genpkey -algorithm ed25519 -out key.pem",
        "openssl pkey -in key.pem -pubout -out key.pub",
        "HEPASEG_SIGNING_KEY=key.pem hepaseg segment set/volume-0.nii.gz -o out --models models",
        "hepaseg verify out --key key.pub",
        "hepaseg replay out set/volume-0.nii.gz -o again --models models",
        "printf x >> out/liver.nii.gz",
        "hepaseg verify out --key key.pub",
    )
    said = "".join(f"$ {step}\n{_typed(tmp_path, step)}" for step in steps)
    page.set_content(f"<pre style='font:13px monospace;padding:1em;margin:0'>{html.escape(said)}</pre>")
    _save(into / "receipt.png", page.locator("pre").screenshot())


def _typed(folder: Path, line: str) -> str:
    """What a line says that is typed into a shell there."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "130"},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


def _save(path: Path, png: bytes) -> None:
    """As 256 colours that cover all there are: a third of the bytes, and no colour of a lesion is lost."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    os.environ["PICTURES_INTO"] = sys.argv[1]
    sys.exit(pytest.main([__file__, "-q", "-o", "python_files=pictures.py"]))
