"""Endpoints as a side of ``vlmserve eval``: which model, and what is known of what serves it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from vlmserve.errors import ConfigError, ModelNotFoundError
from vlmserve.evals.answering import EngineSource, Side

if TYPE_CHECKING:
    from vlmserve.engine.base import Engine
    from vlmserve.engine.endpoint import Endpoint

_IDENTITY_TIMEOUT_S = 10.0


def is_url(reference: str) -> bool:
    """Whether a side is named by an address, or by several."""
    return reference.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint with the model that is asked there."""

    endpoint: "Endpoint"
    model: str
    statement: Mapping[str, Any]
    """What its ``/version`` says; empty where it has none."""

    @property
    def fingerprint(self) -> str | None:
        """Of the model's content, where that and the settings it is served with are stated."""
        if not isinstance(self.statement.get("settings"), dict):
            return None
        for entry in self.statement.get("models") or ():
            if isinstance(entry, dict) and entry.get("id") == self.model:
                # What a stable name stands for can be moved while it is asked.
                if "alias_of" in entry:
                    return None
                found = entry.get("fingerprint")
                return found if isinstance(found, str) and found.startswith("sha256:") else None
        return None

    @property
    def versions(self) -> dict[str, str]:
        """Of what answers; vLLM's own server states its version, too."""
        stated = {"vlmserve": "vlmserve", "vllm": "vllm", "version": "vllm"}
        return {
            name: value
            for key, name in stated.items()
            if isinstance(value := self.statement.get(key), str)
        }


def endpoint_side(reference: str, *, api_key: str | None, concurrency: int, run_id: str) -> Side:
    """Set up an endpoint, or several that serve the same; each is asked what it serves.

    Args:
        reference: Base of its API, with ``#name`` behind it where it serves several models;
            several are joined by commas, and a name behind the last holds for all that have none.
        api_key: Their key.
        concurrency: Requests in flight at once at each.
        run_id: The run that may reuse the answers, and no other: what is served behind a name can
            change at any time. An endpoint that states what it serves is known by that instead.

    Raises:
        ConfigError: A URL is wrong, several models are served and none is named, or endpoints that
            state what they serve do not serve the same.
        EngineError: An endpoint cannot be reached.
        RequestError: The key is refused, or the model is not served.
    """
    members = [_contact(address, name, api_key, concurrency) for address, name in _split(reference)]
    urls = [f"{member.endpoint.url}#{member.model}" for member in members]
    name = members[0].model
    source = EngineSource(lambda: _connect(members))
    stated = {member.fingerprint for member in members}
    settings = {key: value for key, value in members[0].statement.items() if key == "settings"}
    versions = members[0].versions
    if len(members) > 1 and any(
        (each.fingerprint, each.statement.get("settings"), each.versions)
        != (members[0].fingerprint, members[0].statement.get("settings"), versions)
        for each in members
    ):
        raise ConfigError(
            f"{reference}: these endpoints do not serve the same",
            hint="; ".join(
                f"{member.endpoint.url}: {member.fingerprint or 'states nothing'}, "
                f"{member.versions or 'no versions'}"
                for member in members
            ),
        )
    places = " and ".join(member.endpoint.url for member in members)
    known = {"versions": versions} if versions else {}
    (fingerprint,) = stated
    if fingerprint is not None:
        return Side(
            name=f"{name} at {places}",
            fingerprint=fingerprint,
            settings={**settings["settings"], "engine": "endpoint", **known},
            source=source,
            model=lambda _: name,
        )
    urls_setting = {"url": members[0].endpoint.url} if len(members) == 1 else {"urls": urls}
    return Side(
        name=f"{name} at {places}",
        fingerprint=f"{' '.join(sorted(urls))} in run {run_id}",
        settings={"engine": "endpoint", **urls_setting, "model": name, **known},
        source=source,
        model=lambda _: name,
    )


def _split(reference: str) -> list[tuple[str, str]]:
    """Addresses with the names behind them, which may be empty."""
    parts: list[str] = []
    for piece in reference.split(","):
        # A comma may stand in an address, too.
        if parts and not is_url(piece):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    pairs = [(address, name) for address, _, name in (part.partition("#") for part in parts)]
    last = pairs[-1][1]
    return [(address, name or last) for address, name in pairs]


def _contact(address: str, name: str, api_key: str | None, concurrency: int) -> Member:
    from vlmserve.engine.endpoint import Endpoint
    from vlmserve.engine.remote import RemoteEngine

    endpoint = Endpoint(address, api_key=api_key, concurrency=concurrency)
    with RemoteEngine(endpoint) as engine:
        served = engine.models
    listed = ", ".join(served) or "none"
    if not name:
        if len(served) != 1:
            raise ConfigError(
                f"{address}: several models or none are served ({listed})",
                hint=f"name one: {address}#NAME",
            )
        name = served[0]
    elif name not in served:
        raise ModelNotFoundError(f"{address}: no model {name!r}; served are: {listed}")
    return Member(endpoint, name, _statement(endpoint))


def _statement(endpoint: "Endpoint") -> dict[str, Any]:
    """What ``/version`` says, which is no part of OpenAI's API: any other answer says nothing."""
    import httpx2

    parts = urlsplit(endpoint.url)
    path = f"{parts.path.rstrip('/').removesuffix('/v1')}/version"
    url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    headers = {"authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    try:
        answer = httpx2.get(url, headers=headers, timeout=_IDENTITY_TIMEOUT_S)
        said = answer.json() if answer.is_success else None
    except (httpx2.HTTPError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _connect(members: list[Member]) -> AbstractContextManager["Engine"]:
    from vlmserve.engine.pool import EndpointPool
    from vlmserve.engine.remote import RemoteEngine

    if len(members) == 1:
        return RemoteEngine(members[0].endpoint)
    engines = [(RemoteEngine(member.endpoint), member.model) for member in members]
    return EndpointPool(engines, members[0].model)
