#!/usr/bin/env python3
"""Draw docs/demo.svg: what `make demo` shows in a terminal, as it was shown.

The tour runs in a pseudo-terminal; a terminal emulator turns what it wrote, progress bars and all,
into the final screen, and rich draws it. Lists of flipped samples are shortened, and say so.

    .venv/bin/python scripts/render_demo.py
"""

import fcntl
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "demo.svg"
COLUMNS, LINES = 112, 400
# A sample in a list of flips begins with its id.
_SAMPLE = re.compile(r"^  [0-9a-f]{8}  ")
_FLIPS = re.compile(r"^\w+: \d+ (worse|better), \d+ shown$")
_KEPT_LISTS = 2


def main() -> int:
    """Run the tour and draw it."""
    screen = pyte.Screen(COLUMNS, LINES)
    with tempfile.TemporaryDirectory() as folder:
        # A short path in the picture; the links point to the repository.
        for name in ("configs", "evals"):
            (Path(folder) / name).symlink_to(ROOT / name)
        status = run_in_terminal(screen, folder)
    if status != 0:
        print("\n".join(line.rstrip() for line in screen.display if line.strip()))
        return status
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"))  # noqa: SIM115
    console.print("$ make demo", style="bold")
    for line in shorten([to_text(screen, row) for row in range(last_row(screen) + 1)]):
        console.print(line, soft_wrap=True)
    console.save_svg(str(TARGET), title="vlmserve")
    print(TARGET)
    return 0


def run_in_terminal(screen: pyte.Screen, folder: str) -> int:
    """Run the tour with the emulator as its terminal; return its exit status."""
    stream = pyte.ByteStream(screen)
    leader, follower = pty.openpty()
    size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
    fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        [sys.executable, "-m", "vlmserve", "demo", "tour", "--out", "demo-out"],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"},
    )
    os.close(follower)
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the last writer has closed it
            break
        if not data:
            break
        stream.feed(data)
    return process.wait()


def last_row(screen: pyte.Screen) -> int:
    """The last row with anything on it."""
    return max(row for row, line in enumerate(screen.display) if line.strip())


def to_text(screen: pyte.Screen, row: int) -> Text:
    """One row with its colours."""
    text = Text()
    cells = [screen.buffer[row][column] for column in range(len(screen.display[row].rstrip()))]
    for style, run in itertools.groupby(cells, key=_style):
        text.append("".join(cell.data for cell in run), style=style)
    return text


def _style(cell: pyte.screens.Char) -> str:
    color = "default" if cell.fg == "default" else _color(cell.fg)
    return color + (" bold" if cell.bold else "") + (" italic" if cell.italics else "")


def _color(name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    names = {"brown": "yellow", "brightbrown": "bright_yellow"}
    return names.get(name, name.replace("bright", "bright_") if name.startswith("bright") else name)


def shorten(lines: list[Text]) -> list[Text]:
    """Keep the first lists of flipped samples of each report and say that others were left out."""
    kept: list[Text] = []
    n_lists, skipping = 0, False
    for line in lines:
        plain = line.plain.rstrip()
        if _FLIPS.match(plain):
            n_lists += 1
            skipping = n_lists > _KEPT_LISTS
            if n_lists == _KEPT_LISTS + 1:
                kept.append(Text("... (further tasks)", style="dim"))
        elif not _SAMPLE.match(plain):
            skipping = False
        if plain.startswith("verdict:"):
            n_lists = 0
        if not skipping:
            kept.append(line)
    return kept


if __name__ == "__main__":
    sys.exit(main())
