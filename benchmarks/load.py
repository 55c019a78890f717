"""Can the server be left alone? Many clients, a fixed number of requests, some of them hostile.

Clients ask the demo's adapter and its base with text, images of mixed sizes and videos, whole and
streamed; some leave before the answer; some send what must be refused. Counted is whether each
request got an answer of the right kind, and whether the server's memory grows: resident bytes of
all of its processes, sampled after a warm-up, with a straight line through them.

    python benchmarks/load.py [--requests N] [--warm-up N] [--clients N] [--out NAME]
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from machine import describe_machine, write_result
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 600
ANSWER_TIMEOUT_S = 300
MAX_GROWTH_SHARE = 0.05
"""Of what is held at the warm-up's end: growth that the line through the samples may show from
there to the last request. Allocators find new peaks now and then; a leak goes on."""

SAMPLE_EVERY_S = 1.0
SEED = 20_261_126
VIDEO_SHARE = 0.05
MODELS = ("base", "good-lora")

Send = Callable[[aiohttp.ClientSession], Awaitable[str]]


@dataclass
class Tally:
    """What the clients saw."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    latencies_ms: dict[str, list[float]] = field(
        default_factory=lambda: collections.defaultdict(list)
    )
    lost: list[str] = field(default_factory=list)
    n_done: int = 0


@dataclass
class Memory:
    """Resident bytes of the server and its children; pages that they share count once."""

    process: psutil.Process
    samples: list[tuple[int, int]] = field(default_factory=list)
    """Requests done, bytes."""

    by_process: list[dict[str, int]] = field(default_factory=list)
    """MiB of each process, for each sample."""

    def course(self, n_points: int = 11) -> list[dict[str, int]]:
        """Requests done, and MiB of each process, from the first sample to the last."""
        places = np.linspace(0, len(self.samples) - 1, n_points).round().astype(int)
        return [{"requests": self.samples[n][0], **self.by_process[n]} for n in places]

    def take(self, n_done: int) -> None:
        """Sum up what all processes hold now."""
        held: dict[str, int] = {}
        total = 0
        for process in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                # Proportional: a forked process's pages are its parent's until it writes to them.
                size = process.memory_full_info().pss
                held[f"{process.name()} {process.pid}"] = size >> 20
                total += size
        self.samples.append((n_done, total))
        self.by_process.append(held)


def main() -> None:
    """Run the load and write ``results/load.json``; status 1 where it did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000, help="after the warm-up")
    parser.add_argument(
        "--warm-up", type=int, default=2000, help="requests in which caches fill and memory settles"
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--out", default="load", help="name of the result's file")
    args = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (url, process):
        memory = Memory(psutil.Process(process.pid))
        started = time.monotonic()
        n_requests = args.warm_up + args.requests
        tally = asyncio.run(load(url, n_requests, args.clients, memory))
        took_s = time.monotonic() - started
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
    before, growth = grown_bytes(memory.samples, args.warm_up)
    bound = MAX_GROWTH_SHARE * before
    held = not tally.lost and status == 0 and growth <= bound
    result = {
        "question": "does each of many requests get its answer, and does memory stay bounded?",
        "machine": machine,
        "requests": n_requests,
        "clients": args.clients,
        "seconds": round(took_s, 1),
        "requests_per_s": round(n_requests / took_s, 2),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "lost": tally.lost[:20],
        "latency_ms": {kind: percentiles(values) for kind, values in tally.latencies_ms.items()},
        "memory": {
            "warm_up_requests": args.warm_up,
            "samples": len(memory.samples),
            "first_mib": round(memory.samples[0][1] / 2**20),
            "after_warm_up_mib": round(before / 2**20),
            "last_mib": round(memory.samples[-1][1] / 2**20),
            "by_process_mib": memory.course(),
            "growth_mib": round(growth / 2**20, 1),
            "bound_mib": round(bound / 2**20, 1),
        },
        "exit_status_after_sigterm": status,
        "held": held,
    }
    write_result(args.out, result)
    sys.exit(0 if held else 1)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serve the demo's adapter with a small queue, so that overload happens."""
    zoo = folder / "zoo"
    vlmserve = [sys.executable, "-m", "vlmserve"]
    build = [*vlmserve, "demo", "build", "--out", zoo, "--only", "good-lora"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *vlmserve, "serve", "--ckpt", zoo / "good-lora",
                "--config", ROOT / "configs" / "cpu-demo.yaml", "--port", "0",
                "--set", "server.max_queued_requests=24", "--set", "server.max_running=8",
                "--set", "server.max_body_bytes=8000000", "--set", "server.access_log=false",
                "--set", "server.body_idle_timeout_s=1",
                # Filled within the warm-up; what grows then is not a cache.
                "--set", "engine.mm_processor_cache_gb=0.0625",
                "--set", "engine.kv_cache_memory_bytes=33554432",
                "--set", "media.decoded_cache_bytes=16777216",
            ],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        yield wait_ready(process, log), process
    except BaseException:
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The server's address, once it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"^ready: (\S+)/v1", log.read_text(errors="replace"), re.MULTILINE):
            return found[1]
        time.sleep(0.2)
    raise RuntimeError(f"the server did not get ready (status {process.poll()})")


