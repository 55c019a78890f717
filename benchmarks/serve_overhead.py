"""What vlmserve's guards cost: requests a second and latency against vLLM's own server.

Both servers run the same checkpoint with the same flags, each with an engine of its own. They are
asked in turn, one idle while the other works, and compared pair by pair, so that a machine that
slows down slows both. The model has one million parameters: a request takes milliseconds, so that
what is done around it weighs the most.

    python benchmarks/serve_overhead.py [--rounds N] [--requests N]
"""

import argparse
import asyncio
import base64
import contextlib
import functools
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from machine import describe_machine, write_result
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MODEL = "base"
START_TIMEOUT_S = 300
# Lets vLLM's processes import beside CPU torch without loading anything else of vlmserve.
SITECUSTOMIZE = "from vlmserve.platform import cure_torch_extensions\ncure_torch_extensions()\n"


@dataclass(frozen=True)
class Workload:
    """One kind of request."""

    name: str
    concurrency: int
    n_images: int
    is_fresh: bool = False
    """Whether its images are in no cache, as they were not sent before."""


WORKLOADS = (
    Workload("text, one at a time", 1, 0),
    Workload("text, 16 at once", 16, 0),
    Workload("one image, one at a time", 1, 1),
    Workload("one image, 16 at once", 16, 1),
    Workload("four images, 16 at once", 16, 4),
    Workload("one new image, 16 at once", 16, 1, is_fresh=True),
    Workload("four new images, 16 at once", 16, 4, is_fresh=True),
)


def main() -> None:
    """Measure and write ``results/serve_overhead.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="pairs of measurements a workload")
    parser.add_argument("--requests", type=int, default=160, help="requests a measurement")
    args = parser.parse_args()
    machine = describe_machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint = build_checkpoint(folder)
        ports = {"vllm": 18431, "vlmserve": 18432}
        # One after the other: two engines that start together slow each other down.
        stack.enter_context(vllm_server(checkpoint, ports["vllm"], folder))
        stack.enter_context(vlmserve_server(checkpoint, ports["vlmserve"], folder))
        workloads = {
            workload.name: asyncio.run(measure(workload, ports, args.rounds, args.requests))
            for workload in WORKLOADS
        }
    overall = [ratio for result in workloads.values() for ratio in result["throughput_ratios"]]
    write_result(
        "serve_overhead",
        {
            "question": "requests/s of vlmserve serve over vLLM's own server; 1 is no overhead",
            "machine": machine,
            "rounds": args.rounds,
            "requests_per_round": args.requests,
            "workloads": workloads,
            "median_throughput_ratio": round(statistics.median(overall), 4),
        },
    )


def build_checkpoint(folder: Path) -> Path:
    """Write the demo's base model."""
    zoo = folder / "zoo"
    command = [sys.executable, "-m", "vlmserve", "demo", "build", "--out", zoo, "--only", "base"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return zoo / MODEL


def flags(checkpoint: Path) -> list[str]:
    """The flags of vLLM that configs/cpu-demo.yaml comes down to."""
    from vlmserve.checkpoint.source import load_checkpoint
    from vlmserve.config.base import load_config
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.plan import plan_serving
    from vlmserve.engine.vllm_args import vllm_flags

    config = load_config(ROOT / "configs" / "cpu-demo.yaml", ServeConfig)
    plan = plan_serving(load_checkpoint(checkpoint), config, checkpoint.parent)
    return vllm_flags(plan, config)


@contextlib.contextmanager
def vllm_server(checkpoint: Path, port: int, folder: Path) -> Iterator[None]:
    """Run vLLM's own server, with none of vlmserve's plugins."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    module = "vllm.entrypoints.launchers.api_server.entry"
    command = [sys.executable, "-m", module, *flags(checkpoint), "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "VLLM_PLUGINS": "none",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with running(command, port, "/health", folder / "vllm.log", environment):
        yield


@contextlib.contextmanager
def vlmserve_server(checkpoint: Path, port: int, folder: Path) -> Iterator[None]:
    """Run ``vlmserve serve`` as a user starts it."""
    command = [
        sys.executable, "-m", "vlmserve", "serve", "--ckpt", str(checkpoint),
        "--config", str(ROOT / "configs" / "cpu-demo.yaml"), "--port", str(port),
    ]  # fmt: skip
    with running(command, port, "/ready", folder / "vlmserve.log", dict(os.environ)):
        yield


@contextlib.contextmanager
def running(
    command: list[str], port: int, probe: str, log: Path, environment: dict[str, str]
) -> Iterator[None]:
    """Run a server until the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**environment, "HF_HUB_OFFLINE": "1"}
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(f"http://127.0.0.1:{port}{probe}"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[2]} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


