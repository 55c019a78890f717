"""How fast `vlmserve check` is: on headers, on every weight, and on the headers of images.

Weights are compared with a plain sequential read of the same files, in turns, once from the page
cache and once from the disk; images and headers are counted against the clock.

    python benchmarks/check_speed.py [--gigabytes N] [--images N] [--rounds N] [--folder DIR]
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from large_checkpoint import QWEN2_VL_7B, sized_config, write_model, write_sparse
from machine import describe_machine, write_result
from PIL import Image

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.components import check_components
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finite import check_finite
from vlmserve.media.headers import read_image_headers

_READ_BYTES = 1 << 22
_TURNED = 6  # EXIF orientation: the camera was turned

# Times the checks in a process of their own, after its imports.
_FAST = """
import json, resource, sys, time
begun = time.perf_counter()
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.run import run_checks
started = time.perf_counter()
report = run_checks(Examination(load_checkpoint(sys.argv[1], base_model=sys.argv[2] or None)))
ended = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
above = sorted(f.id for f in report.findings if f.severity != "info")
failed = [u.reason for u in report.unknown if u.reason.startswith("the check failed")]
print(json.dumps([started - begun, ended - started, peak, above + failed]))
"""


def main() -> None:
    """Measure and write ``results/check_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the model read")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write files of some gigabytes")
    args = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        result = {
            "question": "seconds of the header-only pass; throughput of the checks that read every "
            "weight, as a share of a plain read's; image headers a second",
            "machine": machine,
            "headers": header_pass(Path(name), args.rounds),
            "weights": weight_pass(Path(name), args.gigabytes, args.rounds),
            "images": image_pass(Path(name), args.images, args.rounds),
        }
    write_result("check_speed", {**result, "load_after": round(os.getloadavg()[0], 2)})


def header_pass(folder: Path, rounds: int) -> dict[str, Any]:
    """The fast pass over a sharded model of 7B parameters with a tokenizer of real size."""
    base, tuned = folder / "base-7b", folder / "tuned-7b"
    size = write_sparse(base, QWEN2_VL_7B, shards=5)
    write_sparse(tuned, QWEN2_VL_7B, shards=5)
    cases = {}
    for name, given in (("alone", ""), ("with its base", str(base))):
        runs = [run_fast(tuned, given) for _ in range(rounds + 1)][1:]
        imports, checks, peaks = ([run[index] for run in runs] for index in range(3))
        cases[name] = {
            "imports_s": median(imports),
            "checks_s": median(checks),
            "peak_mib": median(peaks),
            "above_info": runs[0][3],
        }
    command = [sys.executable, "-m", "vlmserve", "check", "--ckpt", str(tuned), "--fast"]
    walls = [wall_s(lambda: subprocess.run(command, check=False, stdout=subprocess.DEVNULL))
             for _ in range(rounds + 1)][1:]  # fmt: skip
    return {
        "weights_gb": round(size / 1e9, 1),
        **cases,
        "vlmserve check --fast, process_s": median(walls),
    }


def run_fast(checkpoint: Path, base: str) -> list[Any]:
    """Seconds of imports, seconds of checks, peak MiB, and what is above ``info``."""
    done = subprocess.run(
        [sys.executable, "-c", _FAST, str(checkpoint), base],
        check=True,
        capture_output=True,
        text=True,
    )
    values: list[Any] = json.loads(done.stdout)
    return values


def weight_pass(folder: Path, gigabytes: float, rounds: int) -> dict[str, Any]:
    """Both checks that read every weight, and a plain read of the same files, in turns."""
    config = sized_config(gigabytes)
    base, tuned = folder / "base", folder / "tuned"
    for directory, share in ((base, 0.0), (tuned, 0.01)):
        directory.mkdir()
        write_model(directory, config, share)
    files = {
        name: sorted(path.glob("*.safetensors"))
        for name, path in (("tuned", tuned), ("base", base))
    }
    alone, both = files["tuned"], files["tuned"] + files["base"]
    work: dict[str, tuple[list[Path], Callable[[], object]]] = {
        "ckpt.finite": (
            alone,
            lambda: list(check_finite(Examination(load_checkpoint(tuned), fast=False))),
        ),
        "diff.components": (
            both,
            lambda: list(
                check_components(Examination(load_checkpoint(tuned, base_model=base), fast=False))
            ),
        ),
    }
    results: dict[str, Any] = {"gigabytes": round(sum(p.stat().st_size for p in both) / 1e9, 2)}
    for cache in ("warm", "cold"):
        for name, (paths, check) in work.items():
            results[f"{name}, {cache}"] = compare(paths, check, rounds, cold=cache == "cold")
    return results


def compare(
    paths: list[Path], check: Callable[[], object], rounds: int, *, cold: bool
) -> dict[str, Any]:
    """A check and a plain read of the files it reads, taking turns, and turns in being first."""
    actions = {"plain": lambda: read_plainly(paths), "check": check}
    pairs: list[dict[str, float]] = []
    for index in range(rounds + 1):
        pair = {}
        for name in sorted(actions, reverse=index % 2 == 0):
            if cold:
                drop_from_cache(paths)
            pair[name] = wall_s(actions[name])
        pairs.append(pair)
    size = sum(path.stat().st_size for path in paths)
    counted = pairs[1:]
    speeds = {
        f"{name}_gb_s": round(size / statistics.median(p[name] for p in counted) / 1e9, 2)
        for name in actions
    }
    ratios = sorted(round(pair["plain"] / pair["check"], 3) for pair in counted)
    return {**speeds, "ratio": round(statistics.median(ratios), 3), "ratios": ratios}


def image_pass(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Headers of camera-size JPEGs with EXIF, each a file of its own."""
    directory = folder / "images"
    directory.mkdir()
    paths, size = write_photos(directory, count)
    times: dict[str, list[float]] = {"warm": [], "cold": []}
    for _ in range(rounds):
        for cache, seconds in times.items():
            if cache == "cold":
                drop_from_cache(paths)
            started = time.perf_counter()
            headers = read_image_headers(paths)
            seconds.append(time.perf_counter() - started)
            if any(
                isinstance(found, Exception) or found.exif_orientation != _TURNED
                for found in headers
            ):
                raise RuntimeError("a header was not read, or not its orientation")
    rates = {f"{cache}_per_s": round(count / statistics.median(s)) for cache, s in times.items()}
    return {"images": count, "megabytes_each": round(size / 1e6, 2), **rates}


def write_photos(directory: Path, count: int) -> tuple[list[Path], int]:
    """JPEGs of 4000 x 3000 pixels with EXIF, differing in a date; returns them and one's bytes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (300, 400, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = _TURNED
    exif[0x010F], exif[0x0110] = "maker", "camera"
    exif[0x0132] = "2000:00:00 00:00:00"
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, exif=exif)
    content = buffer.getvalue()
    paths = []
    for index in range(count):
        path = directory / f"{index:05}.jpg"
        path.write_bytes(content.replace(b"2000:00:00 00:00:00", b"2000:00:00 %08d" % index, 1))
        paths.append(path)
    os.sync()
    return paths, len(content)


def read_plainly(paths: list[Path]) -> None:
    """Read files from start to end into one buffer."""
    buffer = bytearray(_READ_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def drop_from_cache(paths: list[Path]) -> None:
    """Make the next read go to the disk; files must have been written through."""
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def wall_s(action: Callable[[], object]) -> float:
    """Seconds that something takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    """The median, to three digits behind the point."""
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
