"""The app in a browser, from end to end: `mvcustom app` as a process of its own, and headless Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

import pytest

pytest.importorskip("gradio", reason="the extra `app` is not installed")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt-get install chromium)"),
]

OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader"),
    "--enable-unsafe-swiftshader",
]
_CALLS = """
import socket, sys
def note(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", b"127.0.0.1"):
        print("CALLS", arguments[0], flush=True)
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
        print("CALLS", arguments[1][0], flush=True)
sys.addaudithook(note)
from diffusers_mvcustom.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def app(model, subject, tmp_path_factory):
    """Address of the running app, and the file of what it prints; whom it calls is printed too."""
    log = tmp_path_factory.mktemp("app") / "log.txt"
    given = ["app", "--model", str(model), "--subject", str(subject), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", _CALLS, *given], stdout=printed, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield _address(process, log), log
    finally:
        process.terminate()
        process.wait(60)


def _address(process, log, seconds=300):
    for _ in range(seconds):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found:
            return found[0]
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def page(app, tmp_path_factory):
    """The opened page, and the addresses that the browser asked for."""
    playwright.expect.set_options(timeout=120_000)
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=OPTIONS,
            viewport={"width": 1400, "height": 1000},
            accept_downloads=True,
        )
        context.set_default_timeout(120_000)
        page = context.pages[0]
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(app[0])
        yield page, asked
        context.close()


def set_number(page, element, value):
    box = page.locator(f"#{element} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def test_a_prompt_becomes_views_and_a_second_run_is_cancelled(page, tmp_path):
    page, _ = page
    playwright.expect(page.locator("#status")).to_contain_text("subject <it> (mug), 64 × 64")
    playwright.expect(page.locator("#cameras .js-plotly-plot")).to_be_visible()
    page.locator("#prompt textarea").fill("a <it> mug by a lake")
    set_number(page, "views", 3)
    set_number(page, "steps", 2)
    page.locator("#compare input").check()
    page.locator("#generate").click()
    playwright.expect(page.locator("#summary")).to_contain_text("2 × 3 views of 64 × 64")
    playwright.expect(page.locator("#label-0")).to_contain_text("with DFR and CLC")
    playwright.expect(page.locator("#label-1")).to_contain_text("without DFR and CLC")
    for number in (0, 1):
        pictures = page.locator(f"#gallery-{number} .thumbnail-item img")
        playwright.expect(pictures).to_have_count(3)
        for element in (pictures.first, page.locator(f"#moving-{number} img").first):
            page.wait_for_function("image => image.naturalWidth === 64", arg=element.element_handle())
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "views.zip")
    with zipfile.ZipFile(tmp_path / "views.zip") as archive:
        assert "with-dfr-and-clc/sparse/0/points3D.bin" in archive.namelist()
        assert "without-dfr-and-clc/views.gif" in archive.namelist()

    set_number(page, "steps", 100)
    page.locator("#generate").click()
    playwright.expect(page.locator("#summary")).to_contain_text(re.compile(r"step \d+ of 100"))
    page.locator("#cancel").click()
    playwright.expect(page.locator("#summary")).to_have_text("cancelled")
    playwright.expect(page.locator("#gallery-0 .thumbnail-item img")).to_have_count(3)
    page.screenshot(path=tmp_path / "app.png", full_page=True)
    assert (tmp_path / "app.png").stat().st_size > 20_000


def test_an_error_is_one_readable_message(page):
    page, _ = page
    page.locator("#prompt textarea").fill("a mug without its word")
    page.locator("#generate").click()
    playwright.expect(page.locator("#summary")).to_contain_text("not generated: ")
    playwright.expect(page.locator("#summary")).to_contain_text("<it>")
    assert "Traceback" not in page.locator("body").inner_text()


def test_cameras_follow_the_sliders(page):
    page, _ = page
    drawn = "() => document.querySelector('#cameras .js-plotly-plot').data.filter(t => /^view/.test(t.name)).length"
    page.wait_for_function(f"({drawn})() === 3")
    set_number(page, "views", 5)
    page.wait_for_function(f"({drawn})() === 5")


def test_nobody_else_is_called(app, page):
    _, asked = page
    hosts = {re.sub(r"^\w+://([^/:]+).*$", r"\1", url) for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert "CALLS" not in app[1].read_text()