async def measure(
    workload: Workload, ports: dict[str, int], rounds: int, n_requests: int
) -> dict[str, Any]:
    """Ask both servers in turn, the order changing from round to round."""
    throughput: dict[str, list[float]] = {name: [] for name in ports}
    latency: dict[str, list[float]] = {name: [] for name in ports}
    connector = aiohttp.TCPConnector(limit=workload.concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:
        for port in ports.values():
            await ask_many(
                session, port, workload, bodies(workload, 0, n_requests)
            )  # warms both alike
        for round_ in range(rounds):
            asked = bodies(workload, round_ + 1, n_requests)
            order = list(ports.items())
            for name, port in order if round_ % 2 == 0 else reversed(order):
                started = time.perf_counter()
                latencies = await ask_many(session, port, workload, asked)
                throughput[name].append(n_requests / (time.perf_counter() - started))
                latency[name].append(statistics.median(latencies))
    ratios = pairwise_ratios(throughput)
    delays = pairwise_ratios(latency)
    return {
        "requests_per_s": {
            name: round(statistics.median(values), 1) for name, values in throughput.items()
        },
        "median_latency_ms": {
            name: round(1000 * statistics.median(values), 2) for name, values in latency.items()
        },
        "throughput_ratio": spread(ratios),
        "latency_ratio": spread(delays),
        "throughput_ratios": [round(ratio, 4) for ratio in ratios],
    }


def pairwise_ratios(values: dict[str, list[float]]) -> list[float]:
    """Ours over theirs, round by round."""
    pairs = zip(values["vlmserve"], values["vllm"], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def spread(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles of ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"q1": round(low, 4), "median": round(middle, 4), "q3": round(high, 4)}


async def ask_many(
    session: aiohttp.ClientSession, port: int, workload: Workload, asked: list[dict[str, Any]]
) -> list[float]:
    """Send the requests, at most ``workload.concurrency`` at once; return latencies in seconds."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    slots = asyncio.Semaphore(workload.concurrency)

    async def ask(body: dict[str, Any]) -> float:
        async with slots:
            started = time.perf_counter()
            async with session.post(url, json=body) as response:
                await response.read()
                response.raise_for_status()
            return time.perf_counter() - started

    return await asyncio.gather(*map(ask, asked))


def bodies(workload: Workload, round_: int, n_requests: int) -> list[dict[str, Any]]:
    """The requests of a round: with 40 images in turns, or with images that come only there."""
    first = 1000 + round_ * n_requests * workload.n_images
    return [
        body(
            first + index * workload.n_images + n if workload.is_fresh else index % 40 + 40 * n
            for n in range(workload.n_images)
        )
        for index in range(n_requests)
    ]


def body(pictures: Iterable[int]) -> dict[str, Any]:
    """A request with these pictures."""
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture(number)}} for number in pictures
    ]
    content.append({"type": "text", "text": "Name the color."})
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        "temperature": 0,
    }


@functools.cache
def picture(number: int) -> str:
    """A data URL of a plain 84 x 84 image, unlike that of every other number below 16 million."""
    buffer = io.BytesIO()
    color = (number * 37 % 256, (number >> 8) * 91 % 256, (number >> 16) * 53 % 256)
    Image.new("RGB", (84, 84), color).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{encoded}"


if __name__ == "__main__":
    main()
