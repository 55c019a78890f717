"""Which tokens of a sample a framework learns from.

Media count as one token each, ``MEDIUM_ID``: how many they really are changes no label. Nothing is
cut to a length here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.tokenizer import Tokenizer
from vlmserve.datasets.sample import Turn
from vlmserve.frameworks.template import (
    FrameworkTemplate,
    RenderError,
    Segment,
    render,
    stretches,
    text_of,
)
from vlmserve.frameworks.xcomposer import END_ID, EOS_ID, HEADER_TOKENS

IGNORED = -100
"""The label of a token that carries no loss; torch's and transformers' convention."""

MEDIUM_ID = -200
"""The place of an image's or a video's tokens; LLaVA's number for it."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sample of ``n`` tokens."""

    ids: tuple[int, ...]
    """Shape ``(n,)``."""

    labels: tuple[int, ...]
    """Shape ``(n,)``: the id where the model learns to write it, else ``IGNORED``."""

    segments: tuple[Segment, ...]
    mismatch: tuple[int, int] | None = None
    """LLaVA's count of the conversation by rounds, and its real length, where they differ; then it
    ignores the whole sample ("tokenization mismatch")."""

    @property
    def supervised(self) -> tuple[int, ...]:
        """The ids that are learned, in order; nothing predicts the very first token."""
        return tuple(label for label in self.labels[1:] if label != IGNORED)


def label_sample(
    template: FrameworkTemplate,
    turns: Sequence[Turn],
    tokenizer: Tokenizer,
    *,
    only_last: bool = False,
) -> Labelled:
    """Cut a conversation into tokens and mask it as the framework does.

    Raises:
        RenderError: The framework refuses such a conversation, or its mask is not known here.
    """
    segments = render(template, turns, tokenizer.table.roles, only_last=only_last)
    match template.labelling:
        case "segments":
            return _by_segments(template, segments, tokenizer)
        case "llava-rounds":
            return _by_rounds(template, segments, tokenizer)
        case "llava-plain":
            return _plain(segments, tokenizer)
        case "xcomposer-ids":
            return _by_end_tokens(segments, tokenizer)
        case _:
            raise RenderError(f"which tokens {template.name} learns from is not known here")


def encode_whole(
    template: FrameworkTemplate, segments: Sequence[Segment], tokenizer: Tokenizer
) -> list[int]:
    """Ids of the conversation cut in one go, as a server cuts it."""
    bos = _bos(tokenizer) if template.adds_bos else []
    return bos + _encode(segments, tokenizer)


def _by_segments(
    template: FrameworkTemplate, segments: tuple[Segment, ...], tokenizer: Tokenizer
) -> Labelled:
    ids = _bos(tokenizer) if template.adds_bos else []
    labels = [IGNORED] * len(ids)
    for stretch in stretches(segments):
        new = _encode(stretch, tokenizer)
        ids += new
        if all(segment.is_supervised for segment in stretch):
            labels += new
            continue
        # ms-swift's _add_dynamic_eos: the end of an answer within what follows it.
        head = _encode(stretch[:1], tokenizer) if stretch[0].is_supervised else []
        learned = head if new[: len(head)] == head else []
        labels += learned + [IGNORED] * (len(new) - len(learned))
    if template.framework == "ms-swift" and labels:
        labels[0] = IGNORED
    return Labelled(tuple(ids), tuple(labels), segments)


def _by_rounds(
    template: FrameworkTemplate, segments: tuple[Segment, ...], tokenizer: Tokenizer
) -> Labelled:
    """llava/train/train.py ``preprocess_v1`` and ``preprocess_llama_2``, step by step.

    The end token is cut away with ``split`` and one token too many is taken off each question; both
    come out even only where the tokenizer adds BOS and the end is one token. With k pieces for the
    end, R rounds and no BOS the counts differ by k*R-1.
    """
    image = template.image_token
    text = text_of(segments)
    ids = _llava_ids(text, image, tokenizer)
    unknown = tokenizer.table.id_of(tokenizer.table.roles.get("unk", ""))
    total = sum(number != unknown for number in ids)  # the padding token is the unknown one
    header = template.user.rpartition("{query}")[2] + " "
    settings = read_json_if_present(tokenizer.table.directory / "tokenizer_config.json")
    is_legacy = settings.get("legacy") is not False
    labels = list(ids)
    count = 1
    labels[:count] = [IGNORED] * count
    for number, part in enumerate(text.split(template.suffix)):
        question, found, _ = part.partition(header)
        if not part or part.count(header) != 1:
            break
        length = len(_llava_ids(part, image, tokenizer))
        masked = len(_llava_ids(question + found, image, tokenizer)) - 2
        if number and not is_legacy and template.name in ("v1", "vicuna_v1", "llava_v1"):
            length, masked = length - 1, masked - 1
        end = max(min(count + masked, len(labels)), count)
        labels[count:end] = [IGNORED] * (end - count)
        count += length
    labels[count:] = [IGNORED] * max(len(labels) - count, 0)
    if count == total:
        return Labelled(tuple(ids), tuple(labels), segments)
    return Labelled(tuple(ids), (IGNORED,) * len(ids), segments, mismatch=(count, total))


