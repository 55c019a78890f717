"""SIGTERM to a command that has started processes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

_COMMAND = """
import multiprocessing, signal, subprocess, sys, time
from vlmserve.cli.termination import ended_at_sigterm

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
    with ended_at_sigterm(lambda: print("cleaned up", flush=True)):
        print(child.pid, worker, flush=True)
        try:
            time.sleep(600)
        except BaseException:
            print("an exception may get lost", flush=True)
"""


def test_processes_that_do_not_hear_it_are_ended(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(_COMMAND)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]

        process.send_signal(signal.SIGTERM)

        # They hold it open as well: what ends it is the end of all.
        assert process.stdout.read() == "cleaned up\n"
    assert process.returncode == 0
    psutil.wait_procs(started, timeout=30)
    assert [each for each in started if each.is_running() and each.status() != "zombie"] == []
