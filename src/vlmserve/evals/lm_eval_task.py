"""lm-eval's tasks as samples to ask and answers to score."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Completion, SamplingParams
from vlmserve.config.asking import SamplingConfig
from vlmserve.config.suite_entries import SuiteTask
from vlmserve.errors import ConfigError, MediaError, VlmserveError
from vlmserve.evals.fields import telling_fields
from vlmserve.evals.medium import Medium
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.sample_collector import SampleCollector
from vlmserve.evals.samples import FEWSHOT_SEED, Sample, Turn, create_turns
from vlmserve.evals.task_checks import check_fields, sampling_params
from vlmserve.evals.tasks import TaskSource, as_config_error, error_reason

if TYPE_CHECKING:
    from vlmserve.evals.choice_task import ChoiceTask
    from vlmserve.evals.task_group import TaskGroup

_LOG = logging.getLogger(__name__)


class LmEvalTask:
    """An lm-eval task, ready to be asked and scored; an ``EvalTask``."""

    def __init__(self, entry: SuiteTask, task: Any, samples: Sequence[Sample]) -> None:
        self.name = entry.task
        self.metric = entry.metric
        self.is_amount = False
        self.is_relative = False
        self.samples = tuple(samples)
        """In the order of the data set."""

        self._task = task
        self._filter = _filter_name(entry, task)
        known = task.higher_is_better().get(entry.metric)
        self.higher_is_better: bool = True if known is None else bool(known)
        self._check_metric()

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are scored, as JSON values: part of a suite's digest."""
        return read_recipe(self._task, self.name, self.metric, self._filter)

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart.

        Returns:
            By column, the value of each of ``samples``, as text; of columns with a few different
            words or whole numbers.
        """
        docs = [instance.doc for instance in self._task.instances]
        names = docs[0] if docs and isinstance(docs[0], Mapping) else ()
        return telling_fields({name: [doc.get(name) for doc in docs] for name in names})

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Judge answers.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.

        Returns:
            The outcome of each answer; a filter or a metric that raises, or gives no finite
            number, is a failure of that sample.
        """
        texts = [
            answers[sample.sample_id].text if sample.sample_id in answers else ""
            for sample in self.samples
        ]
        try:
            self._filter_answers(texts)
        except Exception as error:  # noqa: BLE001 - whatever a filter raises on a model's words
            _LOG.warning(
                "task %s: a filter raised (%s); each answer is filtered by itself",
                self.name,
                error_reason(error),
            )
            refused = self._filter_one_by_one(answers)
        else:
            refused = {}
        return {
            sample.sample_id: refused.get(sample.sample_id) or self._score_one(instance)
            for sample, instance in zip(self.samples, self._task.instances, strict=True)
            if sample.sample_id in answers
        }

    def _filter_one_by_one(self, answers: Mapping[str, Completion]) -> dict[str, Failed]:
        """Filter the answers, and find those that the filter takes offence at."""
        (chosen,) = (ensemble for ensemble in self._task._filters if ensemble.name == self._filter)
        refused = {}
        for sample, instance in zip(self.samples, self._task.instances, strict=True):
            if sample.sample_id not in answers:
                continue
            instance.filtered_resps = {}
            try:
                chosen.apply([instance])
            except Exception as error:  # noqa: BLE001 - as above
                refused[sample.sample_id] = Failed(
                    error_type="FilterError", message=f"{self._filter}: {error_reason(error)}"
                )
        return refused

    def _filter_answers(self, texts: Sequence[str]) -> None:
        for text, instance in zip(texts, self._task.instances, strict=True):
            instance.resps = [text]
            instance.filtered_resps = {}
        self._task.apply_filters()

    def _score_one(self, instance: Any) -> Scored | Failed:
        if self._filter not in instance.filtered_resps:
            return Failed(error_type="FilterError", message=f"{self._filter}: gave no answer")
        answer = instance.filtered_resps[self._filter]
        try:
            results = self._task.process_results(instance.doc, [answer])
        except Exception as error:  # noqa: BLE001 - whatever a metric raises on a model's words
            return metric_failure(error_reason(error))
        if self.metric not in results:
            return metric_failure("the metric gave nothing for this answer")
        try:
            score = as_score(results[self.metric])
        except (TypeError, ValueError) as error:
            return metric_failure(f"the metric {error}")
        text = answer if isinstance(answer, str) else json.dumps(answer, default=str)
        return Scored(answer=text, score=score)

    def _check_metric(self) -> None:
        """Score the targets as answers: a wrong metric is found before a request is sent."""
        try:
            self._filter_answers([sample.target for sample in self.samples])
            instance = self._task.instances[0]
            answer = instance.filtered_resps[self._filter]
            results = self._task.process_results(instance.doc, [answer])
        except Exception:  # noqa: BLE001 - it may take offence at these answers alone
            return
        if self.metric not in results:
            raise ConfigError(f"no metric {self.metric!r}; the task has: {', '.join(results)}")
        try:
            as_score(results[self.metric])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metric {self.metric}: {error}") from error


