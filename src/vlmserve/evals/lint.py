"""What can be said of a suite before a request is sent: its samples, and what they can decide."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import AnyTask
from vlmserve.datasets.sample import Dataset
from vlmserve.doctor.data_overlap import find_overlap
from vlmserve.doctor.examination import Examination, Progress, no_progress
from vlmserve.doctor.finding import Finding
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.data_task import DataTask
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.lint_report import Level, LintReport, Power, Remark, TaskLint, counted
from vlmserve.evals.lint_rows import as_row, spread
from vlmserve.evals.lint_tokens import count_tokens
from vlmserve.evals.power import DISCORDANCES, detectable_at, samples_needed
from vlmserve.media.headers import ImageHeader, read_image_headers

# Of two checkpoints of one base, one in ten scores differs as a rule; of pairs of answers that a
# judge compares, some two thirds are no ties.
_DECIDED = (0.4, 0.7, 0.9)
_USUAL = (0.1, 0.7)
_MIN_CLUSTERS = 2
_QUANTILES = (0.0, 0.5, 0.95, 1.0)
_MOST_SHOWN = 3


def lint_suite(
    suite: SuiteConfig,
    train: Dataset | None = None,
    progress: Progress = no_progress,
    checkpoint: Examination | None = None,
) -> LintReport:
    """Look a suite over; nothing is asked.

    Args:
        suite: The suite, with absolute paths.
        train: What a model was trained on, to be compared with every task.
        progress: Told what is being read.
        checkpoint: A checkpoint, to count the tokens of prompts with.

    Returns:
        What was found; a task that cannot be loaded is an error in it.
    """
    tasks: list[TaskLint] = []
    remarks: list[Remark] = []
    for entry, task in _load(suite, remarks):
        headers = _headers(task, progress)
        lint = _lint(task, suite.gated_margin(entry), suite, headers)
        lint = lint.model_copy(update={"improve": entry.improve})
        if checkpoint is not None:
            lint, found = count_tokens(task, lint, checkpoint)
            remarks += found
        tasks.append(lint)
        remarks += _remarks(lint, suite.gate.alpha)
        remarks += _image_remarks(task, headers)
        if train is not None:
            remarks += _overlap(task, train, progress)
    return LintReport(suite=suite.name, tasks=tuple(tasks), remarks=tuple(remarks))


def _load(suite: SuiteConfig, remarks: list[Remark]) -> Iterator[tuple[AnyTask, EvalTask]]:
    try:
        tasks = load_tasks(suite)
    except ConfigError:
        # One at a time, so that a bad task does not hide the others.
        yield from _load_each(suite, remarks)
    else:
        yield from zip(suite.tasks, tasks, strict=True)


def _load_each(suite: SuiteConfig, remarks: list[Remark]) -> Iterator[tuple[AnyTask, EvalTask]]:
    for index, entry in enumerate(suite.tasks):
        try:
            (task,) = load_tasks(suite, only=index)
        except ConfigError as error:
            hint = "" if error.hint is None else f"\n{error.hint}"
            remarks.append(Remark(level="error", task=entry.name, text=f"{error.message}{hint}"))
        else:
            yield entry, task


def _headers(task: EvalTask, progress: Progress) -> dict[str, ImageHeader | MediaError]:
    """Headers of a task's images by digest, each file read once."""
    images = {
        one.sha256: one.source
        for sample in task.samples
        for medium in sample.media
        for one in (medium.frames or (medium,))
        if one.kind == "image" and one.source is not None
    }
    what = f"{task.name}: images"
    read = read_image_headers(
        list(images.values()), lambda done, total: progress(what, done, total)
    )
    return dict(zip(images, read, strict=True))


def _lint(
    task: EvalTask,
    margin: float | None,
    suite: SuiteConfig,
    headers: Mapping[str, ImageHeader | MediaError],
) -> TaskLint:
    samples = task.samples
    labels = cluster_samples(samples)
    sizes = np.bincount(labels)
    sides = [
        max(header.upright_size_px)
        for header in headers.values()
        if isinstance(header, ImageHeader)
    ]
    return TaskLint(
        name=task.name,
        metric=task.metric,
        n_samples=len(samples),
        n_duplicates=sum("#" in sample.sample_id for sample in samples),
        n_clusters=len(sizes),
        media=Counter(medium.content_type for sample in samples for medium in sample.media),
        media_per_sample=spread([len(sample.media) for sample in samples]),
        longest_side_px=spread(sides) if sides else None,
        question_chars=spread([len(sample.question_text) for sample in samples]),
        target_chars=spread([len(sample.target) for sample in samples]),
        fields={name: Counter(values) for name, values in task.fields().items()},
        margin=margin,
        power=tuple(
            _power(len(samples), discordance, sizes, margin, suite.gate.alpha)
            for discordance in _discordances(task)
        ),
    )


