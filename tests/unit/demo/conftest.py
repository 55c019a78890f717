"""The shipped demo model, loaded once, and the zoo, built once."""

from pathlib import Path
from typing import Any

import pytest

from vlmserve.platform import cure_torch_extensions

cure_torch_extensions()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlmserve.demo.zoo import build_zoo

    out = tmp_path_factory.mktemp("zoo")
    build_zoo(out)
    return out


@pytest.fixture(scope="session")
def base() -> Any:
    from vlmserve.demo.model import load_shipped_model

    return load_shipped_model("base")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from vlmserve.demo.model import load_tokenizer
    from vlmserve.demo.recipe import load_shipped

    return load_tokenizer(load_shipped("base").folder)


@pytest.fixture(scope="session")
def processor(zoo: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(zoo / "base")
