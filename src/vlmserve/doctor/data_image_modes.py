"""Do training and serving see the same pixels: orientation, transparency, depth, colour model?"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vlmserve.datasets.images import ImageUse, identify, read_dataset_headers
from vlmserve.datasets.sample import Dataset
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Severity
from vlmserve.errors import MediaError
from vlmserve.frameworks.image_reading import LLAMA_FACTORY, ImageReader, find_image_reader
from vlmserve.media.headers import ImageHeader

_ID = "data.image-modes"
_MOST_SHOWN = 5
_UPRIGHT = 1
_VLLM = "vllm 0.32 multimodal/image.py normalize_image, rgba_to_rgb"


def check_image_modes(exam: Examination) -> Iterator[Outcome]:
    """``data.image-modes``: the training saw the pixels that vLLM will make of these images."""
    if exam.data is None or exam.fast:
        return
    uses = read_dataset_headers(
        exam.data, lambda done, total: exam.progress("data.image-modes: headers", done, total)
    )
    images = list({identify(use.medium): use for use in uses}.values())
    readable = [use for use in images if not isinstance(use.header, MediaError)]
    loader = _find_loader(exam, exam.data)
    yield from _rotated(readable, loader)
    if "rgba_background_color" not in exam.serve.engine.media_io_kwargs.get("image", {}):
        yield from _transparent(readable, loader)
    for kind in _ALIKE:
        yield from _alike(readable, kind)


def _find_loader(exam: Examination, data: Dataset) -> ImageReader:
    """Who read the images, by what the run left and else by the data's format."""
    training, family = exam.checkpoint.training, exam.checkpoint.family
    named = None if training is None else training.framework
    by_format = {"llava": "llava", "sharegpt": "llama-factory", "alpaca": "llama-factory"}
    # LLaVA and LLaMA-Factory are built on the transformers Trainer, and may leave its files alone.
    if named in {None, "transformers"}:
        # Messages with a column of images are ms-swift's, which leaves its args.json, and TRL's.
        named = by_format.get(data.format, None if data.format == "ms-swift" else named)
    name = "" if family is None else family.name
    shrinks = training is not None and training.max_pixels is not None
    return find_image_reader(named, name, shrinks=shrinks)


def _rotated(images: Sequence[ImageUse], loader: ImageReader) -> Iterator[Finding]:
    found = [
        (use, header)
        for use, header in _with_headers(images)
        if header.exif_orientation != _UPRIGHT
    ]
    if not found or loader.rotates:
        return
    if loader is LLAMA_FACTORY:
        # What a table embeds, the datasets library has decoded and rotated before.
        found = [(use, header) for use, header in found if use.medium.embedded is None]
        if not found:
            return
    counts = Counter(header.exif_orientation for _, header in found)
    said = ", ".join(f"{number} with {tag}" for tag, number in sorted(counts.items()))
    side = "does not" if loader.rotates is False else "may not"
    yield Finding(
        id=_ID,
        severity="warn" if loader.rotates is False else "info",
        title=f"{_share(found, images)} images have an EXIF orientation: vLLM rotates them, "
        f"{loader.name} {side}",
        evidence=[
            Evidence(file=str(images[0].sample.file), key="EXIF orientation", value=said),
            *_examples(found, lambda header: f"orientation {header.exif_orientation}"),
        ],
        consequence="The model learned from these images lying on their side or upside down, and "
        "is served upright ones: what it learned of directions, places and text in them is wrong, "
        "and their token counts differ where width and height change places.",
        remedy="rotate the files once (ImageOps.exif_transpose, or `mogrify -auto-orient`) and "
        "train again; what is served stays as it is",
        source=f"{_VLLM}; {loader.source}".rstrip("; "),
    )


