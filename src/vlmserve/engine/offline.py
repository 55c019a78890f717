"""vLLM 0.32 inside this process: answers many conversations at once, with no server between.

One process holds the renderer, the scheduler and the model (``VLLM_ENABLE_V1_MULTIPROCESSING=0``):
every vLLM process pays some 20 s of imports on two cores, and an evaluation needs only one.
"""

import gc
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Completion, SamplingParams, Usage
from vlmserve.engine.base import GenerationFailure, GenerationRequest, GenerationResult
from vlmserve.engine.environment import prepare_vllm
from vlmserve.engine.media_connector import configure, media_request
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.plan import ServingPlan, plan_serving
from vlmserve.engine.probe import check_logprob, probe_messages
from vlmserve.engine.vllm_args import parse_vllm_flags, vllm_flags
from vlmserve.errors import ContextLengthError, EngineError, ModelNotFoundError, RequestError

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.base import Engine

_LOG = logging.getLogger(__name__)

# Rendered requests that wait beside those that run. Enough to keep the next batch full; each holds
# its pixels in memory.
_BACKLOG = 32


def open_offline_engine(
    checkpoint: "Checkpoint", config: "ServeConfig", *, train_env: "VisionLimits | None" = None
) -> "OfflineEngine":
    """Load a checkpoint into this process.

    Takes seconds to minutes. An adapter is loaded beside its base, and both are served.

    Args:
        checkpoint: A full checkpoint or an adapter with a known base.
        config: Engine and media settings; the HTTP server's are not used.
        train_env: What the training framework took from its environment.

    Returns:
        The engine; use it as a context manager, or ``close`` it.

    Raises:
        CheckpointError: The checkpoint cannot be served as it lies on disk.
        ConfigError: vLLM refuses the settings.
        EngineError: vLLM is missing or failed to load the model.
    """
    # Before vLLM is imported: it reads the switch then.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    prepare_vllm()
    configure(config.media)
    scratch = tempfile.TemporaryDirectory(prefix="vlmserve-")
    try:
        plan = plan_serving(checkpoint, config, Path(scratch.name), train_env=train_env)
        for note in plan.notes:
            _LOG.info(note)
        args = parse_vllm_flags(vllm_flags(plan, config))
        engine = OfflineEngine(_load(args), plan, _chat_settings(args), scratch)
    except BaseException:
        scratch.cleanup()
        raise
    try:
        engine.probe()
    except BaseException:
        engine.close()
        raise
    return engine


def _chat_settings(args: Any) -> dict[str, Any]:
    """The template settings that the server would render with."""
    from vllm.entrypoints.launchers.cli_args import resolve_default_chat_template_kwargs
    from vllm.renderers.chat_utils import load_chat_template

    return {
        "chat_template": load_chat_template(args.chat_template),
        "chat_template_content_format": args.chat_template_content_format,
        "chat_template_kwargs": resolve_default_chat_template_kwargs(args),
    }


def _load(args: Any) -> Any:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    try:
        return LLM.from_engine_args(EngineArgs.from_cli_args(args))
    except Exception as error:
        # vLLM raises dozens of kinds here, from OSError to torch's own.
        raise EngineError(f"vLLM could not load {args.model}: {error}") from error


