"""vLLM 0.32's error bodies in OpenAI's shape; tests/engine provokes the real ones."""

import asyncio
import json
from typing import Any

import pytest

from vlmserve.server.request_body import RequestBody
from vlmserve.server.translation import translate, translate_exception


def body_of(content: Any) -> RequestBody:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(content).encode()}

    body = RequestBody(receive)
    asyncio.run(body.receive())
    return body


CHAT = body_of({"messages": [{"role": "user", "content": "hello"}]})


def vllm_error(message: str, *, code: int = 400, param: str | None = None) -> bytes:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": code}
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("message", "total", "limit"),
    [
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains "
            "6308 input tokens, which exceeds this limit even without any output tokens. Please "
            "reduce the length of the input prompt. (parameter=input_tokens, value=6308)",
            "6308 tokens",
            "2048",
        ),
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains "
            "at least 2049 input tokens, which exceeds this limit",
            "at least 2049 tokens",
            "2048",
        ),
        (
            "This model's maximum context length is 2048 tokens. However, your prompt contains "
            "1620050 characters (more than 32768 characters, which is the upper bound for 2048 "
            "input tokens). Please reduce the length of the input prompt.",
            "1620050 characters",
            "2048",
        ),
        ("Input length (64822) exceeds model's maximum context length (4096).", "64822", "4096"),
        (
            "The decoder prompt (length 2048) plus the number of requested output tokens (at least "
            "1) is longer than the maximum model length of 2048. Make sure that ...",
            "2048 tokens",
            "2048",
        ),
    ],
)
def test_over_long_prompt_names_total_and_limit(message: str, total: str, limit: str) -> None:
    status, body = translate(400, vllm_error(message), CHAT)

    assert status == 400
    assert body["error"]["code"] == "context_length_exceeded"
    assert body["error"]["param"] == "messages"
    assert total in body["error"]["message"]
    assert f"holds {limit} tokens" in body["error"]["message"]


def test_prompt_field_is_that_of_the_api() -> None:
    message = "Input length (64822) exceeds model's maximum context length (4096)."

    _, body = translate(400, vllm_error(message), body_of({"prompt": "x"}))

    assert body["error"]["param"] == "prompt"


def test_too_many_images_names_the_first_one_over() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    request = body_of({"messages": [{"role": "user", "content": [part, part, part]}]})

    _, body = translate(
        400, vllm_error("At most 2 image(s) may be provided in one prompt. Set ..."), request
    )

    assert body["error"]["param"] == "messages[0].content[2].image_url"
    assert body["error"]["code"] == "too_many_images"
    assert "3 images are given, and one request may hold 2" in body["error"]["message"]


def test_unknown_model_is_404() -> None:
    status, body = translate(404, vllm_error("The model `x` does not exist. Valid: y."), CHAT)

    assert status == 404
    assert body["error"]["code"] == "model_not_found"
    assert body["error"]["param"] == "model"
    # The names that vLLM gives are the base's alone.
    assert "y" not in body["error"]["message"].partition(";")[0]
    assert "/v1/models" in body["error"]["message"]


def test_text_that_holds_json_which_nests_too_deep_is_400() -> None:
    answers = []
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(RecursionError) as caught:
            json.loads(text)
        answers.append(translate_exception(caught.value, CHAT))

    assert [answer and answer[0] for answer in answers] == [400, 400]
    assert answers[0] is not None
    assert answers[0][1]["error"]["code"] == "json_too_deep"
    assert translate_exception(RecursionError("maximum recursion depth exceeded"), CHAT) is None


def test_dead_engine_is_503() -> None:
    message = "EngineCore encountered an issue. See stack trace (above) for the root cause."

    status, body = translate(500, vllm_error(message, code=500), CHAT)

    assert status == 503
    assert body["error"]["type"] == "server_error"


def test_unprocessable_media_are_400() -> None:
    status, body = translate(422, vllm_error("this image cannot be used: x", code=422), CHAT)

    assert status == 400
    assert body["error"]["code"] == "invalid_image"


def test_unknown_part_type_is_named() -> None:
    message = "8 validation errors for ValidatorIterator\n0.ChatCompletionContentPartTextParam.text"
    request = body_of({"messages": [{"role": "user", "content": [{"type": "foo"}]}]})

    _, body = translate(400, vllm_error(message), request)

    assert body["error"]["param"] == "messages[0].content[0].type"
    assert "'foo'" in body["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"oops", b"[]", b'"x"', b'{"error": "Unauthorized"}'])
def test_any_body_becomes_an_error_object(content: bytes) -> None:
    status, body = translate(500, content, CHAT)

    assert status == 500
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]


def test_integer_code_is_dropped() -> None:
    _, body = translate(400, vllm_error("top_p must be in (0, 1]", param="top_p"), CHAT)

    assert body["error"]["code"] is None
    assert body["error"]["param"] == "top_p"
    assert body["error"]["message"] == "top_p must be in (0, 1]"