def _transparent(images: Sequence[ImageUse], loader: ImageReader) -> Iterator[Finding]:
    found = [(use, header) for use, header in _with_headers(images) if header.has_alpha]
    if loader.fills_white:
        # qwen-vl-utils fills RGBA alone, not palettes and grey with transparency.
        found = [(use, header) for use, header in found if header.mode != "RGBA"]
    if not found:
        return
    severity: Severity = "info" if loader.fills_white is None else "warn"
    side = "drops it" if loader.fills_white is not None else "mostly drop it"
    yield Finding(
        id=_ID,
        severity=severity,
        title=f"{_share(found, images)} images have an alpha channel or a transparent colour: vLLM "
        f"puts white under it, {loader.name} {side}"
        if severity == "warn"
        else f"{_share(found, images)} images have an alpha channel or a transparent colour",
        evidence=_examples(found, lambda header: f"{header.format}, mode {header.mode}"),
        consequence="Where pixels are really transparent, which headers do not tell, training saw "
        "the colour that lies under them, mostly black, and serving shows white. Images that are "
        "opaque throughout are the same on both sides.",
        remedy="put the images on white (Image.alpha_composite), save them as RGB and train again; "
        "or, where black lies under all of them, serve with --set "
        "'engine.media_io_kwargs={image: {rgba_background_color: [0, 0, 0]}}'",
        source=f"{_VLLM}; {loader.source}".rstrip("; "),
    )


@dataclass(frozen=True, slots=True)
class _Alike:
    """What both sides do alike, though hardly as people mean it."""

    is_it: Callable[[ImageHeader], bool]
    what: str
    shown: Callable[[ImageHeader], str]
    consequence: str
    remedy: str


_ALIKE = (
    _Alike(
        lambda header: header.mode in {"I", "F"} or header.mode.startswith("I;16"),
        "one channel of more than 8 bits",
        lambda header: f"{header.format}, mode {header.mode}, {header.bits} bits",
        "Training and serving both make RGB of them by clipping at 255, not by scaling: most "
        "16-bit images turn white.",
        "scale the values to 8 bits and save the images again, for training and for serving",
    ),
    _Alike(
        lambda header: header.mode == "CMYK",
        "CMYK colours",
        lambda header: f"{header.format}, mode {header.mode}",
        "Training and serving both convert them without their colour profile, so that colours are "
        "off by the same amount.",
        "convert them to sRGB with their profile (ImageCms) where colour matters",
    ),
    _Alike(
        lambda header: header.is_animated,
        "several frames",
        lambda header: f"{header.format}, animated",
        "Training and serving both take the first frame alone.",
        "extract the frame that is meant, or give the file as a video",
    ),
)


def _alike(images: Sequence[ImageUse], kind: _Alike) -> Iterator[Finding]:
    found = [(use, header) for use, header in _with_headers(images) if kind.is_it(header)]
    if found:
        yield Finding(
            id=_ID,
            severity="info",
            title=f"{_share(found, images)} images have {kind.what}",
            evidence=_examples(found, kind.shown),
            consequence=kind.consequence,
            remedy=kind.remedy,
            source="Pillow 13 Image.convert; vllm 0.32 multimodal/image.py convert_image_mode",
        )


def _with_headers(images: Sequence[ImageUse]) -> Iterator[tuple[ImageUse, ImageHeader]]:
    for use in images:
        if not isinstance(use.header, MediaError):
            yield use, use.header


def _examples(
    found: Sequence[tuple[ImageUse, ImageHeader]], say: Callable[[ImageHeader], str]
) -> list[Evidence]:
    return [
        Evidence(
            file=str(use.sample.file),
            key=f"row {use.sample.row}",
            value=f"{use.medium.path or use.medium.shown}: {say(header)}",
        )
        for use, header in found[:_MOST_SHOWN]
    ]


def _share(found: Sequence[object], images: Sequence[object]) -> str:
    return f"{len(found):,} of {len(images):,}"


CHECKS = (
    Check(
        id=_ID,
        run=check_image_modes,
        cause="Photos from phones are stored as the sensor saw them, with a note on how to turn "
        "them (EXIF orientation). vLLM turns them and puts white under transparent pixels; the "
        "training code of LLaVA, InternLM-XComposer, LLaMA-Factory and ms-swift does neither "
        "(ms-swift fills RGBA for Qwen-VL). The transformers and datasets libraries turn them.",
        evidence="The headers of all images of `--data`; who read them in training is told by what "
        "the run left, else by the data's format. It is a warning where the two sides are known "
        "to differ. An alpha channel may be opaque throughout: the header does not tell. Palettes, "
        "16 bits, CMYK and animations are treated alike on both sides and are `info`.",
        example="113 of 2,000 images have an EXIF orientation: vLLM rotates them, LLaMA-Factory "
        "does not",
        remedy="Rotate the files once, put transparent ones on white, and train again.",
    ),
)
"""The checks of this theme, in the order in which they run."""
