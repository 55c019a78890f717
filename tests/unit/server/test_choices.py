"""How many answers a request asks for."""

from types import SimpleNamespace
from typing import Any

import pytest

from vlmserve.server.choices import find_excess

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"messages": CHAT, "n": 5}, "n", "n: 5 answers are asked for"),
        ({"messages": CHAT, "n": 16_384}, "n", "n: 16384 answers"),
        ({"messages": CHAT, "best_of": 5}, "best_of", "best_of: 5 answers"),
        ({"messages": CHAT, "n": 2, "best_of": 5}, "best_of", "best_of: 5 answers"),
        ({"prompt": "a", "n": 5}, "n", "n: 5 answers"),
        ({"prompt": list("abcde")}, "prompt", "prompt: 5 prompts are given"),
        ({"prompt": [[1], [2], [3]], "n": 2}, "prompt", "prompt: 3 prompts with 2 answers each"),
        ({"prompt": "a", "prompt_embeds": ["", "", "", ""]}, "prompt_embeds", "5 prompts"),
        ({"messages": [CHAT] * 5}, "messages", "messages: 5 prompts"),
        (
            {"token_ids": [1], "sampling_params": SimpleNamespace(n=5)},
            "sampling_params.n",
            "sampling_params.n: 5 answers",
        ),
    ],
)
def test_more_than_the_operator_allows(body: dict[str, Any], field: str, words: str) -> None:
    found = find_excess(SimpleNamespace(**body), 4)

    assert found is not None
    assert found[0] == field
    assert words in found[1]
    assert found[1].endswith("one request may ask for 4; the operator can raise server.max_choices")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": CHAT},
        {"messages": CHAT, "n": None, "best_of": None},
        {"messages": CHAT, "n": 4, "best_of": 4},
        {"messages": CHAT, "best_of": "many"},
        {"prompt": "a" * 100, "n": 4},
        {"prompt": list(range(100)), "n": 4},
        {"prompt": ["a", "b"], "n": 2},
        {"prompt": None, "prompt_embeds": ["", ""]},
        {"messages": [CHAT, CHAT], "n": 2},
        {"token_ids": list(range(100)), "sampling_params": SimpleNamespace(n=4)},
    ],
)
def test_as_many_as_the_operator_allows(body: dict[str, Any]) -> None:
    assert find_excess(SimpleNamespace(**body), 4) is None
