"""transformers and PEFT in this process: the reference that vLLM's answers are held against.

It computes one conversation at a time, with the model's own code as its authors published it: slow,
and independent of vLLM's kernels, batches and caches. Adapters are laid on by PEFT, which knows
forms of them that vLLM does not.
"""

import contextlib
import functools
import gc
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Completion, FinishReason, Message, SamplingParams, TextPart, Usage
from vlmserve.engine.answer_span import find_answer, finite_logprobs
from vlmserve.engine.base import (
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.engine.plan import ServingPlan
from vlmserve.engine.probe import check_logprob, probe_messages
from vlmserve.engine.reasoning import ReasoningReader
from vlmserve.engine.token_texts import token_texts
from vlmserve.engine.transformers_inputs import InputMaker, TransformersInputs
from vlmserve.errors import (
    ContextLengthError,
    EngineError,
    ModelNotFoundError,
    RequestError,
)

if TYPE_CHECKING:
    import tempfile

    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.base import Engine


class TransformersEngine:
    """transformers in this process, serving a model and adapters of it.

    Not for use from several threads.

    Args:
        model: The model, PEFT's where there are adapters.
        inputs: Makes its inputs.
        plan: What it is called.
        config: Limits.
    """

    def __init__(
        self, model: Any, inputs: InputMaker, plan: ServingPlan, config: "ServeConfig"
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._plan = plan
        self._max_len = _context_length(model.config, config.engine.max_model_len)
        forward = inspect.signature(_bare(model).forward).parameters
        self._keeps_logits = "logits_to_keep" in forward
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        """A directory that must outlive the engine."""

    @property
    def models(self) -> tuple[str, ...]:
        """The base model's name, then those of the adapters."""
        return self._plan.names

    def __enter__(self) -> "TransformersEngine":
        """Use the engine in a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer conversations one after another; see ``Engine.generate``."""
        for request in requests:
            started = time.perf_counter()
            outcome = self._outcome(functools.partial(self._answer, request), request.model)
            yield GenerationResult(
                request_id=request.request_id,
                outcome=outcome,
                latency_s=time.perf_counter() - started,
            )

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell how likely given answers are, one after another; see ``Engine.score``."""
        for request in requests:
            started = time.perf_counter()
            outcome = self._outcome(functools.partial(self._score, request), request.model)
            yield ScoringResult(
                request_id=request.request_id,
                outcome=outcome,
                latency_s=time.perf_counter() - started,
            )

    def probe(self) -> None:
        """Ask every model one short question.

        Raises:
            CheckpointError: A log-probability is not finite.
            EngineError: The question could not be answered.
        """
        with_image = self._inputs.processor is not self._inputs.tokenizer
        messages = probe_messages(with_image=with_image)
        for name in self.models:
            try:
                text = self._inputs.render(messages, {}, complete=False)
                logprobs = self._logprobs(self._inputs.inputs(text, messages), 1, name)
            except RequestError as error:
                raise EngineError(f"{name} cannot answer a first question: {error}") from error
            check_logprob(float(logprobs.max()), name)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        if self._model is None:
            return
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.scratch is not None:
            self.scratch.cleanup()

    def _outcome(self, ask: Callable[[], Any], model: str) -> Any:
        if self._model is None:
            raise EngineError("the engine is closed")
        import torch

        try:
            if model not in self.models:
                raise ModelNotFoundError(f"no model {model!r} is loaded", param="model")
            return ask()
        except RequestError as error:
            return GenerationFailure.from_error(error)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"the device has too little memory: {error}") from error

    def _prepare(
        self, messages: Sequence[Message], kwargs: dict[str, Any], *, complete: bool
    ) -> TransformersInputs:
        text = self._inputs.render(messages, kwargs, complete=complete)
        inputs = self._inputs.inputs(text, messages)
        n_tokens = len(inputs.input_ids)
        if n_tokens >= self._max_len:
            raise ContextLengthError(
                f"the prompt has {n_tokens} tokens, and the maximum context length is "
                f"{self._max_len} with the answer",
                param="messages",
            )
        return inputs

    def _answer(self, request: GenerationRequest) -> Completion:
        import torch

        kwargs = dict(request.chat_template_kwargs)
        inputs = self._prepare(request.messages, kwargs, complete=False)
        n_prompt = len(inputs.input_ids)
        params = request.params
        # The random numbers are those of this request alone.
        with torch.random.fork_rng(), torch.inference_mode(), self._speaking_as(request.model):
            if params.seed is not None:
                torch.manual_seed(params.seed)
            output = self._model.generate(
                **self._on_device(inputs),
                max_new_tokens=min(params.max_tokens, self._max_len - n_prompt),
                tokenizer=self._inputs.tokenizer,
                **_sampling(params),
            )
        new = output[0, n_prompt:].tolist()
        reader = None
        if request.reasoning_parser is not None:
            reader = ReasoningReader(request.reasoning_parser, self._inputs.tokenizer, kwargs)
        skip = reader is None or reader.skip_special_tokens
        text = self._inputs.tokenizer.decode(new, skip_special_tokens=skip)
        text, reason = self._ending(text, new, params)
        usage = Usage(prompt_tokens=n_prompt, completion_tokens=len(new))
        completion = Completion(text=text, finish_reason=reason, usage=usage)
        return completion if reader is None else reader.read(completion, new)

    def _ending(
        self, text: str, new: Sequence[int], params: SamplingParams
    ) -> tuple[str, FinishReason]:
        places = [place for stop in params.stop if (place := text.find(stop)) >= 0]
        if places:
            return text[: min(places)], "stop"
        ends = self._model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else ends or []
        return text, "stop" if new and new[-1] in ends else "length"

    def _score(self, request: ScoringRequest) -> TargetLogprobs:
        kwargs = dict(request.chat_template_kwargs)
        answer = Message(role="assistant", parts=(TextPart(text=request.target),))
        asked = self._inputs.render(request.messages, kwargs, complete=False)
        prompt_ids = self._inputs.text_ids(asked)
        full = self._prepare((*request.messages, answer), kwargs, complete=True)
        pieces = token_texts(self._inputs.tokenizer, full.text_ids[len(prompt_ids) :])
        span = find_answer(prompt_ids, full.text_ids, pieces, request.target)
        # Media before the answer stand for many tokens in the end: it is counted from there.
        n_behind, n_answer = len(full.text_ids) - span.end, span.end - span.start
        ids = full.input_ids
        end = len(ids) - n_behind
        logprobs = self._logprobs(full, n_answer + n_behind + 1, request.model)[:n_answer]
        wanted = ids[end - n_answer : end]
        likeliest = logprobs.argmax(dim=-1).tolist()
        n_own = n_answer - span.has_end
        return TargetLogprobs(
            token_ids=tuple(wanted),
            logprobs=finite_logprobs(
                float(row[token]) for row, token in zip(logprobs, wanted, strict=True)
            ),
            has_end=span.has_end,
            is_greedy=likeliest[:n_own] == wanted[:n_own],
            n_bytes=len(request.target.encode()),
            prompt_tokens=end - n_answer,
        )

    def _logprobs(self, inputs: TransformersInputs, n_last: int, model: str) -> Any:
        """Log-probabilities behind each of the last tokens, shape ``(n_last, vocabulary)``."""
        import torch

        keep = {"logits_to_keep": n_last} if self._keeps_logits else {}
        with torch.inference_mode(), self._speaking_as(model):
            logits = self._model(**self._on_device(inputs), **keep).logits
        return torch.log_softmax(logits[0, -n_last:].float(), dim=-1)

    def _speaking_as(self, name: str) -> Any:
        """The context in which the model is the base, or one of the adapters."""
        if not self._plan.adapters:
            return contextlib.nullcontext()
        if name == self._plan.base_name:
            return self._model.disable_adapter()
        self._model.set_adapter(peft_name(self._plan.names.index(name)))
        return contextlib.nullcontext()

    def _on_device(self, inputs: TransformersInputs) -> dict[str, Any]:
        import torch

        bare = _bare(self._model)
        return {
            name: value.to(bare.device, bare.dtype if value.is_floating_point() else None)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.tensors.items()
        }


def peft_name(number: int) -> str:
    """PEFT's name for an adapter, by its place among the served names."""
    # PEFT names modules by it, and served names may have dots.
    return f"adapter_{number}"


def _sampling(params: SamplingParams) -> dict[str, Any]:
    settings: dict[str, Any] = {"do_sample": params.temperature > 0}
    if params.temperature > 0:
        settings |= {"temperature": params.temperature, "top_p": params.top_p}
    else:
        # Named by the checkpoint for sampling; transformers warns of them otherwise.
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    if params.stop:
        settings["stop_strings"] = list(params.stop)
    return settings


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _context_length(config: Any, chosen: int | None) -> float:
    if chosen is not None:
        return chosen
    return getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf


def _conforms(engine: TransformersEngine) -> "Engine":
    return engine