def _discordances(task: EvalTask) -> tuple[float, ...]:
    """How many scores may differ: of pairs, those that are no ties."""
    if task.is_amount:
        return ()
    return _DECIDED if task.is_relative else DISCORDANCES


def _power(
    n_samples: int,
    discordance: float,
    cluster_sizes: "np.ndarray[tuple[int, ...], np.dtype[np.intp]]",
    margin: float | None,
    alpha: float,
) -> Power:
    # Kish's design effect of clusters that agree entirely, as in statistics.design_effect.
    effect = float((cluster_sizes**2).sum() / cluster_sizes.sum())
    detectable = detectable_at(n_samples, discordance, alpha=alpha)
    return Power(
        discordance=discordance,
        detectable=detectable,
        detectable_clustered=detectable_at(
            n_samples, discordance, alpha=alpha, design_effect=effect
        ),
        n_needed=n_samples if margin is None else samples_needed(margin, discordance, alpha=alpha),
    )


def _remarks(lint: TaskLint, alpha: float) -> Iterator[Remark]:
    def remark(level: Level, text: str) -> Remark:
        return Remark(level=level, task=lint.name, text=text)

    if lint.n_clusters < _MIN_CLUSTERS:
        yield remark(
            "error" if lint.margin is not None else "warning",
            "all samples ask about one image, video or text, so there is no interval",
        )
    if lint.n_duplicates:
        yield remark(
            "warning",
            f"{lint.n_duplicates:,} of {counted(lint.n_samples, 'sample')} "
            f"{'repeats' if lint.n_duplicates == 1 else 'repeat'} another one",
        )
    usual = next((power for power in lint.power if power.discordance in _USUAL), None)
    if usual is None:
        return
    if lint.margin is not None and usual.n_needed > lint.n_samples:
        yield remark(
            "warning",
            f"margin {lint.margin:g} cannot be reached with "
            f"{counted(lint.n_samples, 'sample')}: at "
            f"{usual.discordance * 100:g} % discordance {usual.n_needed:,} are needed to keep it "
            f"four times out of five at alpha {alpha:g}; these reach {usual.detectable:.3f}",
        )
    elif lint.margin is not None and usual.detectable_clustered > lint.margin:
        yield remark(
            "note",
            f"{lint.n_samples:,} samples ask about {lint.n_clusters:,} images, videos or texts; if "
            f"those of one rise and fall together, margin {lint.margin:g} is out of reach: "
            f"{usual.detectable_clustered:.3f} is what can be seen",
        )


def _image_remarks(
    task: EvalTask, headers: Mapping[str, ImageHeader | MediaError]
) -> Iterator[Remark]:
    broken = [header.message for header in headers.values() if isinstance(header, MediaError)]
    if broken:
        yield Remark(
            level="error",
            task=task.name,
            text=f"{len(broken):,} of {counted(len(headers), 'image')} cannot be read: "
            + "; ".join(broken[:_MOST_SHOWN]),
        )
    read = [header for header in headers.values() if isinstance(header, ImageHeader)]
    if cut := sum(header.is_truncated for header in read):
        yield Remark(
            level="warning",
            task=task.name,
            text=f"{cut:,} of {counted(len(headers), 'image file')} "
            f"{'stops' if cut == 1 else 'stop'} before the image does",
        )


def _overlap(task: EvalTask, train: Dataset, progress: Progress) -> Iterator[Remark]:
    for outcome in find_overlap(train, as_dataset(task), progress):
        if isinstance(outcome, Finding):
            shown = "; ".join(
                f"{one.file}:{(one.key or '').removeprefix('row ')} {one.value}"
                for one in outcome.evidence[:_MOST_SHOWN]
            )
            level: Level = "note" if outcome.severity == "info" else "warning"
            yield Remark(level=level, task=task.name, text=f"{outcome.title} ({shown})")
        else:
            yield Remark(level="note", task=task.name, text=outcome.reason)


def as_dataset(task: EvalTask) -> Dataset:
    """The samples of a task as those of a data set, rows counted from 1."""
    if isinstance(task, DataTask):
        return task.dataset
    path = Path(task.name)
    rows = tuple(
        as_row(sample, path, number) for number, sample in enumerate(task.samples, start=1)
    )
    return Dataset(path=path, format="lm-eval", rows=rows)
