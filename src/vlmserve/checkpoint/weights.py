"""Which files hold a directory's weights, and their headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmserve.checkpoint.files import read_json
from vlmserve.checkpoint.tensors import TensorInfo, read_header
from vlmserve.checkpoint.torch_pickle import read_pickle_header
from vlmserve.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"
PROJECTOR_NAME = "mm_projector.bin"
"""What the original LLaVA saves when it trains the projector alone."""

NON_LORA_NAME = "non_lora_trainables.bin"
"""What LLaVA and its descendants save beside an adapter: the trained projector above all."""

_NOT_MODEL_WEIGHTS = ("adapter_model", "optimizer", "consolidated")
_NOT_MODEL_PICKLES = (
    "training_args",
    "optimizer",
    "scheduler",
    "adapter_model",
    "rng_state",
    "non_lora_trainables",
    "mm_projector",
    "scaler",
    # DeepSpeed's shards
    "mp_rank",
    "zero_pp_rank",
    "bf16_zero",
)

Headers = Mapping[Path, Mapping[str, TensorInfo] | CheckpointError]
"""What each file holds, or why it cannot be read."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a model directory, as its index or its file names tell."""

    directory: Path
    shards: tuple[Path, ...]
    """Safetensors files that belong to the model; one that the index names may be missing."""

    pickles: tuple[Path, ...]
    """``pytorch_model*.bin`` and the like, or else ``*.pt``, by name or by their index; never
    unpickled here."""

    weight_map: Mapping[str, str] = field(default_factory=dict)
    """File name by tensor name, from the index; empty without one."""

    index: str = INDEX_NAME
    """Name of the file that ``weight_map`` is from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that vLLM reads: pickles only where there is no safetensors file."""
        return self.shards or self.pickles


def find_weights(directory: Path) -> WeightFiles:
    """List the files that hold a model's weights.

    With an index, they are the files that it names. Without one, they are all safetensors files of
    the directory, as vLLM takes them (vllm 0.32, model_loader/default_loader.py).

    Raises:
        CheckpointError: An index is not JSON or has no ``weight_map``.
    """
    # Of the kinds of pickles, too, the first that is there is all that vLLM reads.
    pickles = _find_pickles(directory, "*.bin") or _find_pickles(directory, "*.pt")
    if (directory / INDEX_NAME).is_file():
        weight_map = _read_index(directory / INDEX_NAME)
        return WeightFiles(directory, _named(directory, weight_map), pickles, weight_map)
    shards = tuple(
        path
        for path in sorted(directory.glob("*.safetensors"))
        if not path.name.startswith(_NOT_MODEL_WEIGHTS)
    )
    if not shards and (directory / PICKLE_INDEX_NAME).is_file():
        weight_map = _read_index(directory / PICKLE_INDEX_NAME)
        pickles = _named(directory, weight_map)
        return WeightFiles(directory, (), pickles, weight_map, PICKLE_INDEX_NAME)
    return WeightFiles(directory, shards, pickles)


def _find_pickles(directory: Path, pattern: str) -> tuple[Path, ...]:
    return tuple(
        path
        for path in sorted(directory.glob(pattern))
        if not path.name.startswith(_NOT_MODEL_PICKLES)
    )


def read_headers(weights: WeightFiles) -> Headers:
    """Read the header of each file that vLLM would load.

    Returns:
        In the files' order, the tensors by name, or the error of a file that is missing or broken.
    """
    headers: dict[Path, Mapping[str, TensorInfo] | CheckpointError] = {}
    for path in weights.files:
        try:
            headers[path] = read_header(path) if weights.shards else read_pickle_header(path)
        except CheckpointError as error:
            headers[path] = error
    return headers


def merge_headers(weights: WeightFiles, headers: Headers) -> dict[str, TensorInfo]:
    """Put the tensors of all files together.

    Returns:
        The tensors by name. Of two files with the same name, the later file wins.

    Raises:
        CheckpointError: There is no weight file, or one is missing or broken.
    """
    if not headers:
        raise CheckpointError(
            f"{weights.directory}: no weights: neither *.safetensors, *.bin nor *.pt files"
        )
    tensors: dict[str, TensorInfo] = {}
    for header in headers.values():
        if isinstance(header, CheckpointError):
            raise header
        tensors.update(header)
    return tensors


def _read_index(index: Path) -> Mapping[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(f"{index}: weight_map: an object of file names is expected")
    return weight_map


def _named(directory: Path, weight_map: Mapping[str, str]) -> tuple[Path, ...]:
    return tuple(directory / name for name in sorted(set(weight_map.values())))
