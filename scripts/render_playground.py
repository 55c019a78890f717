#!/usr/bin/env python3
"""Take the picture of the playground that the README shows, from a real server in a real browser.

    make playground-picture

Serves the demo's fine-tune beside its base, puts an image, a video and a question together in
Chromium, asks both models and writes ``docs/playground.png``.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_READY = re.compile(r"^ready: (http://\S+)/v1", re.MULTILINE)
_START_TIMEOUT_S = 300
_SAMPLE = 21
_SIZE = {"width": 1280, "height": 860}


def main() -> int:
    """Take it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "playground.png")
    parser.add_argument("--url", help="a server that runs already, instead of one of our own")
    parser.add_argument("--width", type=int, default=_SIZE["width"])
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = _write_media(Path(folder))
        with contextlib.ExitStack() as stack:
            url = args.url or stack.enter_context(_server(Path(folder)))
            _take(url, files, args.out, width=args.width, is_dark=args.dark)
    print(f"wrote {args.out}")
    return 0


def _write_media(folder: Path) -> list[Path]:
    """A held-out image of a colour that only the fine-tune knows, and a video."""
    import cv2
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(ROOT / "evals" / "demo" / "data" / "newcolor.parquet")
    files = [folder / "picture.png", folder / "moving-dot.mp4"]
    files[0].write_bytes(table.slice(_SAMPLE, 1).to_pylist()[0]["media"][0]["bytes"])
    side, n_frames = 84, 24
    writer = cv2.VideoWriter(str(files[-1]), cv2.VideoWriter.fourcc(*"mp4v"), 6.0, (side, side))
    for frame in range(n_frames):
        picture = np.zeros((side, side, 3), np.uint8)
        x = 14 + (side - 28) * frame // (n_frames - 1)
        cv2.circle(picture, (x, side // 2), 9, (40, 40, 220), -1)
        writer.write(picture)
    writer.release()
    return files


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    zoo, log = folder / "zoo", folder / "log"
    command = [sys.executable, "-m", "vlmserve"]
    subprocess.run([*command, "demo", "build", "--out", str(zoo)], check=True, capture_output=True)
    config = str(ROOT / "configs" / "cpu-demo.yaml")
    serve = [*command, "serve", "--ckpt", str(zoo / "good-lora"), "--port", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen([*serve, "--config", config], stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (found := _READY.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.5)
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def _take(url: str, files: list[Path], out: Path, *, width: int, is_dark: bool) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        context = browser.new_context(
            viewport={"width": width, "height": _SIZE["height"]},
            color_scheme="dark" if is_dark else "light",
            device_scale_factor=1.5,
        )
        page = context.new_page()
        page.goto(url)
        page.locator(".chip").first.wait_for()
        page.set_input_files("#files", files)
        page.locator("textarea[aria-label='Text 1']").fill("Name the color.")
        page.locator(".strip img").first.wait_for()
        page.locator("#ask").click()
        page.locator(".answer .timings:visible").nth(1).wait_for()
        page.locator("#stop").wait_for(state="hidden")
        _settle(page)
        page.screenshot(path=out, full_page=True)
        browser.close()


def _settle(page: Any) -> None:
    page.evaluate("document.activeElement?.blur()")
    page.mouse.move(0, 0)


if __name__ == "__main__":
    sys.exit(main())
