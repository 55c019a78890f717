"""Several of lm-eval's tasks judged as one: a group, or a tag.

Thirty samples of each of thirty subjects decide nothing; the nine hundred together do. The tasks
are kinds of samples in the report's slices, so that the one which got worse is found.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Completion
from vlmserve.config.suite_entries import SuiteTask
from vlmserve.errors import ConfigError
from vlmserve.evals.records import Failed, Scored

if TYPE_CHECKING:
    from vlmserve.evals.choice_task import ChoiceTask
    from vlmserve.evals.lm_eval_task import LmEvalTask
    from vlmserve.evals.samples import Sample

_MEMBER_FIELD = "task"


class TaskGroup:
    """The samples of several tasks under one name; an ``EvalTask``.

    Every sample counts alike, whichever task it is of.
    """

    def __init__(self, entry: SuiteTask, members: "Mapping[str, LmEvalTask | ChoiceTask]") -> None:
        self.name = entry.task
        self.metric = entry.metric
        self.is_amount = False
        self.is_relative = False
        self.higher_is_better = next(iter(members.values())).higher_is_better
        self._members = members
        self._ids = _own_ids(members)
        self.samples: tuple[Sample, ...] = tuple(
            replace(sample, sample_id=own)
            for name, member in members.items()
            for sample, own in zip(member.samples, self._ids[name], strict=True)
        )
        """Task by task, in the order of their data sets."""

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are scored, as JSON values: part of a suite's digest."""
        return {
            "task": self.name,
            "metric": self.metric,
            "members": [member.recipe for member in self._members.values()],
        }

    def fields(self) -> dict[str, list[str]]:
        """The task of each sample, and the columns that all tasks have; see ``EvalTask.fields``."""
        columns = [member.fields() for member in self._members.values()]
        common = [name for name in columns[0] if all(name in each for each in columns)]
        found = {name: [value for each in columns for value in each[name]] for name in common}
        found[_MEMBER_FIELD] = [
            name for name, member in self._members.items() for _ in member.samples
        ]
        return found

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Judge answers.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.
        """
        found: dict[str, Scored | Failed] = {}
        for name, member in self._members.items():
            own = {
                sample.sample_id: own_id
                for sample, own_id in zip(member.samples, self._ids[name], strict=True)
            }
            given = {theirs: answers[ours] for theirs, ours in own.items() if ours in answers}
            found |= {own[theirs]: outcome for theirs, outcome in member.score(given).items()}
        return found


def create_task_group(
    entry: SuiteTask, members: "Mapping[str, LmEvalTask | ChoiceTask]"
) -> TaskGroup:
    """Make one task of several.

    Args:
        entry: What the suite says of the group.
        members: Its tasks by name, with their samples.

    Raises:
        ConfigError: There are none, or they do not agree on what a good score is.
    """
    if not members:
        raise ConfigError("the group has no tasks")
    if len({member.higher_is_better for member in members.values()}) > 1:
        raise ConfigError(
            f"metric {entry.metric}: higher is better in some of the group's tasks and worse in "
            "others"
        )
    return TaskGroup(entry, members)


def _own_ids(members: "Mapping[str, LmEvalTask | ChoiceTask]") -> dict[str, list[str]]:
    """Names of each task's samples within the group, where two tasks may have the same sample."""
    seen: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for name, member in members.items():
        found[name] = []
        for sample in member.samples:
            digest = sample.sample_id.partition("#")[0]
            seen[digest] += 1
            found[name].append(digest if seen[digest] == 1 else f"{digest}#{seen[digest]}")
    return found
