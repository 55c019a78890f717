"""vLLM 0.32's media loader with an answer for every failure.

Registered as vLLM's media connector, so that every endpoint loads media through it. It fetches
only from allowed hosts, follows no redirect, and turns whatever goes wrong with one image or video
into the caller's error, with the place in the request; vLLM answers some of these with a 500, an
empty message, or details of its network.
"""

import fnmatch
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from vlmserve.engine.environment import PLUGIN_NAME

locate_media: ContextVar[Callable[[str], str | None] | None] = ContextVar(
    "locate_media", default=None
)
"""In a server: finds the dotted field of the running request that holds a URL."""

_MAX_REASON_CHARS = 200
_HTTP_CLIENTS = ("aiohttp", "requests", "urllib3")


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
        """Loads the media of one message."""

        @override
        def load_from_url(self, url: str, media_io: Any, **kw: Any) -> Any:
            try:
                _refuse_cut_frames(url, media_io)
                return super().load_from_url(url, media_io, **kw)
            except Exception as error:
                raise _as_request_error(error, url, media_io) from error

        @override
        async def load_from_url_async(self, url: str, media_io: Any, **kw: Any) -> Any:
            try:
                _refuse_cut_frames(url, media_io)
                return await super().load_from_url_async(url, media_io, **kw)
            except Exception as error:
                raise _as_request_error(error, url, media_io) from error

        @override
        def _assert_url_in_allowed_media_domains(self, url_spec: Any) -> None:
            host = (url_spec.hostname or "").lower()
            if not any(fnmatch.fnmatchcase(host, rule) for rule in self.allowed_media_domains):
                raise _refusal(
                    f"fetching from {host or 'this address'} is not allowed; the operator can "
                    f"allow it with media.allowed_hosts: [{host}], or send the file as a data URL"
                )

        @override
        def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
            if self.allowed_local_media_path is None:
                raise _refusal(
                    "local files are not allowed; the operator can allow a directory with "
                    "media.allowed_root, or send the file as a data URL"
                )
            try:
                return super()._load_file_url(url_spec, media_io)
            except (OSError, ValueError) as error:
                raise _without_paths(error) from error

    return RequestMediaConnector


def _refusal(message: str) -> Exception:
    from vllm.exceptions import VLLMValidationError

    refusal: Exception = VLLMValidationError(message)
    return refusal


def _without_paths(error: Exception) -> Exception:
    # vLLM's own sentences about a file name this host's directories, resolved.
    if isinstance(error, OSError) or "must be a subpath" in str(error):
        return _refusal("there is no such file under the directory that media may come from")
    return error


def _refuse_cut_frames(url: str, media_io: Any) -> None:
    # vLLM keeps the first ``num_frames`` pictures of a frame list and drops the others silently.
    limit = getattr(media_io, "num_frames", -1)
    if limit > 0 and url[:40].lower().startswith("data:video/jpeg;base64,"):
        n_frames = url.count(",")
        if n_frames > limit:
            raise _refusal(
                f"{n_frames} frames are given and {limit} would be used; send fewer, or let the "
                "operator raise engine.media_io_kwargs.video.num_frames"
            )


def _as_request_error(error: Exception, url: str, media_io: Any) -> Exception:
    from vllm.exceptions import VLLMValidationError

    kind = _kind(media_io)
    locate = locate_media.get()
    param = None if locate is None else locate(url)
    reason = _reason(error, kind)
    refusal: Exception = VLLMValidationError(
        f"this {kind} cannot be used: {reason}", parameter=param or kind
    )
    return refusal


def _kind(media_io: Any) -> str:
    for kind in ("image", "video", "audio"):
        if type(media_io).__name__.lower().startswith(kind):
            return kind
    return "file"


def _reason(error: Exception, kind: str) -> str:
    if isinstance(error, TimeoutError):
        return "it could not be fetched in time"
    if status := getattr(error, "status", None):
        return f"it could not be fetched: HTTP {status}"
    # Details of a failed connection would let a caller map the network behind this server.
    if isinstance(error, ConnectionError) or type(error).__module__.startswith(_HTTP_CLIENTS):
        return "it could not be fetched: no connection"
    if kind == "video" and isinstance(error, (ZeroDivisionError, IndexError, RuntimeError)):
        return "it holds too few frames or states no frame rate"
    return _sentence(error)


def _sentence(error: Exception) -> str:
    from vllm.exceptions import VLLMValidationError

    # VLLMValidationError.__str__ appends its fields; args[0] is the sentence.
    text = str(error.args[0]) if isinstance(error, VLLMValidationError) else str(error)
    text = text.partition("\n")[0].removeprefix("Failed to load image: ")
    if text.startswith("cannot identify image file"):
        return "it is empty, or not an image file of a known format"
    return text[:_MAX_REASON_CHARS] or type(error).__name__
