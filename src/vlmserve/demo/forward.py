"""A batched forward pass over the Hugging Face model's own weights, for training on a CPU.

transformers runs the vision attention of Qwen2-VL image by image. With images of four tokens that
costs more than all arithmetic. Here all patches of a batch share each linear layer, attention runs
once for each picture size, and a still image, whose two temporal patches are equal, takes the
patch embedding summed over time. The unit tests hold it to the original within 1e-4.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from vlmserve.demo.drawing import Pixels
from vlmserve.demo.encoding import IGNORED, Encoded
from vlmserve.demo.model import MERGE, PATCH_PX, TEMPORAL_PATCH
from vlmserve.demo.samples import Sample

# OpenAI CLIP's, which Qwen2-VL's processors use.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclass(frozen=True, slots=True)
class BatchScore:
    """What the model thinks of the answers in a batch."""

    loss: Tensor
    """Mean negative log-likelihood over the labelled tokens, in nats; a scalar with gradient."""

    nll: list[float]
    """For each sample the sum over its labelled tokens, in nats."""

    tokens: list[int]
    """For each sample the number of its labelled tokens."""

    exact: list[bool]
    """For each sample whether every labelled token is the likeliest: greedy decoding would give
    exactly the answers."""


def score_batch(
    model: Any, samples: Sequence[Sample], encoded: Sequence[Encoded], *, chunks: int = 1
) -> BatchScore:
    """Run the model over samples with their answers.

    Args:
        model: A ``Qwen2VLForConditionalGeneration``, or PEFT's wrapper around one.
        samples: The samples, for their media.
        encoded: Their encodings, in the same order.
        chunks: Split the language model's batch by length to save padding.
    """
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    units = [_units(sample) for sample in samples]
    features = _encode_units(core.model.visual, [unit for each in units for unit in each])
    starts = np.cumsum([0, *(len(each) for each in units)])
    order = sorted(range(len(samples)), key=lambda index: len(encoded[index].ids))
    nll, tokens = [0.0] * len(samples), [0] * len(samples)
    exact = [True] * len(samples)
    losses = []
    size = -(-len(order) // chunks)
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        parts = [f for row in rows for f in features[starts[row] : starts[row + 1]]]
        token_nll, right, owner = _score_rows(core, [encoded[row] for row in rows], parts)
        losses.append(token_nll.sum())
        values = token_nll.detach().tolist()
        for value, hit, row in zip(values, right.tolist(), owner.tolist(), strict=True):
            index = rows[row]
            nll[index] += value
            tokens[index] += 1
            exact[index] &= hit
    return BatchScore(torch.stack(losses).sum() / max(sum(tokens), 1), nll, tokens, exact)


def _score_rows(
    core: Any, encoded: list[Encoded], features: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return NLL, hit and row of every labelled token, each of shape ``(labelled,)``."""
    width = max(len(each.ids) for each in encoded)
    ids = np.zeros((len(encoded), width), np.int64)
    labels = np.full((len(encoded), width), IGNORED, np.int64)
    positions = np.zeros((3, len(encoded), width), np.int64)
    for row, each in enumerate(encoded):
        ids[row, : len(each.ids)] = each.ids
        labels[row, : len(each.ids)] = each.labels
        positions[:, row, : len(each.ids)] = each.positions
    tokens = torch.from_numpy(ids)
    hidden = core.model.language_model.embed_tokens(tokens)
    if features:
        is_pad = (tokens == core.config.image_token_id) | (tokens == core.config.video_token_id)
        hidden = hidden.masked_scatter(is_pad[..., None], torch.cat(features))
    hidden = _language(core.model.language_model, hidden, torch.from_numpy(positions))
    targets = torch.from_numpy(labels)[:, 1:]
    labelled = targets != IGNORED
    logits = core.lm_head(hidden[:, :-1][labelled])
    answers = targets[labelled]
    token_nll = F.cross_entropy(logits, answers, reduction="none")
    return token_nll, logits.argmax(-1) == answers, labelled.nonzero()[:, 0]


def _units(sample: Sample) -> list[Pixels]:
    """Split media into what attention sees at once: an image or a pair of frames, in order."""
    units: list[Pixels] = []
    for medium in sample.media:
        if not medium.is_video:
            units.append(medium.pixels[None])
            continue
        frames = medium.pixels
        if len(frames) % TEMPORAL_PATCH:
            frames = np.concatenate([frames, frames[-1:]])
        units += [frames[i : i + TEMPORAL_PATCH] for i in range(0, len(frames), TEMPORAL_PATCH)]
    return units


