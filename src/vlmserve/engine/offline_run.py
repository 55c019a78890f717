"""One call of the offline engine: requests on their way through vLLM 0.32's own scheduler.

Generating and scoring differ in how a request is put to the engine and in what is read off its
output; the rest is shared.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from typing_extensions import override

from vlmserve.chat import Completion, Message, SamplingParams, TextPart, Usage
from vlmserve.engine.answer_span import AnswerSpan, find_answer, finite_logprobs
from vlmserve.engine.base import (
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.engine.media_connector import media_request
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.plan import ServingPlan
from vlmserve.engine.reasoning import ReasoningReader
from vlmserve.engine.token_texts import token_texts
from vlmserve.errors import ContextLengthError, EngineError, ModelNotFoundError, RequestError

# Rendered requests that wait beside those that run. Enough to keep the next batch full; each holds
# its pixels in memory.
_BACKLOG = 32

Request = TypeVar("Request", GenerationRequest, ScoringRequest)
Result = TypeVar("Result", GenerationResult, ScoringResult)


class OfflineRun(ABC, Generic[Request, Result]):
    """Which requests are in the engine, and since when.

    Args:
        llm: vLLM's ``LLM``.
        plan: What it serves.
        chat_settings: The template settings that the server would render with.
    """

    def __init__(self, llm: Any, plan: ServingPlan, chat_settings: Mapping[str, Any]) -> None:
        self._llm = llm
        self._plan = plan
        self._chat_settings = chat_settings
        self._engine = llm.llm_engine
        self._limit = self._engine.vllm_config.scheduler_config.max_num_seqs + _BACKLOG
        self._running: dict[str, float] = {}
        """Start of each request in the engine, by its id."""

    def results(self, requests: Iterator[Request]) -> Iterator[Result]:
        """Take requests as the engine has room for them, and give results as they finish."""
        exhausted = False
        while not exhausted or self._running:
            while not exhausted and len(self._running) < self._limit:
                request = next(requests, None)
                if request is None:
                    exhausted = True
                elif (refused := self._submit(request)) is not None:
                    yield refused
            if self._running:
                yield from self._step()

    def abort(self) -> None:
        """Drop what is still running."""
        if self._running:
            self._engine.abort_request(list(self._running))
            self._running.clear()

    @abstractmethod
    def _prepare(self, request: Request) -> tuple[Any, Any]:
        """The prompt as the engine takes it, and vLLM's sampling parameters."""

    @abstractmethod
    def _read(self, output: Any) -> Any:
        """What a finished output says.

        Raises:
            RequestError: It is no answer to what was asked.
        """

    @abstractmethod
    def _result(self, request_id: str, outcome: Any, latency_s: float) -> Result: ...

    def _submit(self, request: Request) -> Result | None:
        from vllm.exceptions import VLLMClientError

        started = time.perf_counter()
        try:
            lora = lora_request(self._plan, request.model)
            try:
                prompt, sampling = self._prepare(request)
                self._engine.add_request(request.request_id, prompt, sampling, lora_request=lora)
            except (VLLMClientError, ValueError, TypeError) as error:
                raise _request_error(error) from error
        except RequestError as error:
            failure = GenerationFailure.from_error(error)
            return self._result(request.request_id, failure, time.perf_counter() - started)
        self._running[request.request_id] = started
        return None

    def _step(self) -> Iterator[Result]:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._running.clear()
            raise EngineError(f"vLLM failed while generating: {error}") from error
        for output in outputs:
            if not output.finished:
                continue
            started = self._running.pop(output.request_id)
            try:
                outcome = self._read(output)
            except RequestError as error:
                outcome = GenerationFailure.from_error(error)
            yield self._result(output.request_id, outcome, time.perf_counter() - started)


class GenerationRun(OfflineRun[GenerationRequest, GenerationResult]):
    """One call of ``generate``."""

    def __init__(self, llm: Any, plan: ServingPlan, chat_settings: Mapping[str, Any]) -> None:
        super().__init__(llm, plan, chat_settings)
        self._readers: dict[str, ReasoningReader] = {}
        """Of the requests in the engine whose reasoning is told apart, by their id."""

    @override
    def _prepare(self, request: GenerationRequest) -> tuple[Any, Any]:
        settings = dict(self._chat_settings)
        if request.chat_template_kwargs:
            served = settings["chat_template_kwargs"] or {}
            settings["chat_template_kwargs"] = {**served, **request.chat_template_kwargs}
        sampling = self._sampling(request.params)
        if request.reasoning_parser is not None:
            reader = ReasoningReader(
                request.reasoning_parser,
                self._llm.get_tokenizer(),
                settings["chat_template_kwargs"],
            )
            sampling.skip_special_tokens = reader.skip_special_tokens
            self._readers[request.request_id] = reader
        # What ``LLM.enqueue_chat`` does, but for the request's id, which it chooses itself.
        with media_request():
            prompt = self._llm._preprocess_chat_one(openai_messages(request.messages), **settings)
        return prompt, sampling

    def _sampling(self, params: SamplingParams) -> Any:
        from vllm.sampling_params import RequestOutputKind

        # The checkpoint's generation_config gives the defaults, as it does in the server.
        sampling = self._llm.get_default_sampling_params()
        sampling.temperature = params.temperature
        sampling.top_p = params.top_p
        sampling.max_tokens = params.max_tokens
        sampling.stop = list(params.stop)
        sampling.seed = params.seed
        sampling.output_kind = RequestOutputKind.FINAL_ONLY
        sampling.__post_init__()
        return sampling

    @override
    def _read(self, output: Any) -> Completion:
        answer = output.outputs[0]
        reason = answer.finish_reason
        completion = Completion(
            text=answer.text,
            finish_reason=reason if reason in ("stop", "length") else "abort",
            usage=Usage(
                prompt_tokens=len(output.prompt_token_ids), completion_tokens=len(answer.token_ids)
            ),
        )
        reader = self._readers.get(output.request_id)
        return completion if reader is None else reader.read(completion, answer.token_ids)

    @override
    def _result(self, request_id: str, outcome: Any, latency_s: float) -> GenerationResult:
        self._readers.pop(request_id, None)
        return GenerationResult(request_id=request_id, outcome=outcome, latency_s=latency_s)


