"""What decoding in processes of its own costs against decoding in the server's process.

The same images and videos go through the decoder of the server, in turns: in its own process, in
decoder processes, and with images kept that were decoded before. Requests have one medium or four.
Reported are the time until all of a request's media are there, and the processor time that all
processes took for it.

    python benchmarks/decode_overhead.py [--rounds N] [--requests N]
"""

import argparse
import base64
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import describe_machine, write_result
from PIL import Image


def main() -> None:
    """Measure and write ``results/decode_overhead.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements a workload")
    parser.add_argument("--requests", type=int, default=10, help="requests a measurement")
    args = parser.parse_args()
    machine = describe_machine()

    from vlmserve.engine.environment import prepare_vllm

    prepare_vllm()
    from vllm.multimodal.media import ImageMediaIO, VideoMediaIO

    from vlmserve.config.media import MediaConfig
    from vlmserve.engine.media_decoding import MediaDecoder, create_pool
    from vlmserve.engine.plugin import register

    register()
    # What was decoded before would not be decoded again.
    config = MediaConfig(decoded_cache_bytes=0)
    pool = create_pool(config)
    loaders = {"image": ImageMediaIO(), "video": VideoMediaIO(ImageMediaIO())}
    decoders = {
        "in process": MediaDecoder(config),
        "apart": MediaDecoder(config, pool=pool),
        "kept": MediaDecoder(MediaConfig(), pool=pool),
    }
    workloads = {}
    with ThreadPoolExecutor(8) as threads:
        for name, url in media().items():
            loader = loaders[url[len("data:") :].partition("/")[0]]
            for n_media in (1, 4):

                def ask(decoder: MediaDecoder, url: str = url, loader: Any = loader) -> None:
                    request = decoder.open_request()
                    asked = [
                        threads.submit(decoder.decode_data_url, url, loader, request)
                        for _ in range(n_media)  # noqa: B023 - called before the next turn
                    ]
                    for each in asked:
                        each.result()

                workloads[f"{name}, {n_media} a request"] = measure(
                    ask, decoders, args.rounds, args.requests
                )
    if pool is not None:
        pool.close()
    write_result(
        "decode_overhead",
        {
            "question": "a request's media decoded in processes apart, against in the server's",
            "machine": machine,
            "rounds": args.rounds,
            "requests_per_round": args.requests,
            "workloads": workloads,
        },
    )


def media() -> dict[str, str]:
    """Data URLs of what is decoded."""
    return {
        "PNG of 84 x 84": image(84, "PNG"),
        "JPEG of 1024 x 1024": image(1024, "JPEG"),
        "JPEG of 4000 x 3000": image(4000, "JPEG", height=3000),
        "MP4 of 60 frames of 512 x 512": video(),
    }


def image(width: int, kind: str, *, height: int | None = None) -> str:
    """A picture that takes its decoder about as long as a photo."""
    height = height or width
    coarse = np.random.default_rng(1).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
    pixels = coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def video() -> str:
    """A clip of which every frame is taken."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (512, 512))
        for number in range(60):
            frame = np.zeros((512, 512, 3), np.uint8)
            cv2.circle(frame, (50 + 7 * number, 256), 40, (40, 40, 220), -1)
            writer.write(frame)
        writer.release()
        return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def measure(
    ask: Callable[[Any], None], decoders: dict[str, Any], rounds: int, n_requests: int
) -> dict[str, Any]:
    """Ask both decoders in turn, the order changing from round to round."""
    wall: dict[str, list[float]] = {name: [] for name in decoders}
    processor: dict[str, list[float]] = {name: [] for name in decoders}
    for decoder in decoders.values():
        ask(decoder)
    for round_ in range(rounds):
        order = list(decoders.items())
        for name, decoder in order if round_ % 2 == 0 else reversed(order):
            used, started = processor_s(), time.perf_counter()
            for _ in range(n_requests):
                ask(decoder)
            wall[name].append((time.perf_counter() - started) / n_requests)
            processor[name].append((processor_s() - used) / n_requests)
    return {
        "ms": {name: round(1000 * statistics.median(each), 3) for name, each in wall.items()},
        "processor_ms": {
            name: round(1000 * statistics.median(each), 3) for name, each in processor.items()
        },
        "more_ms": round(1000 * difference(wall), 3),
        "more_processor_ms": round(1000 * difference(processor), 3),
    }


def difference(values: dict[str, list[float]]) -> float:
    """The median over rounds of apart minus in process."""
    pairs = zip(values["apart"], values["in process"], strict=True)
    return statistics.median(apart - here for apart, here in pairs)


def processor_s() -> float:
    """Seconds of processor that this process and all below it have used, to the nanosecond."""
    this = psutil.Process()
    return sum(map(_used_s, (this.pid, *(each.pid for each in this.children(recursive=True)))))


def _used_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    main()
