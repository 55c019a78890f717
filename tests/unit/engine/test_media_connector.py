from pathlib import Path

import pytest

from vlmserve.config.media import MediaConfig
from vlmserve.engine.media_connector import configure, current_request, media_request
from vlmserve.errors import ConfigError


def test_directory_for_local_files_must_be_there(tmp_path: Path) -> None:
    config = MediaConfig(allowed_roots=(str(tmp_path / "nowhere"),))

    with pytest.raises(ConfigError, match=r"media\.allowed_roots: .*nowhere is not a directory"):
        configure(config)


def test_media_of_a_request_are_counted_together() -> None:
    with media_request():
        outer = current_request.get()
        with media_request(str):
            inner = current_request.get()

        assert current_request.get() is outer

    assert outer is not None
    assert inner is not None
    assert inner.media is not outer.media
    assert current_request.get() is None
