"""python benchmarks/page.py http://127.0.0.1:8008/view/ID: what the page weighs, how soon it shows and moves a result.

It visits a running service with an empty cache, in Debian's Chromium, which draws in software unless --gpu is given.
Seconds go from what starts a change to a pixel read back after it.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE_MS = 480_000
#: What is done, and the key that does it.
CHANGES = {
    "next slice": "ArrowUp",
    "another window": "l",
    "contours on or off": "c",
    "layers on or off": "o",
    "one plane alone": "1",
    "3-D alone": "5",
    "all planes": "4",
}
PRESS = """(key) => new Promise((done) => {
    const gl = document.querySelector(".stage canvas").getContext("webgl2");
    const began = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    setTimeout(() => requestAnimationFrame(() => {
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
        done((performance.now() - began) / 1000);
    }));
})"""
RENDERER = """(() => {
    const gl = document.querySelector(".stage canvas").getContext("webgl2");
    return gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info").UNMASKED_RENDERER_WEBGL);
})()"""


class Weighed:
    """Bytes that came over the line, by the kind of what they are."""

    def __init__(self, page: Page) -> None:
        self.kinds: dict[str, str] = {}
        self.bytes = {"page": 0, "result": 0}
        wire = page.context.new_cdp_session(page)
        wire.on(
            "Network.requestWillBeSent", lambda event: self.kinds.update({event["requestId"]: event["request"]["url"]})
        )
        wire.on("Network.loadingFinished", self._add)
        wire.send("Network.enable")

    def _add(self, event: dict) -> None:
        kind = "result" if "/jobs/" in self.kinds.get(event["requestId"], "") else "page"
        self.bytes[kind] += int(event["encodedDataLength"])


@click.command()
@click.argument("view")
@click.option("--gpu", is_flag=True, help="Draw with the graphics card.")
@click.option("--times", default=5, show_default=True, help="How often each change is made; the median is printed.")
def main(view: str, times: int, *, gpu: bool) -> None:
    """Measure the page of a job that has ended."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", *(() if gpu else SOFTWARE)]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        weighed = Weighed(page)
        page.goto(view.rpartition("/view/")[0] + "/", wait_until="networkidle")
        first = dict(weighed.bytes)
        began = time.perf_counter()
        page.goto(view, wait_until="commit")
        page.locator(".readout[data-ready=yes]").wait_for(state="attached")
        page.evaluate(PRESS, "4")
        shown = time.perf_counter()
        _say("first page", f"{first['page'] / 1000:.0f} kB")
        _say("with a result", f"{(weighed.bytes['page'] - first['page']) / 1000:.0f} kB more")
        _say("scan and masks", f"{(weighed.bytes['result'] - first['result']) / 1000:.0f} kB")
        _say("first picture", f"{shown - began:.1f} s")
        for change, key in CHANGES.items():
            _say(change, f"{statistics.median(page.evaluate(PRESS, key) for _ in range(times)):.2f} s")
        _say("drawn by", page.evaluate(RENDERER))
        browser.close()
    if sys.platform == "linux":
        _say("load average", Path("/proc/loadavg").read_text("utf-8").split()[0])


def _say(what: str, found: str) -> None:
    click.echo(f"{what:20} {found}")


if __name__ == "__main__":
    main()
