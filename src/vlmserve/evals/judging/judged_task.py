"""Tasks whose answers another model judges."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from vlmserve.chat import Completion
from vlmserve.config.base import StrictModel
from vlmserve.evals.digests import content_digest
from vlmserve.evals.judging.judge import Judge
from vlmserve.evals.judging.prompts import (
    PAIR_INSTRUCTIONS,
    ask_grade,
    ask_pair,
    read_grade,
    read_winner,
)
from vlmserve.evals.records import Failed, SampleRecord, Scored
from vlmserve.evals.samples import Sample, create_sample

if TYPE_CHECKING:
    from vlmserve.evals.judging.prompts import Winner
    from vlmserve.evals.runner import AnswerListener
    from vlmserve.evals.store import AnswerStore

_TIE = 0.5


@dataclass(frozen=True, slots=True)
class Material:
    """What is asked in a judged task."""

    name: str
    samples: tuple[Sample, ...]
    fields: Mapping[str, list[str]]
    about: Mapping[str, Any]
    """What else says how samples are asked, as JSON values."""


class JudgedOptions(StrictModel):
    """What both kinds of judgements have in common."""

    show_media: bool = True
    """Whether the judge sees images and videos; else it reads ``<image>`` in their places."""

    show_target: bool = True
    """Whether it sees the expected answer, where there is one."""


class PairOptions(JudgedOptions):
    """Options of ``judge_pairs``."""

    instructions: str | None = None
    """What the judge is told to look at; a general text when unset."""


class RubricOptions(JudgedOptions):
    """Options of ``judge_rubric``."""

    rubric: str
    """What makes an answer good, in words."""


class JudgedTask(ABC):
    """A task whose answers a judge scores between 0 and 1; an ``EvalTask``."""

    higher_is_better = True
    is_amount = False
    is_relative: ClassVar[bool]
    metric: ClassVar[str]

    def __init__(self, material: Material, judge: Judge) -> None:
        self.name = material.name
        self.samples = material.samples
        """In the order of the data."""

        self.judge = judge
        self._material = material
        self._by_id = {sample.sample_id: sample for sample in material.samples}

    @property
    @abstractmethod
    def options(self) -> JudgedOptions:
        """What the suite says of the judgements."""

    @property
    @abstractmethod
    def prompt_digest(self) -> str:
        """Digest of all that the judge is told beside what is asked and answered."""

    @abstractmethod
    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Score answers, as ``EvalTask.score``.

        Raises:
            EngineError: The judge is gone.
        """

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are judged, as JSON values: part of a suite's digest."""
        config = self.judge.config
        return {
            "task": self.name,
            "judge": {
                "url": config.url,
                "model": config.model,
                "temperature": None if config.has_fixed_sampling else config.temperature,
                "max_tokens": config.max_tokens,
            },
            "scorer": self.metric,
            "options": self.options.model_dump(mode="json"),
            "prompt": self.prompt_digest,
            **self._material.about,
        }

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart, as ``EvalTask.fields``."""
        return dict(self._material.fields)

    def _blank(self) -> Sample:
        return create_sample((), "", self.judge.params)


class RubricTask(JudgedTask):
    """Each answer by itself against a rubric: grades from 0 to 1."""

    metric = "judge_rubric"
    is_relative = False

    def __init__(self, material: Material, judge: Judge, options: RubricOptions) -> None:
        super().__init__(material, judge)
        self._options = options

    @property
    @override
    def options(self) -> RubricOptions:
        return self._options

    @property
    @override
    def prompt_digest(self) -> str:
        return _digest_of(
            ask_grade(self._blank(), "", self._options.rubric, media=True, target=True)
        )

    @override
    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Have answers graded.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.

        Returns:
            The outcome of each answer; without a grade that can be read it is a failure.

        Raises:
            EngineError: The judge is gone.
        """
        questions = {
            sample_id: self._question(self._by_id[sample_id], completion.text)
            for sample_id, completion in answers.items()
        }
        opinions = self.judge.ask(list(questions.values()))
        return {
            sample_id: _graded(answers[sample_id].text, opinions[question.request_digest])
            for sample_id, question in questions.items()
        }

    def _question(self, sample: Sample, answer: str) -> Sample:
        options = self._options
        turns = ask_grade(
            sample,
            answer,
            options.rubric,
            media=options.show_media,
            target=options.show_target,
        )
        return create_sample(turns, "", self.judge.params)


