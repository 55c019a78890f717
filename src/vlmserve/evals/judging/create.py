"""Makes judged tasks of what a suite says."""

import os
from typing import TYPE_CHECKING

from vlmserve.config.base import StrictModel
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import ScorerConfig
from vlmserve.errors import ConfigError
from vlmserve.evals.by_name import create_by_name
from vlmserve.evals.judging.judge import Judge
from vlmserve.evals.judging.judged_task import (
    JudgedTask,
    Material,
    PairOptions,
    PairwiseTask,
    RubricOptions,
    RubricTask,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vlmserve.engine.base import Engine

OPTIONS: dict[str, type[StrictModel]] = {
    PairwiseTask.metric: PairOptions,
    RubricTask.metric: RubricOptions,
}
"""What a suite may name as a scorer of data or a check of requests, so that a judge decides."""


def create_judged_task(
    material: Material, config: ScorerConfig, suite: SuiteConfig, *, place: str
) -> JudgedTask:
    """Make a task whose answers a judge scores; nothing is asked yet.

    Args:
        material: What is asked.
        config: Which kind of judgement, one of ``OPTIONS``.
        suite: Names the judge.
        place: Where the kind stands, such as ``suite.yaml: tasks.0.scorer``, for messages.

    Raises:
        ConfigError: The suite names no judge, its address is wrong, or an option is.
    """
    options = create_by_name(config, OPTIONS, what="judgement", place=place)
    judge = _create_judge(suite, f"{place}.name: {config.name}")
    if isinstance(options, PairOptions):
        return PairwiseTask(material, judge, options)
    assert isinstance(options, RubricOptions)  # noqa: S101 - there are two kinds
    return RubricTask(material, judge, options)


def _create_judge(suite: SuiteConfig, place: str) -> Judge:
    from vlmserve.engine.endpoint import Endpoint
    from vlmserve.engine.remote import RemoteEngine

    config = suite.judge
    if config is None:
        raise ConfigError(
            f"{place}: the suite names no judge", hint="judge: {url: http://host:8000/v1, model: m}"
        )
    endpoint = Endpoint(
        config.url,
        api_key=os.environ.get(config.api_key_env),
        concurrency=config.concurrency,
        has_fixed_sampling=config.has_fixed_sampling,
    )

    def connect() -> "AbstractContextManager[Engine]":
        return RemoteEngine(endpoint)

    return Judge(config.model_copy(update={"url": endpoint.url}), connect)
