"""The safetensors reader against files that the library writes, and against broken ones."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlmserve.checkpoint.tensors import TensorInfo, count_nonfinite, is_equal, is_zero, read_header
from vlmserve.checkpoint.weights import WeightFiles, find_weights, merge_headers, read_headers
from vlmserve.errors import CheckpointError


def save(path: Path, **tensors: Any) -> Path:
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path)
    return path


def test_header_tells_names_types_shapes_and_places(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = save(tmp_path / "a.safetensors", matrix=matrix, scalar=np.int64(7))
    header = read_header(path)
    assert {name: (t.dtype, t.shape) for name, t in header.items()} == {
        "matrix": ("F32", (2, 3)),
        "scalar": ("I64", ()),
    }
    assert b"".join(header["matrix"].chunks()) == matrix.tobytes()
    assert b"".join(header["matrix"].chunks(8)) == matrix.tobytes()[:8]


def entry(**changes: Any) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes})
    return struct.pack("<Q", len(text)) + text.encode() + b"\0" * 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc", "truncated: 3 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header claims"),
        (struct.pack("<Q", 2) + b"{!", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "the header is no object"),
        (entry()[:-1], "truncated: "),
        (entry(data_offsets=[8, 0]), "w is malformed"),
        (entry(data_offsets=[0, 0]), "w is malformed"),
        (entry(data_offsets="xy"), "w is malformed"),
        (entry(shape=None), "w is malformed"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: No such file"):
        read_header(tmp_path / "none.safetensors")


def test_zero_is_told_from_almost_zero(tmp_path: Path) -> None:
    almost = np.zeros((1 << 21) + 3, np.float32)  # more than one chunk
    almost[-1] = 1e-30
    path = save(tmp_path / "a.safetensors", zero=np.zeros((3, 4), np.float16), almost=almost)
    header = read_header(path)
    assert is_zero(header["zero"])
    assert not is_zero(header["almost"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_negative_zero_is_zero(tmp_path: Path, dtype: Any) -> None:
    zeros = np.array([0.0, -0.0, -0.0], dtype)
    # The sign's bit anywhere else is a value.
    tiny = zeros.view(np.uint8).copy()
    tiny[0] = 0x80
    numbers = {"zeros": zeros, "tiny": tiny.view(dtype), "bytes": tiny}
    header = read_header(save(tmp_path / "a.safetensors", **numbers))
    assert is_zero(header["zeros"])
    assert not is_zero(header["tiny"])
    assert not is_zero(header["bytes"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nonfinite_values_are_counted_as_numpy_counts_them(tmp_path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    # Every bit pattern is as likely, so exponents at both ends occur.
    values = rng.bytes(1 << 16)
    numbers = np.frombuffer(values, dtype).copy()
    numbers[:3] = np.inf, -np.inf, np.nan
    numbers[3] = np.finfo(dtype).max
    path = save(tmp_path / "a.safetensors", w=numbers)
    expected = int((~np.isfinite(numbers)).sum())
    assert count_nonfinite(read_header(path)["w"]) == expected > 0


def test_nonfinite_bfloat16_values_are_counted_as_torch_counts_them(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    path = tmp_path / "a.safetensors"
    save_torch({"w": every}, path)
    assert count_nonfinite(read_header(path)["w"]) == int((~torch.isfinite(every)).sum())


def test_integers_have_no_nonfinite_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", w=np.ones(3, np.int8))
    assert count_nonfinite(read_header(path)["w"]) is None


def test_equality_is_of_type_shape_and_bytes(tmp_path: Path) -> None:
    base = np.arange(8, dtype=np.float32)
    late = base.copy()
    late[-1] += 1
    ours = read_header(save(tmp_path / "a.safetensors", w=base, v=base))
    theirs = read_header(
        save(tmp_path / "b.safetensors", w=base, late=late, flat=base.reshape(2, 4))
    )
    assert is_equal(ours["w"], ours["w"])
    assert is_equal(ours["w"], ours["v"])
    assert is_equal(ours["w"], theirs["w"])
    assert not is_equal(ours["w"], theirs["flat"])
    assert not is_equal(ours["w"], theirs["late"])
    assert is_equal(ours["w"], theirs["late"], limit_bytes=16)


def read_tensors(weights: WeightFiles) -> dict[str, TensorInfo]:
    return merge_headers(weights, read_headers(weights))


def test_an_index_decides_which_files_count(tmp_path: Path) -> None:
    save(tmp_path / "model-1.safetensors", a=np.ones(2))
    save(tmp_path / "stale.safetensors", b=np.ones(2))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}')
    weights = find_weights(tmp_path)
    assert [path.name for path in weights.shards] == ["model-1.safetensors", "model-2.safetensors"]
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors: No such file"):
        read_tensors(weights)


def test_without_an_index_all_model_files_count(tmp_path: Path) -> None:
    for name in ("model", "vit", "adapter_model"):
        save(tmp_path / f"{name}.safetensors", **{name: np.ones(2)})
    (tmp_path / "optimizer.bin").touch()
    (tmp_path / "pytorch_model.bin").touch()
    weights = find_weights(tmp_path)
    assert sorted(read_tensors(weights)) == ["model", "vit"]
    assert [path.name for path in weights.pickles] == ["pytorch_model.bin"]


def test_pt_files_are_weights_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "mp_rank_00_model_states.pt", "model.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_weights(tmp_path).files] == ["model.pt"]
    (tmp_path / "pytorch_model.bin").touch()
    assert [path.name for path in find_weights(tmp_path).files] == ["pytorch_model.bin"]


@pytest.mark.parametrize("index", ['{"weight_map": {"a": "../a.safetensors"}}', "{}"])
def test_a_malformed_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map"):
        find_weights(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        read_tensors(find_weights(tmp_path))


def test_pickles_count_where_there_is_no_safetensors_file(tmp_path: Path) -> None:
    for name in ("pytorch_model-1.bin", "pytorch_model-2.bin", "mm_projector.bin", "vocab.bin"):
        (tmp_path / name).touch()
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}')
    weights = find_weights(tmp_path)
    assert [path.name for path in weights.files] == ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    assert weights.index == "pytorch_model.bin.index.json"
    with pytest.raises(CheckpointError, match=r"pytorch_model-1\.bin: the file is empty"):
        read_tensors(weights)
    save(tmp_path / "model.safetensors", a=np.ones(2))
    assert [path.name for path in find_weights(tmp_path).files] == ["model.safetensors"]
