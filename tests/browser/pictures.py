"""The pictures of docs/viewer.md, taken of the page as it is: python -m tests.browser.pictures docs/pictures.

They show the synthetic phantom, segmented by the tests' hand-written networks.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.visits import Service, Visit, until

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


def _save(path: Path, png: bytes) -> None:
    """As 256 colours that cover all there are: a third of the bytes, and no colour of a lesion is lost."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    os.environ["PICTURES_INTO"] = sys.argv[1]
    sys.exit(pytest.main([__file__, "-q", "-o", "python_files=pictures.py"]))
