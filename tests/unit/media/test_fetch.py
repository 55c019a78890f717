"""The guarded fetch against real HTTP servers on this machine."""

import asyncio
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from vlmserve.config.media import MediaConfig
from vlmserve.errors import MediaError
from vlmserve.media.fetch import CreateResolver, MediaFetcher

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
LOOPBACK = ("127.0.0.0/8", "::1/128")

Answer = Callable[[BaseHTTPRequestHandler], None]


class Host:
    """A web server on a free port of this machine."""

    def __init__(self, answer: Answer, address: str = "127.0.0.1") -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests.append((self.path, dict(self.headers)))
                with suppress(OSError):  # the client has gone
                    answer(self)

            @override
            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True

        self.server = Server((address, 0), Handler)
        self.port = self.server.server_address[1]


@contextmanager
def serving(answer: Answer, address: str = "127.0.0.1") -> Iterator[Host]:
    host = Host(answer, address)
    thread = threading.Thread(target=host.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()
        thread.join()


def say(
    body: bytes = PNG, status: int = 200, content_type: str = "image/png", **headers: str
) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def config(
    port: int | None = None, *, networks: tuple[str, ...] = LOOPBACK, **more: Any
) -> MediaConfig:
    rules = ("*",) if port is None else ("*", f"*:{port}")
    return MediaConfig.model_validate(
        {"allowed_hosts": rules, "allowed_networks": networks, **more}
    )


def fetch(
    url: str,
    settings: MediaConfig,
    *,
    kind: Any = "image",
    max_bytes: int = 10_000,
    resolver: CreateResolver | None = None,
) -> bytes:
    fetcher = MediaFetcher(settings, create_resolver=resolver)
    return asyncio.run(fetcher.fetch(url, kind, max_bytes=max_bytes))


def refused(url: str, settings: MediaConfig, **more: Any) -> str:
    with pytest.raises(MediaError) as caught:
        fetch(url, settings, **more)
    return caught.value.message


class Names(AbstractResolver):
    """Answers look-ups from a list, the last answer for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    @override
    async def close(self) -> None:
        pass


def test_fetches_a_file_without_cookies_or_compression() -> None:
    with serving(say(Set_Cookie="a=b")) as host:
        assert fetch(f"http://127.0.0.1:{host.port}/a.png", config(host.port)) == PNG
        ((path, headers),) = host.requests

    assert path == "/a.png"
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(say()) as host, serving(say(b"proxied")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")

        assert fetch(f"http://127.0.0.1:{host.port}/", config(host.port)) == PNG
        assert proxy.requests == []


def test_nothing_is_fetched_by_default() -> None:
    with serving(say()) as host:
        reason = refused(f"http://127.0.0.1:{host.port}/a.png", MediaConfig())

        assert f"media.allowed_hosts: ['127.0.0.1:{host.port}']" in reason
        assert host.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "0x7f.0.0.1", "0x7f000001", "2130706433",
        "0.0.0.0",  # noqa: S104 - connecting to it reaches this machine
        "0177.0.0.1", "017700000001", "127.0.0.1.", "[::1]", "[::]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]",
        "\uff11\uff12\uff17.0.0.1", "%31%32%37.0.0.1",
    ],
)  # fmt: skip
def test_no_spelling_of_this_machine_is_reached(host: str) -> None:
    with serving(say()) as here:
        refused(f"http://{host}:{here.port}/", config(here.port, networks=()))

        assert here.requests == []


def test_refusal_of_an_address_names_the_setting_and_no_address() -> None:
    resolver = Names(["10.1.2.3"])

    reason = refused("http://inner.example/", config(networks=()), resolver=lambda: resolver)

    assert "media.allowed_networks" in reason
    assert "10.1.2.3" not in reason


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    resolver = Names(["93.184.215.14", "127.0.0.1"])

    reason = refused("http://mixed.example/", config(networks=()), resolver=lambda: resolver)

    assert "not a public one" in reason


def test_address_that_was_checked_is_connected_to() -> None:
    # Whoever asks a second time, as a check before a fetch does, is led elsewhere.
    resolver = Names(["127.0.0.1"], ["127.0.0.99"])
    with serving(say()) as host:
        url = f"http://pictures.example:{host.port}/a"

        assert fetch(url, config(host.port), resolver=lambda: resolver) == PNG
        assert resolver.asked == ["pictures.example"]
        assert host.requests[0][1]["Host"] == f"pictures.example:{host.port}"


def test_each_redirect_is_resolved_and_checked_anew() -> None:
    resolver = Names(["127.0.0.1"], ["127.0.0.2"])
    with serving(say(b"", 302, Location="/b")) as host:
        url = f"http://rebinding.example:{host.port}/a"

        reason = refused(
            url, config(host.port, networks=("127.0.0.1/32",)), resolver=lambda: resolver
        )

        assert "not a public one" in reason
        assert [path for path, _ in host.requests] == ["/a"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        step = int(handler.path[1:])
        (say() if step == 3 else say(b"", status, Location=f"/{step + 1}"))(handler)

    with serving(answer) as host:
        assert fetch(f"http://127.0.0.1:{host.port}/0", config(host.port)) == PNG


def test_too_many_redirects() -> None:
    with serving(say(b"", 302, Location="/again")) as host:
        assert "more than 3 redirects" in refused(
            f"http://127.0.0.1:{host.port}/", config(host.port)
        )
        assert len(host.requests) == 4


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://elsewhere.example/a", "media.allowed_hosts: [elsewhere.example]"),
        ("http://127.0.0.1:9/a", "media.allowed_hosts: ['127.0.0.1:9']"),
        ("//elsewhere.example/a", "media.allowed_hosts: [elsewhere.example]"),
        ("file:///etc/hostname", "not one of http or https"),
        ("gopher://127.0.0.1/", "not one of http or https"),
        ("http://user:secret@127.0.0.1/", "credentials"),
        ("http://[::1/", "malformed"),
    ],
)
def test_redirect_to_where_no_request_may_go(target: str, reason: str) -> None:
    with serving(say(b"", 302, Location=target)) as host:
        settings = MediaConfig.model_validate(
            {"allowed_hosts": (f"127.0.0.1:{host.port}",), "allowed_networks": LOOPBACK}
        )
        said = refused(f"http://127.0.0.1:{host.port}/", settings)

    assert reason in said
    assert "secret" not in said


def test_redirect_without_a_target() -> None:
    with serving(say(b"", 302)) as host:
        assert "leads nowhere" in refused(f"http://127.0.0.1:{host.port}/", config(host.port))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:pw@example.org/", "credentials"),
        ("http://user@example.org/", "credentials"),
        ("http://example.org:22/", "port 22 of example.org"),
        ("http://example.org:99999/", "malformed"),
        ("http:///a.png", "with a host"),
        ("http://a\\@b/", "malformed"),
        ("ftp://example.org/", "not one of http or https"),
        ("http://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://[fe80::1%25eth0]/", "public"),
    ],
)
def test_urls_that_are_refused_without_a_connection(url: str, reason: str) -> None:
    assert reason in refused(url, config(networks=()))


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500, 503])
def test_other_statuses(status: int) -> None:
    with serving(say(b"", status)) as host:
        assert f"HTTP {status}" in refused(f"http://127.0.0.1:{host.port}/", config(host.port))
        assert len(host.requests) == 1


def test_stated_length_over_the_limit_is_not_read() -> None:
    with serving(say(PNG, Content_Length="100000000")) as host:
        assert "media.max_image_bytes" in refused(
            f"http://127.0.0.1:{host.port}/", config(host.port)
        )


def test_endless_body_is_cut_at_the_limit() -> None:
    sent = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        say()(handler)
        while True:
            sent += handler.wfile.write(bytes(100_000))

    with serving(answer) as host:
        reason = refused(f"http://127.0.0.1:{host.port}/", config(host.port), max_bytes=1_000_000)

    assert "larger than 1000000 bytes" in reason
    assert sent < 50_000_000


def test_compressed_transfer_is_not_unpacked() -> None:
    with serving(say(Content_Encoding="gzip")) as host:
        assert "compressed transfer" in refused(f"http://127.0.0.1:{host.port}/", config(host.port))


@pytest.mark.parametrize(
    ("content_type", "body", "kind", "reason"),
    [
        ("text/html; charset=utf-8", PNG, "image", "'text/html'"),
        ("video/mp4", PNG, "image", "'video/mp4'"),
        ("image/png", b"<html>" + bytes(100), "image", "not an image file"),
        ("image/png", PNG, "video", "'image/png'"),
        ("application/octet-stream", PNG, "video", "it is image/png, not a video file"),
    ],
)
def test_content_is_what_was_asked_for(
    content_type: str, body: bytes, kind: str, reason: str
) -> None:
    with serving(say(body, content_type=content_type)) as host:
        assert reason in refused(f"http://127.0.0.1:{host.port}/", config(host.port), kind=kind)


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", ""])
def test_a_vague_or_slightly_wrong_type_does_no_harm(content_type: str) -> None:
    with serving(say(content_type=content_type)) as host:
        assert fetch(f"http://127.0.0.1:{host.port}/", config(host.port)) == PNG


def _silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def _stalling(handler: BaseHTTPRequestHandler) -> None:
    say()(handler)
    handler.wfile.flush()
    time.sleep(1.5)


@pytest.mark.parametrize("answer", [_silent, _stalling])
def test_silent_host_is_given_up(answer: Answer) -> None:
    with serving(answer) as host:
        settings = config(host.port, fetch_idle_timeout_s=0.2)

        assert "in time" in refused(f"http://127.0.0.1:{host.port}/", settings)


def test_host_that_drips_is_given_up() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        say()(handler)
        for _ in range(100):
            handler.wfile.write(b"\0")
            handler.wfile.flush()
            time.sleep(0.02)

    with serving(answer) as host:
        settings = config(host.port, fetch_timeout_s=0.3, fetch_idle_timeout_s=5)

        assert "in time" in refused(f"http://127.0.0.1:{host.port}/", settings)


def test_address_that_nobody_listens_at() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

        reason = refused(f"http://127.0.0.1:{port}/", config(port))

    assert reason == "it could not be fetched: no connection"


def test_name_that_does_not_exist() -> None:
    class NoNames(Names):
        @override
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    reason = refused("http://nowhere.example/", config(), resolver=NoNames)

    assert reason == "it could not be fetched: no connection"


def test_host_that_speaks_no_http() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    with serving(answer) as host:
        reason = refused(f"http://127.0.0.1:{host.port}/", config(host.port))

    assert reason == "it could not be fetched: no connection"


def test_no_more_fetches_at_once_than_allowed() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        say()(handler)

    async def fetch_many(port: int) -> list[bytes]:
        fetcher = MediaFetcher(config(port, max_concurrent_fetches=2))
        url = f"http://127.0.0.1:{port}/"
        return await asyncio.gather(
            *(fetcher.fetch(url, "image", max_bytes=10_000) for _ in range(8))
        )

    with serving(answer) as host:
        assert asyncio.run(fetch_many(host.port)) == [PNG] * 8

    assert most == 2


def test_tls_names_the_host_and_checks_its_certificate(tmp_path: Path) -> None:
    """The connection goes to an address, but TLS is about the name in the URL."""
    certificate = tmp_path / "host.pem"
    _write_certificate(certificate, "pictures.example")
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    resolver = Names(["127.0.0.1"])

    with serving(say()) as host:
        host.server.socket = context.wrap_socket(host.server.socket, server_side=True)
        url = f"https://pictures.example:{host.port}/"

        # Nobody has signed it.
        assert "no connection" in refused(url, config(host.port), resolver=lambda: resolver)
        assert named == ["pictures.example"]
        assert host.requests == []


def _write_certificate(path: Path, name: str) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def test_ipv6_host() -> None:
    with serving(say(), "::1") as host:
        assert fetch(f"http://[::1]:{host.port}/", config(host.port)) == PNG
