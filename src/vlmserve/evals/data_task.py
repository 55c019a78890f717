"""Held-out data in the format in which a model was trained, as a task of a suite.

A sample's conversation up to its last answer is asked, with its media in their places; the last
answer is the target. Nothing is converted, re-encoded or left out.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Completion
from vlmserve.config.suite_entries import SuiteData
from vlmserve.datasets.read import load_dataset
from vlmserve.datasets.rows import read_rows
from vlmserve.datasets.sample import BadSample, Dataset
from vlmserve.datasets.sample import Medium as DataMedium
from vlmserve.datasets.sample import Sample as DataSample
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.asked_turns import Asking, check_places, turns_to_ask
from vlmserve.evals.fields import telling_fields
from vlmserve.evals.judging.judged_task import Material
from vlmserve.evals.media_library import MediaLibrary
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.sample_collector import SampleCollector
from vlmserve.evals.samples import Sample, Turn
from vlmserve.evals.scorers.registry import create_scorer
from vlmserve.evals.scorers.scorer import Scorer
from vlmserve.evals.task_checks import sampling_params

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

_MOST_SHOWN = 5
_LONGEST_KIND = 200

# What the training fills in by the model's own template, from columns that are not read here:
# ms-swift 4 template/base.py replace_ref, replace_bbox; LLaMA-Factory extras/constants.py
# AUDIO_PLACEHOLDER.
_FILLED_IN: dict[str, tuple[str, ...]] = {
    "ms-swift": ("<ref-object>", "<bbox>", "<audio>"),
    "sharegpt": ("<audio>",),
    "alpaca": ("<audio>",),
}


class DataTask:
    """A data set, ready to be asked and scored; an ``EvalTask``."""

    def __init__(
        self, entry: SuiteData, dataset: Dataset, samples: tuple[Sample, ...], scorer: Scorer
    ) -> None:
        self.name = entry.name
        self.metric = scorer.name
        self.higher_is_better = scorer.higher_is_better
        self.is_amount = False
        self.is_relative = False
        self.samples = samples
        """In the order of the data set."""

        self._entry = entry
        self._dataset = dataset
        self._scorer = scorer
        # Now: when a run has come to its end, the file may have gone.
        self._fields = _read_fields(dataset)
        self._targets = {sample.sample_id: sample.target for sample in samples}
        self._sizes = _image_sizes(samples) if scorer.needs_image_size else {}

    @property
    def dataset(self) -> Dataset:
        """The data set as it was read; its samples are those of ``samples``, in their order."""
        return self._dataset

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are scored, as JSON values: part of a suite's digest."""
        return {
            "task": self.name,
            "scorer": self._scorer.name,
            "options": self._scorer.model_dump(mode="json"),
            "format": self._dataset.format,
            "system": self._entry.system,
        }

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart.

        Returns:
            By column, the value of each of ``samples``, as text; of columns with a few different
            words or whole numbers.
        """
        return self._fields

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Judge answers.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.

        Returns:
            The outcome of each answer. One that a scorer cannot read is wrong and has the worst
            score, as each scorer says; one over which it raises is a failure of that sample.
        """
        return {
            sample_id: self._score_one(sample_id, completion.text)
            for sample_id, completion in answers.items()
        }

    def _score_one(self, sample_id: str, text: str) -> Scored | Failed:
        try:
            score = self._judge(sample_id, text)
        except Exception as error:  # noqa: BLE001 - whatever a model's words bring about
            return Failed(error_type="ScorerError", message=f"{type(error).__name__}: {error}")
        return Scored(answer=text, score=score)

    def _judge(self, sample_id: str, text: str) -> float:
        target = self._targets[sample_id]
        if not self._scorer.needs_image_size:
            return self._scorer.score(text, target)
        return self._scorer.score_image(text, target, self._sizes[sample_id])


def _image_sizes(samples: tuple[Sample, ...]) -> dict[str, tuple[int, int]]:
    """Width and height of each sample's one image, as it is to be looked at."""
    sizes = {}
    for sample in samples:
        (image,) = (medium for medium in sample.media if medium.kind == "image")
        if (size := image.upright_size_px()) is not None:
            sizes[sample.sample_id] = size
    return sizes


def load_data_task(
    entry: SuiteData,
    asking: Asking,
    *,
    margin: float,
    place: str,
) -> DataTask:
    """Load a data set as a task.

    Args:
        entry: What the suite says of it, with absolute paths.
        asking: How samples are asked.
        margin: The drop that it may show, its own or the gate's.
        place: Where the entry stands, such as ``suite.yaml: tasks.0``, for messages.

    Raises:
        ConfigError: The scorer, an option or a row is wrong; the message names file and field, or
            file and row.
    """
    scorer = create_scorer(entry.scorer, place=f"{place}.scorer")
    if scorer.is_fraction and margin >= 1.0:
        raise ConfigError(
            f"{place}.margin: {margin:g} is no margin for {scorer.name}, which lies between "
            "0 and 1; 8 points are 0.08"
        )
    with _naming(entry, place):
        dataset, samples = _load(entry, asking, scorer.answers_to_choose)
        _check_targets(scorer, dataset, samples)
    return DataTask(entry, dataset, samples, scorer)


