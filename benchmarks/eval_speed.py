#!/usr/bin/env python3
"""What does a verdict cost in time and memory, against lm-eval over the same samples?

Before and after together: the demo's base and its LoRA fine-tune, both asked everything. In turns,
round by round: over one endpoint, ``vlmserve eval`` and lm-eval's ``local-chat-completions`` with
as many requests in flight; and with the model on this machine, ``vlmserve eval`` with vLLM in its
process and lm-eval's ``hf-multimodal`` with as large a batch. lm-eval runs once for each model, by
its command line, and again as a script that does not look through its library of tasks, which takes
most of its time. Wall time is that of whole processes, memory the peak of the sum over a process
and its children; the endpoint's server, the same for both, is not counted.

Takes some five minutes a round; wants an idle machine.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import psutil
import yaml
from machine import describe_machine, write_result
from serve_overhead import SITECUSTOMIZE, running

from vlmserve.demo.samples import SampleGenerator, Task

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "cpu-demo.yaml"
PORT = 18437
BASE, TUNED = "base", "good-lora"
SHARES: dict[Task, float] = {"color": 0.5, "count": 0.5}
"""One image a sample: lm-eval's client for endpoints puts images before all text."""

_TICK_S = 0.05

# lm-eval without its library: what someone writes who minds the half minute.
SCRIPT = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
model, arguments, folder, batch, out = sys.argv[1:]
tasks = TaskManager(include_path=folder, include_defaults=False)
found = simple_evaluate(
    model=model, model_args=arguments, tasks=["speed_color", "speed_count"], task_manager=tasks,
    batch_size=int(batch), apply_chat_template=True, log_samples=True, device="cpu",
)
found.pop("samples")
with open(out, "w") as file:
    json.dump(found, file, default=str)
"""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some processes took."""

    wall_s: float
    peak_mib: float
    """Resident memory of a process and its children at once."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to get both accuracies."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    """Run one after the other."""

    accuracies: str
    """Where it leaves them: a glob under its folder."""


def main() -> int:
    """Measure and write ``results/eval_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=16)
    args = parser.parse_args()
    machine = describe_machine()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vlmserve-speed-")))
        zoo = build_zoo(folder)
        write_tasks(folder, args.samples)
        # lm-eval imports torchvision, which must be cured where torch has no CUDA.
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        stack.enter_context(serving(zoo, folder))
        contenders = contend(folder, zoo, args.concurrency)
        costs: dict[str, list[Cost]] = {each.name: [] for each in contenders}
        accuracies: dict[str, dict[str, float]] = {}
        for round_ in range(args.rounds + 1):
            # From round to round another one begins; the first round fills caches of all alike.
            turn = round_ % len(contenders)
            for each in (*contenders[turn:], *contenders[:turn]):
                place = folder / f"{round_}-{each.name.replace(' ', '-')}"
                place.mkdir()
                cost = run(each, place, folder)
                print(f"{round_} {each.name}: {cost.wall_s:.1f} s", file=sys.stderr, flush=True)
                accuracies[each.name] = read_accuracies(place, each.accuracies)
                if round_:
                    costs[each.name].append(cost)
    found = summary(args, machine, costs, accuracies)
    write_result("eval_speed", found)
    print("\n".join(table(found)), file=sys.stderr)
    return 0


def build_zoo(folder: Path) -> Path:
    """Write the demo's checkpoints."""
    zoo = folder / "zoo"
    command = [sys.executable, "-m", "vlmserve", "demo", "build", "--out", zoo, "--only", TUNED]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return zoo


