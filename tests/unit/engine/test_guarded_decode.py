"""The guard around vLLM's loaders, with loaders that decode as little as possible."""

import base64
import io
from typing import Any, ClassVar

import pytest
from PIL import Image

from vlmserve.config.media import MediaConfig
from vlmserve.engine.guarded_decode import decode, decode_data_url
from vlmserve.errors import MediaError
from vlmserve.media.limits import RequestTotals

pytest.importorskip("pybase64")


class Loader:
    """Samples every second frame and says so first, as vLLM's loaders do."""

    decoded: int
    broken: ClassVar[set[int]] = set()

    @classmethod
    def compute_frames_index_to_sample(cls, n_frames: int) -> list[int]:
        return list(range(0, n_frames, 2))

    @classmethod
    def load_bytes(cls, data: bytes) -> tuple[list[int], dict[str, Any]]:
        indices = cls.compute_frames_index_to_sample(20)
        Loader.decoded += len(indices)
        # Some loaders ask again to describe what they did.
        cls.compute_frames_index_to_sample(20)
        decoded = [index for index in indices if index not in cls.broken]
        return decoded, {"frames_indices": decoded}


class OwnWayLoader:
    """Decodes without saying what."""

    @classmethod
    def load_bytes(cls, data: bytes) -> tuple[list[int], dict[str, Any]]:
        return list(range(5)), {}


class VideoMediaIO:
    num_frames = 4

    def __init__(self, loader: Any) -> None:
        self.video_loader = loader

    def load_bytes(self, data: bytes) -> Any:
        return self.video_loader.load_bytes(data)

    def load_base64(self, content_type: str, text: str) -> Any:
        return content_type, text.count(",") + 1


class ImageMediaIO:
    def load_bytes(self, data: bytes) -> bytes:
        return data


class AudioMediaIO(ImageMediaIO):
    pass


def config(**settings: Any) -> MediaConfig:
    return MediaConfig.model_validate(settings)


def run(data: bytes, media_io: Any, settings: MediaConfig | None = None) -> Any:
    settings = settings or config()
    return decode(data, media_io, settings, RequestTotals(settings))


def run_url(url: str, media_io: Any, settings: MediaConfig | None = None) -> Any:
    settings = settings or config()
    return decode_data_url(url, media_io, settings, RequestTotals(settings))


def picture(format: str = "PNG", side: int = 20) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, format)
    return buffer.getvalue()


def clip() -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.new("L", (20, 20), 10 * n) for n in range(20))
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=100)
    return buffer.getvalue()


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(autouse=True)
def _nothing_decoded() -> None:
    Loader.decoded = 0


def test_images_and_audio_pass() -> None:
    assert run(picture(), ImageMediaIO()) == picture()
    assert run(b"sound", AudioMediaIO()) == b"sound"


def test_sampled_frames_are_counted_once() -> None:
    pytest.importorskip("cv2")
    media_io = VideoMediaIO(Loader())

    frames, _ = run(clip(), media_io, config(max_request_pixels=10 * 400))

    assert len(frames) == 10
    assert type(media_io.video_loader) is Loader


def test_too_many_sampled_frames_are_not_decoded() -> None:
    pytest.importorskip("cv2")

    with pytest.raises(MediaError, match=r"4000 pixels to decode.*media\.max_request_pixels"):
        run(clip(), VideoMediaIO(Loader()), config(max_request_pixels=10 * 400 - 1))

    assert Loader.decoded == 0


class BrokenLoader(Loader):
    broken: ClassVar[set[int]] = {4, 18}


class ShortLoader(Loader):
    broken: ClassVar[set[int]] = {18}


class EmptyLoader(Loader):
    broken: ClassVar[set[int]] = set(range(20))


def test_frames_are_not_lost_silently() -> None:
    pytest.importorskip("cv2")

    with pytest.raises(MediaError, match="2 of 10 sampled frames cannot be decoded"):
        run(clip(), VideoMediaIO(BrokenLoader()))
    with pytest.raises(MediaError, match="10 of 10 sampled frames"):
        run(clip(), VideoMediaIO(EmptyLoader()))
    # Containers may count a frame too many.
    assert len(run(clip(), VideoMediaIO(ShortLoader()))[0]) == 9


