#!/usr/bin/env python3
"""Are verdicts right on models whose truth is known? The base against itself, and a graded series.

The series are real fine-tunes of the demo's base: ``forgetful``'s recipe, thirty steps that show
nothing but three new colours, at rising learning rates. Their true differences come from thousands
of fresh held-out samples, put to the demo's own forward pass; how often the suite's size leads to
each verdict, from draws out of these. vLLM answers the suite itself, and the two ways of computing
an answer are compared sample by sample.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from machine import describe_machine, write_result

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.cli.sides import Served, checkpoint_sides
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.config.suite import NllConfig, SuiteConfig, load_suite
from vlmserve.demo.pilot import GATED_TASKS, load_sizes
from vlmserve.demo.samples import Sample, SampleGenerator, Task
from vlmserve.demo.zoo import build_zoo
from vlmserve.engine.base import Engine, ScoringRequest, TargetLogprobs
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.compare import Comparison
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.gate import judge
from vlmserve.evals.mean_difference import MeanDifference
from vlmserve.evals.nll import TaskNll, find_early_warnings
from vlmserve.evals.session import Session
from vlmserve.evals.statistics import PairedResult, compare_pairs
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.report.eval_report import EvalReport

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "evals" / "demo"

LEARNING_RATES = (5e-5, 1e-4, 1.5e-4, 2e-4, 2.25e-4, 2.5e-4, 3e-4, 5e-4, 1e-3)
"""The last is that of the shipped ``forgetful``."""

ALPHA = 0.05

_BATCH = 256
_CHUNKS = 8

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One checkpoint's answers to a task's samples."""

    exact: Array
    """1 where greedy decoding gives the target, else 0; shape ``(n,)``."""

    nll: Array
    """Nats a token of the target and its end, shape ``(n,)``."""


Measures = dict[Task, Measured]


