"""lm-eval's tasks of given choices: a model chooses what it finds likeliest, and says nothing.

Each choice is scored as an answer of the assistant, by the sum of its tokens' log-probabilities.
Its end token is left out, as lm-eval does, so that ``acc`` and ``acc_norm`` are what lm-eval means
by them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmserve.chat import Completion, SamplingParams
from vlmserve.config.suite_entries import SuiteTask
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.fields import telling_fields
from vlmserve.evals.lm_eval_task import (
    as_score,
    find_target,
    metric_failure,
    read_recipe,
    read_turns,
    spell_target,
)
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.sample_collector import SampleCollector
from vlmserve.evals.samples import Sample
from vlmserve.evals.tasks import error_reason

CHOICE_TYPES = ("multiple_choice", "loglikelihood")
"""lm-eval's output types that are answered by likelihoods."""


class ChoiceTask:
    """A task of choices, ready to be scored; an ``EvalTask``."""

    def __init__(self, entry: SuiteTask, task: Any, samples: Sequence[Sample]) -> None:
        self.name = entry.task
        self.metric = entry.metric
        self.is_amount = False
        self.is_relative = False
        self.samples = tuple(samples)
        """In the order of the data set."""

        self._task = task
        self._docs = [group[0].doc for group in _groups(task)]
        known = task.higher_is_better().get(entry.metric)
        self.higher_is_better: bool = True if known is None else bool(known)
        self._check_metric()

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are scored, as JSON values: part of a suite's digest."""
        return read_recipe(self._task, self.name, self.metric, None)

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart; see ``EvalTask.fields``."""
        names = self._docs[0] if self._docs and isinstance(self._docs[0], Mapping) else ()
        return telling_fields({name: [doc.get(name) for doc in self._docs] for name in names})

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Judge answers.

        Args:
            answers: Completions by sample id, with the likelihoods of the choices.
        """
        return {
            sample.sample_id: self._score_one(doc, answers[sample.sample_id])
            for sample, doc in zip(self.samples, self._docs, strict=True)
            if sample.sample_id in answers
        }

    def _score_one(self, doc: Any, completion: Completion) -> Scored | Failed:
        results = [(choice.logprob, choice.is_greedy) for choice in completion.choices]
        try:
            found = self._task.process_results(doc, results)
        except Exception as error:  # noqa: BLE001 - whatever a metric raises
            return metric_failure(error_reason(error))
        if self.metric not in found:
            return metric_failure("the metric gave nothing for this answer")
        try:
            score = as_score(found[self.metric])
        except (TypeError, ValueError) as error:
            return metric_failure(f"the metric {error}")
        return Scored(answer=completion.text, score=score)

    def _check_metric(self) -> None:
        """Score the first sample as if its first choice were the likeliest."""
        if self._task.OUTPUT_TYPE == "loglikelihood" and self.metric != "acc":
            raise ConfigError(
                f"metric {self.metric!r}: of an answer's likelihood only acc can be compared "
                "sample by sample; nll: true measures the likelihood itself"
            )
        n_choices = len(self.samples[0].choices)
        results = [(-1.0 if place == 0 else -math.e, place == 0) for place in range(n_choices)]
        try:
            found = self._task.process_results(self._docs[0], results)
        except Exception as error:
            raise ConfigError(f"metric {self.metric}: {error_reason(error)}") from error
        if self.metric not in found:
            raise ConfigError(f"no metric {self.metric!r}; the task has: {', '.join(found)}")
        try:
            as_score(found[self.metric])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metric {self.metric}: {error}") from error


def create_choice_task(
    entry: SuiteTask, task: Any, folder: Path, params: SamplingParams
) -> ChoiceTask:
    """Make a task of one of lm-eval's, whose requests are built.

    Raises:
        ConfigError: What it asks for cannot be told from the likelihoods of choices, or a sample
            cannot be asked as it stands; the message names field and row.
    """
    _check(entry, task)
    collector = SampleCollector(task.config.task, params)
    for row, group in enumerate(_groups(task)):
        choices = tuple(str(instance.args[1]) for instance in group)
        try:
            turns = read_turns(group[0], folder)
        except MediaError as error:
            collector.refuse(f"row {row}", error.message)
            continue
        if any(not choice.strip() for choice in choices):
            collector.refuse(f"row {row}", "a choice is empty, and has no likelihood")
            continue
        target = find_target(task, group[0].doc)
        spoken = target if isinstance(target, str) else ""
        collector.add(turns, spell_target(target), spoken_target=spoken, choices=choices)
    return ChoiceTask(entry, task, collector.finish())


def _groups(task: Any) -> list[list[Any]]:
    """The requests of each row, one a choice, in the order of the choices."""
    rows = itertools.groupby(task.instances, key=lambda instance: instance.doc_id)
    return [sorted(group, key=lambda instance: instance.idx) for _, group in rows]


def _check(entry: SuiteTask, task: Any) -> None:
    refusals = {
        "filter": entry.filter is not None and "likelihoods are not filtered",
        "filter_list": bool(task.config.filter_list) and "likelihoods are not filtered",
        "doc_to_text": bool(getattr(task, "multiple_input", False))
        and "each choice has a prompt of its own, and what is compared must be asked alike",
        "metric_list": "acc_mutual_info" in task._metric_fn_list
        and "acc_mutual_info needs the likelihood of a choice without a question, which a chat "
        "does not have",
    }
    for field, reason in refusals.items():
        if reason:
            raise ConfigError(f"{field}: {reason}")
