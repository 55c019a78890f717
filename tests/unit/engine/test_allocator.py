"""Run in processes of their own: what an allocator was told stays told."""

import subprocess
import sys

HOLES = """
import threading, time
import psutil
from vlmserve.engine import allocator

allocator._PERIOD_S = 0.05
resident = psutil.Process().memory_info
kept, freed = [], []
for _ in range(3000):
    freed.append(bytes(65_000))
    kept.append(bytes(1_000))
before = resident().rss
del freed
for _ in range(2):
    allocator.give_back_regularly()
assert sum(thread.name == "allocator" for thread in threading.enumerate()) == 1
deadline = time.monotonic() + 60
while resident().rss > before - 100_000_000 and time.monotonic() < deadline:
    time.sleep(0.05)
print((before - resident().rss) // 1_000_000)
"""


def test_holes_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)

    assert int(done.stdout) >= 100, done.stderr