def main() -> int:
    """Measure and write ``results/zoo_verdicts.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=3000, help="fresh samples of each task")
    parser.add_argument("--draws", type=int, default=100, help="draws of the suite's size")
    parser.add_argument("--seeds", type=int, default=10, help="comparisons of the base with itself")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and measures there")
    parser.add_argument("--only", choices=("truth", "verdicts"), help="do one part, for --folder")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    started = time.monotonic()
    machine = describe_machine()
    truth: dict[str, Any] = {}
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder: Path = args.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vlmserve-zoo-"))
        )
        (base,) = build_zoo(folder, only=[])
        series = {rate: tune(base, folder / f"lr-{rate:g}", rate) for rate in LEARNING_RATES}
        say(started, "series trained")
        if args.only != "verdicts":
            truth = kept(
                folder / f"truth-{args.samples}-{args.draws}.json",
                lambda: find_truth(base, series, args.samples, args.draws, started),
            )
        if args.only != "truth":
            found = kept(
                folder / f"verdicts-{args.seeds}.json",
                lambda: find_verdicts(base, series, folder, args.seeds, started),
            )
        if args.only:
            return 0
    suite = load_suite(ROOT / "evals" / "demo.yaml")
    steps = [
        {"learning_rate": rate, **truth[f"{rate:g}"], "suite": found["series"][f"{rate:g}"]}
        for rate in LEARNING_RATES
    ]
    write_result(
        "zoo_verdicts",
        {
            "question": "verdicts on the base against itself, and on fine-tunes from harmless to "
            "bad, beside their true differences",
            "machine": machine,
            "margin": suite.gate.margin,
            "alpha": ALPHA,
            "samples_a_task": {"truth": args.samples, "suite": load_sizes(DEMO / "pilot.json")},
            "draws": args.draws,
            "same": found["same"],
            "series": steps,
            "agreement": found["agreement"],
        },
    )
    return 0


def say(started: float, what: str) -> None:
    """Tell how far it is."""
    print(f"{time.monotonic() - started:7.0f} s  {what}", file=sys.stderr, flush=True)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a JSON file, or make what belongs into it."""
    if not path.is_file():
        path.write_text(json.dumps(make()), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def find_truth(
    base: Path, series: Mapping[float, Path], number: int, draws: int, started: float
) -> dict[str, Any]:
    """Find each fine-tune's true differences, and how often draws of the suite's size show them."""
    sizes = load_sizes(DEMO / "pilot.json")
    pool = measure_pool({0.0: base, **series}, number)
    say(started, f"{number} samples of each task measured")
    known = {}
    for rate in series:
        known[f"{rate:g}"] = {
            "truth": true_differences(pool[0.0], pool[rate]),
            "rates": verdict_rates(pool[0.0], pool[rate], sizes, draws),
        }
        say(started, f"{draws} draws judged of learning rate {rate:g}")
    return known


def find_verdicts(
    base: Path, series: Mapping[float, Path], folder: Path, seeds: int, started: float
) -> dict[str, Any]:
    """Have vLLM answer, and the product judge."""
    with AnswerStore(folder / "answers.sqlite") as store:
        laboratory = Laboratory(folder, store)
        found: dict[str, Any] = {"same": laboratory.compare_with_itself(base, seeds), "series": {}}
        say(started, "base compared with itself")
        for rate, checkpoint in series.items():
            found["series"][f"{rate:g}"] = laboratory.judge(checkpoint)
            say(started, f"learning rate {rate:g} judged")
        return {**found, "agreement": laboratory.agreement(base)}


def tune(base: Path, folder: Path, rate: float) -> Path:
    """Fine-tune the base at a learning rate, and write it as a trainer does."""
    if (folder / "model.safetensors").is_file():
        return folder
    from vlmserve.demo.encoding import SampleEncoder
    from vlmserve.demo.finetuning import TUNE_RECIPES
    from vlmserve.demo.finetuning import tune as run
    from vlmserve.demo.model import load_model, load_tokenizer

    recipe = dataclasses.replace(TUNE_RECIPES["forgetful"], lr=rate)
    model, _ = run(load_model(base), SampleEncoder(load_tokenizer(base)), recipe)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", ".*", "README.md"))
    model.save_pretrained(folder)
    return folder


def measure_pool(checkpoints: Mapping[float, Path], number: int) -> dict[float, Measures]:
    """Put fresh held-out samples to checkpoints, all the same ones; keep what was measured."""
    files = {
        rate: path.parent / f"{path.name}-measures-{number}.npz"
        for rate, path in checkpoints.items()
    }
    missing = [rate for rate, file in files.items() if not file.is_file()]
    if missing:
        samples = {
            task: list(_draw(SampleGenerator(f"zoo-verdicts/{task}", "heldout"), task, number))
            for task in GATED_TASKS
        }
        found = measure([checkpoints[rate] for rate in missing], samples)
        for rate, measures in zip(missing, found, strict=True):
            rows = {task: np.stack([each.exact, each.nll]) for task, each in measures.items()}
            np.savez(files[rate], **rows)  # type: ignore[arg-type]
    pool = {}
    for rate, file in files.items():
        with np.load(file) as rows:
            pool[rate] = {task: Measured(*rows[task]) for task in GATED_TASKS}
    return pool


def _draw(generator: SampleGenerator, task: Task, number: int) -> Iterator[Sample]:
    for _ in range(number):
        yield generator.sample(task)


def measure(
    checkpoints: Sequence[Path], samples: Mapping[Task, Sequence[Sample]]
) -> Iterator[Measures]:
    """Score samples by the demo's own forward pass."""
    import torch

    from vlmserve.demo.encoding import SampleEncoder
    from vlmserve.demo.forward import score_batch
    from vlmserve.demo.model import load_model, load_tokenizer

    torch.set_num_threads(1)
    encoder = SampleEncoder(load_tokenizer(checkpoints[0]))
    encoded = {task: [encoder.encode(one) for one in asked] for task, asked in samples.items()}
    for checkpoint in checkpoints:
        model = load_model(checkpoint).eval()
        measures: Measures = {}
        for task, asked in samples.items():
            exact: list[float] = []
            nll: list[float] = []
            for first in range(0, len(asked), _BATCH):
                part = slice(first, first + _BATCH)
                with torch.no_grad():
                    score = score_batch(model, asked[part], encoded[task][part], chunks=_CHUNKS)
                exact += [float(one) for one in score.exact]
                nll += [s / n for s, n in zip(score.nll, score.tokens, strict=True)]
            measures[task] = Measured(np.array(exact), np.array(nll))
        yield measures


def true_differences(base: Measures, candidate: Measures) -> dict[Task, dict[str, Any]]:
    """Differences over the large sample, candidate minus base, with 95 % intervals."""
    found: dict[Task, dict[str, Any]] = {}
    for task, before in base.items():
        after = candidate[task]
        exact = compare_pairs(before.exact.tolist(), after.exact.tolist())
        found[task] = {
            "base": round(exact.baseline, 4),
            "difference": round(exact.difference, 4),
            "interval": [round(exact.lower, 4), round(exact.upper, 4)],
            "nll_difference": float(f"{(after.nll - before.nll).mean():.3g}"),
        }
    return found


def verdict_rates(
    base: Measures, candidate: Measures, sizes: Mapping[Task, int], draws: int
) -> dict[str, Any]:
    """How often samples of the suite's size lead to each verdict, and to early warnings."""
    suite = load_suite(ROOT / "evals" / "demo.yaml")
    rng = np.random.default_rng(20261126)
    verdicts: Counter[str] = Counter()
    by_task: dict[Task, Counter[str]] = {task: Counter() for task in base}
    warnings: Counter[str] = Counter()
    for _ in range(draws):
        picked = {
            task: rng.choice(len(base[task].exact), sizes[task], replace=False) for task in base
        }
        comparisons = [
            _comparison(
                task,
                compare_pairs(
                    base[task].exact[rows].tolist(), candidate[task].exact[rows].tolist()
                ),
            )
            for task, rows in picked.items()
        ]
        judgement = judge(comparisons, [suite.gate.margin] * len(comparisons), suite.gate)
        verdicts[judgement.verdict] += 1
        for task, verdict in zip(picked, judgement.tasks, strict=True):
            by_task[task][verdict.verdict] += 1
        nlls = [
            _likelihood(task, base[task].nll[rows], candidate[task].nll[rows])
            for task, rows in picked.items()
        ]
        if any(find_early_warnings(nlls, comparisons, ALPHA)):
            warnings["all"] += 1
            warnings[judgement.verdict] += 1
    return {
        "verdicts": {name: count / draws for name, count in verdicts.items()},
        "tasks": {task: {k: n / draws for k, n in each.items()} for task, each in by_task.items()},
        "early_warnings": {name: count / draws for name, count in warnings.items()},
    }


def _likelihood(task: Task, before: Array, after: Array) -> TaskNll:
    # compare_measures without its permutation test, which takes most of its time and which no
    # warning rests on.
    spread = MeanDifference.of_measures(-before, -after, np.arange(len(before)), seed=0)
    lower, upper = spread.interval(ALPHA)
    pairs = PairedResult(
        method="mean difference",
        n_pairs=len(before),
        n_clusters=len(before),
        baseline=float(-before.mean()),
        candidate=float(-after.mean()),
        difference=float((before - after).mean()),
        lower=lower,
        upper=upper,
        p_value=spread.p_value(),
        drop_level=spread.drop_level(),
        sign_flip_p=None,
        detectable=0.0,
    )
    return TaskNll(comparison=_comparison(task, pairs), per_byte=None, values={})


def _comparison(task: Task, result: Any) -> Comparison:
    return Comparison(
        task=task, metric="exact_match", higher_is_better=True, in_points=True,
        n_samples=result.n_pairs, n_failed_baseline=0, n_failed_candidate=0, n_cut_baseline=0,
        n_cut_candidate=0, pairs=result, worst_case=result, best_case=result, scores={},
        regressed=(), improved=(), failures=(),
    )  # fmt: skip


class Laboratory:
    """The product itself, with vLLM, on the demo's gated tasks.

    Args:
        folder: For what is written on the way.
        store: For answers.
    """

    def __init__(self, folder: Path, store: AnswerStore) -> None:
        sizes = load_sizes(DEMO / "pilot.json")
        self.sizes: dict[Task, int] = {task: sizes[task] for task in GATED_TASKS}
        self.suite = _gated(load_suite(ROOT / "evals" / "demo.yaml"))
        self._folder = folder
        self._store = store
        self._tasks = load_tasks(self.suite)
        self._config = load_config(ROOT / "configs" / "cpu-demo.yaml", ServeConfig)
        self._base: Side | None = None
        self._likelihoods: dict[Any, Measured] = {}

    def compare_with_itself(self, base: Path, seeds: int) -> dict[str, Any]:
        """Compare the base with itself, each time on fresh samples and in another order."""
        self._base = self._side(base)
        runs = []
        with self._open(self._base) as (side, engine):
            again = dataclasses.replace(side, name="base again", replicate=1)
            for seed in range(seeds):
                suite = self._fresh_suite(seed)
                report = self._session(suite, load_tasks(suite), f"same-{seed}").evaluate(
                    side, again
                )
                runs.append(_summary(report))
            # The suite itself, so that the store knows the base's answers.
            self._session(self.suite, self._tasks, "suite").evaluate(side, again)
            self._likelihoods = _likelihoods(engine, side, self._tasks)
        return {
            "verdicts": dict(Counter(run["verdict"] for run in runs)),
            "n_samples": sum(run["n_samples"] for run in runs),
            "n_flips": sum(run["n_flips"] for run in runs),
            "runs": runs,
        }

    def judge(self, checkpoint: Path) -> dict[str, Any]:
        """Judge a fine-tune on the suite, with the likelihoods of its targets beside."""
        assert self._base is not None  # noqa: S101 - compared with itself before
        side = self._side(checkpoint)
        suite = self.suite.model_copy(update={"nll": NllConfig()})
        report = self._session(suite, self._tasks, checkpoint.name).evaluate(self._base, side)
        return {
            **_summary(report),
            "nll": {
                task.task: {
                    "difference": float(f"{task.nll.per_token.difference:.3g}"),
                    "is_early_warning": task.nll.is_early_warning,
                }
                for task in report.tasks
                if task.nll is not None and task.nll.per_token is not None
            },
        }

    def agreement(self, base: Path) -> dict[str, Any]:
        """Hold vLLM's answers and likelihoods against the demo's forward pass, for the base."""
        from vlmserve.demo.heldout import draw_heldout

        samples = {task: list(draw_heldout(task, n)) for task, n in self.sizes.items()}
        (ours,) = measure([base], samples)
        found = [self._likelihoods[task] for task in ours]
        greedy = np.concatenate([each.exact for each in found])
        exact = np.concatenate([each.exact for each in ours.values()])
        gaps = np.concatenate(
            [np.abs(each.nll - ours[task].nll) for task, each in self._likelihoods.items()]
        )
        return {
            "n_samples": len(exact),
            "same_answers": int((greedy == exact).sum()),
            "largest_nll_gap": float(f"{gaps.max():.3g}"),
        }

    def _side(self, checkpoint: Path) -> Side:
        served = Served(load_checkpoint(checkpoint), self._config)
        return checkpoint_sides({"candidate": served})["candidate"]

    @contextlib.contextmanager
    def _open(self, side: Side) -> Iterator[tuple[Side, Engine]]:
        """Start a side's engine once for everything."""
        with side.source.open() as engine:
            source = EngineSource(lambda: contextlib.nullcontext(engine))
            yield dataclasses.replace(side, source=source), engine

    def _session(self, suite: SuiteConfig, tasks: Sequence[EvalTask], name: str) -> Session:
        return Session(suite, tasks, self._store, f"zoo-{name}")

    def _fresh_suite(self, seed: int) -> SuiteConfig:
        """A suite of the same tasks and sizes, of other samples."""
        folder = self._folder / f"fresh-{seed}"
        folder.mkdir(exist_ok=True)
        for task, size in self.sizes.items():
            generator = SampleGenerator(f"zoo-verdicts/same/{seed}/{task}", "heldout")
            rows = [_row(sample) for sample in _draw(generator, task, size)]
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{task}.parquet")
            (folder / f"{task}.yaml").write_text(
                yaml.safe_dump(
                    {
                        "include": str(DEMO / "_common.yaml"),
                        "task": task,
                        "dataset_kwargs": {"data_files": f"{task}.parquet"},
                    }
                )
            )
        return self.suite.model_copy(update={"include_path": folder})


def _gated(suite: SuiteConfig) -> SuiteConfig:
    tasks = tuple(entry for entry in suite.tasks if entry.name in GATED_TASKS)
    return suite.model_copy(update={"tasks": tasks})


def _row(sample: Sample) -> dict[str, Any]:
    marks = "".join("<video>" if medium.is_video else "<image>" for medium in sample.media)
    (turn,) = sample.turns
    return {
        "question": f"{marks}{turn.question}",
        "target": turn.target,
        "media": [{"bytes": medium.file(), "path": None} for medium in sample.media],
    }


def _likelihoods(engine: Engine, side: Side, tasks: Sequence[EvalTask]) -> dict[Any, Measured]:
    """What the engine makes of each target, by task."""
    model = side.model(engine)
    requests = [
        ScoringRequest(
            request_id=f"{task.name}/{place}",
            model=model,
            messages=sample.request(model).messages,
            target=sample.target,
        )
        for task in tasks
        for place, sample in enumerate(task.samples)
    ]
    found: dict[str, TargetLogprobs] = {}
    for result in engine.score(requests):
        if not isinstance(result.outcome, TargetLogprobs):
            sys.exit(f"{result.request_id}: {result.outcome}")
        found[result.request_id] = result.outcome
    measured = {}
    for task in tasks:
        each = [found[f"{task.name}/{place}"] for place in range(len(task.samples))]
        measured[task.name] = Measured(
            exact=np.array([float(one.is_greedy) for one in each]),
            nll=np.array([-sum(one.logprobs) / len(one.logprobs) for one in each]),
        )
    return measured


def _summary(report: "EvalReport") -> dict[str, Any]:
    return {
        "verdict": report.verdict,
        "n_samples": sum(task.n_samples for task in report.tasks),
        "n_flips": sum(
            len(task.flips.regressed) + len(task.flips.improved) for task in report.tasks
        ),
        "tasks": {
            task.task: {
                "verdict": task.verdict,
                "difference": None if task.difference is None else round(task.difference, 4),
            }
            for task in report.tasks
        },
    }


if __name__ == "__main__":
    sys.exit(main())
