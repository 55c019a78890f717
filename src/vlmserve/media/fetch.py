"""Fetches media over HTTP: from allowed hosts, public addresses, and within limits.

Every connection is checked on its own: the host and the port of each URL on the way, each address
that its name has, and the address of the socket itself before it connects. A name that changes
between two look-ups (DNS rebinding) gains nothing, because the addresses that were checked are
those that are connected to. Proxies of the environment are not used, which would resolve names
by themselves; neither are cookies, credentials or compressed transfers.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vlmserve.config.hosts import why_refused
from vlmserve.errors import MediaError
from vlmserve.media.addresses import is_allowed_address
from vlmserve.media.kind import MediaKind, check_declared_type, check_kind

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from vlmserve.config.media import MediaConfig
    from vlmserve.media.addresses import Network

_LOG = logging.getLogger(__name__)

_MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200
_CHUNK_BYTES = 64 * 1024
_HEAD_BYTES = 64
_HEADERS = {"User-Agent": "vlmserve", "Accept-Encoding": "identity"}

CreateResolver = Callable[[], "AbstractResolver"]
"""Creates what looks names up, within a running event loop."""


class MediaFetcher:
    """Fetches images and videos for requests.

    Args:
        config: Allowed hosts and networks, timeouts, limits.
        create_resolver: Looks names up; the system's resolver in a thread when ``None``.
    """

    def __init__(
        self, config: "MediaConfig", *, create_resolver: CreateResolver | None = None
    ) -> None:
        self._config = config
        self._rules = config.host_rules
        self._networks: tuple[Network, ...] = tuple(config.allowed_networks)
        self._create_resolver = create_resolver
        # A semaphore belongs to one event loop; offline each fetch has its own.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def fetch(self, url: str, kind: MediaKind, *, max_bytes: int) -> bytes:
        """Fetch one file.

        Args:
            url: An ``http`` or ``https`` URL, as the caller wrote it.
            kind: What it must be.
            max_bytes: The largest file that is read.

        Returns:
            The file.

        Raises:
            MediaError: It may not be fetched or cannot be; the message names a setting that would
                allow it, and never an address of this server's network.
        """
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self._config.max_concurrent_fetches))
        try:
            async with asyncio.timeout(self._config.fetch_timeout_s), slots:
                return await self._fetch(url, kind, max_bytes)
        except TimeoutError:
            raise MediaError("it could not be fetched in time") from None

    async def _fetch(self, url: str, kind: MediaKind, max_bytes: int) -> bytes:
        import aiohttp

        guard = _AddressGuard(self._networks)
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=self._config.fetch_connect_timeout_s,
            sock_read=self._config.fetch_idle_timeout_s,
        )
        connector = aiohttp.TCPConnector(
            resolver=_checking_resolver(guard, self._create_resolver),
            socket_factory=guard.create_socket,
            use_dns_cache=False,
            force_close=True,
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            ) as session:
                return await self._follow(session, self._parse(url), kind, max_bytes)
        except (aiohttp.InvalidURL, UnicodeError):
            # The latter: a host that IDNA cannot write.
            raise MediaError("its URL is malformed") from None
        except (aiohttp.ClientError, OSError) as error:
            if guard.has_refused:
                raise MediaError(
                    "the address of its host is not a public one; the operator can allow a "
                    "private network with media.allowed_networks, or send the file as a data URL"
                ) from None
            if isinstance(error, TimeoutError):
                raise
            # Details of a failed connection would let a caller map the network behind this server.
            _LOG.info("fetching media failed: %s", error)
            raise MediaError("it could not be fetched: no connection") from None

    async def _follow(
        self, session: "aiohttp.ClientSession", url: "URL", kind: MediaKind, max_bytes: int
    ) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await _read(response, kind, max_bytes)
                target = response.headers.get("Location")
                if target is None:
                    raise MediaError("it could not be fetched: a redirect leads nowhere")
                try:
                    url = self._parse(target, base=url)
                except MediaError as error:
                    raise MediaError(f"it redirects elsewhere: {error.message}") from None
        raise MediaError(f"it could not be fetched: more than {_MAX_REDIRECTS} redirects")

    def _parse(self, text: str, *, base: "URL | None" = None) -> "URL":
        """Parse a URL and check that it may be fetched."""
        from yarl import URL

        try:
            url = URL(text) if base is None else base.join(URL(text))
            host, port = url.raw_host, url.port
        except ValueError:
            raise MediaError("its URL is malformed") from None
        if url.scheme not in {"http", "https"} or not host or port is None:
            raise MediaError("its URL is not one of http or https with a host")
        if url.raw_user is not None or url.raw_password is not None:
            raise MediaError("its URL holds credentials; they are never sent from here")
        refusal = why_refused(self._rules, host, port)
        if refusal is not None:
            raise MediaError(refusal)
        if _is_number(host) and not is_allowed_address(host, self._networks):
            raise MediaError(
                f"{host} is not a public address; the operator can allow its network with "
                "media.allowed_networks, or send the file as a data URL"
            )
        return url


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _AddressGuard:
    """Refuses addresses of one fetch, and remembers that it did."""

    def __init__(self, networks: "Sequence[Network]") -> None:
        self._networks = networks
        self.has_refused = False

    def check(self, address: str) -> None:
        if not is_allowed_address(address, self._networks):
            self.has_refused = True
            # What the HTTP client makes of it depends on where it is raised; this much it keeps.
            raise OSError("the address is not allowed")

    def create_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Open the socket of a connection to one address: the last place to say no."""
        family, type_, proto, _, address = info
        self.check(str(address[0]))
        sock = socket.socket(family, type_, proto)
        sock.setblocking(False)  # noqa: FBT003 - the standard library's own form
        return sock


def _checking_resolver(guard: _AddressGuard, create: CreateResolver | None) -> "AbstractResolver":
    # Built on demand: aiohttp comes with vLLM, not with vlmserve itself.
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver
    from typing_extensions import override

    inner = ThreadedResolver() if create is None else create()

    class CheckingResolver(AbstractResolver):
        """Looks a name up and refuses it when any of its addresses is not allowed."""

        @override
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            found = await inner.resolve(host, port, family)
            for result in found:
                guard.check(result["host"])
            return found

        @override
        async def close(self) -> None:
            await inner.close()

    return CheckingResolver()


async def _read(response: "aiohttp.ClientResponse", kind: MediaKind, max_bytes: int) -> bytes:
    if response.status != _OK:
        raise MediaError(f"it could not be fetched: HTTP {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise MediaError("its address answers with a compressed transfer, which was not asked for")
    check_declared_type(response.headers.get("Content-Type", ""), kind)
    if response.content_length is not None and response.content_length > max_bytes:
        raise _too_large(kind, max_bytes)
    data = bytearray()
    is_known = False
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(kind, max_bytes)
        if not is_known and len(data) >= _HEAD_BYTES:
            check_kind(bytes(data[:_HEAD_BYTES]), kind)
            is_known = True
    return bytes(data)


def _too_large(kind: MediaKind, max_bytes: int) -> MediaError:
    setting = "max_image_bytes" if kind == "image" else "max_video_bytes"
    return MediaError(
        f"its file is larger than {max_bytes} bytes; the operator can raise media.{setting}"
    )
