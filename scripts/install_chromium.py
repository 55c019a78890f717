#!/usr/bin/env python3
"""Put Chromium on this machine for the tests of the HTML report, where there is none.

Run by ``make test``; needs nothing but Python's standard library. Debian's package is installed
where this user may do that; elsewhere it says what to install.
"""

import os
import shutil
import subprocess
import sys

CHROMIUM = "chromium"
_INSTALL = ("install", "--yes", "--quiet", "--no-install-recommends", CHROMIUM, "fonts-dejavu-core")


def main() -> int:
    """Install it unless it is there."""
    if shutil.which(CHROMIUM):
        return 0
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        _say(f"the tests need {CHROMIUM}; on Debian, as root: apt-get install {CHROMIUM}")
        return 2
    _say(f"installing {CHROMIUM}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update", "--quiet"), _INSTALL):
        done = subprocess.run(
            [apt, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            _say(f"failed: apt-get {' '.join(arguments)}\n{done.stdout}{done.stderr}")
            return done.returncode
    return 0


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