class OfflineEngine:
    """vLLM in this process, serving a model and at most one adapter.

    Not for use from several threads.
    """

    def __init__(
        self,
        llm: Any,
        plan: ServingPlan,
        chat_settings: Mapping[str, Any],
        scratch: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        self._llm = llm
        self._plan = plan
        self._chat_settings = chat_settings
        self._scratch = scratch

    @property
    def models(self) -> tuple[str, ...]:
        """The base model's name, then the adapter's where one is loaded."""
        return self._plan.names

    @property
    def candidate(self) -> str:
        """The name of the checkpoint that was opened."""
        return self._plan.candidate_name

    def __enter__(self) -> "OfflineEngine":
        """Use the engine in a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer many conversations at once; see ``Engine.generate``.

        Requests are taken from the iterable as the engine has room for them.
        """
        if self._llm is None:
            raise EngineError("the engine is closed")
        run = _Run(self._llm, self._plan, self._chat_settings)
        try:
            yield from run.results(iter(requests))
        finally:
            run.abort()

    def probe(self) -> None:
        """Ask every model one short question.

        Raises:
            CheckpointError: An answer's log-probability is not finite.
            EngineError: The question could not be answered.
        """
        from vllm import SamplingParams as VllmSamplingParams

        messages = openai_messages(probe_messages(with_image=takes_images(self._llm.model_config)))
        sampling = VllmSamplingParams(temperature=0.0, max_tokens=1, logprobs=0)
        for name in self.models:
            try:
                (output,) = self._llm.chat(
                    messages,
                    sampling,
                    use_tqdm=False,
                    lora_request=lora_request(self._plan, name),
                    **self._chat_settings,
                )
            except Exception as error:
                raise EngineError(f"{name} cannot answer a first question: {error}") from error
            (logprob,) = output.outputs[0].logprobs[0].values()
            check_logprob(logprob.logprob, name)

    def close(self) -> None:
        """Free the model and the cache; safe to call twice."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()
        gc.collect()
        self._scratch.cleanup()


class _Run:
    """One call of ``generate``: which requests are in the engine, and since when."""

    def __init__(self, llm: Any, plan: ServingPlan, chat_settings: Mapping[str, Any]) -> None:
        self._llm = llm
        self._plan = plan
        self._chat_settings = chat_settings
        self._engine = llm.llm_engine
        self._limit = self._engine.vllm_config.scheduler_config.max_num_seqs + _BACKLOG
        self._running: dict[str, float] = {}
        """Start of each request in the engine, by its id."""

    def results(self, requests: Iterator[GenerationRequest]) -> Iterator[GenerationResult]:
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
        if self._running:
            self._engine.abort_request(list(self._running))
            self._running.clear()

    def _submit(self, request: GenerationRequest) -> GenerationResult | None:
        started = time.perf_counter()
        try:
            self._render_and_add(request)
        except RequestError as error:
            return GenerationResult(
                request_id=request.request_id,
                outcome=GenerationFailure.from_error(error),
                latency_s=time.perf_counter() - started,
            )
        self._running[request.request_id] = started
        return None

    def _render_and_add(self, request: GenerationRequest) -> None:
        from vllm.exceptions import VLLMClientError

        lora = lora_request(self._plan, request.model)
        try:
            # What ``LLM.enqueue_chat`` does, but for the request's id, which it chooses itself.
            with media_request():
                prompt = self._llm._preprocess_chat_one(
                    openai_messages(request.messages), **self._chat_settings
                )
            self._engine.add_request(
                request.request_id, prompt, self._sampling(request.params), lora_request=lora
            )
        except (VLLMClientError, ValueError, TypeError) as error:
            raise _request_error(error) from error

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

    def _step(self) -> Iterator[GenerationResult]:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._running.clear()
            raise EngineError(f"vLLM failed while generating: {error}") from error
        for output in outputs:
            if not output.finished:
                continue
            started = self._running.pop(output.request_id)
            yield GenerationResult(
                request_id=output.request_id,
                outcome=_completion(output),
                latency_s=time.perf_counter() - started,
            )


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
    if plan.adapter is not None and model == plan.adapter.name:
        return LoRARequest(model, 1, str(plan.adapter.path))
    raise ModelNotFoundError(f"no model {model!r} is loaded", param="model")


def takes_images(model_config: Any) -> bool:
    """Tell from vLLM's model configuration whether requests may hold images."""
    multimodal = model_config.multimodal_config
    return multimodal is not None and multimodal.get_limit_per_prompt("image") > 0


def _completion(output: Any) -> Completion:
    answer = output.outputs[0]
    reason = answer.finish_reason
    return Completion(
        text=answer.text,
        finish_reason=reason if reason in ("stop", "length") else "abort",
        usage=Usage(
            prompt_tokens=len(output.prompt_token_ids), completion_tokens=len(answer.token_ids)
        ),
    )


def _request_error(error: Exception) -> RequestError:
    message = str(error.args[0]) if error.args else type(error).__name__
    if "maximum context length" in message or "longer than the maximum model length" in message:
        return ContextLengthError(message, param="messages")
    return RequestError(message, param=getattr(error, "parameter", None))


def _conforms(engine: OfflineEngine) -> "Engine":
    return engine
