"""A host of media that behaves well or badly, by path."""

import contextlib
import gzip
import http.server
import threading
import time
import urllib.parse
from types import TracebackType
from typing import ClassVar, Self

from typing_extensions import override

from tests.engine import media

_SILENCE_S = 2.0
_DRIPS = 100
_DRIP_S = 0.1


_OK = b"HTTP/1.0 200 OK\r\n"
_RAW = {
    "nowhere": b"HTTP/1.0 302 Found\r\n\r\n",
    "packed": _OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(50_000_000)),
    "short": _OK + b"Content-Length: 100000\r\n\r\n" + media.png((84, 84), media.RED),
    "garbage": b"\0\1\2 not HTTP\r\n\r\n" + bytes(1000),
    "headers": _OK + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(1000)) + b"\r\n",
    "html": _OK + b"Content-Type: text/html\r\n\r\n<html>" + bytes(100),
    "hangup": b"",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    files: ClassVar = {"/red.png": media.png((84, 84), media.RED), "/dot.mp4": media.mp4(4)}

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.paths.append(self.path)
        with contextlib.suppress(OSError):  # the client has gone
            self._answer()

    def _answer(self) -> None:
        kind, _, rest = self.path[1:].partition("/")
        match kind:
            case "redirect":
                self.send_response(302)
                self.send_header("Location", urllib.parse.unquote(rest))
                self.end_headers()
            case "status":
                self.send_error(int(rest))
            case "endless":
                self._send(self.files["/red.png"], "image/png")
                while True:
                    self.wfile.write(bytes(100_000))
            case "silent":
                time.sleep(_SILENCE_S)
            case "dripping":
                self._send(self.files["/red.png"][:64], "image/png")
                for _ in range(_DRIPS):
                    self.wfile.write(b"\0")
                    time.sleep(_DRIP_S)
            case _ if kind in _RAW:
                self.close_connection = True
                self.wfile.write(_RAW[kind])
            case _ if content := self.files.get(self.path):
                self._send(content, None)
            case _:
                self.send_error(404)

    def _send(self, content: bytes, content_type: str | None) -> None:
        self.send_response(200)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: list[str] = []


class MediaHost:
    """``/red.png``, ``/dot.mp4``, ``/redirect/URL``, ``/status/N``, ``/html``, ``/endless``,
    ``/silent``, ``/dripping`` and more on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self._server = _Server()
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """What has been asked for so far."""
        return self._server.paths

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
