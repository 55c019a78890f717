"""One image's three ways into a model: as in training, as the files say, and as it is served."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.processor_settings import (
    PartSettings,
    ProcessorSettings,
    load_processor_settings,
    read_processor_settings,
)
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.serving_limits import training_media_settings, with_processor_kwargs
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.image_sizes import ImageSizes
from vlmserve.errors import CheckpointError, MediaError
from vlmserve.frameworks.media_limits import TrainingLimits, find_training_limits

# What rounding to whole patches, once more or once less, makes of most sizes.
_ROUNDING = 0.1


@dataclass(frozen=True)
class ImageWay:
    """What turns an image into tokens: a framework before the processor, or the processor alone."""

    formula: VisualTokens
    limits: TrainingLimits | None = None

    def tokens(self, width_px: int, height_px: int) -> int | None:
        """Tokens of an image; ``None`` where it is refused."""
        if self.limits is not None:
            width_px, height_px = self.limits.shrink_image(width_px, height_px)
        try:
            return self.formula.image(width_px, height_px).tokens
        except MediaError:
            return None


@dataclass(frozen=True)
class ImageDrift:
    """How images came into the model in training, and how they do now."""

    limits: TrainingLimits | None
    """What is known of the training's limits."""

    origin: ProcessorSettings | None
    """The processor of the training where it is another one than the served; see
    ``trained_processor``."""

    trained: ImageWay
    nominal: ImageWay
    """The training's limits as the processor's own: the same but for rounding."""

    plain: ImageWay
    """The processor's files alone, as another server would use them."""

    served: ImageWay

    assumes_one_tile: bool = False
    """Whether the training is taken to have made one tile of every image, unrecorded."""

    def drifted(self, way: ImageWay, sizes: ImageSizes) -> list[tuple[int, int]]:
        """The sizes that ``way`` gives another number of tokens than the training did."""
        return [size for size in sizes.sizes_px if self._differs(way, size)]

    def _differs(self, way: ImageWay, size: tuple[int, int]) -> bool:
        found = way.tokens(*size)
        return all(_far(found, expected.tokens(*size)) for expected in (self.trained, self.nominal))


def trained_processor(checkpoint: Checkpoint) -> ProcessorSettings | None:
    """The processor that the training had, where it is not the one that is served.

    An adapter's own processor files are what its trainer saved, and the base's are served. For a
    full model the base's are returned: what it was most likely handed at the start.
    """
    if checkpoint.base is None:
        return None
    path = checkpoint.path if checkpoint.adapter is not None else checkpoint.base.path
    if "image processor" in find_processor(path).missing:
        return None
    return read_processor_settings(path, checkpoint.model_type)


def find_image_drift(exam: Examination) -> ImageDrift | None:
    """Compare the sizes of images in training and in serving.

    Returns:
        The comparison, or ``None`` where nothing tells what the training saw, or the family's
        formula is not known.

    Raises:
        CheckpointError: A processor file is broken.
    """
    checkpoint = exam.checkpoint
    family, config = checkpoint.family, checkpoint.config
    limits = find_training_limits(checkpoint.training, exam.train_env)
    origin = trained_processor(checkpoint)
    if family is None or (limits is None and origin is None):
        return None
    own = load_processor_settings(checkpoint)
    chosen = exam.serve.engine.mm_processor_kwargs
    carried = training_media_settings(checkpoint, exam.train_env, chosen=chosen)
    inner = nominal = own
    if isinstance(family, QwenVL):
        # Sides and crops of other families are proc.geometry's; an area is the one limit here.
        inner = nominal = own if origin is None else _with_area(own, origin.image)
        if limits is not None:
            per_token = family.pixels_per_token(config)
            if limits.framework != "llama-factory":
                inner = _bounded(inner, limits.told.in_pixels(per_token), replaces=True)
            nominal = _bounded(inner, limits.probable.in_pixels(per_token), replaces=False)
    one_tile = _makes_one_tile(exam, limits)
    if one_tile:
        single = {"images_kwargs": {"min_patches": 1, "max_patches": 1}}
        inner = nominal = with_processor_kwargs(own, single)
    served = with_processor_kwargs(own, {**carried.mm_processor_kwargs, **chosen})
    formulas = [family.visual_tokens(config, each) for each in (inner, nominal, own, served)]
    ways = [ImageWay(formula) for formula in formulas if formula is not None]
    if len(ways) < len(formulas):
        return None
    trained, as_limit, plain, as_served = ways
    trained = replace(trained, limits=limits)
    return ImageDrift(limits, origin, trained, as_limit, plain, as_served, one_tile)


def _makes_one_tile(exam: Examination, limits: TrainingLimits | None) -> bool:
    """LLaMA-Factory's default for InternVL, unless the operator decides for tiles or against them.

    LLaMA-Factory 0.9.5 data/mm_plugin.py ``InternVLPlugin``: ``crop_to_patches`` is off and goes
    past the processor, which asks for tiles (transformers 5.19 processing_internvl.py).
    """
    chosen = exam.serve.engine.mm_processor_kwargs
    scoped = chosen.get("images_kwargs")
    names = {*chosen, *(scoped if isinstance(scoped, dict) else ())}
    family = exam.checkpoint.family
    is_tiled = family is not None and family.name == "internvl"
    is_factory = limits is not None and limits.framework == "llama-factory"
    return is_tiled and is_factory and "crop_to_patches" not in names


def _with_area(settings: ProcessorSettings, other: PartSettings) -> ProcessorSettings:
    size = other.get("size") or {}
    edges = {edge: size[edge] for edge in ("shortest_edge", "longest_edge") if edge in size}
    return _with_edges(settings, edges)


def _bounded(
    settings: ProcessorSettings, limits: VisionLimits, *, replaces: bool
) -> ProcessorSettings:
    """The processor with a run's limits: in the place of its own, or where they are narrower."""
    size = settings.image.get("size") or {}
    smallest, largest = limits.min_pixels, limits.max_pixels
    if not replaces:
        smallest = max(filter(None, (smallest, _edge(size, "shortest_edge"))), default=None)
        largest = min(filter(None, (largest, _edge(size, "longest_edge"))), default=None)
        # What a framework shrank below the processor's smallest size is enlarged again.
        largest = max(filter(None, (largest, smallest)), default=None)
    wanted = {"shortest_edge": smallest, "longest_edge": largest}
    return _with_edges(settings, {edge: px for edge, px in wanted.items() if px is not None})


def _edge(size: Mapping[str, Any], name: str) -> int | None:
    value = size.get(name)
    if value is not None and type(value) is not int:
        raise CheckpointError(f"the processor's size.{name}: a whole number is expected: {value!r}")
    return value


def _with_edges(settings: ProcessorSettings, edges: dict[str, int]) -> ProcessorSettings:
    return with_processor_kwargs(settings, {"images_kwargs": {"size": edges}} if edges else {})


def _far(found: int | None, expected: int | None) -> bool:
    if found is None or expected is None:
        return found is not expected
    return abs(found - expected) > _ROUNDING * expected
