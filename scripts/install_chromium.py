#!/usr/bin/env python3
"""Put Chromium on this machine for the tests of the HTML report, where there is none.

Run by ``make test``; needs nothing but Python's standard library. Debian's package is installed
where this user may do that; elsewhere it says what to install.
"""

import shutil
import sys

from debian import install

CHROMIUM = "chromium"


def main() -> int:
    """Install it unless it is there."""
    if shutil.which(CHROMIUM):
        return 0
    return install(CHROMIUM, CHROMIUM, "fonts-dejavu-core")


if __name__ == "__main__":
    sys.exit(main())
