"""Whether a file can be written is found out before anything is paid for."""

import os
from pathlib import Path

import pytest

from vlmserve.cli.main import main
from vlmserve.cli.output_files import require_writable
from vlmserve.errors import ConfigError


@pytest.mark.parametrize("place", ["report.json", "new/and/deep/report.json"])
def test_trying_leaves_nothing_behind(tmp_path: Path, place: str) -> None:
    require_writable("json", tmp_path / place)

    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("kept")
    require_writable("json", path)

    assert path.read_text() == "kept"


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    # Opening one that nobody reads would wait for ever.
    os.mkfifo(tmp_path / "pipe")
    require_writable("json", tmp_path / "pipe")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("", "it is a directory; a file is expected"),
        ("file/report.json", "file is no directory"),
        ("file/deep/report.json", "Not a directory"),
        (f"{'n' * 300}.json", "File name too long"),
    ],
)
def test_what_cannot_be_written_names_the_option(tmp_path: Path, place: str, why: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"^--html .*: cannot be written: .*{why}"):
        require_writable("html", tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["/proc/report.json", "/proc/new/report.json", "/proc/version"])
def test_what_only_trying_can_tell_is_tried(path: str) -> None:
    with pytest.raises(ConfigError, match=f"--junit {path}: cannot be written"):
        require_writable("junit", Path(path))


def test_directories_are_asked_for_where_none_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    with pytest.raises(ConfigError, match=f"no such directory as {path.parent}"):
        require_writable("json", path, makes_directories=False)


@pytest.mark.parametrize(
    "command",
    [
        ["check", "--ckpt", "nosuch", "--json"],
        ["check", "--ckpt", "nosuch", "--markdown"],
        ["suite", "lint", "nosuch.yaml", "--json"],
        ["compare", "one", "two", "--store", "nosuch.sqlite", "--html"],
        ["watch", ".", "--suite", "nosuch.yaml", "--html"],
        ["eval", "--ckpt", "nosuch", "--suite", "nosuch.yaml", "--junit"],
        ["report", "one", "--store", "nosuch.sqlite", "--json"],
    ],
)
def test_every_command_looks_first(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "/proc/report"]) == 2
    assert f"{command[-1]} /proc/report: cannot be written" in capsys.readouterr().err
