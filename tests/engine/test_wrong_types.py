"""Wrong types in every field of the API's own OpenAPI document: a 4xx that is one, and no harm.

Schemathesis makes the requests; the seed is fixed, so that they are the same in each run.
"""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text
from tests.engine.test_serving import TUNED, answer

ROUTES = {
    "/v1/chat/completions": 30,
    "/v1/chat/completions/budget": 10,
    "/v1/completions": 15,
    "/v1/responses": 15,
    "/v1/messages": 15,
    "/v1/messages/count_tokens": 10,
    "/tokenize": 10,
    "/detokenize": 10,
}
"""Made-up requests by route."""

_HELLO = [{"role": "user", "content": "hello"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": TUNED, "messages": _HELLO, "max_tokens": 1},
    "/v1/chat/completions/budget": {"model": TUNED, "messages": _HELLO},
    "/v1/completions": {"model": TUNED, "prompt": "hello", "max_tokens": 1},
    "/v1/responses": {"model": TUNED, "input": "hello", "max_output_tokens": 1},
    "/v1/messages": {"model": TUNED, "messages": _HELLO, "max_tokens": 1},
    "/tokenize": {"model": TUNED, "messages": _HELLO},
}
"""Requests that are right, by route."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1.5,
    "\ud800",
    "",
    [],
    [None],
    {},
    {"a": [{}]},
    [[["a"]]],
)

_JSON = {"content-type": "application/json"}
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    with urllib.request.urlopen(f"{server.url}/openapi.json") as response:
        return json.load(response)


@pytest.fixture(autouse=True)
def _survives(client: openai.OpenAI) -> Iterator[None]:
    yield
    assert answer(client, image(media.png((84, 84), media.RED)), text("Name the color.")) == "red"


@pytest.mark.parametrize("route", GOOD)
def test_every_field_with_every_type(server: Server, document: Any, route: str) -> None:
    """One field of a request that is right is changed at a time."""
    fields = _fields(document, route)
    assert len(fields) > 1
    with httpx.Client(base_url=server.url, timeout=120) as http:
        assert http.post(route, json=GOOD[route]).status_code == 200
        faults = []
        for field in fields:
            for value in VALUES:
                body = json.dumps({**GOOD[route], field: value})
                fault = find_fault(http.post(route, content=body, headers=_JSON))
                faults += [] if fault is None else [f"{field}: {value!r}: {fault}"]
    assert not faults


@pytest.mark.parametrize("route", ROUTES)
def test_wrong_types(server: Server, document: Any, route: str) -> None:
    operation = schemathesis.openapi.from_dict(document)[route]["POST"]

    @settings(
        max_examples=ROUTES[route],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def ask(case: Any) -> None:
        _reach_the_model_briefly(case)
        assert find_fault(case.call(base_url=server.url, timeout=120)) is None

    ask()


def find_fault(response: Any) -> str | None:
    """What is wrong with a response that should be an answer or the caller's error."""
    if response.status_code >= 500:
        return str(response.text)
    if response.status_code < 400:
        return None
    error = response.json()["error"]
    is_ours = set(error) == {"message", "type", "param", "code"}
    return None if is_ours and "Traceback" not in error["message"] else str(response.text)


def _fields(document: Any, route: str) -> list[str]:
    """The fields that the document gives to a route's body, of all its forms."""
    body = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    forms = body.get("anyOf", [body])
    names = [form["$ref"].rpartition("/")[2] for form in forms if "$ref" in form]
    schemas = document["components"]["schemas"]
    return sorted({field for name in names for field in schemas[name]["properties"]})


def _reach_the_model_briefly(case: Any) -> None:
    """Let what is not wrong with a request be right, and its answer be short."""
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("model", ""), str | None):
        case.body["model"] = TUNED
    for name in _LENGTHS:
        if isinstance(case.body.get(name), int):
            case.body[name] = min(case.body[name], 2)
    if not any(name in case.body for name in _LENGTHS):
        case.body["max_tokens"] = 1