def _plain(segments: tuple[Segment, ...], tokenizer: Tokenizer) -> Labelled:
    """llava/train/train.py ``preprocess_plain``: all behind the image is learned."""
    ids = _bos(tokenizer) + _encode_pieces(segments, tokenizer)
    n_masked = len(_bos(tokenizer)) + sum(segment.medium is not None for segment in segments)
    return Labelled(tuple(ids), (IGNORED,) * n_masked + tuple(ids[n_masked:]), segments)


def _by_end_tokens(segments: tuple[Segment, ...], tokenizer: Tokenizer) -> Labelled:
    bos = _bos(tokenizer)
    ids = _encode_pieces(segments, tokenizer)
    first = next((n for n, number in enumerate(ids) if number != MEDIUM_ID), len(ids))
    ids[first:first] = bos  # an image in front stands before BOS
    return Labelled(tuple(ids), mask_by_end_tokens(ids), segments)


def mask_by_end_tokens(ids: Sequence[int]) -> tuple[int, ...]:
    """InternLM-XComposer ``mask_human_targets``, step by step.

    Every other end token is taken for the end of a question, so a system turn, or an answer that
    holds the token, turns questions and answers round.

    Args:
        ids: Shape ``(n,)``; ``MEDIUM_ID`` for media.

    Returns:
        Labels, shape ``(n,)``.
    """
    labels = [IGNORED if number == MEDIUM_ID else number for number in ids]
    n_ends = start = 0
    for place, number in enumerate(ids):
        if number == END_ID:
            if n_ends % 2 == 0:
                end = min(place + HEADER_TOKENS, len(ids))
                labels[start:end] = [IGNORED] * (end - start)
            else:
                start = place + 1
            n_ends += 1
        elif number == EOS_ID:
            labels[place + 1 :] = [IGNORED] * (len(ids) - place - 1)
            break
    if ids and EOS_ID not in ids and n_ends % 2 == 0:
        labels[start + 1 :] = [IGNORED] * max(len(ids) - start - 1, 0)
    return tuple(labels)


def _bos(tokenizer: Tokenizer) -> list[int]:
    """BOS, where the tokenizer's policy is to add one."""
    table = tokenizer.table
    number = table.id_of(table.roles.get("bos", "")) if table.adds_bos else None
    return [] if number is None else [number]


def _encode(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
    """Ids of segments cut together, with ``MEDIUM_ID`` for each placeholder of a medium."""
    placeholders = {segment.text for segment in segments if segment.medium is not None}
    ids = tokenizer.encode(text_of(segments))
    if not placeholders:
        return ids
    numbers = {tokenizer.table.id_of(text) for text in placeholders}
    n_media = sum(segment.medium is not None for segment in segments)
    if None in numbers or sum(number in numbers for number in ids) != n_media:
        return _encode_pieces(segments, tokenizer)
    return [MEDIUM_ID if number in numbers else number for number in ids]


def _encode_pieces(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
    """The same, cut apart at every medium."""
    ids: list[int] = []
    text = ""
    for segment in segments:
        if segment.medium is None:
            text += segment.text
            continue
        ids += [*(tokenizer.encode(text) if text else []), MEDIUM_ID]
        text = ""
    return ids + (tokenizer.encode(text) if text else [])


def _llava_ids(text: str, image: str, tokenizer: Tokenizer) -> list[int]:
    """llava/mm_utils.py ``tokenizer_image_token``."""
    ids = _bos(tokenizer)
    for number, chunk in enumerate(text.split(image)):
        ids += ([MEDIUM_ID] if number else []) + (tokenizer.encode(chunk) if chunk else [])
    return ids
