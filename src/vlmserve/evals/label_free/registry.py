"""Checks of answers by name."""

from vlmserve.config.suite_entries import ScorerConfig
from vlmserve.evals.by_name import create_by_name
from vlmserve.evals.label_free.amounts import (
    AnswerTokens,
    CutByLength,
    Empty,
    Latency,
    PromptTokens,
)
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.label_free.json_format import InvalidJson
from vlmserve.evals.label_free.language import OtherLanguage
from vlmserve.evals.label_free.refusal import Refusal
from vlmserve.evals.label_free.repetition import Repetition

CHECKS: dict[str, type[AnswerCheck]] = {
    check.name: check
    for check in (
        InvalidJson,
        Repetition,
        Empty,
        CutByLength,
        Refusal,
        OtherLanguage,
        AnswerTokens,
        PromptTokens,
        Latency,
    )
}
"""What a suite may name."""


def create_check(config: ScorerConfig, *, place: str) -> AnswerCheck:
    """Make the check that a suite asks for.

    Args:
        config: Name and options.
        place: Where they stand, such as ``suite.yaml: tasks.0.check``, for messages.

    Raises:
        ConfigError: There is no such check, or an option is unknown or wrong.
    """
    return create_by_name(config, CHECKS, what="check", place=place)