def test_loader_that_does_not_say_what_it_samples_is_counted_afterwards() -> None:
    pytest.importorskip("cv2")

    with pytest.raises(MediaError, match="2000 pixels to decode"):
        run(clip(), VideoMediaIO(OwnWayLoader()), config(max_request_pixels=1999))


def test_data_url() -> None:
    assert run_url(f"data:image/png;base64,{text_of(picture())}", ImageMediaIO()) == picture()
    assert run_url(f"DATA:;base64,{text_of(picture())}", ImageMediaIO()) == picture()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png", "no comma"),
        ("data:image/png,plain", "only base64"),
        ("data:base64,aaaa", "only base64"),
        ("data:image/png;base64,@@@", "base64 is malformed"),
        ("data:image/png;base64,iVBORw0KGgo", "base64 is malformed"),
        ("data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", "base64 is malformed"),
        ("data:image/png;base64,", "empty"),
    ],
)
def test_malformed_data_url(url: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        run_url(url, ImageMediaIO())


def test_large_data_url_is_refused_before_it_is_decoded() -> None:
    # Not base64 at all, so that decoding it would say so.
    with pytest.raises(MediaError, match=r"media\.max_image_bytes"):
        run_url("data:image/png;base64," + "@" * 1000, ImageMediaIO(), config(max_image_bytes=700))


class TestFrameLists:
    def url(self, *frames: bytes, about: str = "video/jpeg") -> str:
        return f"data:{about};base64," + ",".join(map(text_of, frames))

    def test_passes(self) -> None:
        url = self.url(*[picture("JPEG")] * 4)

        assert run_url(url, VideoMediaIO(Loader())) == ("video/jpeg", 4)

    def test_a_stated_rate_reaches_the_loader_and_the_caches(self) -> None:
        from vllm.multimodal.media import ImageMediaIO, VideoMediaIO

        loader = VideoMediaIO(ImageMediaIO(), num_frames=4, fps=7)
        frames = [picture("JPEG"), picture("PNG")]

        plain = run_url(self.url(*frames), loader)
        slow = run_url(self.url(*frames, about="video/jpeg;fps=0.5"), loader)

        assert (plain[1]["fps"], plain[1]["duration"]) == (7.0, 2 / 7)
        assert (slow[1]["fps"], slow[1]["duration"]) == (0.5, 4.0)
        assert len(slow[0]) == 2
        assert not slow[1]["do_sample_frames"]
        assert (plain.io_config, slow.io_config) == (None, {"fps": 0.5})
        assert loader.kwargs == {"fps": 7}

    @pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "two", ""])
    def test_a_rate_that_is_none_is_refused(self, rate: str) -> None:
        url = self.url(picture("JPEG"), about=f"video/jpeg;fps={rate}")
        with pytest.raises(MediaError, match="is no rate of frames"):
            run_url(url, VideoMediaIO(Loader()))

    @pytest.mark.parametrize("about", ["video/jpeg", "VIDEO/JPEG", "video/jpeg;a=b"])
    def test_is_never_cut(self, about: str) -> None:
        with pytest.raises(MediaError, match="5 frames are given and 4 would be used"):
            run_url(self.url(*[picture("JPEG")] * 5, about=about), VideoMediaIO(Loader()))

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"max_video_pixels": 399}, r"frame 0: .*media\.max_video_pixels"),
            ({"max_image_pixels": 399}, r"frame 0: .*media\.max_image_pixels"),
            ({"max_request_pixels": 799}, r"frame 1: .*media\.max_request_pixels"),
            ({"max_video_frames": 1}, r"media\.max_video_frames"),
            ({"max_video_bytes": 700}, r"media\.max_video_bytes"),
        ],
    )
    def test_limits(self, settings: dict[str, Any], reason: str) -> None:
        with pytest.raises(MediaError, match=reason):
            run_url(self.url(*[picture("JPEG")] * 2), VideoMediaIO(Loader()), config(**settings))

    def test_each_frame_is_looked_at(self) -> None:
        with pytest.raises(MediaError, match="frame 1: it is not an image file"):
            run_url(self.url(picture("JPEG"), b"nonsense"), VideoMediaIO(Loader()))
        with pytest.raises(MediaError, match="frame 1: it is empty"):
            run_url(self.url(picture("JPEG")) + ",", VideoMediaIO(Loader()))
