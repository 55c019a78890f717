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
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.config.serve import MediaConfig
from vlmserve.engine.environment import PLUGIN_NAME
from vlmserve.engine.guarded_decode import decode, decode_data_url, kind_of
from vlmserve.errors import ConfigError, MediaError
from vlmserve.media.fetch import MediaFetcher
from vlmserve.media.limits import RequestTotals, max_bytes
from vlmserve.media.local import read_local_file
from vlmserve.media.measured import NotDecodedError, Undecoded, Watch

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_LOG = logging.getLogger(__name__)

_MAX_REASON_CHARS = 200
_SCHEME_CHARS = 8

Locate = Callable[[str], str | None]
"""Finds the dotted field of a request that holds a URL."""

Fields = Callable[[str], list[str]]
"""Lists the dotted fields of a request that hold media of one kind, in reading order."""


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """A request whose media are being loaded."""

    totals: RequestTotals
    locate: Locate | None
    fields: Fields | None = None


current_request: ContextVar[MediaRequest | None] = ContextVar("media_request", default=None)
"""The request that this task or thread answers; see ``media_request``."""


class _Guard:
    """What the operator allows, and what fetches accordingly."""

    def __init__(self, config: MediaConfig) -> None:
        self.config = config
        self.fetcher = MediaFetcher(config)


# Media are loaded in the process that takes requests. Nothing but data URLs unless it is told.
_guard = _Guard(MediaConfig())


def configure(config: MediaConfig) -> None:
    """Say what media this process may load; call it before the engine is created.

    Raises:
        ConfigError: The directory for local files is none.
    """
    global _guard  # noqa: PLW0603 - vLLM creates connectors by itself, with arguments of its own
    if config.allowed_root is not None and not Path(config.allowed_root).is_dir():
        raise ConfigError(f"media.allowed_root: {config.allowed_root} is not a directory")
    _guard = _Guard(config)


@contextlib.contextmanager
def media_request(locate: Locate | None = None, fields: Fields | None = None) -> Iterator[None]:
    """Count all media that are loaded inside as those of one request.

    Args:
        locate: Names the place of a medium in errors.
        fields: Names the places of all media of a kind.
    """
    token = current_request.set(MediaRequest(RequestTotals(_guard.config), locate, fields))
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
        RequestTotals(_guard.config, watch, of=None if around is None else around.totals),
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
    try:
        if not _is_remote(url):
            return _load_here(url, media_io, _guard.config, _totals(request))
        # In a thread of its own: the caller's may be running an event loop.
        data = _threads().submit(asyncio.run, _fetch(url, media_io)).result()
        return decode(data, media_io, _guard.config, _totals(request))
    except NotDecodedError as spared:
        return Undecoded(spared.measured)
    except Exception as error:
        raise _as_request_error(error, url, media_io, request) from error


async def _load_async(url: str, media_io: Any) -> Any:
    request = current_request.get()
    totals = _totals(request)
    loop = asyncio.get_running_loop()
    try:
        if not _is_remote(url):
            return await loop.run_in_executor(
                _threads(), _load_here, url, media_io, _guard.config, totals
            )
        data = await _fetch(url, media_io)
        return await loop.run_in_executor(_threads(), decode, data, media_io, _guard.config, totals)
    except NotDecodedError as spared:
        return Undecoded(spared.measured)
    except Exception as error:
        raise _as_request_error(error, url, media_io, request) from error


def _totals(request: MediaRequest | None) -> RequestTotals:
    return RequestTotals(_guard.config) if request is None else request.totals


def _is_remote(url: str) -> bool:
    return url[:_SCHEME_CHARS].lower().startswith(("http://", "https://"))


async def _fetch(url: str, media_io: Any) -> bytes:
    kind = kind_of(media_io)
    return await _guard.fetcher.fetch(url, kind, max_bytes=max_bytes(kind, _guard.config))


def _load_here(url: str, media_io: Any, config: MediaConfig, totals: RequestTotals) -> Any:
    scheme = url[:_SCHEME_CHARS].lower()
    if scheme.startswith("data:"):
        return decode_data_url(url, media_io, config, totals)
    if scheme.startswith("file:"):
        limit = max_bytes(kind_of(media_io), config)
        data = read_local_file(url, config.allowed_root, max_bytes=limit)
        return decode(data, media_io, config, totals)
    raise MediaError("its URL must be one of data:, https:, http: or file:")


def _threads() -> "ThreadPoolExecutor":
    from vllm.multimodal.media.connector import global_thread_pool

    threads: ThreadPoolExecutor = global_thread_pool
    return threads


def _as_request_error(
    error: Exception, url: str, media_io: Any, request: MediaRequest | None
) -> Exception:
    from vllm.exceptions import VLLMValidationError

    kind = kind_of(media_io)
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
    text = str(error.args[0] if error.args else error).partition("\n")[0]
    text = text.removeprefix("Failed to load image: ")
    if kind == "video" and isinstance(error, (ZeroDivisionError, IndexError, RuntimeError)):
        return f"it holds too few frames that can be decoded: {text[:_MAX_REASON_CHARS]}"
    return f"it is broken: {text[:_MAX_REASON_CHARS] or type(error).__name__}"
