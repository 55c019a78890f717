"""Calls of tools: name and arguments."""

import json
import re
from collections import Counter
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.evals.scorers.json_text import parse_json, read_json
from vlmserve.evals.scorers.scorer import Scorer, shorten

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class ToolCall(Scorer):
    """1 where the same tools are called with the same arguments, else 0; in any order.

    Calls are read as Hermes and Qwen write them (``<tool_call>{"name", "arguments"}</tool_call>``)
    or as JSON: one object or a list of them, each with ``name`` and ``arguments`` (or
    ``parameters``), or OpenAI's ``{"function": {...}}`` with arguments as text. Prose in front does
    not count. Arguments are compared as JSON values, so that 1 is 1.0 and "1" is not.
    """

    name: ClassVar[str] = "tool_call"
    about: ClassVar[str] = "the same tools with the same arguments, in any order"
    source: ClassVar[str] = (
        "the exact form of the Berkeley function-calling leaderboard's match of (parallel) calls"
    )

    @override
    def score(self, answer: str, target: str) -> float:
        try:
            given = read_calls(answer)
        except (ValueError, RecursionError):
            return 0.0
        return float(given == read_calls(target))

    @override
    def check_target(self, target: str) -> None:
        try:
            read_calls(target)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no tool call: {shorten(target)} ({error})") from error


def read_calls(text: str) -> Counter[str]:
    """Read the calls in a text, each as canonical JSON.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    if tagged := _TAGGED.findall(text):
        return Counter(_canonical(parse_json(one)) for one in tagged)
    try:
        value = read_json(text)
    except ValueError:
        value = _at_the_end(text)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise ValueError("an empty list")
    return Counter(_canonical(call) for call in calls)


def _at_the_end(text: str) -> Any:
    for start in re.finditer(r"[\[{]", text):
        try:
            return parse_json(text[start.start() :])
        except ValueError:
            continue
    raise ValueError("no JSON in it")


def _canonical(call: Any) -> str:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError("a call without a name")  # noqa: TRY004 - a text's fault, not a type's
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = parse_json(arguments or "{}")
    if not isinstance(arguments, dict):
        raise ValueError("arguments that are no object")  # noqa: TRY004 - as above
    return json.dumps([call["name"], _plain(arguments)], sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
