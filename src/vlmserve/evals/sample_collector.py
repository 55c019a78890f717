"""Puts a task's samples together, and refuses the task if one of them cannot be asked."""

import logging
from collections import Counter
from collections.abc import Sequence

from vlmserve.chat import SamplingParams
from vlmserve.errors import ConfigError
from vlmserve.evals.samples import Sample, Turn, create_sample, give_choices

_LOG = logging.getLogger(__name__)

_MAX_FAULTS_SHOWN = 5


class SampleCollector:
    """Takes a task's rows one by one.

    Args:
        task: The task's name.
        params: How its samples are asked.
    """

    def __init__(self, task: str, params: SamplingParams) -> None:
        self._task = task
        self._params = params
        self._samples: list[Sample] = []
        self._faults: list[str] = []
        self._seen: Counter[str] = Counter()

    def add(
        self,
        turns: Sequence[Turn],
        target: str,
        params: SamplingParams | None = None,
        *,
        spoken_target: str | None = None,
        choices: Sequence[str] = (),
    ) -> None:
        """Take a row; one of the same content as another is a sample of its own.

        Args:
            turns: What is asked.
            target: The expected answer.
            params: How this one is asked, where it is not as the others.
            spoken_target: The expected answer as a model would say it; the target when ``None``.
            choices: Answers to choose from, where the model does not answer in its own words.
        """
        params = params or self._params
        sample = create_sample(turns, target, params, spoken_target=spoken_target)
        self._seen[sample.sample_id] += 1
        if (occurrence := self._seen[sample.sample_id]) > 1:
            sample = create_sample(
                turns, target, params, occurrence=occurrence, spoken_target=spoken_target
            )
        self._samples.append(give_choices(sample, choices) if choices else sample)

    def refuse(self, where: str, reason: str) -> None:
        """Note a row that cannot be asked as it stands."""
        self._faults.append(f"{where}: {reason}")

    def finish(self) -> tuple[Sample, ...]:
        """Hand the samples over, in the order in which they came.

        Raises:
            ConfigError: A row was refused; the message shows the first ones.
        """
        if self._faults:
            shown = "\n".join(f"  {fault}" for fault in self._faults[:_MAX_FAULTS_SHOWN])
            count = f"{len(self._faults)} of {len(self._faults) + len(self._samples)}"
            raise ConfigError(f"{count} samples cannot be asked\n{shown}")
        if repeated := len(self._samples) - len(self._seen):
            _LOG.warning(
                "task %s: %d of %d samples %s and counted again",
                self._task,
                repeated,
                len(self._samples),
                "repeats another one; it is asked"
                if repeated == 1
                else "repeat another one; they are asked",
            )
        return tuple(self._samples)
