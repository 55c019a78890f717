"""How training frameworks make RGB of an image file: which way up, and what alpha becomes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageReader:
    """How some training code makes RGB of an image file."""

    name: str
    rotates: bool | None
    """Whether it applies the EXIF orientation; ``None`` is not known."""

    fills_white: bool | None
    """Whether transparent pixels become white; else they keep the colour that lies under them."""

    source: str


LLAVA = ImageReader(
    "LLaVA's training code",
    rotates=False,
    fills_white=False,
    source="LLaVA llava/train/train.py LazySupervisedDataset (Image.open, convert)",
)
XCOMPOSER = ImageReader(
    "InternLM-XComposer's training code",
    rotates=False,
    fills_white=False,
    source="InternLM-XComposer finetune/data_mix.py (Image.open, convert)",
)
LLAMA_FACTORY = ImageReader(
    "LLaMA-Factory",
    rotates=False,
    fills_white=False,
    source="LLaMA-Factory 0.9.5 data/mm_plugin.py _regularize_images, _preprocess_image",
)
SWIFT = ImageReader(
    "ms-swift",
    rotates=False,
    fills_white=False,
    source="ms-swift 4 template/vision_utils.py load_image",
)
# Qwen's images go through qwen-vl-utils, which fills RGBA, unless ms-swift shrinks them itself.
SWIFT_QWEN = ImageReader(
    "ms-swift (qwen-vl-utils)",
    rotates=False,
    fills_white=True,
    source="ms-swift 4 template/templates/qwen.py, qwen-vl-utils 0.0.14 vision_process.py to_rgb",
)
TRANSFORMERS = ImageReader(
    "the transformers Trainer",
    rotates=True,
    fills_white=None,
    source="datasets 5.2 features/image.py decode_example, transformers 5.19 image_utils.py "
    "load_image",
)
UNKNOWN = ImageReader("the training code", rotates=None, fills_white=None, source="")


def find_image_reader(framework: str | None, family: str, *, shrinks: bool) -> ImageReader:
    """Tell who read the images of a training.

    Args:
        framework: Its name as in ``TrainingInfo``; ``None`` is not known.
        family: The model family's name, or nothing.
        shrinks: Whether the framework itself was told a largest image (``max_pixels``).
    """
    if framework == "llava":
        return XCOMPOSER if "xcomposer" in family else LLAVA
    if framework == "ms-swift":
        return SWIFT_QWEN if family.startswith("qwen") and not shrinks else SWIFT
    known = {"llama-factory": LLAMA_FACTORY, "transformers": TRANSFORMERS}
    return UNKNOWN if framework is None else known.get(framework, UNKNOWN)
