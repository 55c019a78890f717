"""Checkpoints as sides of ``vlmserve eval``: which of them share an engine, and how it is set."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.checkpoint.overlay import missing_files
from vlmserve.engine.plan import ServingPlan, plan_serving
from vlmserve.engine.settings import EngineName, checkpoint_settings, serving_settings
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.records import SideName

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.base import Engine

# Who decides how media are prepared where sides share an engine, the first of these that does.
_LEADERS: tuple[SideName, ...] = ("candidate", "baseline", "anchor")


@dataclass(frozen=True, slots=True)
class Served:
    """A checkpoint and how it is served."""

    checkpoint: "Checkpoint"
    config: "ServeConfig"
    engine: EngineName = "vllm"
    """What computes."""


def checkpoint_sides(
    served: Mapping[SideName, Served], *, train_env: "VisionLimits | None" = None
) -> dict[SideName, Side]:
    """Set up checkpoints that vLLM loads into this process.

    Adapters of one base, and the base itself, share one engine where they are served alike. Their
    weights are hashed, which takes seconds to minutes.

    Args:
        served: The checkpoints by their part in the comparison.
        train_env: What the training framework took from its environment; all get the same, so that
            all see the same pixels.

    Raises:
        CheckpointError: A checkpoint cannot be read or planned for serving.
    """
    sides: dict[SideName, Side] = {}
    for first in _LEADERS:
        left = [name for name in served if name not in sides]
        if first not in left:
            continue
        leader = _leader(served, first, left)
        group = [name for name in left if name != leader]
        group = [name for name in group if _can_share(served[name], served[leader], train_env)]
        sides.update(_shared(served, leader, group, train_env))
    return sides


def _leader(
    served: Mapping[SideName, Served], first: SideName, left: Sequence[SideName]
) -> SideName:
    """Whose directory is opened: a base has no room for the adapters that lie on it."""
    if served[first].checkpoint.adapter is not None:
        return first
    adapters = (name for name in left if served[name].checkpoint.adapter is not None)
    return next((name for name in adapters if _can_share(served[name], served[first], None)), first)


def _can_share(other: Served, leader: Served, train_env: "VisionLimits | None") -> bool:
    """Whether one engine can serve both, each as it would be alone."""
    if (other.config, other.engine) != (leader.config, leader.engine):
        return False
    pair = (other.checkpoint, leader.checkpoint)
    adapters = [each for each in pair if each.adapter is not None]
    bases = [each.base if each.adapter is not None else each for each in pair]
    if bases[0] is None or bases[1] is None or not bases[0].path.samefile(bases[1].path):
        return False
    if len(adapters) == len(pair):
        # What the base lacks is borrowed from one of them.
        if any(map(missing_files, pair)):
            return False
        # One engine prepares media in one way.
        plans = [_plan(each, leader.config, train_env) for each in pair]
        return _media(plans[0]) == _media(plans[1])
    return True


def _media(plan: ServingPlan) -> tuple[object, ...]:
    """How an engine prepares media."""
    media_io = {kind: dict(values) for kind, values in plan.media_io_kwargs.items()}
    return dict(plan.mm_processor_kwargs), media_io, plan.normalisation


def _shared(
    served: Mapping[SideName, Served],
    leader: SideName,
    group: Sequence[SideName],
    train_env: "VisionLimits | None",
) -> dict[SideName, Side]:
    """The sides of one engine.

    Args:
        served: All checkpoints.
        leader: Whose directory is opened.
        group: What else the engine serves: the leader's base, or other adapters of it.
        train_env: As in ``checkpoint_sides``.
    """
    checkpoint, config = served[leader].checkpoint, served[leader].config
    beside: list[Checkpoint] = []
    for name in group:
        other = served[name].checkpoint
        known = [checkpoint, *beside]
        if other.adapter is not None and not any(_is_same(other, each) for each in known):
            beside.append(other)
    plan = _plan(checkpoint, config, train_env, beside)

    def load() -> AbstractContextManager["Engine"]:
        if served[leader].engine == "transformers":
            from vlmserve.engine.transformers_loading import open_transformers_engine

            return open_transformers_engine(checkpoint, config, train_env=train_env, beside=beside)
        from vlmserve.engine.offline import open_offline_engine

        return open_offline_engine(checkpoint, config, train_env=train_env, beside=beside)

    source = EngineSource(load)
    settings = serving_settings(plan, config, served[leader].engine)
    own = checkpoint_settings(plan, config)

    def side(each: "Checkpoint") -> Side:
        place = _place(each, checkpoint, beside)
        return Side(
            name=each.name,
            fingerprint=fingerprint(each),
            settings=settings,
            source=source,
            model=lambda engine: engine.models[place],
            own_settings=own,
        )

    return {name: side(served[name].checkpoint) for name in (leader, *group)}


def _place(each: "Checkpoint", leader: "Checkpoint", beside: Sequence["Checkpoint"]) -> int:
    """Where a checkpoint stands among the engine's models: the base, the others, the leader."""
    if _is_same(each, leader):
        return -1
    for number, other in enumerate(beside, start=1):
        if _is_same(each, other):
            return number
    return 0


def _is_same(one: "Checkpoint", other: "Checkpoint") -> bool:
    return one.path.samefile(other.path)


def _plan(
    checkpoint: "Checkpoint",
    config: "ServeConfig",
    train_env: "VisionLimits | None",
    beside: Sequence["Checkpoint"] = (),
) -> ServingPlan:
    with tempfile.TemporaryDirectory(prefix="vlmserve-") as scratch:
        return plan_serving(checkpoint, config, Path(scratch), train_env=train_env, beside=beside)
