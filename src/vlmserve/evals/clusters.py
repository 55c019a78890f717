"""Which samples hang together: those that ask about the same image or video."""

from collections.abc import Iterable, Sequence

from vlmserve.evals.samples import Sample


def cluster_samples(samples: Sequence[Sample]) -> list[int]:
    """Number the clusters of a task's samples.

    Two samples are in one cluster if they have a medium in common, or are linked by samples that
    do. What counts are the media of the question itself, the last turn of the user; where it has
    none, those of earlier turns that not every sample has, as few-shot examples do.

    Args:
        samples: Of one task, shape ``(n,)``.

    Returns:
        The number of each sample's cluster, shape ``(n,)``; from 0 without gaps, in the order of
        first appearance.
    """
    media = [_own_media(sample) for sample in samples]
    common = set.intersection(*media) if media else set()
    parents = list(range(len(samples)))
    first: dict[str, int] = {}
    for index, digests in enumerate(media):
        # What all samples share tells none of them apart.
        for digest in digests - common:
            one, other = _root(parents, first.setdefault(digest, index)), _root(parents, index)
            parents[max(one, other)] = min(one, other)
    return _numbered(_root(parents, index) for index in range(len(samples)))


def _own_media(sample: Sample) -> set[str]:
    asked = next(turn for turn in reversed(sample.turns) if turn.role == "user")
    own = {part.sha256 for part in asked.parts if not isinstance(part, str)}
    return own or {medium.sha256 for medium in sample.media}


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _numbered(roots: Iterable[int]) -> list[int]:
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root, len(numbers)) for root in roots]
