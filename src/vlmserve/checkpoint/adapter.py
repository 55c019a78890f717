"""A PEFT adapter as its files describe it, and how it fits a base model in vLLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.families import find_family
from vlmserve.checkpoint.files import read_json
from vlmserve.checkpoint.tensors import Shape, TensorInfo, read_header
from vlmserve.checkpoint.torch_pickle import read_pickle_header
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

# LoRA ranks that vLLM allocates for (vllm 0.32, config/lora.py MaxLoRARanks).
MAX_LORA_RANK = 512

_EMBEDDING = "language_model.model.embed_tokens.weight"
_PEFT_PREFIX = "base_model.model."
# Ends of PEFT's tensor names: role in the pair, by suffix.
_ROLES = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
}
_EMBEDDING_COPIES = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
# Parts of module paths that lie in a vision tower or a projector, in any family and layout.
_VISION_WORDS = ("visual", "vision_tower", "vision_model", "vit")
_PROJECTOR_WORDS = ("merger", "deepstack_merger_list", "multi_modal_projector", "mm_projector")


@dataclass(frozen=True)
class LoraPair:
    """The two matrices that one module's adaptation is the product of."""

    module: str
    """The module's path as the adapter names it, without PEFT's prefix."""

    a: TensorInfo | None
    """Shape ``(rank, in_features)``."""

    b: TensorInfo | None
    """Shape ``(out_features, rank)``."""

    is_embedding: bool


@dataclass(frozen=True)
class AdapterInfo:
    """A LoRA adapter, from ``adapter_config.json`` and the header of its weights."""

    path: Path
    """The adapter's directory."""

    config: Mapping[str, Any]
    """``adapter_config.json`` as it is."""

    rank: int
    """The largest rank of any module: ``r`` or an entry of ``rank_pattern``."""

    alpha: float
    target_modules: tuple[str, ...] | str
    """Names or one regular expression, as PEFT was told."""

    base_ref: str | None
    """``base_model_name_or_path``: a path, maybe stale, or a hub id."""

    modules_to_save: tuple[str, ...]
    bias: str
    init_lora_weights: bool | str
    use_dora: bool
    use_rslora: bool

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The adapter's tensors by the name they have in the file.

        Raises:
            CheckpointError: The weights are missing, broken, or pickled in a way that cannot be
                followed without running it.
        """
        path = self.path / WEIGHTS_NAME
        if not path.is_file():
            pickled = next(self.path.glob("adapter_model.[bp][it]*"), None)
            if pickled is not None:
                return read_pickle_header(pickled)
            raise CheckpointError(f"{self.path}: no {WEIGHTS_NAME}")
        return read_header(path)

    @cached_property
    def pairs(self) -> tuple[LoraPair, ...]:
        """The adapted modules, in the order of the file."""
        found: dict[str, dict[str, TensorInfo]] = {}
        for name, tensor in self.tensors.items():
            module, role = _split(name)
            if role is not None:
                found.setdefault(module, {})[role] = tensor
        return tuple(
            LoraPair(
                module,
                roles.get("A"),
                roles.get("B"),
                any("lora_embedding" in tensor.name for tensor in roles.values()),
            )
            for module, roles in found.items()
        )

    @cached_property
    def other_tensors(self) -> tuple[str, ...]:
        """Names of tensors that are not LoRA matrices: whole weights, biases, magnitudes.

        Copies of the base's embeddings are not among them: PEFT adds them unasked, and vLLM skips
        them (vllm 0.32 lora/utils.py is_base_embedding_weights).
        """
        return tuple(
            name
            for name in self.tensors
            if _split(name)[1] is None and not name.endswith(_EMBEDDING_COPIES)
        )

    @cached_property
    def embedding_copies(self) -> Mapping[str, TensorInfo]:
        """Copies of the base's own embeddings and head by module path, without PEFT's prefix."""
        return {
            name.removeprefix(_PEFT_PREFIX).removesuffix(".base_layer.weight"): tensor
            for name, tensor in self.tensors.items()
            if name.endswith(_EMBEDDING_COPIES)
        }

    @property
    def touches_vision_tower(self) -> bool:
        """Whether a module of a vision tower is adapted, the projector not counted."""
        return any(
            _has_word(pair.module, _VISION_WORDS) and not _has_word(pair.module, _PROJECTOR_WORDS)
            for pair in self.pairs
        )

    @property
    def touches_projector(self) -> bool:
        """Whether a module between vision tower and language model is adapted."""
        return any(_has_word(pair.module, _PROJECTOR_WORDS) for pair in self.pairs)


def load_adapter(directory: Path) -> AdapterInfo:
    """Read ``adapter_config.json``; the weights' header is read when it is asked for.

    Raises:
        CheckpointError: The file is missing or broken, or the adapter is no LoRA.
    """
    path = directory / CONFIG_NAME
    config = read_json(path)
    if config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(
            f"{path}: peft_type: {config['peft_type']}: vLLM serves LORA adapters only",
            hint="merge the adapter into its base with PEFT's merge_and_unload",
        )
    ranks = [config.get("r"), *_mapping(config, "rank_pattern", path).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise CheckpointError(f"{path}: r, rank_pattern: ranks must be positive integers: {ranks}")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path}: lora_alpha: a number is expected, not {alpha!r}")
    targets = config.get("target_modules")
    if not isinstance(targets, str):
        targets = _names(config, "target_modules", path)
    return AdapterInfo(
        path=directory,
        config=config,
        rank=max(ranks),
        alpha=alpha,
        target_modules=targets,
        base_ref=config.get("base_model_name_or_path") or None,
        modules_to_save=_names(config, "modules_to_save", path),
        bias=str(config.get("bias", "none")),
        init_lora_weights=config.get("init_lora_weights", True),
        use_dora=bool(config.get("use_dora")),
        use_rslora=bool(config.get("use_rslora")),
    )


@dataclass(frozen=True)
class ShapeMismatch:
    """A LoRA matrix whose sizes are not those of the base's module."""

    module: str
    tensor: str
    found: Shape | None
    """``None`` where one matrix of the pair is absent."""

    expected: Shape


