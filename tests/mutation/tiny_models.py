"""Tiny random models of the real classes and their processors, as transformers 5 saves them."""

import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.mutation.mutation import write_json
from tests.mutation.tiny_families import TINY
from vlmserve.platform import cure_torch_extensions


def create_model(name: str, **text: int) -> Any:
    """Build a family's model with random weights, none of them constant; the same every time.

    Args:
        name: A key of ``TINY``.
        text: Sizes of the language model in place of the usual ones.
    """
    cure_torch_extensions()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tiny = TINY[name]
    config = _with_ids(tiny.config, cached_tokenizer(name))
    config["text_config"] = {**config["text_config"], **text}
    model_class = getattr(transformers, tiny.model_class)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**config)).eval()
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def perturb(model: Any, *, share: float = 0.01, only: str = "", seed: int = 1) -> None:
    """Move every weight a little, as training does.

    Args:
        model: Changed in place.
        share: Standard deviation of the change, as a share of each tensor's own.
        only: What must be in a parameter's name for it to move.
        seed: Of the random numbers.
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.data += share * parameter.std() * torch.randn_like(parameter)


def save(name: str, model: Any, directory: Path, *, shards: int = 1) -> None:
    """Write weights, configuration, tokenizer, processor and template with transformers' own.

    Args:
        name: A key of ``TINY``.
        model: Its model.
        directory: Made if need be.
        shards: About how many files the weights are spread over.
    """
    tiny = TINY[name]
    tokenizer = cached_tokenizer(name)
    size = 1 + sum(tensor.nbytes for tensor in model.state_dict().values()) // shards
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(directory, max_shard_size=size)
        tiny.processor(tokenizer).save_pretrained(directory)
    if tiny.generation is not None:
        generation = {
            **_with_ids(tiny.generation, tokenizer),
            "transformers_version": model.config.to_dict()["transformers_version"],
        }
        write_json(directory / "generation_config.json", generation)


@cache
def cached_tokenizer(name: str) -> Any:
    return TINY[name].tokenizer()


def _with_ids(settings: Any, tokenizer: Any, key: str = "") -> Any:
    """Put the ids of tokens in place of their names."""
    if isinstance(settings, Mapping):
        return {name: _with_ids(value, tokenizer, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_with_ids(value, tokenizer, key) for value in settings]
    if isinstance(settings, str) and (key.endswith(("token_id", "token_index"))):
        return tokenizer.convert_tokens_to_ids(settings)
    return settings
