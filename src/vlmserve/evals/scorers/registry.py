"""Scorers by name."""

import difflib

from pydantic import ValidationError

from vlmserve.config.suite import ScorerConfig
from vlmserve.errors import ConfigError
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
    scorer = SCORERS.get(config.name)
    if scorer is None:
        near = difflib.get_close_matches(config.name, SCORERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SCORERS)}"
        raise ConfigError(f"{place}: no scorer {config.name!r}", hint=hint)
    try:
        return scorer.model_validate(config.options)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "options"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            known = ", ".join(scorer.model_fields) or "none"
            message = f"{scorer.name} has no such option; it has: {known}"
        raise ConfigError(f"{place}.{field}: {message}") from error
