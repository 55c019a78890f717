"""vLLM 0.32's media loader with a guard in front and an answer for every failure.

Registered as vLLM's media connector, so that every endpoint and the offline engine load media
through it; vLLM's own way to fetch is not used. Whatever goes wrong with one image or video becomes
the caller's error, with the place in the request; vLLM answers some of these with a 500, an empty
message, or details of its network.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from vlmserve import metrics
from vlmserve.config.media import MediaConfig
from vlmserve.engine.decoders import DecoderError, DecoderPool
from vlmserve.engine.decoding_turns import DecodingTurns
from vlmserve.engine.environment import PLUGIN_NAME
from vlmserve.engine.guarded_decode import kind_of
from vlmserve.engine.media_decoding import MediaDecoder, RequestMedia, create_pool
from vlmserve.errors import EngineUnavailableError, MediaError
from vlmserve.media.fetch import MediaFetcher
from vlmserve.media.limits import max_bytes
from vlmserve.media.local import read_local_file, resolve_roots
from vlmserve.media.measured import NotDecodedError, Undecoded, Watch
from vlmserve.media.normalise import VLLM, Normalisation

_LOG = logging.getLogger(__name__)

_MAX_REASON_CHARS = 200
_SCHEME_CHARS = 8
_N_THREADS = 64
# Without decoders beside this process there is no more than its processors to decode with.
_N_TURNS_HERE = 4
# What loaders run into where a video has no frames.
_TOO_FEW_FRAMES = frozenset({"ZeroDivisionError", "IndexError", "RuntimeError"})

Locate = Callable[[str], str | None]
"""Finds the dotted field of a request that holds a URL."""

Fields = Callable[[str], list[str]]
"""Lists the dotted fields of a request that hold media of one kind, in reading order."""


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """A request whose media are being loaded."""

    media: RequestMedia
    locate: Locate | None
    fields: Fields | None = None


current_request: ContextVar[MediaRequest | None] = ContextVar("media_request", default=None)
"""The request that this task or thread answers; see ``media_request``."""


class _Guard:
    """What the operator allows, and what fetches and decodes accordingly."""

    def __init__(
        self, config: MediaConfig, normalisation: Normalisation, pool: DecoderPool | None
    ) -> None:
        self.config = config
        self.normalisation = normalisation
        self.roots = resolve_roots(config.allowed_roots)
        self.fetcher = MediaFetcher(config)
        self.decoder = MediaDecoder(config, normalisation, pool)
        n_turns = _N_TURNS_HERE if pool is None else 2 * pool.n_processes + 2
        self.turns = DecodingTurns(n_turns, config.decode_queue_timeout_s)


# Media are loaded in the process that takes requests. Nothing but data URLs unless it is told.
_guard = _Guard(MediaConfig(), VLLM, None)
# They wait for a decoder, for memory and for its answer, and compute little.
_threads = ThreadPoolExecutor(_N_THREADS, "media")


def configure(config: MediaConfig, normalisation: Normalisation = VLLM) -> None:
    """Say what media this process may load and how; call it before the engine is created.

    They are decoded in this process until ``decoder_processes``.

    Raises:
        ConfigError: A directory for local files is none.
    """
    global _guard  # noqa: PLW0603 - vLLM creates connectors by itself, with arguments of its own
    _guard = _Guard(config, normalisation, None)


@contextlib.contextmanager
def decoder_processes() -> Iterator[DecoderPool | None]:
    """Decode media in processes of their own until the block ends, if the configuration says so.

    Enter it once vLLM is imported, which those processes then need not do, and before there is an
    engine or a thread that may hold a lock.
    """
    global _guard  # noqa: PLW0603 - as above
    before = _guard
    pool = create_pool(before.config)
    mine = _guard = _Guard(before.config, before.normalisation, pool)
    try:
        yield pool
    finally:
        if _guard is mine:
            _guard = before
        if pool is not None:
            pool.close()


def decoders_are_lost() -> bool:
    """Whether there were decoder processes and there cannot be any more."""
    return _guard.decoder.is_lost


@contextlib.contextmanager
def media_request(locate: Locate | None = None, fields: Fields | None = None) -> Iterator[None]:
    """Count all media that are loaded inside as those of one request.

    Args:
        locate: Names the place of a medium in errors.
        fields: Names the places of all media of a kind.
    """
    token = current_request.set(MediaRequest(_guard.decoder.open_request(), locate, fields))
    try:
        yield
    finally:
        current_request.reset(token)


@contextlib.contextmanager
def watched_media(watch: Watch) -> Iterator[MediaRequest]:
    """Have media that are loaded inside seen before they are decoded.

    Args:
        watch: What sees them; where it raises ``NotDecodedError``, ``Undecoded`` is loaded.

    Yields:
        The request that they count for.
    """
    around = current_request.get()
    request = MediaRequest(
        _guard.decoder.open_request(watch, of=None if around is None else around.media),
        None if around is None else around.locate,
        None if around is None else around.fields,
    )
    token = current_request.set(request)
    try:
        yield request
    finally:
        current_request.reset(token)


def install() -> None:
    """Register the connector under our name; a second registration replaces the first."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    MEDIA_CONNECTOR_REGISTRY.register(PLUGIN_NAME)(_connector_class())


