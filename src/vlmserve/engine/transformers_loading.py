"""Loads a checkpoint with transformers and PEFT, as their authors' own code does it."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.engine.environment import prepare_vllm
from vlmserve.engine.media_connector import configure
from vlmserve.engine.plan import ServingPlan, plan_serving
from vlmserve.engine.transformers import TransformersEngine, peft_name
from vlmserve.engine.transformers_inputs import InputMaker
from vlmserve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig

_LOG = logging.getLogger(__name__)


def open_transformers_engine(
    checkpoint: "Checkpoint",
    config: "ServeConfig",
    *,
    train_env: "VisionLimits | None" = None,
    beside: "Sequence[Checkpoint]" = (),
) -> "TransformersEngine":
    """Load a checkpoint into this process, onto the GPU where there is one.

    Args:
        checkpoint: A full checkpoint, or an adapter with a known base.
        config: Engine and media settings, as they are served with; those of vLLM alone are not
            used.
        train_env: What the training framework took from its environment.
        beside: Other adapters of the same base.

    Raises:
        CheckpointError: transformers has no class for the model, or cannot load it.
        ConfigError: The settings ask for what only vLLM does.
        EngineError: vLLM, whose media loaders are used, is missing.
    """
    if config.engine.quantization is not None:
        raise ConfigError(
            "engine.quantization: the transformers engine computes with the weights as they are "
            "stored",
        )
    prepare_vllm()
    from vlmserve.engine.plugin import register

    register()
    # Before the plan is known: what it reads goes through the guard as well.
    configure(config.media)
    scratch = tempfile.TemporaryDirectory(prefix="vlmserve-")
    try:
        plan = plan_serving(
            checkpoint, config, Path(scratch.name), train_env=train_env, beside=beside
        )
        for note in plan.notes:
            _LOG.info(note)
        configure(config.media, plan.normalisation)
        engine = TransformersEngine(_load(plan, config), _inputs(plan, config), plan, config)
    except BaseException:
        scratch.cleanup()
        raise
    engine.scratch = scratch
    try:
        engine.probe()
    except BaseException:
        engine.close()
        raise
    return engine


def _load(plan: ServingPlan, config: "ServeConfig") -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    path, dtype = plan.model_path, config.engine.dtype
    settings = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    try:
        try:
            model = AutoModelForImageTextToText.from_pretrained(path, **settings)
        except ValueError:
            model = AutoModelForCausalLM.from_pretrained(path, **settings)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        if plan.adapters:
            from peft import PeftModel

            (first, *others) = plan.adapters
            model = PeftModel.from_pretrained(model, first.path, adapter_name=peft_name(1))
            for number, adapter in enumerate(others, start=2):
                model.load_adapter(adapter.path, adapter_name=peft_name(number))
    except Exception as error:
        # transformers and PEFT raise many kinds here.
        raise CheckpointError(f"transformers could not load {path}: {error}") from error
    return model.eval()


def _inputs(plan: ServingPlan, config: "ServeConfig") -> InputMaker:
    from transformers import AutoProcessor

    template = config.server.chat_template
    if template is not None and Path(template).is_file():
        template = Path(template).read_text(encoding="utf-8")
    try:
        processor = AutoProcessor.from_pretrained(plan.model_path)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"transformers has no processor for it: {error}") from error
    return InputMaker(
        processor,
        chat_template=template,
        media_io_kwargs=plan.media_io_kwargs,
        processor_kwargs=plan.mm_processor_kwargs,
    )
