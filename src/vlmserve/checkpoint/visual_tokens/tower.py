"""The vision tower of LLaVA and its kin, as far as it decides how many features an image has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from vlmserve.errors import CheckpointError

# image_size, patch_size and whether there is a class token: the defaults of CLIPVisionConfig and
# SiglipVisionConfig in transformers 5.19. LLaVA's own default, where vision_config is absent
# altogether, is the last one.
_TOWERS: Mapping[str, tuple[int, int, bool]] = {
    "clip_vision_model": (224, 32, True),
    "siglip_vision_model": (224, 16, False),
}
_LLAVA_DEFAULT = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}


@dataclass(frozen=True, slots=True)
class VisionTower:
    """Sizes of a tower that sees square pictures."""

    image_px: int
    patch_px: int
    has_class_token: bool

    @property
    def grid(self) -> int:
        """Patches of one side."""
        return self.image_px // self.patch_px

    def features(self, strategy: str) -> int:
        """Features of one picture.

        Args:
            strategy: ``vision_feature_select_strategy``: ``default`` drops the first feature,
                whatever it is, ``full`` keeps all (vllm 0.32, models/vision.py
                ``get_num_selected_vision_tokens``).
        """
        every = self.grid**2 + self.has_class_token
        return every - 1 if strategy == "default" else every

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self | None:
        """Read the tower of a model in the transformers format.

        Returns:
            The tower, or ``None`` where it is of a kind not known here.

        Raises:
            CheckpointError: A size is not a positive integer.
        """
        vision = config.get("vision_config")
        vision = vision if isinstance(vision, Mapping) else _LLAVA_DEFAULT
        defaults = _TOWERS.get(str(vision.get("model_type", "clip_vision_model")))
        if defaults is None:
            return None
        image_px = _size(vision, "image_size", defaults[0])
        return cls(image_px, _size(vision, "patch_size", defaults[1]), defaults[2])


def _size(vision: Mapping[str, Any], key: str, default: int) -> int:
    value = vision.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CheckpointError(
            f"config.json: vision_config.{key}: a positive integer is expected, not {value!r}"
        )
    return value
