import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlmserve.demo.heldout import DIGESTS_FILE, check_heldout, draw_heldout, write_heldout
from vlmserve.demo.pilot import GATED_TASKS, load_sizes
from vlmserve.demo.samples import TASKS, Task
from vlmserve.errors import ConfigError

EVALS = Path(__file__).parents[3] / "evals" / "demo"
SMALL: dict[Task, int] = dict.fromkeys(TASKS, 3)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heldout")
    write_heldout(out, SMALL)
    return out


def test_the_shipped_sets_are_what_the_generator_draws() -> None:
    """Digests of the files, and every sample's text and pixels."""
    assert check_heldout(EVALS / "data", load_sizes(EVALS / "pilot.json")) == []


def test_the_shipped_sets_say_which_tasks_are_gated() -> None:
    manifest = json.loads((EVALS / "data" / DIGESTS_FILE).read_text(encoding="utf-8"))

    assert {t for t, each in manifest["tasks"].items() if each["gated"]} == set(GATED_TASKS)
    sizes = {task: each["samples"] for task, each in manifest["tasks"].items()}
    assert sizes == load_sizes(EVALS / "pilot.json")
    assert {path.name for path in (EVALS / "data").iterdir()} == {
        DIGESTS_FILE,
        *(f"{task}.parquet" for task in TASKS),
    }


@pytest.mark.parametrize("task", TASKS)
def test_rows_have_a_placeholder_for_each_medium(task: Task, small: Path) -> None:
    table = pq.read_table(small / f"{task}.parquet")

    assert table.column_names == ["id", "question", "target", "media"]
    for row in table.to_pylist():
        assert row["id"].startswith(f"{task}-")
        kinds = [Path(medium["path"]).suffix for medium in row["media"]]
        marks = "".join("<video>" if kind == ".mp4" else "<image>" for kind in kinds)
        assert row["question"].startswith(marks)
        assert row["question"].count("<image>") + row["question"].count("<video>") == len(kinds)
        assert [medium["path"] for medium in row["media"]] == [
            f"{place}{kind}" for place, kind in enumerate(kinds)
        ]
        for medium, kind in zip(row["media"], kinds, strict=True):
            magic = b"ftyp" if kind == ".mp4" else b"\x89PNG"
            assert magic in medium["bytes"][:12]


def test_writing_twice_gives_the_same_files(small: Path, tmp_path: Path) -> None:
    write_heldout(tmp_path, SMALL)

    for path in small.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_samples_are_all_different() -> None:
    asked = [sample.turns[0].question for sample in draw_heldout("add", 100)]

    assert len(set(asked)) == 100


@pytest.mark.parametrize("task", TASKS)
def test_a_larger_set_begins_with_the_smaller(task: Task, small: Path, tmp_path: Path) -> None:
    write_heldout(tmp_path, SMALL | {task: 5})

    larger, smaller = (pq.read_table(at / f"{task}.parquet") for at in (tmp_path, small))
    assert larger.num_rows == 5
    assert larger.slice(0, 3).equals(smaller)


def test_changed_bytes_are_found(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "shape.parquet"
    path.write_bytes(path.read_bytes() + b"x")

    assert check_heldout(tmp_path, SMALL) == [
        f"{path}: its sha256 is not the one in {DIGESTS_FILE}"
    ]


def test_swapped_files_are_found(small: Path, tmp_path: Path) -> None:
    """With the digests made to fit, it is the content that gives it away."""
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / DIGESTS_FILE).read_text(encoding="utf-8"))
    tasks = manifest["tasks"]
    tasks["color"]["file"], tasks["shape"]["file"] = "shape.parquet", "color.parquet"
    tasks["color"]["sha256"], tasks["shape"]["sha256"] = (
        tasks["shape"]["sha256"],
        tasks["color"]["sha256"],
    )
    (tmp_path / DIGESTS_FILE).write_text(json.dumps(manifest), encoding="utf-8")

    faults = check_heldout(tmp_path, SMALL)

    assert len(faults) == 6
    assert "row 0 is not what the generator draws" in faults[0]


def test_missing_files_and_other_sizes_are_found(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    (tmp_path / "add.parquet").unlink()

    faults = check_heldout(tmp_path, SMALL | {"video": 4})

    assert faults == [
        f"{tmp_path / 'video.parquet'}: holds 3 samples, but 4 are planned",
        f"{tmp_path / 'add.parquet'}: is missing",
    ]


def test_missing_digests_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"digests\.json: No such file"):
        check_heldout(tmp_path, SMALL)


def test_malformed_digests_are_an_error(tmp_path: Path) -> None:
    (tmp_path / DIGESTS_FILE).write_text("[]", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"digests\.json: not a list of digests"):
        check_heldout(tmp_path, SMALL)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(ConfigError, match="file"):
        write_heldout(tmp_path / "file", SMALL)