@functools.cache
def _connector_class() -> type[Any]:
    # Built on demand: vLLM's class cannot be named before vLLM is imported.
    from typing_extensions import override
    from vllm.multimodal.media import MediaConnector

    class RequestMediaConnector(MediaConnector):  # type: ignore[misc]
        """Loads the media of one message. Timeouts are the operator's, not vLLM's."""

        @override
        def load_from_url(self, url: str, media_io: Any, **_: Any) -> Any:
            return _load(url, media_io)

        @override
        async def load_from_url_async(self, url: str, media_io: Any, **_: Any) -> Any:
            return await _load_async(url, media_io)

    return RequestMediaConnector


def _load(url: str, media_io: Any) -> Any:
    request = current_request.get()
    guard = _guard
    try:
        if not _is_remote(url):
            return _load_here(guard, url, media_io, _media_of(request, guard))
        # In a thread of its own: the caller's may be running an event loop.
        data = _threads.submit(asyncio.run, _fetch(guard, url, media_io)).result()
        return guard.decoder.decode_file(data, media_io, _media_of(request, guard))
    except NotDecodedError as spared:
        return Undecoded(spared.measured)
    except Exception as error:
        raise _as_request_error(error, url, media_io, request) from error


async def _load_async(url: str, media_io: Any) -> Any:
    request = current_request.get()
    guard = _guard
    media = _media_of(request, guard)
    loop = asyncio.get_running_loop()
    try:
        if not _is_remote(url):
            async with guard.turns.taken() as give_back:
                return await loop.run_in_executor(
                    _threads, _load_here, guard, url, media_io, media, give_back
                )
        data = await _fetch(guard, url, media_io)
        async with guard.turns.taken() as give_back:
            return await loop.run_in_executor(
                _threads, guard.decoder.decode_file, data, media_io, media, give_back
            )
    except NotDecodedError as spared:
        return Undecoded(spared.measured)
    except Exception as error:
        raise _as_request_error(error, url, media_io, request) from error


def _media_of(request: MediaRequest | None, guard: _Guard) -> RequestMedia:
    return guard.decoder.open_request() if request is None else request.media


def _is_remote(url: str) -> bool:
    return url[:_SCHEME_CHARS].lower().startswith(("http://", "https://"))


async def _fetch(guard: _Guard, url: str, media_io: Any) -> bytes:
    kind = kind_of(media_io)
    started = time.perf_counter()
    data = await guard.fetcher.fetch(url, kind, max_bytes=max_bytes(kind, guard.config))
    metrics.FETCH_SECONDS.labels(kind).observe(time.perf_counter() - started)
    return data


def _load_here(
    guard: _Guard,
    url: str,
    media_io: Any,
    media: RequestMedia,
    before_waiting: Callable[[], None] | None = None,
) -> Any:
    scheme = url[:_SCHEME_CHARS].lower()
    if scheme.startswith("data:"):
        return guard.decoder.decode_data_url(url, media_io, media, before_waiting)
    if scheme.startswith("file:"):
        limit = max_bytes(kind_of(media_io), guard.config)
        data = read_local_file(url, guard.roots, max_bytes=limit)
        return guard.decoder.decode_file(data, media_io, media, before_waiting)
    raise MediaError("its URL must be one of data:, https:, http: or file:")


def _as_request_error(
    error: Exception, url: str, media_io: Any, request: MediaRequest | None
) -> Exception:
    from vllm.exceptions import GracefulHTTPError, VLLMValidationError

    kind = kind_of(media_io)
    if isinstance(error, EngineUnavailableError):
        metrics.MEDIA_REFUSALS.labels(kind, "busy").inc()
        busy: Exception = GracefulHTTPError(error.message, error.status)
        return busy
    reason = "limit" if isinstance(error, MediaError) else "broken"
    metrics.MEDIA_REFUSALS.labels(kind, reason).inc()
    param = None if request is None or request.locate is None else request.locate(url)
    refusal: Exception = VLLMValidationError(
        f"this {kind} cannot be used: {_reason(error, kind)}", parameter=param or kind
    )
    return refusal


def _reason(error: Exception, kind: str) -> str:
    if isinstance(error, MediaError):
        return error.message
    # Decoders are third-party code run on the caller's bytes; whatever they raise, this request
    # cannot be answered and the next one can.
    _LOG.info("decoding the media of a request failed", exc_info=error)
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    name = error.name if isinstance(error, DecoderError) else type(error).__name__
    text = str(error.args[0] if error.args else error).partition("\n")[0]
    text = text.removeprefix("Failed to load image: ")
    if kind == "video" and name in _TOO_FEW_FRAMES:
        return f"it holds too few frames that can be decoded: {text[:_MAX_REASON_CHARS]}"
    return f"it is broken: {text[:_MAX_REASON_CHARS] or name}"
