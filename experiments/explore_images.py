"""Images of the page of `python -m ccnet_jax.explore`, made by a real browser.

    python -m experiments.explore_images RUN [RUN] [--pixel ROW,COLUMN] [--image N]

Starts the program with the run (or two), opens the page in an installed Chromium, clicks the pixel, and
writes experiments/results/explore_{desktop,compare,phone}.png. Needs `pip install -r requirements-dev.txt`
and a Chromium, as Debian's package `chromium`; Playwright downloads none here.
"""

import argparse
import contextlib
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from PIL import Image

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line
from kernels.bench.measure import ROOT

RESULTS = ROOT / "experiments" / "results"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PREDICTION_SECONDS = 180.0  # seconds for a prediction, compiling included
DESKTOP, PHONE = (1280, 900), (375, 812)  # (width, height) in CSS pixels
VIEWS = {"desktop": DESKTOP, "compare": DESKTOP, "phone": PHONE}
_COLOURS = 256  # of an image's palette: a third of the bytes


def chromium() -> str | None:
    """The path of an installed Chromium, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browser(*arguments: str) -> Iterator[Any]:
    """A headless Chromium under Playwright, with more arguments of its command line.

    Raises UserError where it, or Playwright, is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("this needs playwright: pip install -r requirements-dev.txt") from None
    path = chromium()
    if path is None:
        raise UserError(f"this needs a Chromium ({', '.join(BROWSERS)}): apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(arguments))
        yield running
        running.close()


@contextlib.contextmanager
def serve(*arguments: str, site: pathlib.Path = ROOT) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page's address, and the program that serves it, started with these arguments.

    site: the folder with the project, this clone or what a wheel holds.

    Raises UserError where the program ends instead; it has said why.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ccnet_jax.explore", *arguments, "--port=0"],  # -P: not from here
            env=os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            found = (re.match(r"open (http://\S+)", line) for line in process.stdout)
            address = next((match[1] for match in found if match), None)
            if address is None:
                errors.seek(0)
                raise UserError(f"the page is not served: {errors.read().strip()}; correct the arguments")
            yield address, process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def open_page(running: Any, address: str, size: tuple[int, int]) -> Any:
    """The page in a tab of `size` (width, height), its first prediction made; a phone has a finger."""
    width, height = size
    tab = running.new_page(
        viewport={"width": width, "height": height}, reduced_motion="reduce", has_touch=size == PHONE
    )
    tab.set_default_timeout(1000 * PREDICTION_SECONDS)
    tab.goto(address)
    tab.locator(".legend li").first.wait_for()
    return tab


def click_pixel(tab: Any, pixel: tuple[int, int]) -> None:
    """Click a pixel (row, column) of the image, and wait for what it attends to in every pane."""
    size = tab.locator("canvas.image").first.evaluate("canvas => [canvas.height, canvas.width]")
    box = tab.locator(".stage").first.bounding_box()
    y, x = ((at + 0.5) / side for at, side in zip(pixel, size, strict=True))
    tab.locator(".stage").first.click(position={"x": x * box["width"], "y": y * box["height"]})
    wait_for_page(tab)


def wait_for_page(tab: Any) -> None:
    """Wait until nothing on the page is at work; what is, says so before a click or a key returns."""
    tab.locator("[aria-busy=true]").first.wait_for(state="detached")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--pixel", default="70,160", metavar="ROW,COLUMN", help="default %(default)s")
    parser.add_argument("--image", type=int, default=1, metavar="N", help="of the run's own, from 1")
    arguments = parser.parse_args()
    pixel = command_line.pair("--pixel", arguments.pixel, "ROW,COLUMN")
    with serve(*arguments.runs) as (address, _), browser() as running:
        for name, size in VIEWS.items():
            tab = open_page(running, address, size)
            tab.locator("#strip button").nth(arguments.image - 1).click()
            wait_for_page(tab)
            tab.locator("#compare").set_checked(name == "compare")
            wait_for_page(tab)
            click_pixel(tab, pixel)
            path = RESULTS / f"explore_{name}.png"
            tab.evaluate("scrollTo(0, 0)")
            shot = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
            shot.quantize(_COLOURS, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)
            print(path.relative_to(ROOT))
            tab.close()


if __name__ == "__main__":
    command_line.run(main)
