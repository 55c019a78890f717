"""vLLM 0.32 inside this process: answers many conversations at once, with no server between.

One process holds the renderer, the scheduler and the model (``VLLM_ENABLE_V1_MULTIPROCESSING=0``):
every vLLM process pays some 20 s of imports on two cores, and an evaluation needs only one.
"""

import contextlib
import gc
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.engine.base import (
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
)
from vlmserve.engine.environment import prepare_vllm
from vlmserve.engine.media_connector import configure, decoder_processes
from vlmserve.engine.offline_run import GenerationRun, ScoringRun, lora_request
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.plan import ServingPlan, plan_serving
from vlmserve.engine.probe import check_logprob, probe_messages
from vlmserve.engine.vllm_args import parse_vllm_flags, vllm_flags
from vlmserve.errors import EngineError

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.base import Engine

_LOG = logging.getLogger(__name__)


def open_offline_engine(
    checkpoint: "Checkpoint",
    config: "ServeConfig",
    *,
    train_env: "VisionLimits | None" = None,
    beside: "Sequence[Checkpoint]" = (),
) -> "OfflineEngine":
    """Load a checkpoint into this process.

    Takes seconds to minutes. An adapter is loaded beside its base, and both are served.

    Args:
        checkpoint: A full checkpoint or an adapter with a known base.
        config: Engine and media settings; the HTTP server's are not used.
        train_env: What the training framework took from its environment.
        beside: Other adapters of its base, where it is an adapter, that are loaded as well.

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
    resources = contextlib.ExitStack()
    try:
        scratch = resources.enter_context(tempfile.TemporaryDirectory(prefix="vlmserve-"))
        plan = plan_serving(checkpoint, config, Path(scratch), train_env=train_env, beside=beside)
        for note in plan.notes:
            _LOG.info(note)
        configure(config.media, plan.normalisation)
        args = parse_vllm_flags(vllm_flags(plan, config))
        resources.enter_context(decoder_processes())
        engine = OfflineEngine(_load(args), plan, _chat_settings(args), resources)
    except BaseException:
        resources.close()
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
    """vLLM in this process, serving a model and adapters of it.

    Not for use from several threads.
    """

    def __init__(
        self,
        llm: Any,
        plan: ServingPlan,
        chat_settings: Mapping[str, Any],
        resources: contextlib.ExitStack,
    ) -> None:
        self._llm = llm
        self._plan = plan
        self._chat_settings = chat_settings
        self._resources = resources

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
        run = GenerationRun(self._llm, self._plan, self._chat_settings)
        try:
            yield from run.results(iter(requests))
        finally:
            run.abort()

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
        """Tell how likely given answers are; see ``Engine.score``.

        Requests are taken from the iterable as the engine has room for them.
        """
        if self._llm is None:
            raise EngineError("the engine is closed")
        run = ScoringRun(self._llm, self._plan, self._chat_settings)
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
        self._resources.close()


def takes_images(model_config: Any) -> bool:
    """Tell from vLLM's model configuration whether requests may hold images."""
    multimodal = model_config.multimodal_config
    return multimodal is not None and multimodal.get_limit_per_prompt("image") > 0


def _conforms(engine: OfflineEngine) -> "Engine":
    return engine
