"""Values of tensors, read in one pass, against torch and numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vlmserve.checkpoint import scan
from vlmserve.checkpoint.scan import ScannedTensor, scan_tensors
from vlmserve.checkpoint.tensor_values import FORMATS, examine, read_rows, read_values, to_float
from vlmserve.checkpoint.tensors import read_header
from vlmserve.errors import CheckpointError

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
}


@pytest.fixture(params=[None, 64], ids=["whole", "in pieces"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with chunks and shares so small that every tensor is cut, none at a round place."""
    if request.param is not None:
        monkeypatch.setattr(scan, "_CHUNK_BYTES", request.param)
        monkeypatch.setattr(scan, "_UNIT_BYTES", 5 * request.param // 2)


def save(path: Path, **tensors: Any) -> Path:
    save_file(tensors, path)
    return path


def scanned(path: Path, base: Path | None = None, **options: Any) -> dict[str, ScannedTensor]:
    bases = None if base is None else read_header(base)
    return {entry.name: entry for entry in scan_tensors(read_header(path), bases, **options)}


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def squares(tensor: Any) -> float:
    return float((tensor.double() ** 2).sum())


@pytest.mark.parametrize("dtype", TYPES)
def test_every_bit_pattern_is_the_number_that_torch_reads(dtype: str, tmp_path: Path) -> None:
    width = FORMATS[dtype].itemsize
    if width <= 2:
        raw = np.arange(256**width, dtype=f"<u{width}").view(np.uint8)
    else:
        raw = np.random.default_rng(0).integers(0, 256, 1 << 12, np.uint8)
    expected = torch.from_numpy(raw.copy()).view(TYPES[dtype])
    wide = torch.float64 if dtype == "F64" else torch.float32
    np.testing.assert_array_equal(to_float(raw, dtype), expected.to(wide).numpy())
    nonfinite, largest = examine(raw, dtype)
    finite = expected.to(torch.float64).isfinite()
    assert nonfinite == int((~finite).sum())
    assert largest == float(expected.to(torch.float64)[finite].abs().max())
    path = save(tmp_path / "x.safetensors", x=expected)
    np.testing.assert_array_equal(read_values(read_header(path)["x"]), to_float(raw, dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 7, 301])
@pytest.mark.usefixtures("_pieces")
def test_nonfinite_values_and_the_largest(dtype: str, size: int, tmp_path: Path) -> None:
    values = draw(size, dtype=TYPES[dtype])
    values[-1] = float("nan")
    (entry,) = scanned(save(tmp_path / "x.safetensors", x=values)).values()
    assert entry.nonfinite == 1
    assert not entry.changed
    others = values[:-1].double().abs()
    assert entry.largest == (float(others.max()) if size > 1 else 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_infinite_in_half_precision(sign: int, tmp_path: Path) -> None:
    values = draw(500, dtype=torch.float16)
    values[[3, 499]] = sign * float("inf")
    (entry,) = scanned(save(tmp_path / "x.safetensors", x=values)).values()
    assert entry.nonfinite == 2


@pytest.mark.parametrize(
    ("dtype", "base_dtype"),
    [*((dtype, dtype) for dtype in TYPES), ("BF16", "F32"), ("F32", "BF16"), ("F16", "BF16")],
)
@pytest.mark.parametrize("size", [1, 6, 301])
@pytest.mark.usefixtures("_pieces")
def test_change_against_a_base(dtype: str, base_dtype: str, size: int, tmp_path: Path) -> None:
    ours = draw(size, dtype=TYPES[dtype])
    theirs = draw(size, dtype=TYPES[base_dtype], seed=1)
    path = save(tmp_path / "x.safetensors", x=ours)
    base = save(tmp_path / "y.safetensors", x=theirs)
    entry = scanned(path, base)["x"]
    assert entry.changed
    assert entry.nonfinite == 0
    assert entry.squared_change == pytest.approx(squares(ours.double() - theirs.double()), 1e-5)
    assert entry.squared_norm == pytest.approx(squares(theirs), 1e-5)
    same = scanned(path, path)["x"]
    assert not same.changed
    assert same.squared_change == 0
    assert same.largest == float(ours.double().abs().max())


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("both", [True, False])
def test_what_is_not_finite_is_found_beside_a_base(both: bool, tmp_path: Path) -> None:
    values, other = draw(301, dtype=torch.bfloat16), draw(301, dtype=torch.bfloat16)
    values[7] = float("inf")
    if both:
        other[7] = float("inf")
    path, base = save(tmp_path / "x.safetensors", x=values), tmp_path / "y.safetensors"
    assert scanned(path, save(base, x=other))["x"].nonfinite == 1


def test_one_row_of_a_large_tensor_is_enough_to_have_changed(tmp_path: Path) -> None:
    theirs = draw(3000, 512, dtype=torch.bfloat16)
    ours = theirs.clone()
    ours[-1] *= 2
    assert ours.nbytes > 2 * scan._CHUNK_BYTES
    path = save(tmp_path / "x.safetensors", x=ours)
    entry = scanned(path, save(tmp_path / "y.safetensors", x=theirs))["x"]
    assert entry.changed
    assert entry.squared_change == pytest.approx(squares(theirs[-1]), 1e-3)
    assert entry.squared_norm == pytest.approx(squares(theirs), 1e-2)


def test_large_tensors_are_measured_to_a_percent(tmp_path: Path) -> None:
    theirs = draw(3000, 512, dtype=torch.bfloat16)
    ours = theirs + 0.1 * draw(3000, 512, dtype=torch.bfloat16, seed=1)
    ours[-1, -1] = float("nan")
    path = save(tmp_path / "x.safetensors", x=ours)
    entry = scanned(path, save(tmp_path / "y.safetensors", x=theirs))["x"]
    change = (ours.double() - theirs.double()).nan_to_num()
    assert entry.squared_change == pytest.approx(squares(change), 1e-2)
    assert entry.nonfinite == 1


def test_what_cannot_be_compared_is_read_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", shaped=draw(3, 4), alone=draw(3), whole=torch.arange(5))
    base = save(tmp_path / "y.safetensors", shaped=draw(4, 3), whole=torch.arange(5))
    found = scanned(path, base)
    assert set(found) == {"shaped", "alone"}  # whole numbers have nothing to be wrong
    assert all(entry.base is None for entry in found.values())


def test_progress_ends_at_everything(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", a=draw(100), b=draw(50, dtype=torch.bfloat16))
    seen: list[tuple[int, int]] = []
    scanned(path, path, progress=lambda *pair: seen.append(pair))
    assert seen[-1] == (1000, 1000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_file_that_shrank(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", x=draw(100))
    tensors = read_header(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="ends inside tensor x"):
        scan_tensors(tensors)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"x\.safetensors: No such file"):
        scan_tensors(tensors)


def test_leading_rows(tmp_path: Path) -> None:
    values = draw(10, 2, 3)
    tensor = read_header(save(tmp_path / "x.safetensors", x=values))["x"]
    np.testing.assert_array_equal(read_rows(tensor, limit=13), values[:2].reshape(2, 6).numpy())
    assert read_rows(tensor, limit=1).shape == (1, 6)
    assert read_rows(tensor, limit=1000).shape == (10, 6)