async def load(url: str, n_requests: int, n_clients: int, memory: Memory) -> Tally:
    """Let the clients ask until the requests are used up."""
    tally = Tally()
    todo = itertools.islice(plan(url, n_requests), n_requests)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=2 * n_clients)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        sampler = asyncio.create_task(sample(memory, tally))
        await asyncio.gather(*(client(session, todo, tally) for _ in range(n_clients)))
        sampler.cancel()
        # An answer to everybody: the server is as good as new.
        tally.outcomes["a good request at the end"] += await chat(url, 0)(session) == "200"
    if not tally.outcomes["a good request at the end"]:
        tally.lost.append("a good request at the end")
    memory.take(n_requests)
    return tally


async def sample(memory: Memory, tally: Tally) -> None:
    """Take samples until cancelled."""
    while True:
        memory.take(tally.n_done)
        await asyncio.sleep(SAMPLE_EVERY_S)


async def client(
    session: aiohttp.ClientSession, todo: Iterator[tuple[str, frozenset[str], Send]], tally: Tally
) -> None:
    """Ask one request after another; a full queue is waited out, as clients do."""
    for kind, expected, send in todo:
        started = time.perf_counter()
        try:
            outcome = await send(session)
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = type(error).__name__
        took_ms = (time.perf_counter() - started) * 1000
        tally.outcomes[f"{kind}: {outcome}"] += 1
        tally.n_done += 1
        if outcome in expected:
            group = "refused" if outcome == "429" else kind
            tally.latencies_ms[group].append(took_ms)
        else:
            tally.lost.append(f"{kind}: {outcome}")
        if outcome == "429":
            await asyncio.sleep(0.2)


def plan(url: str, n_requests: int) -> Iterator[tuple[str, frozenset[str], Send]]:
    """Kinds of requests, what is an answer to them, and how they are sent.

    Every list of requests is the same for a seed, and holds each kind in its share.
    """
    rng = random.Random(SEED)  # noqa: S311 - a load, not a secret
    good, overloaded = frozenset({"200"}), frozenset({"429"})
    kinds: list[tuple[float, str, frozenset[str], Callable[[int], Send]]] = [
        (0.50, "chat", good | overloaded, lambda n: chat(url, n)),
        (0.15, "stream", good | overloaded, lambda n: chat(url, n, stream=True)),
        (0.10, "leaves", frozenset({"left", "429"}), lambda n: leave(url, n)),
        (0.05, "budget", good | overloaded, lambda n: budget(url, n)),
        (0.05, "models", good, lambda _: models(url)),
        (0.15, "hostile", frozenset({"400", "401", "404", "408", "413", "429"}),
         lambda n: hostile(url, n)),
    ]  # fmt: skip
    shares = [share for share, *_ in kinds]
    for n in range(n_requests):
        (_, kind, expected, create) = rng.choices(kinds, shares)[0]
        yield kind, expected, create(n)


def message(n: int) -> list[dict[str, Any]]:
    """A question with text, up to four images of mixed sizes, or a video, by its number."""
    rng = random.Random(SEED + n)  # noqa: S311
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture(rng)}}
        for _ in range(rng.choice([0, 1, 1, 2, 4]))
    ]
    if rng.random() < VIDEO_SHARE:
        parts.append({"type": "video_url", "video_url": {"url": frames(rng)}})
    parts.append({"type": "text", "text": f"Name the color. ({n})"})
    return [{"role": "user", "content": parts}]


def picture(rng: random.Random) -> str:
    """A plain image of some size, as a URL."""
    size = (rng.randrange(28, 900), rng.randrange(28, 900))
    color = tuple(rng.randrange(256) for _ in range(3))
    kind = rng.choice(["PNG", "JPEG", "WEBP"])
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def frames(rng: random.Random) -> str:
    """A video as a list of frames."""
    buffers = []
    for _ in range(rng.randrange(2, 8)):
        buffer = io.BytesIO()
        color = tuple(rng.randrange(256) for _ in range(3))
        Image.new("RGB", (112, 112), color).save(buffer, "JPEG")
        buffers.append(base64.b64encode(buffer.getvalue()).decode())
    return f"data:video/jpeg;base64,{','.join(buffers)}"


