"""SIGTERM to a command that has started processes."""

import signal
import subprocess
import sys
from pathlib import Path

_COMMAND = """
import multiprocessing, signal, time
from vlmserve.cli.termination import Terminated, end_at_sigterm, was_terminated

def ignore(connection):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send("ignores")
    time.sleep(600)

if __name__ == "__main__":
    end_at_sigterm(kill=True)
    ours, theirs = multiprocessing.Pipe()
    # As vLLM starts its engine.
    child = multiprocessing.get_context("spawn").Process(target=ignore, args=(theirs,))
    child.start()
    ours.recv()
    try:
        print("started", flush=True)
        time.sleep(600)
    except Terminated:
        child.join()
        print(child.exitcode, was_terminated())
"""


def test_processes_that_do_not_hear_it_are_ended(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(_COMMAND)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"

        process.send_signal(signal.SIGTERM)

        assert process.stdout.read() == f"{-signal.SIGKILL} True\n"
    assert process.returncode == 0
