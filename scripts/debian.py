"""Installs packages of Debian for tests, where this user may do that."""

import os
import shutil
import subprocess


def install(what: str, *packages: str) -> int:
    """Install packages.

    Args:
        what: What the tests need them for, as people call it.
        packages: Their names.

    Returns:
        An exit status; what is wrong was printed.
    """
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        say(f"the tests need {what}; on Debian, as root: apt-get install {' '.join(packages)}")
        return 2
    say(f"installing {what}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wanted = ("install", "--yes", "--quiet", "--no-install-recommends", *packages)
    for arguments in (("update", "--quiet"), wanted):
        done = subprocess.run(
            [apt, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            say(f"failed: apt-get {' '.join(arguments)}\n{done.stdout}{done.stderr}")
            return done.returncode
    return 0


def say(text: str) -> None:
    """Print a line as ``make`` targets here do."""
    print(f"-- {text}", flush=True)
