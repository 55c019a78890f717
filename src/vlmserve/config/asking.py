"""How answers are sampled, and how each side is asked."""

from typing import Any, Literal

from pydantic import Field

from vlmserve.config.base import StrictModel


class SamplingConfig(StrictModel):
    """How answers are sampled.

    What is unset is as the task's file says, which is greedy unless it says otherwise.
    """

    temperature: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """0 is greedy."""

    top_p: float | None = Field(default=None, gt=0.0, le=1.0)

    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens to generate at most."""

    seed: int | None = None


class AskingConfig(StrictModel):
    """How one side is asked, where it differs from what the tasks say."""

    system: str | None = None
    """The system prompt of every request, in the place of the samples' own."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, such as ``{enable_thinking: true}``."""

    reasoning_parser: str | None = None
    """vLLM's name of a reasoning format, such as ``qwen3``, by which reasoning is told from the
    answer; it is kept and not scored. Endpoints separate it themselves."""

    sampling: SamplingConfig = SamplingConfig()
    """Wins over the suite's own sampling and the tasks'."""

    def over(self, other: "AskingConfig") -> "AskingConfig":
        """Return the other's settings with this one's on top."""
        given = self.model_dump(exclude_unset=True)
        below = other.model_dump(exclude_unset=True)
        for key in ("sampling", "chat_template_kwargs"):
            if key in given and key in below:
                given[key] = {**below[key], **given[key]}
        return AskingConfig.model_validate({**below, **given})

    def as_settings(self) -> dict[str, Any]:
        """What is set, as JSON values; empty where nothing is."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return {key: value for key, value in given.items() if value}


class SidesConfig(StrictModel):
    """How each side is asked; for models that want another prompt, template or sampling."""

    both: AskingConfig = AskingConfig()
    """What holds for every side."""

    baseline: AskingConfig = AskingConfig()
    """What holds for the baseline alone, on top."""

    candidate: AskingConfig = AskingConfig()
    """What holds for the candidate alone, and for an anchor."""

    def of(self, side: Literal["baseline", "candidate"]) -> AskingConfig:
        """Return how a side is asked."""
        own = self.baseline if side == "baseline" else self.candidate
        return own.over(self.both)
