"""Files of torch.save are read by their operations; nothing in them is run."""

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from vlmserve.checkpoint.tensors import is_zero
from vlmserve.checkpoint.torch_pickle import read_pickle_header
from vlmserve.errors import CheckpointError
from vlmserve.platform import cure_torch_extensions


@pytest.fixture(scope="module")
def torch() -> Any:
    cure_torch_extensions()
    return pytest.importorskip("torch")


def state(torch: Any) -> dict[str, Any]:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "float": whole,
        "rows": whole[1:],
        "half": torch.ones(2, 1, dtype=torch.float16),
        "brain": torch.zeros(5, dtype=torch.bfloat16),
        "long": torch.tensor([[7]]),
        "scalar": torch.tensor(1.5),
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "empty": torch.zeros(0),
        "步": torch.ones(1, dtype=torch.uint8),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_names_shapes_and_places(torch: Any, tmp_path: Path, kind: Any, protocol: int) -> None:
    path, tensors = tmp_path / "pytorch_model.bin", state(torch)
    torch.save(kind(tensors), path, pickle_protocol=protocol)
    found = read_pickle_header(path)
    assert {name: info.shape for name, info in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    types = {"float": "F32", "half": "F16", "brain": "BF16", "long": "I64", "步": "U8"}
    assert {name: found[name].dtype for name in types} == types
    for name in ("float", "rows", "parameter", "long", "scalar"):
        values = tensors[name].detach().contiguous().reshape(-1).numpy().tobytes()
        assert b"".join(found[name].chunks()) == values
    assert is_zero(found["brain"])


def test_state_of_a_module_and_other_entries(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)  # carries _metadata
    assert {name: info.shape for name, info in read_pickle_header(path).items()} == {
        "weight": (2, 3),
        "bias": (2,),
    }
    torch.save({"step": 5, "names": ["a", "b"], 3: torch.ones(1), "w": torch.ones(1)}, path)
    assert list(read_pickle_header(path)) == ["w"]


def test_nothing_is_run(torch: Any, tmp_path: Path) -> None:
    class Evil:
        @override
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    path = tmp_path / "model.bin"
    torch.save({"a": Evil(), "w": torch.ones(1)}, path)
    assert list(read_pickle_header(path)) == ["w"]
    assert not (tmp_path / "evil").exists()


def test_a_transposed_tensor_is_refused(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({"t": torch.ones(2, 3).T}, path)
    with pytest.raises(CheckpointError, match="t is a view of another tensor"):
        read_pickle_header(path)


def test_legacy_format_is_not_opened(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    torch.save({"w": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before torch 1\.6"):
        read_pickle_header(path)


def test_truncated_empty_pointer_and_missing(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match="truncated"):
        read_pickle_header(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        read_pickle_header(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        read_pickle_header(path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_pickle_header(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps([1, 2]), "not a dictionary"),
        (b"\x80\x02}", "cannot be followed"),
        (b"\x80\x02s.", "cannot be followed"),
        (b"\x80\x02ctorch\nx\n\x81.", "operation NEWOBJ"),
        (b"garbage", "cannot be followed"),
    ],
)
def test_strange_pickles(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", content)
    with pytest.raises(CheckpointError, match=reason):
        read_pickle_header(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        read_pickle_header(path)