def load_lm_eval_task(
    entry: SuiteTask, source: TaskSource, sampling: SamplingConfig, limit: int | None
) -> "LmEvalTask | ChoiceTask | TaskGroup":
    """Load a task with its samples, or a group with those of its tasks.

    Args:
        entry: What the suite says of it.
        source: Builds lm-eval's tasks.
        sampling: The suite's settings; they win over the task's own.
        limit: Take only this many samples of each task, the first ones.

    Raises:
        ConfigError: Its file is wrong, or a sample cannot be asked as it stands; the message names
            task, field and row.
    """
    if source.is_group(entry.task):
        return _load_group(entry, source, sampling, limit)
    with _naming(f"task {entry.task}", entry.task, source):
        task = source.build(entry.task)
        return _prepare(entry, task, source.folder(entry.task), sampling, limit)


def _load_group(
    entry: SuiteTask, source: TaskSource, sampling: SamplingConfig, limit: int | None
) -> "TaskGroup":
    from vlmserve.evals.task_group import create_task_group

    members = {}
    with _naming(f"task {entry.task}", entry.task, source):
        built = source.build_group(entry.task)
    for name, task in built.items():
        with _naming(f"task {entry.task}: {name}", name, source):
            member = _member(entry, name)
            members[name] = _prepare(member, task, source.folder(name), sampling, limit)
    with _naming(f"task {entry.task}", entry.task, source):
        return create_task_group(entry, members)


@contextlib.contextmanager
def _naming(what: str, name: str, source: TaskSource) -> Iterator[None]:
    """Say in errors which task they are about, and where it is defined."""
    try:
        yield
    except VlmserveError as error:
        place = source.place(name)
        raise ConfigError(f"{what} ({place}): {error.message}", hint=error.hint) from error


def _member(entry: SuiteTask, name: str) -> SuiteTask:
    return entry.model_copy(update={"task": name})


def _prepare(
    entry: SuiteTask, task: Any, folder: Path, sampling: SamplingConfig, limit: int | None
) -> "LmEvalTask | ChoiceTask":
    # It takes tasks apart with the functions below.
    from vlmserve.evals.choice_task import CHOICE_TYPES, create_choice_task

    _check_task(task)
    params = sampling_params(task.config.generation_kwargs or {}, sampling)
    with as_config_error():
        task.set_fewshot_seed(FEWSHOT_SEED)
        task.build_all_requests(
            limit=limit,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            chat_template=_as_json,
        )
    if task.config.output_type in CHOICE_TYPES:
        return create_choice_task(entry, task, folder, params)
    return LmEvalTask(entry, task, _samples(task, folder, params))


def _samples(task: Any, folder: Path, params: SamplingParams) -> tuple[Sample, ...]:
    collector = SampleCollector(task.config.task, params)
    for row, instance in enumerate(task.instances):
        try:
            turns = read_turns(instance, folder)
        except MediaError as error:
            collector.refuse(f"row {row}", error.message)
        else:
            target = find_target(task, instance.doc)
            collector.add(turns, spell_target(target), spoken_target=_spoken(target))
    return collector.finish()


