"""Which split a thing belongs to: decided by its content, so that no two splits can share it.

A digit image, a pair of operands, a word, or the pixels of a whole drawn sample is hashed, and the
hash alone says whether it is for training, for validation during development, or held out for the
final measurement. A generator for one split draws until it meets a thing of that split.
"""

import hashlib
from typing import Literal, get_args

Split = Literal["train", "validation", "heldout"]
"""``train`` is three quarters of everything; the other two are an eighth each."""

SPLITS: tuple[Split, ...] = get_args(Split)

DATA_VERSION = 1
"""Grows whenever the generator would draw another sample from the same seed."""

_PARTS = 8


def split_of(content: bytes) -> Split:
    """Return the one split that ``content`` belongs to, the same on every machine.

    Args:
        content: Everything that makes the thing what it is, such as the raw pixels.
    """
    part = hashlib.blake2b(content, digest_size=8).digest()[0] % _PARTS
    if part == 0:
        return "validation"
    if part == 1:
        return "heldout"
    return "train"
