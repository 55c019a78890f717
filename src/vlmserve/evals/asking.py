"""How a side is asked: its own system prompt, template arguments, reasoning format and sampling."""

from collections.abc import Sequence

from vlmserve.chat import Message, SamplingParams, TextPart
from vlmserve.config.asking import AskingConfig
from vlmserve.engine.base import GenerationRequest, ScoringRequest


def ask_as(
    request: GenerationRequest, asking: AskingConfig, *, repetition: int = 0
) -> GenerationRequest:
    """Make of a sample's request the one that a side is sent.

    Args:
        request: As the task says.
        asking: What the side has of its own.
        repetition: Which time the sample is asked, from 0; a seed is moved on by it.
    """
    return request.model_copy(
        update={
            "messages": ask_messages_as(request.messages, asking),
            "params": sample_as(request.params, asking, repetition=repetition),
            "chat_template_kwargs": dict(asking.chat_template_kwargs),
            "reasoning_parser": asking.reasoning_parser,
        }
    )


def score_as(request: ScoringRequest, asking: AskingConfig) -> ScoringRequest:
    """Make of a scoring request the one that a side is sent: its own prompt and template."""
    return request.model_copy(
        update={
            "messages": ask_messages_as(request.messages, asking),
            "chat_template_kwargs": dict(asking.chat_template_kwargs),
        }
    )


def ask_messages_as(messages: Sequence[Message], asking: AskingConfig) -> tuple[Message, ...]:
    """Put a side's system prompt in the place of a conversation's own, or before it."""
    if asking.system is None:
        return tuple(messages)
    system = Message(role="system", parts=(TextPart(text=asking.system),))
    return (system, *(message for message in messages if message.role != "system"))


def sample_as(
    params: SamplingParams, asking: AskingConfig, *, repetition: int = 0
) -> SamplingParams:
    """Put a side's sampling on top of the task's."""
    given = asking.sampling.model_dump(exclude_none=True)
    seed = given.get("seed", params.seed)
    if seed is not None:
        given["seed"] = seed + repetition
    return params.model_copy(update=given)
