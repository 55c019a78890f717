"""Which files hold a directory's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmserve.checkpoint.files import read_json
from vlmserve.checkpoint.tensors import TensorInfo, read_header
from vlmserve.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"

_NOT_MODEL_WEIGHTS = ("adapter_model", "optimizer", "consolidated")
_NOT_MODEL_PICKLES = (
    "training_args",
    "optimizer",
    "scheduler",
    "adapter_model",
    "rng_state",
    "non_lora_trainables",
)


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a model directory, as its index or its file names tell."""

    directory: Path
    shards: tuple[Path, ...]
    """Safetensors files that belong to the model; one that the index names may be missing."""

    pickles: tuple[Path, ...]
    """``pytorch_model*.bin`` and the like; never opened here."""

    weight_map: Mapping[str, str] = field(default_factory=dict)
    """File name by tensor name, from the index; empty without one."""


def find_weights(directory: Path) -> WeightFiles:
    """List the files that hold a model's weights.

    With an index, they are the files that it names. Without one, they are all safetensors files of
    the directory, as vLLM takes them (vllm 0.32, model_loader/default_loader.py).

    Raises:
        CheckpointError: The index is not JSON or has no ``weight_map``.
    """
    pickles = tuple(
        path
        for path in sorted(directory.glob("*.bin"))
        if not path.name.startswith(_NOT_MODEL_PICKLES)
    )
    index = directory / INDEX_NAME
    if not index.is_file():
        shards = tuple(
            path
            for path in sorted(directory.glob("*.safetensors"))
            if not path.name.startswith(_NOT_MODEL_WEIGHTS)
        )
        return WeightFiles(directory, shards, pickles)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(f"{index}: weight_map: an object of file names is expected")
    shards = tuple(directory / name for name in sorted(set(weight_map.values())))
    return WeightFiles(directory, shards, pickles, weight_map)


def read_tensors(weights: WeightFiles) -> dict[str, TensorInfo]:
    """Read the headers of all weight files.

    Returns:
        The tensors by name. Of two files with the same name, the later file wins.

    Raises:
        CheckpointError: There is no safetensors file, or one is missing or broken.
    """
    if not weights.shards:
        what = "only pickled weights" if weights.pickles else "no weights"
        raise CheckpointError(f"{weights.directory}: {what}: no *.safetensors file")
    tensors: dict[str, TensorInfo] = {}
    for shard in weights.shards:
        tensors.update(read_header(shard))
    return tensors
