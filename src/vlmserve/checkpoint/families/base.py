"""What vlmserve knows of a model family: its tensors, their names on disk, and its components."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlmserve.checkpoint.tensors import Shape
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.checkpoint.processor_settings import ProcessorSettings
    from vlmserve.checkpoint.visual_tokens.base import VisualTokens

Config = Mapping[str, Any]
"""A parsed ``config.json`` or one of its sections."""

Component = Literal["vision tower", "projector", "language model"]
"""Part of a model, in the words of the report. Qwen's merger is a projector."""

# Buffers that old trainers and quantisers leave in the weights. vLLM drops the rotary ones
# (vllm 0.32, models/utils.py AutoWeightsLoader) and transformers computes all of them.
_COMPUTED_BUFFERS = (
    "rotary_pos_emb.inv_freq",
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "embeddings.position_ids",
)

# Parameters with two dimensions that are looked up, not multiplied with.
_LOOKUP_TABLES = ("embed_tokens", "pos_embed", "position_embedding", "probe")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What the model expects of one tensor."""

    shape: Shape
    required: bool = True
    """Whether the output depends on it: a tied ``lm_head`` and the layers of a vision tower behind
    the one whose output is used may be absent."""


class Family(ABC):
    """One model family that people fine-tune.

    Tensor names come in several layouts, by the version of transformers that saved them and by
    whether that version's own names were kept. ``canonical`` maps all that vLLM accepts to vLLM's
    own, and everything else here speaks of those. A family that vLLM lacks has canonical names
    after the same fashion, so that components and comparisons work all the same.
    """

    name: ClassVar[str]
    """The family's ``model_type``; where it has one for each language model, a name of ours."""

    title: ClassVar[str]
    """The name people use, such as ``Qwen2-VL``."""

    architectures: ClassVar[frozenset[str]]
    """Values of ``architectures`` in ``config.json``."""

    served: ClassVar[bool] = True
    """Whether vllm 0.32 has it (``model_executor/models/registry.py``)."""

    supports_lora: ClassVar[bool] = True
    """Whether vllm 0.32 takes adapters for it: the class's ``SupportsLoRA``."""

    reads_image_processor: ClassVar[bool] = True
    """Whether vLLM takes the settings of images from the processor's files."""

    traps: ClassVar[tuple[str, ...]] = ()
    """What goes wrong when it is converted, merged or run by its own code and no file tells, each
    in a few words."""

    renames: ClassVar[tuple[tuple[str, str], ...]]
    """Prefixes that vLLM rewrites, in order, each applied to the result of the one before: the
    family's ``hf_to_vllm_mapper`` in vllm 0.32."""

    tower_prefixes: ClassVar[tuple[str, ...]]
    projector_prefixes: ClassVar[tuple[str, ...]]

    supports_tower_lora: ClassVar[bool] = True
    """Whether vLLM applies LoRA to vision tower and projector, given
    ``enable_tower_connector_lora``; to the language model it always does."""

    @abstractmethod
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        """The tensors of a model with this configuration, by canonical name.

        Returns:
            The tensors, or ``None`` where a part of the model is of a kind not known here.

        Raises:
            CheckpointError: A size in the configuration is not a positive integer.
        """

    def expected_in(
        self, config: Config, found: Mapping[str, Shape]
    ) -> dict[str, TensorSpec] | None:
        """The tensors to expect beside those that the files hold.

        Some configurations leave open what the tensors then decide, such as an image's size.

        Args:
            config: The model's configuration.
            found: Shapes of the tensors that are there, by canonical name.

        Returns:
            As ``expected_tensors``, which this is where the configuration says all.

        Raises:
            CheckpointError: As ``expected_tensors``.
        """
        del found
        return self.expected_tensors(config)

    def variant(self, config: Config, found: Mapping[str, Shape], directory: Path) -> str | None:
        """Which release of the family it is, where files tell: for people to read.

        Args:
            config: The model's configuration.
            found: Shapes of its tensors by canonical name; empty where they cannot be read.
            directory: Where it lies; its Python files may be read as text, never run.
        """
        del config, found, directory
        return None

    def architecture_for(self, model_type: str) -> str | None:
        """The class for a ``model_type``, for configurations that name no class."""
        return min(self.architectures) if model_type == self.name else None

    @abstractmethod
    def takes_embedding_lora(self, config: Config) -> bool:
        """Whether vLLM takes LoRA on ``embed_tokens`` and ``lm_head`` of this model."""

    def canonical(self, name: str) -> str:
        """A tensor's name in vLLM, from its name in a file."""
        for old, new in self.renames:
            if name.startswith(old):
                name = new + name.removeprefix(old)
        return name

    def canonical_module(self, path: str) -> str:
        """A module's path in vLLM, from its path in an adapter."""
        # The prefixes end in a dot, which a module such as lm_head itself does not have.
        return self.canonical(f"{path}.").removesuffix(".")

    def component(self, name: str) -> Component:
        """The part of the model that a canonical name belongs to."""
        if name.startswith(self.projector_prefixes):
            return "projector"
        return "vision tower" if name.startswith(self.tower_prefixes) else "language model"

    def is_benign(self, name: str) -> bool:
        """Whether an unexpected tensor of this canonical name does no harm."""
        return name.endswith(_COMPUTED_BUFFERS)

    def explain(self, missing: frozenset[str], unexpected: frozenset[str]) -> str | None:
        """A known cause of missing and unexpected tensors together, and what to do about it."""
        del missing
        if any(".lora_A." in name for name in unexpected):
            return (
                "an adapter is still wrapped around the weights: call merge_and_unload, then save"
            )
        return None

    def visual_tokens(self, config: Config, settings: "ProcessorSettings") -> "VisualTokens | None":
        """The family's token formula with a checkpoint's settings.

        Returns:
            The formula, or ``None`` where none is known.

        Raises:
            CheckpointError: A setting that it needs is missing or malformed.
        """
        del config, settings
        return None

    def linear_modules(self, config: Config) -> dict[str, tuple[int, int]] | None:
        """The modules that can carry LoRA, with ``(out_features, in_features)``.

        Returns:
            Sizes by canonical module name, or ``None`` where the tensors are not known.
        """
        expected = self.expected_tensors(config)
        if expected is None:
            return None
        modules = {}
        for name, spec in expected.items():
            module, _, parameter = name.rpartition(".")
            is_table = module.rpartition(".")[2] in _LOOKUP_TABLES
            match spec.shape:
                case (rows, columns) if parameter == "weight" and not is_table:
                    modules[module] = (rows, columns)
        if not self.takes_embedding_lora(config):
            modules = {name: size for name, size in modules.items() if not _is_lm_head(name)}
        return modules


def _is_lm_head(module: str) -> bool:
    return module.rpartition(".")[2] == "lm_head"


class Section:
    """A section of ``config.json`` that falls back on the defaults of its transformers class.

    Saved configurations leave out what equals the default, nested ones above all.

    Args:
        values: The section; ``None`` stands for an empty one.
        defaults: The class's defaults.
        where: The section's dotted path, for error messages.
    """

    def __init__(self, values: Config | None, defaults: Config, where: str) -> None:
        self._values = values or {}
        self._defaults = defaults
        self._where = where

    def size(self, key: str) -> int:
        """A positive integer.

        Raises:
            CheckpointError: The value is missing or is something else.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(
                f"config.json: {self._where}{key}: a positive integer is expected, not {value!r}"
            )
        return value

    def get(self, key: str) -> Any:
        """The value as it is, or the default; ``None`` counts as absent."""
        value = self._values.get(key)
        return self._defaults.get(key) if value is None else value


def subsection(config: Config, key: str) -> dict[str, Any] | None:
    """A nested object of a configuration, or ``None`` when it is absent.

    Raises:
        CheckpointError: The value is not an object.
    """
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"config.json: {key}: an object is expected, not {value!r}")
    return value
