"""Where the time of a start goes: the server's stages and those of offline evaluation.

Each start is a process of its own; figures are the median of a few, after one that fills the
machine's file cache and vLLM's cache of model classes.

    python benchmarks/startup.py [--starts N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_machine, write_result
from serve_overhead import ROOT, build_checkpoint, running

_PORT = 18433
_HELP = "import sys; from vlmserve.cli.main import main; main(['--help'])"
# Prints the seconds at which each stage of offline evaluation's engine ended.
_OFFLINE = """
import json, sys, time
begun = time.perf_counter()
marks = {}
def mark(name): marks[name] = round(time.perf_counter() - begun, 2)
from pathlib import Path
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.run import run_checks
checkpoint = load_checkpoint(sys.argv[1])
run_checks(Examination(checkpoint))
config = load_config(Path(sys.argv[2]), ServeConfig)
mark("checkpoint checked")
from vlmserve.engine.offline import open_offline_engine
import os
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vlmserve.engine.environment import prepare_vllm
prepare_vllm()
mark("torch imported, cure applied")
import vllm.entrypoints.llm, vllm.entrypoints.launchers.cli_args
mark("vLLM imported")
engine = open_offline_engine(checkpoint, config)
mark("engine loaded and probed")
engine.close()
mark("closed")
again = time.perf_counter()
open_offline_engine(checkpoint, config).close()
marks["a second engine in the process"] = round(time.perf_counter() - again, 2)
print("MARKS", json.dumps(marks))
"""


def main() -> None:
    """Measure and write ``results/startup.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=3, help="starts that count, of each kind")
    args = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_checkpoint(folder)
        runs = [one_round(checkpoint, folder) for _ in range(args.starts + 1)][1:]
    stages = {
        kind: {
            stage: round(statistics.median(run[kind][stage] for run in runs), 2)
            for stage in runs[0][kind]
        }
        for kind in runs[0]
    }
    write_result(
        "startup",
        {
            "question": "seconds from the start of the process to the end of each stage",
            "machine": machine,
            "starts": args.starts,
            "median_s": stages,
        },
    )


def one_round(checkpoint: Path, folder: Path) -> dict[str, dict[str, float]]:
    """One start of each kind."""
    return {
        "vlmserve --help": {"printed": timed([sys.executable, "-c", _HELP])},
        "vlmserve serve": {"ready": server_start(checkpoint, folder)},
        "offline engine": offline_start(checkpoint),
    }


def timed(command: list[str]) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def server_start(checkpoint: Path, folder: Path) -> float:
    """Seconds until ``/ready`` answers 200."""
    command = [
        sys.executable, "-m", "vlmserve", "serve", "--ckpt", str(checkpoint),
        "--config", str(ROOT / "configs" / "cpu-demo.yaml"), "--port", str(_PORT),
    ]  # fmt: skip
    started = time.perf_counter()
    with running(command, _PORT, "/ready", folder / "serve.log", dict(os.environ)):
        return time.perf_counter() - started


def offline_start(checkpoint: Path) -> dict[str, float]:
    """Seconds to the end of each stage of an engine in the process."""
    config = ROOT / "configs" / "cpu-demo.yaml"
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(checkpoint), str(config)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("MARKS ")]
    marks: dict[str, Any] = json.loads(line.removeprefix("MARKS "))
    return marks


if __name__ == "__main__":
    main()
