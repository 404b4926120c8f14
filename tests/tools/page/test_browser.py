"""The page in a real browser, a headless Chromium, served by the program as the wheel installs it."""

import io
import signal
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from experiments.explore_images import browser, chromium, click_pixel, open_page, serve, wait_for_page
from tests import compiling
from tests.miniatures import scene, write
from tests.wheel import unpacked_wheel

for package in ("starlette", "uvicorn", "playwright"):
    pytest.importorskip(package, reason="pip install -r requirements-dev.txt")
pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")

SIDE = 96
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FITTING = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def server(runs, tmp_path_factory):
    """(address, process) of the wheel's program with two runs, which compiles as the tests do."""
    site = unpacked_wheel(tmp_path_factory.mktemp("wheel"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in compiling.COMPILING.items():
            patch.setenv(name, value)
        flags = (f"--side={SIDE}", "--megabytes=1")
        with serve(str(runs["rcca"]), str(runs["none"]), *flags, site=site) as running:
            yield running


@pytest.fixture(scope="module")
def tab(server):
    """The page; what the browser complained of, and where it sent requests, is in `.problems`, `.hosts`."""
    with browser(*CAMERA) as running:
        tab = open_page(running, server[0], (1280, 900))
        tab.problems, tab.hosts = [], set()
        tab.on("console", lambda message: tab.problems.append(message.text))
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.on("request", lambda request: tab.hosts.add(urllib.parse.urlsplit(request.url).netloc))
        tab.reload()
        tab.locator(".legend li").first.wait_for()
        wait_for_page(tab)
        yield tab


def panes(tab):
    return tab.locator(".pane").all()


def maps(pane):
    return pane.locator(".maps figure").count()


def test_it_shows_two_runs_at_its_start(tab):
    first, second = panes(tab)
    assert first.locator(".legend li").count() > 0
    assert second.locator(".legend li").count() > 0
    assert second.locator(".run").input_value() == "1"
    assert first.locator(".loops").is_visible()
    assert not second.locator(".loops").is_visible()
    assert "loops and attention are RCCA's" in second.locator(".no-loops").text_content()
    fractions = [text.strip("<% ") for text in first.locator(".fraction").all_text_contents()]
    assert sum(map(float, fractions)) == pytest.approx(100, abs=1)
    drawn = first.locator("canvas.overlay").evaluate(
        """canvas => {
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(pixels.buffer)).size;
        }"""
    )
    assert drawn == len(fractions)  # one colour a class


def test_pointer_and_click(tab):
    first, second = panes(tab)
    click_pixel(tab, (10, 20))
    for pane in (first, second):
        assert "row 10, column 20" in pane.locator(".readout").text_content()
        assert "%" in pane.locator(".readout").text_content()
    assert (maps(first), maps(second)) == (2, 0)
    first.locator(".stage").hover(position={"x": 5, "y": 5})
    assert "row 0, column" in second.locator(".readout").text_content()


def test_keys(tab):
    stage = tab.locator(".stage").first
    click_pixel(tab, (10, 20))
    stage.focus()
    for key in ("ArrowDown", "Shift+ArrowRight", "ArrowLeft"):
        tab.keyboard.press(key)
    assert "row 11, column 29" in tab.locator(".readout").first.text_content()
    tab.keyboard.press("Enter")
    wait_for_page(tab)
    assert "Row 11, column 29" in tab.locator(".attention-hint").first.text_content()
    for _ in range(30):
        tab.keyboard.press("Shift+ArrowUp")
    assert "row 0," in tab.locator(".readout").first.text_content()
    reached = set()
    tab.locator("#file").focus()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"webcam", "opacity", "compare", "run", "several", "stage", "button label-link"} <= reached


def test_loops_and_legend(tab):
    first = panes(tab)[0]
    click_pixel(tab, (10, 20))
    for loops in (3, 0, 1):
        first.locator(".segments label").nth(loops).click()
        wait_for_page(tab)
        assert maps(first) == loops
    assert "Without a loop" not in first.locator(".attention-hint").text_content()
    first.locator(".segments label").nth(2).click()
    wait_for_page(tab)
    row = first.locator(".legend button").first
    row.click()
    assert row.get_attribute("aria-pressed") == "true"
    row.click()
    assert row.get_attribute("aria-pressed") == "false"


def test_a_file_is_shown_and_downloaded(tab, tmp_path):
    image, _ = scene(0, 40, 120)
    write(tmp_path / "street.png", image)
    tab.locator("#file").set_input_files(tmp_path / "street.png")
    tab.get_by_text("96 x 32 pixels, shrunk from 120 x 40").wait_for()
    wait_for_page(tab)
    tab.locator("#opacity").fill("80")
    assert tab.locator(".overlay").first.evaluate("canvas => canvas.style.opacity") == "0.8"
    saved = {}
    for link in ("label", "overlay"):
        with tab.expect_download() as download:
            tab.locator(f".{link}-link").first.click()
        saved[download.value.suggested_filename] = Image.open(io.BytesIO(download.value.path().read_bytes()))
    label, overlay = saved["street-label.png"], saved["street-overlay.png"]
    assert (label.mode, label.size) == ("P", (120, 40))
    assert overlay.size == (96, 32)
    colours = {colour for _, colour in overlay.getcolors(10**4)}
    assert len(colours) > len(np.unique(np.array(label)))


def test_a_bad_file_is_a_message_and_the_page_works_on(tab, tmp_path):
    message = tab.locator("#message")
    (tmp_path / "notes.png").write_text("no image")
    tab.locator("#file").set_input_files(tmp_path / "notes.png")
    message.wait_for()
    assert message.text_content() == "The file is no PNG, JPEG, WebP or BMP image; choose one that is."
    (tmp_path / "large.png").write_bytes(bytes(2 * 10**6))
    tab.locator("#file").set_input_files(tmp_path / "large.png")
    tab.get_by_text("The file has more than 1 MB").wait_for()
    tab.locator("#strip button").nth(2).click()
    message.wait_for(state="hidden")
    wait_for_page(tab)
    click_pixel(tab, (3, 3))
    assert maps(panes(tab)[0]) == 2


@pytest.mark.parametrize(
    ("made", "width", "told"),
    [
        ("new DragEvent('drop', { dataTransfer: carried })", 192, "96 x 48 pixels, shrunk from 192 x 96"),
        (
            "new ClipboardEvent('paste', { clipboardData: carried })",
            288,
            "96 x 32 pixels, shrunk from 288 x 96",
        ),
    ],
)
def test_dropped_and_pasted_files(tab, made, width, told):
    tab.evaluate(
        f"""async () => {{
            const canvas = new OffscreenCanvas({width}, 96);
            canvas.getContext("2d").fillRect(5, 5, 20, 20);
            const carried = new DataTransfer();
            carried.items.add(new File([await canvas.convertToBlob()], "made.png"));
            window.dispatchEvent({made});
        }}"""
    )
    tab.get_by_text(told).wait_for()
    wait_for_page(tab)
    assert not tab.locator("#message").is_visible()


def test_the_webcam(tab):
    tab.locator("#webcam").click()
    tab.locator("#take").click()
    tab.get_by_text("pixels, shrunk from 640 x 480").wait_for()
    wait_for_page(tab)
    tab.locator("#stop").click()
    assert tab.locator("#webcam").is_visible()
    assert not tab.locator("#video").is_visible()


def test_one_pane_and_a_phone(tab):
    tab.locator("#compare").uncheck()
    assert len(panes(tab)) == 1
    for width, height in ((375, 812), (320, 568), (1920, 1080)):
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.evaluate(FITTING), f"the page is wider than {width} pixels"
        click_pixel(tab, (5, 5))
        stage = tab.locator(".stage").bounding_box()
        assert stage["width"] <= width
        assert stage["height"] <= 0.7 * height
        if width < 400:
            for button in tab.locator("button:visible, .button:visible").all():
                assert button.bounding_box()["height"] >= 40
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.locator("#compare").check()
    wait_for_page(tab)
    assert len(panes(tab)) == 2


def test_nothing_but_the_program_was_asked_and_nothing_failed(tab, server):
    """The last but one: what all tests above did."""
    assert tab.hosts <= {urllib.parse.urlsplit(server[0]).netloc, ""}  # "" of blobs
    refused = [text for text in tab.problems if "status of 400" not in text]  # the bad file
    assert not refused


def test_ctrl_c_ends_the_program_well(tab, server):
    _, process = server
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    tab.locator("#strip button").nth(1).click()
    tab.get_by_text("The program does not answer: start it again, then reload this page.").wait_for()
