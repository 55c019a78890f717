"""Which model gives its opinion of answers, and what that costs."""

from pydantic import Field

from vlmserve.config.base import StrictModel

_TOKENS_PER_PRICE = 1_000_000


class JudgeConfig(StrictModel):
    """A model behind an OpenAI endpoint that judges answers."""

    url: str = Field(min_length=1)
    """Base of its API, such as ``https://api.openai.com/v1``."""

    model: str = Field(min_length=1)
    """Its name there."""

    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key."""

    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """0 is greedy."""

    has_fixed_sampling: bool = False
    """Whether the model takes no temperature, as OpenAI's reasoning models do: it is not sent then,
    and the limit of tokens is called ``max_completion_tokens``."""

    max_tokens: int = Field(default=1024, gt=0)
    """Tokens of a judgement at most."""

    concurrency: int = Field(default=8, gt=0)
    """Questions in flight at once."""

    prompt_price: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """What a million tokens of prompts cost."""

    completion_price: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """What a million tokens of judgements cost."""

    currency: str = "USD"
    """Of the prices."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return what so many tokens cost; ``None`` where a price is not given."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        total = self.prompt_price * prompt_tokens + self.completion_price * completion_tokens
        return total / _TOKENS_PER_PRICE
