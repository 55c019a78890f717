"""Which hosts a URL may name: the rules of ``media.allowed_hosts``."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

_STANDARD_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule: ``example.org``, ``*.example.org``, ``*``, ``media.lan:8080`` or ``[::1]:8080``."""

    pattern: str
    """Lower case; ``*`` stands for any characters."""

    port: int | None
    """The one port that is allowed; ``None`` for the standard ones, 80 and 443."""

    @classmethod
    def parse(cls, text: str) -> "HostRule":
        """Read a rule.

        Raises:
            ValueError: It is empty, a URL, or has a port that is none.
        """
        pattern, port = _split_port(text.strip().lower())
        if not pattern or any(sign in pattern for sign in "/@ "):
            raise ValueError(f"{text!r}: write a host, such as example.org or *.example.org:8080")
        if not port:
            return cls(pattern, None)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError(f"{text!r}: {port!r} is no port")
        return cls(pattern, int(port))

    def names(self, host: str) -> bool:
        """Tell whether the rule is about a host."""
        return fnmatch.fnmatchcase(host.lower(), self.pattern)

    def allows(self, host: str, port: int) -> bool:
        """Tell whether the rule allows a host and a port."""
        ports = _STANDARD_PORTS if self.port is None else {self.port}
        return self.names(host) and port in ports


def why_refused(rules: Iterable[HostRule], host: str, port: int) -> str | None:
    """Say why media may not be fetched from a host, and which setting would allow it.

    Args:
        rules: What the operator allows.
        host: The URL's host, without the brackets of an IPv6 address.
        port: The URL's port, or its scheme's.

    Returns:
        A clause for the caller, or ``None`` where the host and the port are allowed.
    """
    known = list(rules)
    if any(rule.allows(host, port) for rule in known):
        return None
    written = f"[{host}]" if ":" in host else host
    rule = written if port in _STANDARD_PORTS else f"{written}:{port}"
    # YAML reads brackets and colons as its own.
    listed = rule if rule == host else f"'{rule}'"
    what = f"port {port} of {written}" if any(one.names(host) for one in known) else written
    return (
        f"fetching from {what} is not allowed; the operator can allow it with "
        f"media.allowed_hosts: [{listed}], or send the file as a data URL"
    )


def _split_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, ""
