"""The remote engine against a real HTTP endpoint, through OpenAI's real client."""

import base64
import contextlib
import itertools
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from vlmserve.chat import Completion, ImagePart, Message, SamplingParams, TextPart, VideoPart
from vlmserve.engine.base import GenerationFailure, GenerationRequest
from vlmserve.engine.endpoint import Endpoint
from vlmserve.engine.remote import RemoteEngine
from vlmserve.errors import (
    AuthenticationError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    ModelNotFoundError,
)


def request(number: int = 0, text: str = "Hi", **params: Any) -> GenerationRequest:
    message = Message(role="user", parts=(TextPart(text=text),))
    return GenerationRequest(
        request_id=str(number),
        model="m",
        messages=(message,),
        params=SamplingParams(**params),
    )


def engine(endpoint: Any, **changes: Any) -> RemoteEngine:
    return RemoteEngine(Endpoint(endpoint.url, **{"max_retries": 2, **changes}))


def is_bad(body: dict[str, Any]) -> bool:
    return bool(body["messages"][0]["content"][0]["text"] == "bad")


def error_body(message: str, code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def test_messages_travel_in_order_with_the_bytes_they_had(endpoint: Any) -> None:
    image = ImagePart(data=b"\x89PNG image", content_type="image/png")
    video = VideoPart(data=b"an mp4", content_type="video/mp4")
    asked = GenerationRequest(
        request_id="a",
        model="m",
        messages=(
            Message(role="system", parts=(TextPart(text="Be brief."),)),
            Message(role="user", parts=(TextPart(text="Is "), image, TextPart(text=" in "), video)),
        ),
        params=SamplingParams(temperature=0.5, top_p=0.9, max_tokens=7, stop=("\n",), seed=3),
    )
    with engine(endpoint) as remote:
        (result,) = remote.generate([asked])

    assert isinstance(result.outcome, Completion)
    assert result.outcome.text == "red"
    assert result.outcome.finish_reason == "stop"
    assert (result.outcome.usage.prompt_tokens, result.outcome.usage.completion_tokens) == (11, 2)
    assert result.request_id == "a"
    assert result.latency_s > 0
    body = endpoint.bodies[0]
    url = f"data:image/png;base64,{base64.b64encode(image.data).decode()}"
    movie = f"data:video/mp4;base64,{base64.b64encode(video.data).decode()}"
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Is "},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": " in "},
        {"type": "video_url", "video_url": {"url": movie}},
    ]
    assert {key: body[key] for key in ("temperature", "top_p", "max_tokens", "stop", "seed")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["\n"],
        "seed": 3,
    }


def test_every_request_has_one_result_and_no_more_are_in_flight_than_allowed(
    endpoint: Any,
) -> None:
    endpoint.delay_s = 0.02
    taken = []

    def requests() -> Any:
        for number in range(20):
            taken.append(number)
            yield request(number)

    with engine(endpoint, concurrency=3) as remote:
        results = remote.generate(requests())
        first = next(results)
        # Requests are taken from the iterable as places become free, not all at once.
        assert len(taken) <= 4
        ids = {first.request_id, *(result.request_id for result in results)}

    assert ids == {str(number) for number in range(20)}
    assert len(endpoint.bodies) == 20
    assert endpoint.most_at_once == 3


def test_no_words_are_an_answer(endpoint: Any, answer: Callable[..., Any]) -> None:
    cut = answer(None)
    cut["choices"][0]["finish_reason"] = "length"
    endpoint.reply = lambda _: (200, cut)
    with engine(endpoint) as remote:
        (result,) = remote.generate([request()])

    assert isinstance(result.outcome, Completion)
    assert (result.outcome.text, result.outcome.finish_reason) == ("", "length")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            error_body("too long", "context_length_exceeded"),
            ("ContextLengthError", "too long"),
        ),
        (
            400,
            error_body("This model's maximum context length is 64 tokens", 400),
            ("ContextLengthError", "maximum context length"),
        ),
        (400, error_body("not an image", "invalid_media"), ("MediaError", "not an image")),
        (422, error_body("no such field"), ("RequestError", "no such field")),
        (413, "<html>too large</html>", ("RequestError", "HTTP 413")),
        (500, error_body("oops"), ("EngineError", "oops")),
        (504, "gateway", ("EngineError", "HTTP 504")),
        (429, error_body("slow down"), ("EngineUnavailableError", "slow down")),
        (200, "<html>hello</html>", ("EngineError", "not a chat completion")),
        (200, {"choices": [], "usage": None}, ("EngineError", "not a chat completion")),
    ],
)
def test_what_concerns_one_request_is_its_failure(
    endpoint: Any, answer: Any, status: int, body: Any, said: tuple[str, str]
) -> None:
    error_type, message = said

    def reply(asked: dict[str, Any]) -> tuple[int, Any]:
        return (status, body) if is_bad(asked) else (200, answer())

    endpoint.reply = reply
    with engine(endpoint) as remote:
        results = {
            result.request_id: result.outcome
            for result in remote.generate([request(0), request(1, "bad"), request(2)])
        }

    failure = results["1"]
    assert isinstance(failure, GenerationFailure)
    assert failure.error_type == error_type
    assert message in failure.message
    assert isinstance(results["0"], Completion)
    assert isinstance(results["2"], Completion)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"usage": None}, "no token usage"),
        ({"usage": {}}, "not a chat completion"),
        ({"usage": {"prompt_tokens": "many", "completion_tokens": 1}}, "not a chat completion"),
        ({"choices": [{"finish_reason": "stop", "message": None}]}, "not a chat completion"),
        ({"choices": {"0": {}}}, "not a chat completion"),
        (
            {"choices": [{"finish_reason": "stop", "message": {"content": [{"text": "x"}]}}]},
            "not a chat completion",
        ),
        (
            {
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "content_filter",
                        "message": {"role": "assistant", "content": "x"},
                    }
                ]
            },
            "because of content_filter",
        ),
    ],
)
def test_an_odd_answer_is_a_failure(
    endpoint: Any, answer: Any, edit: dict[str, Any], message: str
) -> None:
    endpoint.reply = lambda _: (200, answer(**edit))
    with engine(endpoint) as remote:
        (result,) = remote.generate([request()])

    assert isinstance(result.outcome, GenerationFailure)
    assert message in result.outcome.message


