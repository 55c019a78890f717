"""Requests as an OpenAI endpoint gets them, read from a log to be asked again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vlmserve.chat import SamplingParams
from vlmserve.config.asking import SamplingConfig
from vlmserve.config.suite_entries import SuiteRequests
from vlmserve.datasets.fields import RowError, shorten
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.messages import read_openai
from vlmserve.datasets.rows import read_rows
from vlmserve.datasets.sample import BadSample
from vlmserve.datasets.sample import Sample as DataSample
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.asked_turns import Asking, check_places, turns_to_ask
from vlmserve.evals.fields import telling_fields
from vlmserve.evals.sample_collector import SampleCollector
from vlmserve.evals.samples import Sample

_SAMPLING = ("temperature", "top_p", "seed")
_MAX_TOKENS = ("max_completion_tokens", "max_tokens")

# What changes an answer and is not sent: OpenAI's and vLLM's own (vllm 0.32
# entrypoints/openai/chat_completion/protocol.py). Fields that are in neither are the log's own.
_UNSENT = frozenset(
    {
        "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
        "response_format", "structured_outputs", "n", "logit_bias", "frequency_penalty",
        "presence_penalty", "repetition_penalty", "length_penalty", "top_k", "min_p", "min_tokens",
        "stop_token_ids", "bad_words", "ignore_eos", "use_beam_search", "allowed_token_ids",
        "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output",
        "truncate_prompt_tokens", "chat_template", "chat_template_kwargs", "add_generation_prompt",
        "continue_final_message", "add_special_tokens", "documents", "mm_processor_kwargs",
        "media_io_kwargs", "thinking_token_budget", "reasoning_effort", "include_reasoning",
        "logits_processors", "vllm_xargs", "modalities", "audio", "prediction",
        "web_search_options", "verbosity", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "extra_body",
    }
)  # fmt: skip
# Of these the usual value changes nothing.
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "response_format": {"type": "text"},
    "add_generation_prompt": True,
    "skip_special_tokens": True,
}


@dataclass(frozen=True, slots=True)
class RequestLog:
    """The requests of one file, ready to be asked."""

    samples: tuple[Sample, ...]
    """In the order of the file; their targets are empty."""

    fields: Mapping[str, list[str]]
    """Columns beside the requests that tell kinds of them apart, see ``telling_fields``."""


def load_requests(entry: SuiteRequests, asking: Asking) -> RequestLog:
    """Read a file of requests: OpenAI bodies, the lines of OpenAI's batches, or bare messages.

    Args:
        entry: What the suite says of it, with absolute paths.
        asking: How requests are asked.

    Raises:
        ConfigError: The file is broken or empty, or a request cannot be asked as it stands; the
            message names file and line.
    """
    collector = SampleCollector(entry.name, SamplingParams())
    media = MediaReader(entry.media_root or entry.requests.parent)
    rows = [
        _read(entry, number, value, asking.sampling, media)
        for number, value in _values(entry, asking.limit)
    ]
    library = asking.media
    library.fetch(row if isinstance(row, BadSample) else row.sample for row in rows)
    for row in rows:
        if isinstance(row, BadSample):
            collector.refuse(row.where, row.reason)
            continue
        try:
            check_places(row.sample)
            turns = turns_to_ask(row.sample.turns, library)
        except MediaError as error:
            collector.refuse(row.sample.where, error.message)
        else:
            collector.add(turns, "", row.params)
    _refuse_repeated(rows, collector)
    samples = collector.finish()
    if not samples:
        raise ConfigError(f"{entry.requests}: no requests in it")
    others = [row.others for row in rows if not isinstance(row, BadSample)]
    names = dict.fromkeys(name for each in others for name in each)
    return RequestLog(
        samples=samples,
        fields=telling_fields({name: [each.get(name) for each in others] for name in names}),
    )


def _refuse_repeated(rows: "Sequence[_Request | BadSample]", collector: SampleCollector) -> None:
    """Refuse requests that claim the id of an earlier one."""
    seen: dict[str | int, str] = {}
    for row in rows:
        if isinstance(row, BadSample) or "custom_id" not in row.others:
            continue
        custom_id = row.others["custom_id"]
        if custom_id in seen:
            place = seen[custom_id]
            collector.refuse(row.sample.where, f"custom_id: {custom_id!r} is that of {place}, too")
        seen.setdefault(custom_id, row.sample.where)


@dataclass(frozen=True, slots=True)
class _Request:
    sample: DataSample
    params: SamplingParams
    others: Mapping[str, str | int]


def _values(entry: SuiteRequests, limit: int | None) -> Iterator[tuple[int, Any]]:
    for place, raw in enumerate(read_rows(entry.requests)):
        if limit is not None and place >= limit:
            return
        yield raw.row, raw.value


def _read(
    entry: SuiteRequests, number: int, value: Any, sampling: SamplingConfig, media: MediaReader
) -> _Request | BadSample:
    file = entry.requests
    try:
        body, others = _body(value)
        conversation = read_openai({"messages": body.get("messages")}, media)
        sample = conversation.create_sample(file, number)
        _check_asks(sample)
        return _Request(sample, _params(body, entry, sampling), others)
    except RowError as error:
        return BadSample(file=file, row=number, reason=str(error))


def _check_asks(sample: DataSample) -> None:
    if sample.turns[-1].role == "assistant":
        raise RowError("the last turn is the assistant's, so nothing is asked")
    if not any(turn.role == "user" for turn in sample.turns):
        raise RowError("messages: no turn of a user")


def _body(value: Any) -> tuple[Mapping[str, Any], Mapping[str, str | int]]:
    """The request, and what the log says beside it."""
    if isinstance(value, list):
        return {"messages": value}, {}
    if not isinstance(value, dict):
        raise RowError(f"a request is expected, not {shorten(value)}")
    body = value.get("body") if "messages" not in value else value
    if not isinstance(body, dict) or "messages" not in body:
        raise RowError("neither a request with messages, nor one under body, as batches have it")
    known = {"messages", "body", "stop", *_SAMPLING, *_MAX_TOKENS, *_UNSENT}
    return body, {
        key: one for key, one in value.items() if key not in known and isinstance(one, str | int)
    }


def _params(
    body: Mapping[str, Any], entry: SuiteRequests, sampling: SamplingConfig
) -> SamplingParams:
    for name in sorted(_UNSENT & body.keys()):
        value = body[name]
        if value in (None, [], {}) or value == _NEUTRAL.get(name) or name in entry.leave_out:
            continue
        raise RowError(
            f"{name}: it changes answers and cannot be sent from here; ask without it by "
            f"leave_out: [{name}]"
        )
    given = {key: body[key] for key in _SAMPLING if body.get(key) is not None}
    for key in _MAX_TOKENS:
        if body.get(key) is not None:
            given.setdefault("max_tokens", body[key])
    if (stop := body.get("stop")) is not None:
        given["stop"] = (stop,) if isinstance(stop, str) else stop
    given.update(sampling.model_dump(exclude_none=True))
    try:
        return SamplingParams(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise RowError(f"{fault['loc'][0]}: {fault['msg']}, got {fault['input']!r}") from error
