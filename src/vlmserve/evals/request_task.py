"""Requests without expected answers as a task of a suite: a check measures the answers."""

from collections.abc import Mapping
from typing import Any

from vlmserve.chat import Completion
from vlmserve.config.suite_entries import SuiteRequests
from vlmserve.errors import ConfigError
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.label_free.registry import create_check
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.request_log import RequestLog
from vlmserve.evals.samples import Sample


class RequestTask:
    """Requests, ready to be asked and measured; an ``EvalTask``."""

    higher_is_better = False
    is_relative = False

    def __init__(self, entry: SuiteRequests, log: RequestLog, check: AnswerCheck) -> None:
        self.name = entry.name
        self.metric = check.name
        self.samples = log.samples
        """In the order of the file; tasks of the same file have the same ones."""

        self.is_amount = not check.is_fraction
        self._log = log
        self._check = check
        self._asked = {sample.sample_id: sample for sample in log.samples}

    @property
    def recipe(self) -> dict[str, Any]:
        """What is measured, as JSON values: part of a suite's digest."""
        return {
            "task": self.name,
            "check": self._check.name,
            "options": self._check.model_dump(mode="json", by_alias=True),
        }

    def fields(self) -> dict[str, list[str]]:
        """The columns beside the requests that tell kinds of them apart.

        Returns:
            By column, the value of each of ``samples``, as text; of columns with a few different
            words or whole numbers.
        """
        return dict(self._log.fields)

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Measure answers.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.

        Returns:
            The outcome of each answer; one that cannot be measured is a failure of its sample.
        """
        return {
            sample_id: self._measure(completion, self._asked[sample_id])
            for sample_id, completion in answers.items()
        }

    def _measure(self, completion: Completion, sample: Sample) -> Scored | Failed:
        try:
            score = self._check.measure(completion, sample)
        except Exception as error:  # noqa: BLE001 - whatever a model's words bring about
            return Failed(error_type="CheckError", message=f"{type(error).__name__}: {error}")
        return Scored(answer=completion.text, score=score)


def create_request_task(
    entry: SuiteRequests, log: RequestLog, *, margin: float, place: str
) -> RequestTask:
    """Make a task of requests.

    Args:
        entry: What the suite says of it.
        log: The requests of its file.
        margin: The rise that it may show, its own or the gate's.
        place: Where the entry stands, such as ``suite.yaml: tasks.0``, for messages.

    Raises:
        ConfigError: The check, an option or the margin is wrong; the message names the field.
    """
    check = create_check(entry.check, place=f"{place}.check")
    if check.is_fraction and margin >= 1.0:
        raise ConfigError(
            f"{place}.margin: {margin:g} is no margin for {check.name}, which is a share between "
            "0 and 1; 2 points are 0.02"
        )
    return RequestTask(entry, log, check)