def test_a_cut_answer_is_that_samples_failure(endpoint: Any, answer: Any) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        return 200, b'{"id": "x", "choices": [{"fini' if is_bad(body) else answer()

    endpoint.reply = reply
    with engine(endpoint) as remote:
        results = {
            result.request_id: result.outcome
            for result in remote.generate([request(0), request(1, "bad")])
        }

    failure = results["1"]
    assert isinstance(failure, GenerationFailure)
    assert (failure.error_type, isinstance(results["0"], Completion)) == ("EngineError", True)
    assert "not a chat completion" in failure.message


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_endpoint_is_asked_again(endpoint: Any, answer: Any, status: int) -> None:
    replies = itertools.chain([(status, error_body("busy"))] * 2, itertools.repeat((200, answer())))
    endpoint.reply = lambda _: next(replies)
    with engine(endpoint) as remote:
        (result,) = remote.generate([request()])

    assert isinstance(result.outcome, Completion)
    assert len(endpoint.bodies) == 3


def test_what_cannot_get_better_is_not_asked_again(endpoint: Any) -> None:
    endpoint.reply = lambda _: (400, error_body("no"))
    with engine(endpoint) as remote:
        list(remote.generate([request()]))

    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, ModelNotFoundError),
        (502, EngineUnavailableError),
        (503, EngineUnavailableError),
    ],
)
def test_what_concerns_every_request_ends_the_run(
    endpoint: Any, status: int, kind: type[Exception]
) -> None:
    endpoint.reply = lambda _: (status, error_body("no"))
    with engine(endpoint, concurrency=2) as remote, pytest.raises(kind, match=r"127\.0\.0\.1.*no"):
        list(remote.generate(request(number) for number in range(50)))

    assert len(endpoint.bodies) < 12


def test_answers_come_before_the_error_that_ends_the_run(endpoint: Any, answer: Any) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        if is_bad(body):
            time.sleep(0.1)
            return 404, error_body("no")
        return 200, answer()

    def take_slowly() -> None:
        for result in remote.generate([request(0, "bad"), request(1), request(2), request(3)]):
            got.append(result.request_id)
            time.sleep(0.3)  # the others and the error arrive meanwhile

    endpoint.reply = reply
    got: list[str] = []
    with engine(endpoint, concurrency=4) as remote, pytest.raises(ModelNotFoundError):
        take_slowly()

    assert sorted(got) == ["1", "2", "3"]


def test_an_endpoint_that_is_not_there(endpoint: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with (
        RemoteEngine(Endpoint(url, max_retries=0)) as remote,
        pytest.raises(EngineUnavailableError, match="no connection"),
    ):
        list(remote.generate([request()]))


def test_an_answer_that_takes_too_long_is_a_failure(endpoint: Any) -> None:
    endpoint.delay_s = 0.5
    with engine(endpoint, timeout_s=0.05, max_retries=0) as remote:
        (result,) = remote.generate([request()])

    assert isinstance(result.outcome, GenerationFailure)
    assert "no answer within 0.05 s" in result.outcome.message


def test_closing_the_iterator_hangs_up(endpoint: Any, answer: Any) -> None:
    endpoint.reply = lambda body: (
        (200, answer()) if body["messages"][0]["content"][0]["text"] == "quick" else wait(answer())
    )

    def wait(value: Any) -> tuple[int, Any]:
        time.sleep(0.3)
        return 200, value | {"padding": "x" * 10_000_000}

    with engine(endpoint, concurrency=4) as remote:
        results = remote.generate([request(0, "quick"), request(1), request(2)])
        assert next(results).request_id == "0"
        results.close()  # type: ignore[attr-defined]
        assert endpoint.dropped.wait(5)


def test_what_took_too_long_is_not_sent_over_and_over(endpoint: Any) -> None:
    endpoint.delay_s = 0.6
    with engine(endpoint, timeout_s=0.3, max_retries=3) as remote:
        (result,) = remote.generate([request()])

    assert isinstance(result.outcome, GenerationFailure)
    assert "no answer within 0.3 s" in result.outcome.message
    assert len(endpoint.bodies) <= 2


def test_an_address_that_never_accepts_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "connect_timeout_s", 0.2)
    with socket.socket() as deaf, contextlib.ExitStack() as clients:
        # A listener whose queue is full: the kernel leaves further connections without an answer.
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        with (
            RemoteEngine(Endpoint(url, max_retries=0)) as remote,
            pytest.raises(EngineUnavailableError, match=r"no connection within 0\.2 s"),
        ):
            list(remote.generate([request()]))


