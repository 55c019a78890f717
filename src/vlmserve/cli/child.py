"""Another ``vlmserve`` command in a process of its own: heard, ended with this one, and judged."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

# An engine that is interrupted while it loads is given so long by its own command.
_CLEAN_UP_S = 25.0


def run_child(command: Sequence[str]) -> tuple[int, str | None]:
    """Run a command; what it says on stderr is said here, its stdout is not.

    Args:
        command: Program and arguments.

    Returns:
        Its exit status (that of a shell, 128 + N, where signal N ended it), and the error that it
        printed, if it did.

    Raises:
        KeyboardInterrupt: This process was interrupted; the command has been ended.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C comes here alone, and is passed on once
    )
    lines: list[str] = []
    assert process.stderr is not None  # noqa: S101 - it was asked for
    reader = threading.Thread(target=_repeat, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        status = process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        reader.join(timeout=_CLEAN_UP_S)
        process.stderr.close()
    return status if status >= 0 else 128 - status, _error(lines)


def _repeat(stream: IO[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line.rstrip("\n"))
        sys.stderr.write(line)
        sys.stderr.flush()


def _end(process: "subprocess.Popen[str]") -> None:
    # SIGTERM and not SIGINT: the command gives its engine a limited time to end.
    process.terminate()
    try:
        process.wait(timeout=_CLEAN_UP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error(lines: Sequence[str]) -> str | None:
    """The last error that a command printed, without its hint."""
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return None
    said = [lines[starts[-1]].removeprefix("error: ")]
    for line in lines[starts[-1] + 1 :]:
        if line.startswith("hint: "):
            break
        said.append(line)
    return "\n".join(said).strip()