def write_tasks(folder: Path, number: int) -> None:
    """Write the samples, and task files for both.

    The prompt is the same; only lm-eval's client for endpoints must not find ``<image>`` in it, for
    it would send that as text beside the image.
    """
    data = folder / "data"
    data.mkdir()
    suite = {
        "name": "speed",
        "task_files": [f"marked/speed_{task}.yaml" for task in SHARES],
        "gate": {"margin": 0.08},
        "tasks": [{"task": f"speed_{task}", "metric": "exact_match"} for task in SHARES],
    }
    (folder / "speed.yaml").write_text(yaml.safe_dump(suite))
    for kind in ("marked", "plain"):
        (folder / kind).mkdir()
    for task, share in SHARES.items():
        generator = SampleGenerator(f"eval-speed/{task}", "heldout")
        rows = [generator.sample(task) for _ in range(round(share * number))]
        table = datasets.Dataset.from_list(
            [
                {
                    "question": sample.turns[0].question,
                    "target": sample.turns[0].target,
                    "image": {"bytes": sample.media[0].file(), "path": None},
                }
                for sample in rows
            ]
        )
        path = data / f"{task}.parquet"
        table.cast_column("image", datasets.Image()).to_parquet(path)
        for kind, mark in (("marked", "<image>"), ("plain", "")):
            (folder / kind / f"speed_{task}.yaml").write_text(
                yaml.safe_dump(_task(task, path, mark))
            )


def _task(task: Task, path: Path, mark: str) -> dict[str, Any]:
    return {
        "task": f"speed_{task}",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": str(path)},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": f"{mark}{{{{question}}}}",
        "doc_to_target": "target",
        "doc_to_image": ["image"],
        # hf-multimodal insists on a stop string; this one never comes.
        "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }


@contextlib.contextmanager
def serving(zoo: Path, folder: Path) -> Iterator[None]:
    """Serve the base and its adapter for as long as the block runs."""
    command = [
        sys.executable, "-m", "vlmserve", "serve", "--ckpt", str(zoo / TUNED),
        "--config", str(CONFIG), "--port", str(PORT),
    ]  # fmt: skip
    with running(command, PORT, "/ready", folder / "server.log", dict(os.environ)):
        yield


def contend(folder: Path, zoo: Path, concurrency: int) -> list[Contender]:
    """All ways, with ``{out}`` for the folder that each writes into."""
    url = f"http://127.0.0.1:{PORT}/v1"
    ours = (sys.executable, "-m", "vlmserve", "eval", "--suite", str(folder / "speed.yaml"),
            "--store", "{out}/answers.sqlite", "--json", "{out}/report.json",
            "--on-inconclusive", "warn")  # fmt: skip
    client = {
        name: f"model={name},base_url={url}/chat/completions,num_concurrent={concurrency},"
        "max_images=1,tokenizer_backend=None"
        for name in (BASE, TUNED)
    }
    local = {
        BASE: f"pretrained={zoo / BASE},dtype=float32",
        TUNED: f"pretrained={zoo / BASE},peft={zoo / TUNED},dtype=float32",
    }
    contenders = [
        Contender(
            "vlmserve, endpoint",
            ((*ours, "--ckpt", f"{url}#{TUNED}", "--baseline", f"{url}#{BASE}",
              "--concurrency", str(concurrency)),),
            "report.json",
        ),
        Contender(
            "vlmserve, in process",
            ((*ours, "--ckpt", str(zoo / TUNED), "--config", str(CONFIG)),),
            "report.json",
        ),
    ]  # fmt: skip
    for kind, model, arguments, tasks, batch in (
        ("endpoint", "local-chat-completions", client, folder / "plain", "1"),
        ("in process", "hf-multimodal", local, folder / "marked", str(concurrency)),
    ):
        contenders += [
            Contender(
                f"lm-eval command line, {kind}",
                tuple(_command_line(model, arguments[side], tasks, batch, side) for side in local),
                "*/**/results_*.json",
            ),
            Contender(
                f"lm-eval script, {kind}",
                tuple(
                    (sys.executable, "-c", SCRIPT, model, arguments[side], str(tasks), batch,
                     f"{{out}}/results_{side}.json")
                    for side in local
                ),
                "results_*.json",
            ),
        ]  # fmt: skip
    return contenders


def _command_line(
    model: str, arguments: str, tasks: Path, batch: str, side: str
) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments,
        "--tasks", "speed_color,speed_count", "--include_path", str(tasks), "--batch_size", batch,
        "--device", "cpu", "--apply_chat_template", "--log_samples",
        "--output_path", f"{{out}}/{side}",
    )  # fmt: skip


