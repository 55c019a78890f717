import os
from pathlib import Path

import pytest

from vlmserve.errors import MediaError
from vlmserve.media.local import read_local_file, resolve_roots


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"picture")
    (folder / "inner" / "a b#%.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media-too").mkdir()
    (tmp_path / "media-too" / "b.png").write_bytes(b"secret")
    return folder


def read(url: str, root: Path | None) -> bytes:
    return read_local_file(url, resolve_roots([] if root is None else [str(root)]), max_bytes=10)


@pytest.mark.parametrize("path", ["a.png", "inner/../a.png", "inner/a%20b%23%25.png"])
def test_files_under_the_root_are_read(root: Path, path: str) -> None:
    assert read(f"file://{root}/{path}", root) == b"picture"
    assert read(f"file://localhost{root}/{path}", root) == b"picture"


def test_links_inside_the_root_are_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root / "a.png")

    assert read(f"file://{root}/link.png", root) == b"picture"


def test_root_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    assert read(f"file://{tmp_path}/link/a.png", tmp_path / "link") == b"picture"


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "%2e%2e/secret", "..%2fsecret", "inner/../../secret", "../media-too/b.png",
        "link", "linked/secret", "nowhere.png", "inner", "", "a.png/b", "a.png%00", "loop",
    ],
)  # fmt: skip
def test_nothing_else_is_read_or_told_apart(root: Path, tmp_path: Path, path: str) -> None:
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")

    with pytest.raises(MediaError) as caught:
        read(f"file://{root}/{path}", root)

    assert caught.value.message == (
        "there is no such file under a directory that media may come from"
    )


def test_pipes_are_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")

    with pytest.raises(MediaError, match="no such file"):
        read(f"file://{root}/pipe", root)


@pytest.mark.parametrize("url", ["file://host/a.png", "file://etc/passwd"])
def test_url_that_names_a_host(root: Path, url: str) -> None:
    with pytest.raises(MediaError, match="names a host"):
        read(url, root)


@pytest.mark.parametrize("url", ["file:", "file://", "file:a.png"])
def test_url_without_a_path(root: Path, url: str) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read(url, root)


def test_large_file(root: Path) -> None:
    (root / "large.png").write_bytes(bytes(11))

    with pytest.raises(MediaError, match="has 11 bytes, and 10 are allowed"):
        read(f"file://{root}/large.png", root)


def test_no_root_no_files(root: Path) -> None:
    with pytest.raises(MediaError, match=r"media\.allowed_root"):
        read(f"file://{root}/a.png", None)
