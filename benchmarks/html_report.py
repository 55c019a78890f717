"""How fast the HTML report opens in headless Chromium, and how long it takes to write.

A page counts as open when its verdict and its first samples are laid out and painted and a key has
been answered: measured by the page's own clock from the start of its navigation.

    python benchmarks/html_report.py [--rounds N]
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe_machine, write_result
from PIL import Image

from vlmserve.evals.medium import Medium
from vlmserve.evals.report.html_report import render_html

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.browser.reports import flip, known, report, task

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_SIDE_PX = (640, 480)
_QUESTION = "What does the sign in the middle of the picture say, and which color is it? " * 2

# Two frames after the first cards are there: they have been painted.
_OPEN = """() => new Promise((done) => {
  const look = () => document.querySelector(".card")
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
    : requestAnimationFrame(look);
  look();
})"""
_LOADED = """() => {
  const [entry] = performance.getEntriesByType("navigation");
  return entry.loadEventEnd;
}"""
_SEARCH = """() => {
  const box = document.getElementById("search"), begun = performance.now();
  box.value = "sign 4999";
  box.dispatchEvent(new Event("input"));
  document.body.offsetHeight;
  return performance.now() - begun;
}"""


def main() -> None:
    """Measure and write ``results/html_report.json``."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    machine = describe_machine()
    cases = {}
    with (
        tempfile.TemporaryDirectory() as name,
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        ) as browser,
    ):
        images = write_images(Path(name), 5000)
        for label, n_flips, media in (
            ("100 samples with images", 100, images[:100]),
            ("5,000 samples without images", 5000, []),
            ("5,000 samples with images", 5000, images),
        ):
            cases[label] = measure(browser, Path(name), n_flips, media, args.rounds)
        machine["browser"] = browser.version
    write_result(
        "html_report",
        {
            "question": "seconds until the HTML report is open and painted, by the page's clock; "
            "seconds to write it",
            "machine": machine,
            "rounds": args.rounds,
            "images": f"JPEG of blurred noise, {_SIDE_PX[0]} x {_SIDE_PX[1]} pixels",
            "cases": cases,
            "load_after": round(os.getloadavg()[0], 2),
        },
    )


def write_images(folder: Path, count: int) -> list[Medium]:
    """Images that are harder to compress than photographs are: blurred noise."""
    media = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        source = random.Random(number)  # noqa: S311 - pictures, not secrets
        noise = Image.frombytes("RGB", (80, 60), source.randbytes(80 * 60 * 3))
        noise.resize(_SIDE_PX, Image.Resampling.BICUBIC).save(path, quality=85)
        media.append(Medium.load(path.name, folder))
    return media


def measure(
    browser: "Browser", folder: Path, n_flips: int, media: list[Medium], rounds: int
) -> dict[str, Any]:
    """Write one report and open it several times, each in a fresh profile."""
    flips = [
        flip(number, media[number : number + 1], question=f"{_QUESTION}{number}")
        for number in range(n_flips)
    ]
    begun = time.perf_counter()
    text = render_html(report(task("signs", flips)), known(media))
    written = time.perf_counter() - begun
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    opened, loaded, searched = [], [], []
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.goto(path.as_uri(), wait_until="commit")
        opened.append(page.evaluate(_OPEN))
        page.wait_for_load_state("load")
        loaded.append(page.evaluate(_LOADED))
        searched.append(page.evaluate(_SEARCH))
        context.close()
    thumbnails = text.count('<script type="text/plain"')
    return {
        "n_samples": n_flips,
        "n_thumbnails": thumbnails,
        "file_mib": round(len(text.encode()) / 2**20, 2),
        "written_s": round(written, 2),
        "open_s": _seconds(opened),
        "load_event_s": _seconds(loaded),
        "search_s": _seconds(searched),
    }


def _seconds(milliseconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(milliseconds) / 1000, 3),
        "largest": round(max(milliseconds) / 1000, 3),
    }


if __name__ == "__main__":
    main()