def read_recipe(task: Any, name: str, metric: str, chosen_filter: str | None) -> dict[str, Any]:
    """Say how a task's answers are scored, as JSON values."""
    config = task.config.to_dict()
    kept = ("metric_list", "filter_list", "process_results", "output_type")
    return {
        "task": name,
        "metric": metric,
        "filter": chosen_filter,
        "version": str(task.VERSION),
        **{key: json.loads(json.dumps(config.get(key), default=_spelled)) for key in kept},
    }


def read_turns(instance: Any, folder: Path) -> list[Turn]:
    """Take a request's prompt apart, with its media in their places.

    Raises:
        MediaError: A medium is missing, or there are other placeholders than media.
    """
    context, _, *rest = instance.args
    visual = rest[0]["visual"] if rest else None
    if visual is None:
        visual = []
    elif not isinstance(visual, list | tuple):
        visual = [visual]
    return create_turns(json.loads(context), [Medium.load(value, folder) for value in visual])


def find_target(task: Any, doc: Any) -> Any:
    """The expected answer of a row, as lm-eval has it."""
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return target


def spell_target(target: Any) -> str:
    """The expected answer as text; JSON where it is none."""
    return target if isinstance(target, str) else json.dumps(target, default=str)


def _spoken(target: Any) -> str:
    """The target as a model would say it: the first of a list of accepted answers."""
    if isinstance(target, list) and target:
        target = target[0]
    return str(target) if isinstance(target, str | int | float) else ""


def _check_task(task: Any) -> None:
    config = task.config
    refusals = {
        "output_type": config.output_type == "loglikelihood_rolling"
        and "loglikelihood_rolling is the likelihood of a whole text, which is no answer to a chat",
        "doc_to_audio": config.doc_to_audio is not None and "audio is not supported",
        "gen_prefix": config.gen_prefix is not None
        and "an answer cannot be begun for the model over a chat API",
        "repeats": config.repeats != 1 and "only 1 is supported",
        "unsafe_code": bool(config.unsafe_code) and "this task runs code that the model wrote",
    }
    for field, reason in refusals.items():
        if reason:
            raise ConfigError(f"{field}: {reason}")
    check_fields(
        text=config.doc_to_text,
        target=config.doc_to_target,
        image=config.doc_to_image,
        columns=getattr(task, "features", ()),
        has_choices=config.doc_to_choice is not None,
    )


def _filter_name(entry: SuiteTask, task: Any) -> str:
    names = [filter_["name"] for filter_ in task.config.filter_list or [{"name": "none"}]]
    if entry.filter is None and len(names) == 1:
        return str(names[0])
    if entry.filter in names:
        return str(entry.filter)
    chosen = "none is chosen" if entry.filter is None else f"there is no {entry.filter!r}"
    raise ConfigError(f"filter: {chosen}; the task has: {', '.join(names)}")


def as_score(value: Any) -> float:
    """Read what a metric gives for a sample.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite.
    """
    if isinstance(value, str | bytes | list | tuple | Mapping):
        raise TypeError(
            f"gives a {type(value).__name__} for a sample, not a number; a metric that is computed "
            "over the whole set cannot be compared sample by sample"
        )
    score = float(value)
    if not math.isfinite(score):
        raise ValueError(f"gives {score}")
    return score


def _as_json(messages: Sequence[Mapping[str, str]], **_: object) -> str:
    # lm-eval passes the prompt on as one string; this one can be taken apart again.
    return json.dumps(messages)


def _spelled(value: object) -> str:
    # A function's repr holds its address, which differs from run to run.
    return getattr(value, "__qualname__", None) or repr(value)


def metric_failure(message: str) -> Failed:
    """The outcome of an answer that a metric could not judge."""
    return Failed(error_type="MetricError", message=message)
