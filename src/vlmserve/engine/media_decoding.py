"""Decodes the media of requests: counted, within the memory for all, in processes apart."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmserve import metrics
from vlmserve.engine.decoded_images import DecodedImage, DecodedImages
from vlmserve.engine.decoders import DecoderPool
from vlmserve.engine.decoding_task import (
    DecodingTask,
    carry_out,
    decode_task,
    needs_this_process,
    unpack,
)
from vlmserve.engine.guarded_decode import FrameList, count_file, kind_of, read_data_url
from vlmserve.errors import MediaError
from vlmserve.media.limits import RequestTotals
from vlmserve.media.measured import Measured, Watch
from vlmserve.media.memory import DecodedMemory, MemoryAccount
from vlmserve.media.normalise import VLLM, Normalisation

if TYPE_CHECKING:
    from vlmserve.config.media import MediaConfig

# Pillow keeps RGB in four bytes; frames are arrays of three.
# What a decoder may begin with before it asks: asking costs a small image as much as decoding it.
_ALLOWANCE_PIXELS = 1_000_000
_BYTES_A_PIXEL = {"image": 4, "video": 3, "audio": 0}


@dataclass(frozen=True, slots=True)
class RequestMedia:
    """What the media of one request amount to."""

    totals: RequestTotals
    account: MemoryAccount


class MediaDecoder:
    """Decodes media for many requests; safe in many threads.

    Args:
        config: The limits.
        normalisation: How image files become RGB.
        pool: Decoder processes; ``None`` decodes in this one.
    """

    def __init__(
        self,
        config: "MediaConfig",
        normalisation: Normalisation = VLLM,
        pool: DecoderPool | None = None,
    ) -> None:
        self.memory = DecodedMemory(config.max_decoded_bytes)
        self.images = DecodedImages(config.decoded_cache_bytes)
        self._config = config
        self._normalisation = normalisation
        self._pool = pool

    @property
    def is_lost(self) -> bool:
        """Whether there are processes for it that cannot be replaced any more."""
        return self._pool is not None and self._pool.is_lost

    def open_request(
        self, watch: Watch | None = None, of: RequestMedia | None = None
    ) -> RequestMedia:
        """Begin to count the media of a request.

        Args:
            watch: Told of each medium before it is decoded.
            of: Counts to go on with, where the watch is of a part of a request.
        """
        if of is None:
            return RequestMedia(RequestTotals(self._config, watch), self.memory.open_account())
        return RequestMedia(RequestTotals(self._config, watch, of=of.totals), of.account)

    def decode_data_url(
        self,
        url: str,
        media_io: Any,
        request: RequestMedia,
        before_waiting: Callable[[], None] | None = None,
    ) -> Any:
        """Decode a data URL; as ``decode_file``."""
        data = read_data_url(url, kind_of(media_io), self._config)
        if isinstance(data, FrameList):
            text = data.text.encode("ascii")
            lease = self._lease(media_io, request, before_waiting)
            return self._decode(text, media_io, lease, replace(data, text=""))
        return self.decode_file(data, media_io, request, before_waiting)

    def decode_file(
        self,
        data: bytes,
        media_io: Any,
        request: RequestMedia,
        before_waiting: Callable[[], None] | None = None,
    ) -> Any:
        """Decode a file; blocks.

        Args:
            data: The file.
            media_io: vLLM's loader.
            request: The request's counts.
            before_waiting: Called where there is no memory for it now.

        Returns:
            What the loader gives.

        Raises:
            MediaError: The file is over a limit, or took its decoder along.
            NotDecodedError: The request's watch saw enough.
            EngineUnavailableError: There was no decoder or no memory for it in time.
            Exception: Whatever a decoder raises at broken content; ``DecoderError`` where that
                was in a process apart.
        """
        kind = kind_of(media_io)
        count_file(data, kind, self._config, request.totals)
        lease = self._lease(media_io, request, before_waiting)
        if kind != "image":
            return self._decode(data, media_io, lease)
        key = self.images.key(data, _how(media_io))
        kept = self.images.find(key)
        if kept is not None:
            metrics.DECODED_CACHE_HITS.inc()
            return _share(kept, data, lease)
        media = self._decode(data, media_io, lease)
        image, config = media.media, media.io_config
        config = None if config is None else tuple(config.items())
        decoded = DecodedImage(image, config, lease.n_pixels, lease.measured)
        # What the request has is one more image over the same pixels.
        self.images.keep(key, replace(decoded, image=decoded.share()))
        image.readonly = 1
        return media

    def _lease(
        self, media_io: Any, request: RequestMedia, before_waiting: Callable[[], None] | None
    ) -> "_Lease":
        bytes_a_pixel = _BYTES_A_PIXEL[kind_of(media_io)]
        return _Lease(request, bytes_a_pixel, self._config.decode_queue_timeout_s, before_waiting)

    def _decode(
        self, data: bytes, media_io: Any, lease: "_Lease", frames: FrameList | None = None
    ) -> Any:
        kind = kind_of(media_io)
        task = DecodingTask(media_io, self._config, self._normalisation, frames)
        started = time.perf_counter()
        try:
            if self._pool is None or needs_this_process(media_io):
                media = decode_task(task, data, _WaitingTotals(lease))
                owner = media.media if kind == "image" else media[0]
            else:
                media, owner = self._pool.decode(
                    task, data, lease, lambda about, content: unpack(about, content, task, data)
                )
        except BaseException:
            lease.give_back()
            raise
        lease.give_back_with(owner)
        metrics.DECODE_SECONDS.labels(kind).observe(time.perf_counter() - started)
        metrics.MEDIA_BYTES.labels(kind).observe(len(data))
        return media


def _how(image_io: Any) -> Hashable:
    """What an image's pixels depend on beside its file and the operator's configuration."""
    background = image_io.rgba_background_color
    return image_io.image_mode, tuple(background) if background is not None else None


def _share(kept: DecodedImage, data: bytes, lease: "_Lease") -> Any:
    """Give an image that was decoded before, as if it had been decoded now."""
    from vllm.multimodal.media import MediaWithBytes

    image = kept.share()
    try:
        if not lease.count_measured(0, kept.n_pixels, kept.measured):
            lease.wait()
    except BaseException:
        lease.give_back()
        raise
    lease.give_back_with(image)
    metrics.MEDIA_BYTES.labels("image").observe(len(data))
    return MediaWithBytes(image, data, None if kept.config is None else dict(kept.config))


def create_pool(config: "MediaConfig") -> DecoderPool | None:
    """Fork the template of the decoder processes, where any are wanted."""
    if not config.decode_processes:
        return None
    return DecoderPool(
        n_processes=config.decode_processes,
        memory_bytes=config.decode_memory_bytes,
        timeout_s=config.decode_timeout_s,
        queue_timeout_s=config.decode_queue_timeout_s,
        decode=carry_out,
    )


class _Lease:
    """What one file has taken so far of its request's and of all requests' limits."""

    def __init__(
        self,
        request: RequestMedia,
        bytes_a_pixel: int,
        wait_s: float,
        before_waiting: Callable[[], None] | None,
    ) -> None:
        self._request = request
        self._bytes_a_pixel = bytes_a_pixel
        self._wait_s = wait_s
        self._before_waiting = before_waiting
        # What a decoder found since it began, and the most that was counted before: a file that is
        # begun once more is not counted twice.
        self._n_bytes = self.n_pixels = 0
        self._counted_bytes = self._counted_pixels = 0
        self._held_bytes = self._wanted_bytes = 0
        self.measured: Measured | None = None

    def begin(self) -> int:
        self._n_bytes = self.n_pixels = 0
        n_bytes = _ALLOWANCE_PIXELS * self._bytes_a_pixel
        if self._held_bytes < n_bytes and not self._take(n_bytes - self._held_bytes):
            return 0
        return _ALLOWANCE_PIXELS

    def _take(self, n_bytes: int) -> bool:
        try:
            is_taken = self._request.account.try_reserve(n_bytes)
        except MediaError:
            return False  # what is really needed may fit
        if is_taken:
            self._held_bytes += n_bytes
        return is_taken

    def count(self, n_bytes: int, n_pixels: int, about: Mapping[str, Any] | None) -> bool:
        return self.count_measured(n_bytes, n_pixels, None if about is None else _measured(about))

    def count_measured(self, n_bytes: int, n_pixels: int, measured: Measured | None) -> bool:
        self._n_bytes += n_bytes
        self.n_pixels += n_pixels
        totals = self._request.totals
        if self._n_bytes > self._counted_bytes:
            n_new, self._counted_bytes = self._n_bytes - self._counted_bytes, self._n_bytes
            totals.add_bytes(n_new)
        if self.n_pixels > self._counted_pixels:
            n_new, self._counted_pixels = self.n_pixels - self._counted_pixels, self.n_pixels
            totals.add_pixels(n_new)
        if measured is not None and self.measured is None:
            self.measured = measured
            totals.add_pixels(0, measured)
        self._wanted_bytes = self.n_pixels * self._bytes_a_pixel - self._held_bytes
        if self._wanted_bytes <= 0:
            return True
        if not self._request.account.try_reserve(self._wanted_bytes):
            return False
        self._held_bytes += self._wanted_bytes
        return True

    def wait(self) -> None:
        if self._before_waiting is not None:
            self._before_waiting()
        self._request.account.reserve(self._wanted_bytes, self._wait_s)
        self._held_bytes += self._wanted_bytes

    def give_back(self) -> None:
        self._request.account.release(self._held_bytes)

    def give_back_with(self, owner: Any) -> None:
        surplus = self._held_bytes - self.n_pixels * self._bytes_a_pixel
        if surplus > 0:
            self._request.account.release(surplus)
            self._held_bytes -= surplus
        self._request.account.release_with(owner, self._held_bytes)


class _WaitingTotals:
    """Waits for memory where it is asked for, in this process."""

    def __init__(self, lease: _Lease) -> None:
        self._lease = lease

    def add_bytes(self, n_bytes: int) -> None:
        self._lease.count_measured(n_bytes, 0, None)

    def add_pixels(self, n_pixels: int, measured: Measured | None = None) -> None:
        if not self._lease.count_measured(0, n_pixels, measured):
            self._lease.wait()


def _measured(about: Mapping[str, Any]) -> Measured:
    """Read what a decoder says of a medium, which a file may have taught it.

    Raises:
        TypeError, ValueError: It is nothing that can be said of one.
    """
    kind = about["kind"]
    if kind not in {"image", "video"}:
        raise ValueError("neither an image nor a video")
    rate, n_frames = about["frames_per_second"], about["n_frames"]
    return Measured(
        kind,
        int(about["width_px"]),
        int(about["height_px"]),
        tuple(int(index) for index in about["frame_indices"]),
        None if rate is None else float(rate),
        None if n_frames is None else int(n_frames),
    )
