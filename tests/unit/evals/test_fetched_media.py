"""Media on other machines, and videos that are given as pictures, in the user's own data."""

import base64
import hashlib
import io
import json
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typing_extensions import override

from vlmserve.chat import FramesPart, ImagePart
from vlmserve.config.media import MediaConfig
from vlmserve.config.suite import SuiteConfig
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.report.thumbnails import create_preview
from vlmserve.media.cache import MediaCache, default_media_cache


class Host:
    """A web server of files on this machine."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                content = host.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            @override
            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def media(self) -> dict[str, Any]:
        """What a suite says so that files are fetched from here."""
        return {"allowed_hosts": [self.name], "allowed_networks": ["127.0.0.0/8"]}


@pytest.fixture
def host() -> Iterator[Host]:
    found = Host()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlmserve" / "media"


def write(suites: Any, row: dict[str, Any], **settings: Any) -> SuiteConfig:
    (suites.root / "held.jsonl").write_text(json.dumps(row))
    entry = {"data": "held.jsonl", "name": "held", "scorer": "exact_match"}
    return suites.load(entry, include_path=None, **settings)  # type: ignore[no-any-return]


def load(suite: SuiteConfig) -> EvalTask:
    (task,) = load_tasks(suite)
    return task


def question(*urls: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {
        "messages": [
            {"role": "user", "content": [*parts, {"type": "text", "text": "Color?"}]},
            {"role": "assistant", "content": "red"},
        ]
    }


def test_a_url_is_fetched_once_ever_and_sent_as_it_was(suites: Any, host: Host) -> None:
    red, blue = suites.png("red"), suites.png("blue")
    host.files = {"/a.png": red, "/b.png": blue}
    urls = [f"http://{host.name}/{name}.png" for name in ("a", "b", "a")]
    suite = write(suites, question(*urls), media=host.media)

    first = load(suite)
    host.files = {"/a.png": blue}
    again = load(suite)

    sent = first.samples[0].request("m").messages[0].parts[:3]
    assert sent == tuple(ImagePart(data=one, content_type="image/png") for one in (red, blue, red))
    assert again.samples == first.samples
    assert sorted(host.asked) == ["/a.png", "/b.png"]


@pytest.fixture
def small_disk(cache: Path) -> Iterator[Callable[[], object]]:
    """Has fetched files kept on a disk of 64 KiB; calling it makes room.

    Where nothing can be mounted, a limit of what this process may write stands for the disk.
    """
    cache.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(cache)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        grow = ["mount", "-o", "remount,size=16m", str(cache)]
        yield lambda: subprocess.run(grow, check=True)
        subprocess.run(["umount", "--lazy", str(cache)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_said_and_nothing_half_written_is_kept(
    suites: Any, host: Host, cache: Path, small_disk: Callable[[], object]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).save(large, "PNG")
    host.files = {"/a.png": suites.png("red"), "/b.png": large.getvalue()}
    load(write(suites, question(f"http://{host.name}/a.png"), media=host.media))
    suite = write(
        suites, question(*(f"http://{host.name}/{name}.png" for name in "ab")), media=host.media
    )

    with pytest.raises(
        ConfigError, match=f"{cache}: fetched media cannot be kept: (No space|File too large)"
    ):
        load(suite)
    kept = [path for path in (cache / "files").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == [hashlib.sha256(suites.png("red")).hexdigest()]
    assert len(list((cache / "urls").iterdir())) == 1

    small_disk()
    first, second = load(suite).samples[0].media
    assert (first.data(), second.data()) == (suites.png("red"), large.getvalue())
    assert host.asked == ["/a.png", "/b.png", "/b.png"]


def test_the_guard_stands_between_suites_and_the_network(suites: Any, host: Host) -> None:
    host.files = {"/a.png": suites.png("red"), "/page": b"<html>" + bytes(100)}
    row = question(f"http://{host.name}/a.png")

    with pytest.raises(ConfigError, match=r"held\.jsonl:1: .*fetching from .* is not allowed"):
        load(write(suites, row))
    closed = {"allowed_hosts": [host.name]}
    with pytest.raises(ConfigError, match="is not a public address"):
        load(write(suites, row, media=closed))
    assert not host.asked
    with pytest.raises(ConfigError, match="HTTP 404"):
        load(write(suites, question(f"http://{host.name}/gone.png"), media=host.media))
    with pytest.raises(ConfigError, match=r"held\.jsonl:1: http://.*/page: "):
        load(write(suites, question(f"http://{host.name}/page"), media=host.media))
    with pytest.raises(ConfigError, match="larger than 10 bytes"):
        load(write(suites, row, media={**host.media, "max_image_bytes": 10}))
    with pytest.raises(ConfigError, match="only http and https addresses are fetched"):
        load(write(suites, question("s3://bucket/a.png"), media=host.media))


def test_a_kept_file_that_is_no_longer_what_it_was_is_fetched_again(
    suites: Any, host: Host, cache: Path
) -> None:
    url = f"http://{host.name}/a.png"
    host.files = {"/a.png": suites.png("red")}
    kept = MediaCache(cache, MediaConfig(**host.media))
    path = kept.fetch_all([(url, "image")])[url]
    assert isinstance(path, Path)
    path.write_bytes(b"cut")

    assert kept.fetch_all([(url, "image")])[url] == path
    assert path.read_bytes() == suites.png("red")
    assert len(host.asked) == 2


def test_fetched_files_that_cannot_be_kept_end_the_run(
    suites: Any, host: Host, tmp_path: Path
) -> None:
    host.files = {"/a.png": suites.png("red")}
    (tmp_path / "file").write_text("")
    kept = MediaCache(tmp_path / "file", MediaConfig(**host.media))

    with pytest.raises(ConfigError, match="fetched media cannot be kept"):
        kept.fetch_all([(f"http://{host.name}/a.png", "image")])


def test_where_files_are_kept() -> None:
    assert default_media_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/vlmserve/media")
    assert default_media_cache({}).parts[-3:] == (".cache", "vlmserve", "media")


def clip(frames: list[str], fps: float | None = None) -> dict[str, Any]:
    video: dict[str, Any] = {"type": "video", "video": frames}
    if fps is not None:
        video["fps"] = fps
    return {
        "messages": [
            {"role": "user", "content": [video, {"type": "text", "text": "What moves?"}]},
            {"role": "assistant", "content": "a dot"},
        ]
    }


@pytest.fixture
def frames(suites: Any) -> list[bytes]:
    """Files of three pictures of one size, ``0.png`` to ``2.png``."""
    files = [suites.png(color, size=16) for color in ("red", "green", "blue")]
    for number, data in enumerate(files):
        (suites.root / f"{number}.png").write_bytes(data)
    return files


@pytest.mark.parametrize(("fps", "about"), [(None, ""), (0.5, ";fps=0.5"), (2, ";fps=2")])
def test_a_video_of_pictures_is_sent_as_these_pictures(
    suites: Any, frames: list[bytes], fps: float | None, about: str
) -> None:
    task = load(write(suites, clip(["0.png", "1.png", "2.png"], fps)))
    (sample,) = task.samples
    request = sample.request("m")

    assert request.messages[0].parts[0] == FramesPart(frames=tuple(frames), frames_per_second=fps)
    (part, _) = openai_messages(request.messages)[0]["content"]
    head, _, body = part["video_url"]["url"].partition(";base64,")
    assert (part["type"], head) == ("video_url", f"data:video/jpeg{about}")
    assert [base64.b64decode(one) for one in body.split(",")] == frames
    assert sample.question == "<video>What moves?"


@pytest.mark.parametrize(("about", "fps"), [("", None), (";fps=0.5", 0.5)])
def test_a_log_may_hold_a_video_as_vllm_takes_its_frames(
    suites: Any, frames: list[bytes], about: str, fps: float | None
) -> None:
    listed = ",".join(base64.b64encode(frame).decode() for frame in frames)
    url = f"data:video/jpeg{about};base64,{listed}"
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What?"}]
    (suites.root / "log.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": parts}]})
    )
    entry = {"requests": "log.jsonl", "name": "log", "check": "empty"}
    task = load(suites.load(entry, include_path=None))
    request = task.samples[0].request("m")

    assert request.messages[0].parts[0] == FramesPart(frames=tuple(frames), frames_per_second=fps)
    (sent, _) = openai_messages(request.messages)[0]["content"]
    assert sent == parts[0]


def test_a_video_file_travels_as_a_data_url_of_itself(suites: Any) -> None:
    video = suites.mp4()
    url = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "x"}]}
    (sample,) = load(write(suites, row)).samples

    assert sample.media[0].data() == video
    assert openai_messages(sample.request("m").messages)[0]["content"][0] == parts[0]


def test_a_rate_of_a_video_file_is_not_lost_in_silence(
    suites: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (suites.root / "clip.mp4").write_bytes(suites.mp4())
    row = clip([])
    row["messages"][0]["content"][0] = {"type": "video", "video": "clip.mp4", "fps": 2}
    load(write(suites, row))

    assert "task held: 1 videos say by fps how frames are taken from their files" in caplog.text


def test_videos_of_pictures_are_known_by_content_order_and_rate(
    suites: Any, frames: list[bytes]
) -> None:
    clips = [
        clip(["0.png", "1.png"]),
        clip(["1.png", "0.png"]),
        clip(["0.png", "1.png"], 1),
        clip(["0.png", "1.png"], 2),
    ]
    ids = {load(write(suites, one)).samples[0].sample_id for one in clips}

    assert len(ids) == 4
    assert load(write(suites, clips[3])).samples[0].sample_id in ids


def test_bad_frames_are_refused_by_row(suites: Any, frames: list[bytes]) -> None:
    (suites.root / "wide.png").write_bytes(suites.png("red", size=20))
    with pytest.raises(ConfigError, match=r"held\.jsonl:1: .*16 x 16, 20 x 20 pixels"):
        load(write(suites, clip(["0.png", "wide.png"])))
    with pytest.raises(ConfigError, match=r"held\.jsonl:1: .*gone\.png"):
        load(write(suites, clip(["0.png", "gone.png"])))
    (suites.root / "clip.mp4").write_bytes(suites.mp4())
    with pytest.raises(ConfigError, match="video/mp4 stands where a image is due"):
        load(write(suites, clip(["0.png", "clip.mp4"])))


def test_a_frame_that_changes_after_loading_is_not_sent(suites: Any, frames: list[bytes]) -> None:
    (sample,) = load(write(suites, clip(["0.png", "1.png"]))).samples
    (suites.root / "1.png").write_bytes(suites.png("white", size=16))

    with pytest.raises(MediaError, match=r"1\.png has changed since the run began"):
        sample.request("m")


def test_frames_are_shown_in_reports(suites: Any, frames: list[bytes]) -> None:
    (sample,) = load(write(suites, clip(["0.png", "1.png", "2.png"], 2))).samples
    preview = create_preview(sample.media[0])

    assert [one.label for one in preview.thumbnails] == ["0.0 s", "0.5 s", "1.0 s"]
    assert preview.size == "16 \N{MULTIPLICATION SIGN} 16"
    (unrated,) = load(write(suites, clip(["0.png"]))).samples
    assert [one.label for one in create_preview(unrated.media[0]).thumbnails] == ["frame 1"]
