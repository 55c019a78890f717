"""What the store keeps of a run, side by side and sample by sample: all that a report rests on.

The JSON of these models is what lies in the store's tables ``sides``, ``samples`` and ``outcomes``,
and what ``vlmserve export`` writes from.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from vlmserve.chat import Completion, Role, SamplingParams, Usage, Value
from vlmserve.evals.medium import MediumKind
from vlmserve.evals.records import NllOutcome, Outcome

Origin = Literal["vlmserve", "lm-eval", "lmms-eval", "vlmevalkit"]
"""Which program asked and scored."""


ContentPart = Literal["target", "prompt", "media"]
"""What makes two samples the same."""


class KeptMedium(Value):
    """An image or a video of a sample, by content; its bytes are where the data set has them."""

    kind: MediumKind
    content_type: str
    sha256: str
    size_px: tuple[int, int] | None = None
    """Width and height of an image as it is to be looked at; ``None`` for videos, and where the
    file could not be read."""


class KeptTurn(Value):
    """One message of a sample: texts and media in the order the model saw them."""

    role: Role
    parts: tuple[str | KeptMedium, ...]


class KeptSample(Value):
    """What was asked and what was expected."""

    sample_id: str
    """Digest of media, prompt and target; for an imported sample, what its log calls it."""

    request_digest: str
    turns: tuple[KeptTurn, ...]
    params: SamplingParams | None
    """How the answer was sampled; ``None`` where a log does not say."""

    target: str
    fields: dict[str, str] = Field(default_factory=dict)
    """Columns of the data that tell kinds of samples apart."""

    keys: dict[str, str] = Field(default_factory=dict)
    """What an imported sample can be known by beside its content, such as ``doc_id``."""

    unknown: tuple[ContentPart, ...] = ()
    """What the log that it was imported from does not say of it."""


class KeptOutcome(Value):
    """What became of a sample on one side."""

    completion: Completion | None
    """What the model answered; ``None`` where it failed, or where a log has the answer alone."""

    outcome: Outcome | None
    """``None`` for a sample that was not asked, whose expected answer was scored all the same."""

    nll: NllOutcome | None = None
    """How unlikely the model finds the expected answer; ``None`` where that was not asked."""

    text: str | None = None
    """The completion's text, where a log says no more of it."""

    usage: Usage | None = None
    """Its tokens, likewise."""


class KeptTask(Value):
    """One task of a side."""

    task: str
    metric: str
    higher_is_better: bool
    is_amount: bool = False
    """Whether scores are amounts, such as tokens, rather than grades."""

    is_relative: bool = False
    """Whether scores are those of one side against the other of the same run."""

    recipe: dict[str, Any]
    """How answers were scored."""

    digest: str
    """Of the recipe and of all samples, asked or not."""

    is_sequential: bool = False
    """Whether asking stopped as soon as it was enough, so that only a sequential test is fair."""


class KeptSuite(Value):
    """What was asked, and how it was to be judged."""

    name: str
    digest: str
    limit: int | None
    config: dict[str, Any]
    """The suite as it was resolved: tasks, margins, gate, sampling."""


class SideRecord(Value):
    """One side of a run."""

    schema_version: Literal[1] = 1
    origin: Origin = "vlmserve"
    name: str
    fingerprint: str
    """Of the checkpoint's content; for an endpoint, its address and the run."""

    settings: dict[str, Any]
    """The engine's settings and versions."""

    suite: KeptSuite
    tasks: tuple[KeptTask, ...]
    media_policy: dict[str, Any]
    """How media reached the model."""

    versions: dict[str, str]
    """Of vlmserve and of what scored the answers."""

    seeds: dict[str, int]
    """What else was drawn at random: orders, examples in prompts."""

    hardware: dict[str, Any]
    """Of the machine that vlmserve ran on, which for an endpoint is not the one that answered."""

    started_at: datetime
    finished_at: datetime
    own_settings: tuple[str, ...] = ()
    """Dotted names of the settings that came with the checkpoint, such as its training's limits."""

    source: str | None = None
    """The files that it was imported from."""
