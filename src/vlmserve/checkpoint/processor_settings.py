"""The settings that an image and a video processor really work with.

transformers 5.19 looks for them in this order (``image_processing_base.py``
``get_image_processor_dict``, ``video_processing_utils.py`` ``get_video_processor_dict``): nested in
``processor_config.json``, then in ``preprocessor_config.json``, for videos in
``video_preprocessor_config.json`` before that. What no file says is the default of the class.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.processor_defaults import processor_class, processor_defaults
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.checkpoint.source import Checkpoint

SettingsPart = Literal["image", "video", "wrapper"]
"""Image processor, video processor, or the settings of the processor around both."""

_NESTED = ("image_processor", "video_processor", "feature_extractor", "tokenizer")


@dataclass(frozen=True, slots=True)
class SettingSource:
    """Where a setting's value comes from."""

    path: Path | None
    """The file; ``None`` for the default of the class."""

    key: str
    """The dotted key in the file, or the class for a default."""


class PartSettings(Mapping[str, Any]):
    """The effective settings of one processor: those of its file over its class's defaults.

    Of the Qwen2-VL classes, ``min_pixels`` and ``max_pixels`` win over ``size``, as in
    transformers; both spellings are here, with the same values.

    Args:
        values: What the file says.
        class_name: The processor's class, for its defaults; empty where it is not known.
        path: The file.
        prefix: Where in the file, such as ``image_processor.``.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        class_name: str = "",
        path: Path | None = None,
        prefix: str = "",
    ) -> None:
        self.class_name = class_name
        """The processor's class as transformers 5 names it, or empty."""
        self._path = path
        self._prefix = prefix
        given = {key: value for key, value in values.items() if value is not None}
        self._values: dict[str, Any] = {**processor_defaults(class_name), **given}
        self._keys = {key: f"{prefix}{key}" for key in given}
        if class_name.startswith("Qwen2VL"):
            self._fold_pixels(given)

    @override
    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    @override
    def __len__(self) -> int:
        return len(self._values)

    def source(self, key: str) -> SettingSource:
        """Where the value of ``key`` comes from; also for a key that is not set at all."""
        if key in self._keys:
            return SettingSource(self._path, self._keys[key])
        return SettingSource(None, self.class_name or key)

    def integer(self, key: str) -> int:
        """A positive integer; a dotted key looks into a nested object.

        Raises:
            CheckpointError: The value is missing or is something else.
        """
        value: Any = self
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(
                f"{self._path or 'image processor'}: {self._prefix}{key}: a positive integer is "
                f"expected, not {value!r}"
            )
        return value

    def _fold_pixels(self, given: Mapping[str, Any]) -> None:
        """Qwen2VLImageProcessor.__init__ and Qwen2VLVideoProcessor.__init__, transformers 5.19."""
        size = self._values.get("size")
        size = dict(size) if isinstance(size, Mapping) else {}
        for pixels, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            size.pop(pixels, None)
            if pixels in given:
                size[edge] = given[pixels]
            elif edge in size:
                self._values[pixels] = size[edge]
                if "size" in given:
                    self._keys[pixels] = f"{self._prefix}size.{edge}"
        self._values["size"] = size


@dataclass(frozen=True, slots=True)
class ProcessorSettings:
    """The settings of a checkpoint's processor."""

    image: PartSettings
    video: PartSettings
    wrapper: PartSettings
    """Top level of ``processor_config.json``, such as LLaVA's ``patch_size``."""

    def source(self, key: str, part: SettingsPart = "image") -> SettingSource:
        """File and key that a setting comes from, for evidence."""
        settings: PartSettings = getattr(self, part)
        return settings.source(key)


def load_processor_settings(checkpoint: "Checkpoint") -> ProcessorSettings:
    """Read the settings of the processor that would be served with a checkpoint.

    Those are the model's own (the base's, for an adapter); where it has no image processor, those
    that ``vlmserve serve`` borrows: from an adapter's own directory, or from a full fine-tune's
    base. Without any file the defaults of the family's classes hold, and ``source`` says so.

    Raises:
        CheckpointError: A file is broken; the message names it.
    """
    directory = checkpoint.model.path
    if "image processor" in find_processor(directory).missing:
        donor = checkpoint.path if checkpoint.adapter is not None else None
        if donor is None and checkpoint.base is not None:
            donor = checkpoint.base.path
        if donor is not None and "image processor" not in find_processor(donor).missing:
            directory = donor
    return read_processor_settings(directory, checkpoint.model_type)


def read_processor_settings(directory: Path, model_type: str) -> ProcessorSettings:
    """Read the processor's settings in one directory.

    Args:
        directory: The directory; files may be absent.
        model_type: The model's, for the classes that no file names.

    Raises:
        CheckpointError: A file is broken; the message names it.
    """
    wrapper_path = directory / "processor_config.json"
    wrapper = read_json_if_present(wrapper_path)
    own = {key: value for key, value in wrapper.items() if key not in _NESTED}

    def part(kind: Literal["image", "video"], files: tuple[str, ...]) -> PartSettings:
        nested = wrapper.get(f"{kind}_processor")
        if isinstance(nested, dict):
            values, path, prefix = nested, wrapper_path, f"{kind}_processor."
        else:
            found = (directory / file for file in files if (directory / file).is_file())
            path = next(found, directory / files[0])
            values, prefix = read_json_if_present(path), ""
        name = processor_class(kind, values.get(f"{kind}_processor_type"), model_type)
        return PartSettings(values, class_name=name, path=path, prefix=prefix)

    return ProcessorSettings(
        image=part("image", ("preprocessor_config.json",)),
        video=part("video", ("video_preprocessor_config.json", "preprocessor_config.json")),
        wrapper=PartSettings(own, path=wrapper_path),
    )
