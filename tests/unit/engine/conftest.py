"""The cure for CUDA-linked packages, before any test lets transformers look which there are."""

import pytest

from vlmserve.platform import cure_torch_extensions


@pytest.fixture(autouse=True, scope="session")
def _cured() -> None:
    cure_torch_extensions()