@dataclass(frozen=True)
class AdapterMatch:
    """Which modules of an adapter vLLM would apply to a base. Names are as in the adapter."""

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    """Modules that vLLM has not or does not adapt; it drops their weights without a word."""

    vision: tuple[str, ...]
    """Those of ``matched`` in vision tower or projector: only with
    ``enable_tower_connector_lora``."""

    shape_mismatches: tuple[ShapeMismatch, ...]


def match_adapter(adapter: AdapterInfo, base: "Checkpoint") -> AdapterMatch | None:
    """Find the module of the base that each adapted module of an adapter is.

    Args:
        adapter: The adapter.
        base: The model it is laid on.

    Returns:
        The match, or ``None`` where the base's modules are not known.

    Raises:
        CheckpointError: The adapter's weights or the base's configuration are broken.
    """
    family = find_family(base.config)
    modules = None if family is None else family.linear_modules(base.config)
    expected = None if family is None else family.expected_tensors(base.config)
    if family is None or modules is None or expected is None:
        return None
    if family.takes_embedding_lora(base.config):
        # PEFT's embedding matrices are transposed: A is (rank, rows), B is (columns, rank).
        rows, columns = expected[_EMBEDDING].shape
        modules[_EMBEDDING.removesuffix(".weight")] = (columns, rows)
    matched, unmatched, vision = [], [], []
    mismatches: list[ShapeMismatch] = []
    for pair in adapter.pairs:
        name = family.canonical_module(pair.module)
        is_vision = family.component(f"{name}.") != "language model"
        if name not in modules or (is_vision and not family.supports_tower_lora):
            unmatched.append(pair.module)
            continue
        matched.append(pair.module)
        if is_vision:
            vision.append(pair.module)
        mismatches += _compare(pair, *modules[name], rank=adapter.rank)
    return AdapterMatch(tuple(matched), tuple(unmatched), tuple(vision), tuple(mismatches))


def _compare(pair: LoraPair, rows: int, columns: int, *, rank: int) -> list[ShapeMismatch]:
    match pair:
        # The pair's own rank: rank_pattern may give each module another.
        case LoraPair(a=TensorInfo(shape=(int(own), _))) | LoraPair(b=TensorInfo(shape=(_, own))):
            rank = int(own)
    wanted = (("lora_A", pair.a, (rank, columns)), ("lora_B", pair.b, (rows, rank)))
    return [
        ShapeMismatch(
            pair.module,
            f"{pair.module}.{role}" if tensor is None else tensor.name,
            None if tensor is None else tensor.shape,
            expected,
        )
        for role, tensor, expected in wanted
        if tensor is None or tensor.shape != expected
    ]


def _split(name: str) -> tuple[str, str | None]:
    """A tensor's module without PEFT's prefix, and ``A``, ``B`` or ``None`` for its role."""
    # Wrapped twice, it stands there twice; vllm 0.32 lora/utils.py parse_fine_tuned_lora_name takes
    # every one of them out.
    bare = name.replace(_PEFT_PREFIX, "") if name.startswith(_PEFT_PREFIX) else name
    for suffix, role in _ROLES.items():
        if bare.endswith(suffix):
            return bare.removesuffix(suffix), role
    return bare, None


def _has_word(module: str, words: tuple[str, ...]) -> bool:
    return any(part in words for part in module.split("."))


def _names(config: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    value = config.get(key) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path}: {key}: a list of names is expected, not {value!r}")
    return tuple(value)


def _mapping(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key}: an object is expected")
    return value
