"""Signals to a command that has started processes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_COMMAND = """
import multiprocessing, signal, subprocess, sys, time
from vlmserve.cli.termination import ended_at_once

def ignore(connection):
    # As vLLM's engine has workers.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(worker.pid)
    time.sleep(600)

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    # As vLLM starts its engine.
    child = multiprocessing.get_context("spawn").Process(target=ignore, args=(theirs,))
    child.start()
    worker = ours.recv()
    with ended_at_once(lambda status: print("cleaned up", status, flush=True)):
        print(child.pid, worker, flush=True)
        try:
            time.sleep(600)
        except BaseException:
            print("an exception may get lost", flush=True)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_processes_that_do_not_hear_it_are_ended(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    script = tmp_path / "command.py"
    script.write_text(_COMMAND)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]

        process.send_signal(number)

        # They hold it open as well: what ends it is the end of all.
        assert process.stdout.read() == f"cleaned up {status}\n"
    assert process.returncode == status
    psutil.wait_procs(started, timeout=30)
    assert [each for each in started if each.is_running() and each.status() != "zombie"] == []