class ScoringRun(OfflineRun[ScoringRequest, ScoringResult]):
    """One call of ``score``: the answers are part of the prompts, and vLLM tells their likelihood.

    vLLM computes such prompts from their first token: nothing is taken from the cache of prefixes.
    """

    def __init__(self, llm: Any, plan: ServingPlan, chat_settings: Mapping[str, Any]) -> None:
        super().__init__(llm, plan, chat_settings)
        self._spans: dict[str, tuple[AnswerSpan, int]] = {}
        """Of each request in the engine: where its answer lies counted from the end of the prompt,
        and its length in bytes."""

    @override
    def _prepare(self, request: ScoringRequest) -> tuple[Any, Any]:
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.sampling_params import RequestOutputKind

        answer = Message(role="assistant", parts=(TextPart(text=request.target),))
        with media_request():
            asked = self._render(request, request.messages, is_complete=False)
        with media_request():
            full = self._render(request, (*request.messages, answer), is_complete=True)
            prompt_ids, full_ids = asked["prompt_token_ids"], full["prompt_token_ids"]
            pieces = token_texts(self._llm.get_tokenizer(), full_ids[len(prompt_ids) :])
            span = find_answer(prompt_ids, full_ids, pieces, request.target)
            # Only now: what has been through the processor's cache must reach the engine.
            prompt = self._llm.renderer.process_for_engine(full, time.time())
        # Behind the answer media stand for many tokens in the end: it is counted from there.
        from_end = AnswerSpan(span.start - len(full_ids), span.end - len(full_ids), span.has_end)
        self._spans[request.request_id] = (from_end, len(request.target.encode()))
        sampling = VllmSamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return prompt, sampling

    def _render(
        self, request: ScoringRequest, messages: Sequence[Message], *, is_complete: bool
    ) -> Any:
        """Give a conversation's tokens, with one placeholder for each medium, and its media."""
        from vllm.renderers.params import ChatParams

        settings = self._chat_settings
        params = ChatParams(
            chat_template=settings["chat_template"],
            chat_template_content_format=settings["chat_template_content_format"],
            chat_template_kwargs={
                **(settings["chat_template_kwargs"] or {}),
                **request.chat_template_kwargs,
                "add_generation_prompt": not is_complete,
                "continue_final_message": False,
                "tools": None,
                "tokenize": False,
            },
        )
        renderer = self._llm.renderer
        _, prompt = renderer.render_messages(openai_messages(messages), params)
        # The template writes the control tokens at the beginning.
        tokens = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
        (tokenized,) = renderer.tokenize_prompts([prompt], tokens)
        return tokenized

    @override
    def _read(self, output: Any) -> TargetLogprobs:
        span, n_bytes = self._spans.pop(output.request_id)
        ids, n = output.prompt_token_ids, len(output.prompt_token_ids)
        places = range(n + span.start, n + span.end)
        found = [output.prompt_logprobs[place][ids[place]] for place in places]
        own = found[:-1] if span.has_end else found
        return TargetLogprobs(
            token_ids=tuple(ids[place] for place in places),
            logprobs=finite_logprobs(each.logprob for each in found),
            has_end=span.has_end,
            is_greedy=all(each.rank == 1 for each in own),
            n_bytes=n_bytes,
            prompt_tokens=places.start,
        )

    @override
    def _result(self, request_id: str, outcome: Any, latency_s: float) -> ScoringResult:
        self._spans.pop(request_id, None)
        return ScoringResult(request_id=request_id, outcome=outcome, latency_s=latency_s)


def lora_request(plan: ServingPlan, model: str) -> Any:
    """Find what vLLM wants beside a request to one of the served names.

    Returns:
        ``None`` for the base model, vLLM's ``LoRARequest`` for the adapter.

    Raises:
        ModelNotFoundError: Nothing is served under that name.
    """
    from vllm.lora.request import LoRARequest

    if model == plan.base_name:
        return None
    for number, adapter in enumerate(plan.adapters, start=1):
        if model == adapter.name:
            return LoRARequest(model, number, str(adapter.path))
    raise ModelNotFoundError(f"no model {model!r} is loaded", param="model")


def _request_error(error: Exception) -> RequestError:
    message = str(error.args[0]) if error.args else type(error).__name__
    if "maximum context length" in message or "longer than the maximum model length" in message:
        return ContextLengthError(message, param="messages")
    return RequestError(message, param=getattr(error, "parameter", None))