class PairwiseTask(JudgedTask):
    """The candidate's answers against the baseline's, in both orders: 1 for the better one.

    A pair that the judge decides otherwise when the order is turned is a tie, as is one of equal
    answers, which is not asked about. A tie is one half for both. So the difference of both sides'
    means is the share of pairs that the candidate wins minus the share that it loses, and it is
    compared with 0 by the statistics of every other task.
    """

    metric = "judge_pairs"
    is_relative = True

    def __init__(self, material: Material, judge: Judge, options: PairOptions) -> None:
        super().__init__(material, judge)
        self._options = options
        self.n_pairs = 0
        """Pairs that both sides answered."""

        self.n_equal = 0
        """Those of them with equal answers."""

        self.n_split = 0
        """Those that were decided otherwise in the other order."""

    @property
    @override
    def options(self) -> PairOptions:
        return self._options

    @property
    @override
    def prompt_digest(self) -> str:
        told = self._options.instructions or PAIR_INSTRUCTIONS
        return _digest_of(ask_pair(self._blank(), ("", ""), told, media=True, target=True))

    @override
    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Score answers by themselves: one half each, for an answer is as good as itself."""
        return {
            sample_id: Scored(answer=completion.text, score=_TIE)
            for sample_id, completion in answers.items()
        }

    def judge_pairs(
        self, baseline: Sequence[SampleRecord], candidate: Sequence[SampleRecord]
    ) -> tuple[list[SampleRecord], list[SampleRecord]]:
        """Have the answers of both sides compared.

        Args:
            baseline: One record for each sample.
            candidate: The same samples in the same order.

        Returns:
            The records with their scores. Where there is no verdict, because a side or the judge
            failed, both records of the pair are failures.

        Raises:
            EngineError: The judge is gone.
        """
        pairs = [
            (old, new)
            for old, new in zip(baseline, candidate, strict=True)
            if isinstance(old.outcome, Scored) and isinstance(new.outcome, Scored)
        ]
        questions = {
            old.sample_id: self._questions(old, new)
            for old, new in pairs
            if not _is_equal(old, new)
        }
        opinions = self.judge.ask([each for both in questions.values() for each in both])
        self.n_pairs, self.n_equal, self.n_split = len(pairs), len(pairs) - len(questions), 0
        judged: tuple[list[SampleRecord], list[SampleRecord]] = ([], [])
        for old, new in zip(baseline, candidate, strict=True):
            share = self._share_of(old, new, questions.get(old.sample_id), opinions)
            for records, record, mine in ((judged[0], old, True), (judged[1], new, False)):
                records.append(_with_share(record, share, is_baseline=mine))
        return judged

    def _questions(self, old: SampleRecord, new: SampleRecord) -> tuple[Sample, Sample]:
        sample = self._by_id[old.sample_id]
        texts = (_text(old), _text(new))
        return self._question(sample, texts), self._question(sample, texts[::-1])

    def _question(self, sample: Sample, answers: tuple[str, str]) -> Sample:
        options = self._options
        turns = ask_pair(
            sample,
            answers,
            options.instructions,
            media=options.show_media,
            target=options.show_target,
        )
        return create_sample(turns, "", self.judge.params)

    def _share_of(
        self,
        old: SampleRecord,
        new: SampleRecord,
        questions: tuple[Sample, Sample] | None,
        opinions: Mapping[str, Completion | Failed],
    ) -> float | Failed:
        """The candidate's share of a pair's win, or why there is none."""
        for record in (old, new):
            if isinstance(record.outcome, Failed):
                return record.outcome
        if questions is None:
            return _TIE
        straight, turned = (opinions[question.request_digest] for question in questions)
        return self._share(straight, turned)

    def _share(self, straight: Completion | Failed, turned: Completion | Failed) -> float | Failed:
        winners: list[Winner] = []
        for opinion in (straight, turned):
            if isinstance(opinion, Failed):
                return opinion
            try:
                winners.append(read_winner(opinion))
            except ValueError as error:
                return Failed(error_type="JudgeError", message=str(error))
        shares: dict[Winner, float] = {"first": 0.0, "tie": _TIE, "second": 1.0}
        first, second = shares[winners[0]], 1.0 - shares[winners[1]]
        if first != second:
            self.n_split += 1
            return _TIE
        return first


def attach_judges(
    tasks: Sequence[object], store: "AnswerStore", listener: "AnswerListener"
) -> None:
    """Say to the judges of tasks where opinions are kept, and who hears of them."""
    for task in tasks:
        if isinstance(task, JudgedTask):
            task.judge.attach(store, listener)


def _graded(answer: str, opinion: Completion | Failed) -> Scored | Failed:
    if isinstance(opinion, Failed):
        return opinion
    try:
        return Scored(answer=answer, score=read_grade(opinion))
    except ValueError as error:
        return Failed(error_type="JudgeError", message=str(error))


def _is_equal(old: SampleRecord, new: SampleRecord) -> bool:
    return _text(old).strip() == _text(new).strip()


def _text(record: SampleRecord) -> str:
    return record.outcome.answer if isinstance(record.outcome, Scored) else ""


def _with_share(record: SampleRecord, share: float | Failed, *, is_baseline: bool) -> SampleRecord:
    if isinstance(record.outcome, Failed):
        return record
    if isinstance(share, Failed):
        outcome: Scored | Failed = share
    else:
        score = 1.0 - share if is_baseline else share
        outcome = Scored(answer=record.outcome.answer, score=score)
    return record.model_copy(update={"outcome": outcome})


def _digest_of(turns: Sequence[Any]) -> str:
    return content_digest([[turn.role, turn.text()] for turn in turns])
