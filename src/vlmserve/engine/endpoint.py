"""Where a served model is asked: a base URL, a key, and how patiently."""

from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

import httpx2

from vlmserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served, and how patiently to ask it."""

    url: str
    """Base of the API: ``http://host:8000/v1``. Without a path ``/v1`` is meant."""

    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    """Requests in flight at once."""

    timeout_s: float = 600.0
    """Seconds that one answer may take; a request with all its tries ends after twice that."""

    max_retries: int = 4
    """How often a request is sent again when the endpoint is busy or fails; OpenAI's client waits
    half a second before the first, twice as long before each further one, 8 s at most."""

    connect_timeout_s: ClassVar[float] = 10.0
    """Seconds until a connection must stand."""

    has_fixed_sampling: bool = False
    """Whether the model takes no temperature and the like, as OpenAI's reasoning models do, which
    also know the limit of tokens as ``max_completion_tokens`` alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _normal_url(self.url))
        # A file or a shell's $(...) leaves a line's end behind the key.
        key = (self.api_key or "").strip()
        if not (key.isascii() and key.isprintable()):
            # Without the key: the message ends up in logs.
            raise ConfigError("the API key has characters other than printable ASCII")
        object.__setattr__(self, "api_key", key or None)


def _normal_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port  # parsed, and refused, only when it is asked for
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(f"{url}: not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{url}: expected a URL such as http://host:8000/v1")
    if parts.path in ("", "/"):
        return f"{parts.scheme}://{parts.netloc}/v1"
    return url