def _encode_units(vision: Any, units: list[Pixels]) -> list[Tensor]:
    """Return for each unit its cells' features, shape ``(h / 28 * w / 28, hidden)``."""
    if not units:
        return []
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        groups[unit.shape].append(index)
    # Still images first, then pairs of frames: each kind has its own patch embedding.
    ordered = sorted(groups.items())
    weight = vision.patch_embed.proj.weight
    hidden_parts, cos_parts, sin_parts, sizes = [], [], [], []
    for frames in (1, TEMPORAL_PATCH):
        of_kind = [(shape, indices) for shape, indices in ordered if shape[0] == frames]
        if not of_kind:
            continue
        patches = [_patches(np.stack([units[i] for i in indices])) for _, indices in of_kind]
        flat = weight.sum(2) if frames == 1 else weight
        kernel = flat.reshape(len(weight), -1)
        hidden_parts.append(F.linear(torch.from_numpy(np.concatenate(patches)), kernel))
        for shape, indices in of_kind:
            cos, sin = _vision_rotation(vision, shape[1] // PATCH_PX, shape[2] // PATCH_PX)
            cos_parts.append(cos.repeat(len(indices), 1, 1))
            sin_parts.append(sin.repeat(len(indices), 1, 1))
            sizes.append((len(indices), len(cos)))
    hidden = _vision_blocks(
        vision, torch.cat(hidden_parts), torch.cat(cos_parts), torch.cat(sin_parts), sizes
    )
    merged = vision.merger(hidden)
    features: dict[int, Tensor] = {}
    cells = [count * length // MERGE**2 for count, length in sizes]
    for (_, indices), (count, _), part in zip(ordered, sizes, merged.split(cells), strict=True):
        features.update(zip(indices, part.view(count, -1, part.shape[-1]), strict=True))
    return [features[index] for index in range(len(units))]


def _patches(pictures: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Normalise and cut ``(n, f, h, w, 3)`` into rows, merge cell by merge cell, channel first."""
    count, frames, height, width, _ = pictures.shape
    pixels = ((pictures / np.float32(255) - _MEAN) / _STD).astype(np.float32, copy=False)
    rows, columns = height // (PATCH_PX * MERGE), width // (PATCH_PX * MERGE)
    cut = pixels.reshape(count, frames, rows, MERGE, PATCH_PX, columns, MERGE, PATCH_PX, 3)
    cut = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(cut).reshape(-1, 3 * frames * PATCH_PX**2)


def _vision_rotation(vision: Any, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return cosine and signed sine for a grid of patches, each ``(patches, 1, head_dim)``."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.stack([row, column], dim=-1).view(
        rows // MERGE, MERGE, columns // MERGE, MERGE, 2
    )
    place = place.transpose(1, 2).reshape(-1, 2)
    cos, sin = vision.rotary_pos_emb(torch.zeros(1), place)
    return cos[:, None], _signed(sin)[:, None]


def _vision_blocks(
    vision: Any, hidden: Tensor, cos: Tensor, sin: Tensor, sizes: list[tuple[int, int]]
) -> Tensor:
    """Run all vision layers; ``sizes`` are (pictures, patches each) of consecutive rows."""
    rows = [count * length for count, length in sizes]
    for block in vision.blocks:
        qkv = block.attn.qkv(block.norm1(hidden))
        query, key, value = qkv.view(len(hidden), 3, block.attn.num_heads, -1).unbind(1)
        parts = zip(
            sizes,
            _rotate(query, cos, sin).split(rows),
            _rotate(key, cos, sin).split(rows),
            value.split(rows),
            strict=True,
        )
        mixed = []
        for (count, length), *heads in parts:
            q, k, v = (head.unflatten(0, (count, length)).transpose(1, 2) for head in heads)
            attended = F.scaled_dot_product_attention(q, k, v)
            mixed.append(attended.transpose(1, 2).reshape(count * length, -1))
        hidden = hidden + block.attn.proj(torch.cat(mixed))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return hidden


def _language(language: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    """Run all language layers on ``(batch, n, hidden)``; rows are padded on the right.

    Padding needs no mask: attention is causal, and nothing after the end is ever scored.
    """
    cos, sin = language.rotary_emb(hidden, positions)
    cos, sin = cos[:, None], _signed(sin)[:, None]
    for layer in language.layers:
        attention = layer.self_attn
        normed = _rms_norm(layer.input_layernorm, hidden)
        query, key, value = (
            projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        attended = F.scaled_dot_product_attention(
            _rotate(query, cos, sin), _rotate(key, cos, sin), value, is_causal=True, enable_gqa=True
        )
        hidden = hidden + attention.o_proj(attended.transpose(1, 2).flatten(2))
        normed = _rms_norm(layer.post_attention_layernorm, hidden)
        gated = F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed)
        hidden = hidden + layer.mlp.down_proj(gated)
    return _rms_norm(language.norm, hidden)


def _rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """Apply an RMSNorm module by torch's fused kernel."""
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _signed(sin: Tensor) -> Tensor:
    """Negate the first half: rotating the halves is then a plain swap."""
    half = sin.shape[-1] // 2
    return torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)


def _rotate(heads: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Apply rotary embedding: ``x cos + swap(x) sin``."""
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads[..., half:], heads[..., :half]), dim=-1)
    return torch.addcmul(heads * cos, swapped, signed_sin)
