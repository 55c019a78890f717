"""Scorers by name."""

from vlmserve.config.suite_entries import ScorerConfig
from vlmserve.evals.by_name import create_by_name
from vlmserve.evals.scorers.anls import Anls
from vlmserve.evals.scorers.boxes import Boxes, BoxIou
from vlmserve.evals.scorers.choice import MultipleChoice
from vlmserve.evals.scorers.edit_rate import CharacterErrorRate, WordErrorRate
from vlmserve.evals.scorers.json_fields import JsonF1
from vlmserve.evals.scorers.match import ExactMatch, NormalisedMatch
from vlmserve.evals.scorers.numeric import RelaxedAccuracy
from vlmserve.evals.scorers.pattern import Pattern
from vlmserve.evals.scorers.scorer import Scorer
from vlmserve.evals.scorers.sets import SetF1
from vlmserve.evals.scorers.table import TableF1
from vlmserve.evals.scorers.tool_call import ToolCall
from vlmserve.evals.scorers.vqa import VqaAccuracy

SCORERS: dict[str, type[Scorer]] = {
    scorer.name: scorer
    for scorer in (
        ExactMatch,
        NormalisedMatch,
        MultipleChoice,
        RelaxedAccuracy,
        Anls,
        VqaAccuracy,
        CharacterErrorRate,
        WordErrorRate,
        BoxIou,
        Boxes,
        JsonF1,
        TableF1,
        ToolCall,
        Pattern,
        SetF1,
    )
}
"""What a suite may name."""


def create_scorer(config: ScorerConfig, *, place: str) -> Scorer:
    """Make the scorer that a suite asks for.

    Args:
        config: Name and options.
        place: Where they stand, such as ``suite.yaml: tasks.0.scorer``, for messages.

    Raises:
        ConfigError: There is no such scorer, or an option is unknown or wrong.
    """
    return create_by_name(config, SCORERS, what="scorer", place=place)