def test_models_are_listed_and_asked_for_once(endpoint: Any) -> None:
    entry = {"object": "model", "created": 1, "owned_by": "us"}
    endpoint.models = [{"id": "base", **entry}, {"id": "ft", **entry}]
    with engine(endpoint) as remote:
        assert remote.models == ("base", "ft")
        endpoint.models = []
        assert remote.models == ("base", "ft")


@pytest.mark.parametrize(
    "listed",
    [
        b'{"object": "list", "data": [{"id',
        {"data": None},
        {"data": "x"},
        {"data": [{"id": None}]},
        {"models": []},
        "<html>hello</html>",
    ],
)
def test_a_list_of_models_that_is_none_is_said(endpoint: Any, listed: Any) -> None:
    endpoint.model_list = listed
    with engine(endpoint) as remote, pytest.raises(EngineError, match="not OpenAI's list"):
        _ = remote.models


def test_the_key_is_sent_and_never_shown(endpoint: Any) -> None:
    endpoint.api_key = "sesame"
    with engine(endpoint, api_key="sesame") as remote:
        assert remote.models == ("m",)
    with engine(endpoint) as remote, pytest.raises(AuthenticationError, match="wrong key"):
        _ = remote.models
    assert "sesame" not in repr(Endpoint(endpoint.url, api_key="sesame"))


def test_a_url_without_a_path_means_v1() -> None:
    assert Endpoint("http://host:8000").url == "http://host:8000/v1"
    assert Endpoint("https://host/").url == "https://host/v1"
    assert Endpoint("http://host/api").url == "http://host/api"
    with pytest.raises(ConfigError, match="expected a URL"):
        Endpoint("host:8000")


@pytest.mark.parametrize(
    "url",
    ["http://[::1/v1", "http://h:abc/v1", "http://h:99999/v1", "http://h/v\x00", "http://h:0"],
)
def test_a_url_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(url)):
        Endpoint(url)


def test_a_key_loses_the_end_of_its_line(endpoint: Any) -> None:
    endpoint.api_key = "sesame"
    with engine(endpoint, api_key=" sesame\r\n") as remote:
        assert remote.models == ("m",)
    assert Endpoint("http://h", api_key=" \n").api_key is None


@pytest.mark.parametrize("key", ["sésame", "sesame\nX-Header: 1", "sesame\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(ConfigError, match="API key has characters") as caught:
        Endpoint("http://h", api_key=key)
    assert "same" not in str(caught.value)


def test_closing_twice_is_safe_and_a_closed_engine_says_so(endpoint: Any) -> None:
    remote = engine(endpoint)
    remote.close()
    remote.close()
    with pytest.raises(EngineError, match="closed"):
        list(remote.generate([request()]))


def test_arguments_of_the_template_travel_to_the_endpoint(endpoint: Any) -> None:
    asked = request().model_copy(update={"chat_template_kwargs": {"enable_thinking": True}})
    with engine(endpoint) as remote:
        list(remote.generate([asked, request(1)]))

    with_arguments = [body for body in endpoint.bodies if "chat_template_kwargs" in body]
    assert [body["chat_template_kwargs"] for body in with_arguments] == [{"enable_thinking": True}]


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_is_told_from_the_answer(endpoint: Any, answer: Any, key: str) -> None:
    def reply(text: str | None, reason: str) -> dict[str, Any]:
        value: dict[str, Any] = answer(text)
        value["choices"][0]["message"][key] = "It is red."
        value["choices"][0]["finish_reason"] = reason
        return value

    def ask(text: str | None, reason: str = "stop") -> tuple[str, str | None, str]:
        endpoint.reply = lambda _: (200, reply(text, reason))
        with engine(endpoint) as remote:
            (result,) = remote.generate([request()])
        assert isinstance(result.outcome, Completion)
        return result.outcome.text, result.outcome.reasoning, result.outcome.finish_reason

    assert ask("red") == ("red", "It is red.", "stop")
    # A trace that was never closed has used up all there was.
    assert ask(None) == ask("", "length") == ("", "It is red.", "length")