def load_material(entry: SuiteData, asking: Asking, *, place: str) -> Material:
    """Load a data set whose answers another model judges.

    Args:
        entry: What the suite says of it, with absolute paths.
        asking: How samples are asked.
        place: Where the entry stands, for messages.

    Raises:
        ConfigError: A row is wrong; the message names file and row.
    """
    with _naming(entry, place):
        dataset, samples = _load(entry, asking)
    return Material(
        name=entry.name,
        samples=samples,
        fields=_read_fields(dataset),
        about={"format": dataset.format, "system": entry.system},
    )


@contextmanager
def _naming(entry: SuiteData, place: str) -> Iterator[None]:
    """Say which task an error is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"task {entry.name} ({place}): {error.message}", hint=error.hint
        ) from error


def _load(
    entry: SuiteData, asking: Asking, choices: tuple[str, ...] = ()
) -> tuple[Dataset, tuple[Sample, ...]]:
    dataset = load_dataset(
        entry.data, media_root=entry.media_root, format=entry.format, limit=asking.limit
    )
    return dataset, _collect(entry, dataset, asking, choices)


def _collect(
    entry: SuiteData, dataset: Dataset, asking: Asking, choices: tuple[str, ...]
) -> tuple[Sample, ...]:
    collector = SampleCollector(entry.name, sampling_params({}, asking.sampling))
    library = asking.media
    n_rated_before = library.n_rated_files
    library.fetch(dataset.rows)
    for row in dataset.rows:
        if isinstance(row, BadSample):
            collector.refuse(row.where, row.reason)
            continue
        try:
            _check_filled_in(row, dataset.format)
            turns, target = _split(row, library)
            if entry.system is not None and turns[0].role != "system":
                turns = [Turn("system", (entry.system,)), *turns]
        except MediaError as error:
            collector.refuse(row.where, error.message)
        else:
            collector.add(turns, target, choices=choices)
    if n_rated := library.n_rated_files - n_rated_before:
        _LOG.warning(
            "task %s: %d videos say by fps how frames are taken from their files, which cannot be "
            "sent; the engine takes them as its media_io_kwargs say",
            entry.name,
            n_rated,
        )
    return collector.finish()


def _split(sample: DataSample, library: MediaLibrary) -> tuple[list[Turn], str]:
    """Take a conversation apart: what is asked, and what is expected."""
    *asked, last = sample.turns
    if last.role != "assistant":
        raise MediaError(f"the last turn is the {last.role}'s, so there is no expected answer")
    if any(isinstance(part, DataMedium) for part in last.parts):
        raise MediaError("the expected answer holds an image or a video")
    if not last.text.strip():
        raise MediaError("the expected answer is empty")
    if not any(turn.role == "user" for turn in asked):
        raise MediaError("no user's turn comes before the expected answer")
    if asked[-1].role == "assistant":
        raise MediaError("two assistant's turns follow each other, so the last answers nothing")
    check_places(sample)
    return turns_to_ask(asked, library), last.text


def _check_filled_in(sample: DataSample, name: str) -> None:
    for tag in _FILLED_IN.get(name, ()):
        if any(tag in turn.text for turn in sample.turns):
            raise MediaError(f"{tag} is filled in by the training, and cannot be here")


def _read_fields(dataset: Dataset) -> dict[str, list[str]]:
    places = [(row.file, row.row) for row in dataset.rows]
    wanted = set(places)
    rows: dict[tuple[Path, int], Mapping[str, Any]] = {}
    for file in dict.fromkeys(file for file, _ in places):
        for raw in read_rows(file):
            if (place := (file, raw.row)) in wanted:
                # What is longer is no kind of samples, and would be held for nothing.
                rows[place] = {
                    key: value
                    for key, value in raw.value.items()
                    if isinstance(value, int)
                    or (isinstance(value, str) and len(value) <= _LONGEST_KIND)
                }
    return telling_fields({name: [rows[at].get(name) for at in places] for name in rows[places[0]]})


def _check_targets(scorer: Scorer, dataset: Dataset, samples: tuple[Sample, ...]) -> None:
    """Find targets that the scorer cannot read, before a request is sent."""
    faults = []
    for row, sample in zip(dataset.rows, samples, strict=True):
        try:
            scorer.check_target(sample.target)
            if scorer.needs_image_size:
                _check_one_image(sample)
        except (ValueError, MediaError) as error:
            faults.append(f"  {row.where}: {error}")
    if faults:
        shown = "\n".join(faults[:_MOST_SHOWN])
        raise ConfigError(
            f"{len(faults)} of {len(samples)} targets are none for {scorer.name}\n{shown}"
        )


def _check_one_image(sample: Sample) -> None:
    images = [medium for medium in sample.media if medium.kind == "image"]
    if len(images) != 1:
        raise ValueError(
            f"coordinates are carried over by the size of the one image, and it has {len(images)}"
        )
    images[0].upright_size_px()