def run(contender: Contender, out: Path, folder: Path) -> Cost:
    """Run a contender's commands and watch them."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "OPENAI_API_KEY": "none",
        "VLLM_NO_USAGE_STATS": "1",
    }
    wall_s, peak_mib = 0.0, 0.0
    for number, command in enumerate(contender.commands):
        words = [word.replace("{out}", str(out)) for word in command]
        log = out / f"log-{number}.txt"
        with log.open("wb") as stream:
            started = time.perf_counter()
            process = subprocess.Popen(words, stdout=stream, stderr=stream, env=environment)
            watch = PeakMemory(process.pid)
            status = process.wait()
            wall_s += time.perf_counter() - started
        peak_mib = max(peak_mib, watch.finish())
        # 1 is a verdict of vlmserve, not a failure.
        if status not in ((0, 1) if contender.name.startswith("vlmserve") else (0,)):
            sys.exit(f"{contender.name}: exit {status}:\n{log.read_text(errors='replace')[-4000:]}")
    return Cost(wall_s, peak_mib)


class PeakMemory:
    """Watches the resident memory of a process and its children until told to stop."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def finish(self) -> float:
        """Stop, and return the peak in MiB."""
        self._done.set()
        self._thread.join()
        return self._peak_bytes / 2**20

    def _watch(self) -> None:
        while not self._done.wait(_TICK_S):
            self._peak_bytes = max(self._peak_bytes, self._now())

    def _now(self) -> int:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total


def read_accuracies(out: Path, pattern: str) -> dict[str, float]:
    """Read both models' accuracies of each task, so that all are seen to do the same work."""
    found: dict[str, float] = {}
    for path in sorted(out.glob(pattern)):
        result = json.loads(path.read_text(encoding="utf-8"))
        if "tasks" in result:
            for task in result["tasks"]:
                found[f"{BASE} {task['task']}"] = round(task["baseline"], 4)
                found[f"{TUNED} {task['task']}"] = round(task["candidate"], 4)
            continue
        side = TUNED if TUNED in str(path.relative_to(out)) else BASE
        for task, metrics in result["results"].items():
            found[f"{side} {task}"] = round(metrics["exact_match,none"], 4)
    return found


def summary(
    args: argparse.Namespace,
    machine: dict[str, Any],
    costs: dict[str, list[Cost]],
    accuracies: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Put figures and ratios together."""
    ratios = {}
    for kind in ("endpoint", "in process"):
        ours = costs[f"vlmserve, {kind}"]
        for name, theirs in costs.items():
            if name.startswith("lm-eval") and name.endswith(kind):
                pairs = list(zip(theirs, ours, strict=True))
                ratios[name] = {
                    "wall": _spread([one.wall_s / other.wall_s for one, other in pairs]),
                    "memory": _spread([one.peak_mib / other.peak_mib for one, other in pairs]),
                }
    return {
        "question": "wall time and peak memory of lm-eval over those of vlmserve eval, before and "
        "after together; above 1 vlmserve is cheaper",
        "machine": machine,
        "rounds": args.rounds,
        "samples": args.samples,
        "concurrency": args.concurrency,
        "same_accuracies": len({json.dumps(found, sort_keys=True) for found in accuracies.values()})
        == 1,
        "accuracies": accuracies,
        "median": {
            name: {
                "wall_s": round(statistics.median(one.wall_s for one in each), 2),
                "peak_mib": round(statistics.median(one.peak_mib for one in each)),
            }
            for name, each in costs.items()
        },
        "ratios": ratios,
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The table of ``benchmarks/README.md``, in Markdown."""
    yield "| way | wall | peak memory | wall over vlmserve's | memory over vlmserve's |"
    yield "|---|---|---|---|---|"
    for name, cost in found["median"].items():
        ratio = found["ratios"].get(name)
        cells = ["", ""]
        if ratio is not None:
            cells = [
                f"{each['median']:.2f} ({each['min']:.2f} to {each['max']:.2f})"
                for each in (ratio["wall"], ratio["memory"])
            ]
        yield (
            f"| {name} | {cost['wall_s']:.1f} s | {cost['peak_mib']:,} MiB | {' | '.join(cells)} |"
        )


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
