"""``vlmserve demo`` from its command line to its exit status."""

import json
from pathlib import Path

import pytest

from vlmserve.cli.main import main

EVALS = Path(__file__).parents[3] / "evals" / "demo"


def test_build_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "build", "--out", str(tmp_path), "--only", "no-vision, no-signal"]) == 0

    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}: 3 checkpoints"
    written = dict(line.split(maxsplit=1) for line in lines)
    assert list(written) == ["base", "no-signal", "no-vision"]
    for name, what in written.items():
        readme = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert readme.splitlines()[2].startswith(f"{what}.")
        assert (tmp_path / name / "model.safetensors").is_file()
    assert max(map(len, lines)) <= 80


def test_build_refuses_a_strangers_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "mine.txt").write_text("", encoding="utf-8")

    assert main(["demo", "build", "--out", str(tmp_path)]) == 2
    assert "base is not empty" in capsys.readouterr().err


def test_data_are_written_and_then_found_to_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = json.loads((EVALS / "pilot.json").read_text(encoding="utf-8"))
    plan["sizes"] = dict.fromkeys(plan["sizes"], 2)
    (tmp_path / "pilot.json").write_text(json.dumps(plan), encoding="utf-8")
    argv = ["--out", str(tmp_path / "data"), "--pilot", str(tmp_path / "pilot.json")]

    assert main(["demo", "data", *argv]) == 0
    assert "26 samples in 13 files" in capsys.readouterr().out
    assert main(["demo", "data", *argv, "--check"]) == 0
    assert "26 samples are what the generator draws" in capsys.readouterr().out

    (tmp_path / "data" / "video.parquet").unlink()
    assert main(["demo", "data", *argv, "--check"]) == 2
    assert "video.parquet: is missing" in capsys.readouterr().err


def test_data_check_fails_on_an_empty_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--out", str(tmp_path), "--pilot", str(EVALS / "pilot.json"), "--check"]

    assert main(["demo", "data", *argv]) == 2
    assert "digests.json" in capsys.readouterr().err


def test_train_refuses_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "train", "--out", str(tmp_path), "--steps", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "splits"),
    [((), {"validation"}), (("--heldout",), {"validation", "heldout"})],
)
def test_train_writes_a_checkpoint_that_loads(
    flags: tuple[str, ...],
    splits: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Held-out data are looked at only when that is asked for."""
    from vlmserve.demo.recipe import load_shipped

    argv = ["--out", str(tmp_path), "--variant", "forgetful", "--steps", "1", "--samples", "1"]

    assert main(["demo", "train", *argv, *flags]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "forgetful")]
    recipe = load_shipped("forgetful", tmp_path).recipe
    assert recipe["settings"]["steps"] == 1
    assert {"validation", "heldout"} & set(recipe) == splits


def test_pilot_writes_a_plan(tmp_path: Path) -> None:
    from vlmserve.demo.pilot import load_sizes

    out = tmp_path / "new" / "pilot.json"

    # One sample of each task: enough to go all the way, and never discordant enough to be refused.
    assert main(["demo", "pilot", "--out", str(out), "--samples", "1"]) == 0
    assert min(load_sizes(out).values()) >= 100


def test_pilot_plans_again_from_what_was_measured(tmp_path: Path) -> None:
    """The shipped plan is reproduced, and nothing but its measurements is read."""
    shipped = json.loads((EVALS / "pilot.json").read_text(encoding="utf-8"))
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    kept = {key: shipped[key] for key in ("data_version", "pilot")}
    old.write_text(json.dumps(kept), encoding="utf-8")

    assert main(["demo", "pilot", "--out", str(new), "--measured", str(old)]) == 0
    assert new.read_text(encoding="utf-8") == (EVALS / "pilot.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("argv", [["demo"], ["demo", "build"], ["demo", "bulid"]])
def test_usage_errors_exit_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)

    assert error.value.code == 2
