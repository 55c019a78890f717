"""Scoring given answers at a real HTTP endpoint that speaks vLLM's additions, or does not."""

from typing import Any

import pytest

from vlmserve.chat import Message, TextPart
from vlmserve.engine.base import GenerationFailure, ScoringRequest, TargetLogprobs
from vlmserve.engine.endpoint import Endpoint
from vlmserve.engine.remote import RemoteEngine
from vlmserve.errors import ScoringUnsupportedError

PROMPT = [5, 6, 7]
PIECES = ["red", " car", "<|im_end|>", "\n"]


def request(number: int = 0, target: str = "red car") -> ScoringRequest:
    message = Message(role="user", parts=(TextPart(text="Hi"),))
    return ScoringRequest(request_id=str(number), model="m", messages=(message,), target=target)


def engine(endpoint: Any) -> RemoteEngine:
    return RemoteEngine(Endpoint(endpoint.url, max_retries=1))


def entry(token: int, logprob: float, text: str, rank: int = 1) -> dict[str, Any]:
    return {str(token): {"logprob": logprob, "rank": rank, "decoded_token": text}}


def told(answer: Any, body: dict[str, Any], **changes: Any) -> Any:
    """What vLLM's server answers."""
    if body.get("add_generation_prompt", True):
        return answer(prompt_token_ids=PROMPT)
    ids = [*PROMPT, *range(20, 24)]
    places = [entry(20 + index, -0.5 * index, piece) for index, piece in enumerate(PIECES)]
    logprobs = [None, entry(6, -1.0, "x"), entry(7, -1.0, "y"), *places]
    return answer(**{"prompt_token_ids": ids, "prompt_logprobs": logprobs, **changes})


def test_two_requests_tell_the_likelihood(endpoint: Any, answer: Any) -> None:
    endpoint.reply = lambda body: (200, told(answer, body))
    with engine(endpoint) as remote:
        (result,) = remote.score([request()])

    assert result.outcome == TargetLogprobs(
        token_ids=(20, 21, 22),
        logprobs=(0.0, -0.5, -1.0),
        has_end=True,
        is_greedy=True,
        n_bytes=7,
        prompt_tokens=3,
    )
    question, answered = endpoint.bodies
    assert [each["max_tokens"] for each in endpoint.bodies] == [1, 1]
    assert [message["role"] for message in question["messages"]] == ["user"]
    assert [message["role"] for message in answered["messages"]] == ["user", "assistant"]
    assert answered["prompt_logprobs"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        lambda answer: (200, answer()),
        lambda answer: (200, answer(prompt_token_ids=PROMPT)),
        lambda _: (400, {"error": {"message": "Unknown parameter: 'return_token_ids'."}}),
    ],
)
def test_an_endpoint_that_cannot_tell_ends_the_scoring(
    endpoint: Any, answer: Any, reply: Any
) -> None:
    endpoint.reply = lambda _: reply(answer)
    with engine(endpoint) as remote, pytest.raises(ScoringUnsupportedError):
        list(remote.score([request(), request(1)]))


@pytest.mark.parametrize(
    ("changes", "target", "error_type", "reason"),
    [
        ({}, "blue car", "RequestError", "changes the answer"),
        ({"prompt_logprobs": [None]}, "red car", "EngineError", "not a chat completion"),
        ({"prompt_logprobs": [{}] * 7}, "red car", "EngineError", "not a chat completion"),
        (
            {
                "prompt_logprobs": [None] * 3
                + [entry(20 + i, -9999.0, p) for i, p in enumerate(PIECES)]
            },
            "red car",
            "RequestError",
            "log-probability",
        ),
    ],
)
def test_what_is_no_likelihood_is_that_requests_failure(
    endpoint: Any, answer: Any, changes: Any, target: str, error_type: str, reason: str
) -> None:
    endpoint.reply = lambda body: (200, told(answer, body, **changes))
    with engine(endpoint) as remote:
        (result,) = remote.score([request(target=target)])

    assert isinstance(result.outcome, GenerationFailure)
    assert result.outcome.error_type == error_type
    assert reason in result.outcome.message
