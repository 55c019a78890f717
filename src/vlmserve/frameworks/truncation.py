"""What is left of a sample's labels where the training cuts it to a length."""

from collections.abc import Sequence

from vlmserve.frameworks.labels import IGNORED, MEDIUM_ID, Labelled, mask_by_end_tokens
from vlmserve.frameworks.template import FrameworkTemplate


def count_after_cut(
    template: FrameworkTemplate,
    labelled: Labelled,
    media_tokens: Sequence[int],
    max_length: int,
    strategy: str | None = None,
) -> int | None:
    """Count the tokens that are still learned after the cut.

    Args:
        template: How the sample was written.
        labelled: The sample, uncut.
        media_tokens: Tokens of each of its media, in order.
        max_length: Longest sample in tokens.
        strategy: ms-swift's ``truncation_strategy``.

    Returns:
        The count, or ``None`` where the framework does not cut: ms-swift leaves samples out unless
        told otherwise, and LLaMA-Factory cuts questions first.
    """
    if labelled.ids.count(MEDIUM_ID) != len(media_tokens):
        return None
    if template.framework == "llava":
        return _count_head(labelled.ids, labelled.labels, media_tokens, max_length)
    if template.framework == "xcomposer":
        kept = _whole_parts(labelled.ids, media_tokens, max_length)
        return _count_head(kept, mask_by_end_tokens(kept), media_tokens, max_length)
    if template.framework == "ms-swift" and strategy in ("left", "right"):
        return _count_text(labelled, sum(media_tokens), max_length, from_left=strategy == "right")
    return None


def _count_head(
    ids: Sequence[int], labels: Sequence[int], media_tokens: Sequence[int], max_length: int
) -> int:
    """Labels within the first ``max_length`` tokens, media at their real length.

    haotian-liu/LLaVA llava/model/llava_arch.py "Truncate sequences to max length"; the very first
    label is never learned.
    """
    sizes = iter(media_tokens)
    place = count = 0
    for number, label in zip(ids, labels, strict=True):
        if place >= max_length:
            break
        count += label != IGNORED and place > 0
        place += next(sizes) if number == MEDIUM_ID else 1
    return count


def _whole_parts(
    ids: Sequence[int], media_tokens: Sequence[int], max_length: int
) -> tuple[int, ...]:
    """XComposer ``interleav_wrap``: it stops after the text and the image that go too far."""
    sizes = iter(media_tokens)
    length = 0
    for place, number in enumerate(ids):
        length += next(sizes) if number == MEDIUM_ID else 1
        if number == MEDIUM_ID and length > max_length:
            return tuple(ids[: place + 1])
    return tuple(ids)


def _count_text(labelled: Labelled, n_media: int, max_length: int, *, from_left: bool) -> int:
    """ms-swift swift/template/base.py ``_truncate``: media are kept, text makes room for them."""
    labels = [
        label
        for number, label in zip(labelled.ids, labelled.labels, strict=True)
        if number != MEDIUM_ID
    ]
    room = max(max_length - n_media, 0)
    if room == 0:
        return 0
    kept = labels[:room] if from_left else labels[-room:]
    return sum(label != IGNORED for label in kept[1:])
