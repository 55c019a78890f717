"""Digests are recalled while a file is the same, and no longer."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from vlmserve.checkpoint.digest_cache import DigestCache
from vlmserve.errors import CheckpointError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    monkeypatch.setattr("vlmserve.checkpoint.digest_cache._SETTLED_S", -1.0)
    return DigestCache(tmp_path / "cache" / "digests.json")


def test_digest_is_the_contents(cache: DigestCache, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")

    assert cache.sha256(path) == hashlib.sha256(b"abc").hexdigest()
    assert cache.sha256(path) == hashlib.sha256(b"abc").hexdigest()


def test_digest_is_recalled_by_another_process(cache: DigestCache, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    cache.sha256(path)
    cache.save()
    kept = tmp_path / "cache" / "digests.json"
    (entry,) = json.loads(kept.read_text()).values()
    kept.write_text(json.dumps({str(path.resolve()): [*entry[:-1], "recalled"]}))

    assert DigestCache(kept).sha256(path) == "recalled"


def test_changed_file_under_its_old_size_and_date_is_noticed(
    cache: DigestCache, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    cache.sha256(path)

    path.write_bytes(b"xyz")
    os.utime(path, (1, 1))

    assert cache.sha256(path) == hashlib.sha256(b"xyz").hexdigest()


def test_fresh_file_is_not_remembered(tmp_path: Path) -> None:
    cache, path = DigestCache(tmp_path / "digests.json"), tmp_path / "weights"
    path.write_bytes(b"abc")
    cache.sha256(path)
    cache.save()

    assert json.loads((tmp_path / "digests.json").read_text()) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"\xff"])
def test_broken_cache_is_ignored(tmp_path: Path, content: bytes) -> None:
    kept, path = tmp_path / "digests.json", tmp_path / "weights"
    kept.write_bytes(content)
    path.write_bytes(b"abc")

    assert DigestCache(kept).sha256(path) == hashlib.sha256(b"abc").hexdigest()


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, path = DigestCache(tmp_path / "file" / "digests.json"), tmp_path / "weights"
    path.write_bytes(b"abc")
    cache.sha256(path)

    cache.save()


def test_missing_file_is_a_checkpoint_error(cache: DigestCache, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        cache.sha256(tmp_path / "none")