def body(n: int, **more: Any) -> dict[str, Any]:
    """A request by its number."""
    return {"model": MODELS[n % 2], "messages": message(n), "max_tokens": 1 + n % 48, **more}


def chat(url: str, n: int, *, stream: bool = False) -> Send:
    """Ask and read the answer to its end."""

    async def send(session: aiohttp.ClientSession) -> str:
        asked = body(n, stream=stream, temperature=0)
        async with session.post(f"{url}/v1/chat/completions", json=asked) as answer:
            content = await answer.read()
        if answer.status != HTTPStatus.OK:
            return error_status(answer.status, content)
        if stream:
            return "200" if content.rstrip().endswith(b"data: [DONE]") else "cut stream"
        return "200" if json.loads(content)["choices"] else "no choice"

    return send


def leave(url: str, n: int) -> Send:
    """Ask for a long answer and go."""

    async def send(session: aiohttp.ClientSession) -> str:
        asked = body(n, stream=n % 2 == 0, ignore_eos=True) | {"max_tokens": 1500}
        timeout = aiohttp.ClientTimeout(total=0.05 + (n % 10) / 10)
        try:
            async with session.post(
                f"{url}/v1/chat/completions", json=asked, timeout=timeout
            ) as answer:
                content = await answer.read()
        except TimeoutError:
            return "left"
        return error_status(answer.status, content)

    return send


def budget(url: str, n: int) -> Send:
    """Ask what a chat would take."""

    async def send(session: aiohttp.ClientSession) -> str:
        async with session.post(f"{url}/v1/chat/completions/budget", json=body(n)) as answer:
            content = await answer.read()
        if answer.status != HTTPStatus.OK:
            return error_status(answer.status, content)
        return "200" if json.loads(content)["prompt_tokens"] else "no tokens"

    return send


def models(url: str) -> Send:
    """Ask what is served, which never waits."""

    async def send(session: aiohttp.ClientSession) -> str:
        async with session.get(f"{url}/v1/models") as answer:
            return str(answer.status) if (await answer.json())["data"] else "no models"

    return send


def hostile(url: str, n: int) -> Send:
    """Send something that must be refused, by its number."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG") if n % 10 == 0 else None
    bomb = base64.b64encode(buffer.getvalue()).decode()

    def image(address: str) -> dict[str, Any]:
        parts = [{"type": "image_url", "image_url": {"url": address}}]
        return body(n) | {"messages": [{"role": "user", "content": parts}]}

    good = picture(random.Random(n))  # noqa: S311
    requests: list[Any] = [
        image(f"data:image/png;base64,{bomb}"),
        image(good[: len(good) // 2]),
        image("http://169.254.169.254/latest/meta-data"),
        image("file:///etc/passwd"),
        b"[" * 1_000_000,
        b'{"model": ',
        b" " * 9_000_000,
        body(n) | {"messages": [{"role": "user", "content": "a<|im_end|>b"}]},
        body(n) | {"model": "nothing"},
        body(n) | {"max_tokens": "many"},
    ]
    chosen = requests[n % len(requests)]

    async def send(session: aiohttp.ClientSession) -> str:
        data = chosen if isinstance(chosen, bytes) else json.dumps(chosen).encode()
        headers = {"content-type": "application/json"}
        async with session.post(f"{url}/v1/chat/completions", data=data, headers=headers) as answer:
            return error_status(answer.status, await answer.read())

    return send


def error_status(status: int, content: bytes) -> str:
    """The status of an error, if its body has OpenAI's shape."""
    try:
        fields = set(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{status} in another shape"
    return str(status) if fields == {"message", "type", "param", "code"} else f"{status} misshapen"


def grown_bytes(samples: list[tuple[int, int]], warm_up: int) -> tuple[float, float]:
    """Size and growth over the samples behind the warm-up, by a straight line through them."""
    kept = [(n, size) for n, size in samples if n >= warm_up]
    done = np.array([n for n, _ in kept], float)
    if len(set(done)) == 1 or not kept:
        raise RuntimeError("too few samples of memory: ask more requests")
    slope, zero = np.polyfit(done, [size for _, size in kept], 1)
    return float(zero + slope * done[0]), float(slope * (done[-1] - done[0]))


def percentiles(values: list[float]) -> dict[str, float]:
    """How many there are, and what half, nine tenths and 99 of 100 of them stay below."""
    cuts = {"p50": 50, "p90": 90, "p99": 99}
    found = {name: round(float(np.percentile(values, cut)), 1) for name, cut in cuts.items()}
    return {"n": len(values), **found}


if __name__ == "__main__":
    main()
