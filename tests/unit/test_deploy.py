"""Kubernetes manifests, Prometheus' files and the dashboard, held to schemas and to the server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from tests.unit.promql import metric_names
from vlmserve import metrics
from vlmserve.config.serve import ServeConfig

# What Prometheus itself adds.
_OF_PROMETHEUS = {"up", "ALERTS"}


@pytest.fixture(scope="module")
def manifests(root: Path) -> dict[str, Any]:
    text = (root / "deploy" / "kubernetes" / "vlmserve.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def container(manifests: dict[str, Any]) -> Any:
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def served(manifests: dict[str, Any]) -> ServeConfig:
    return ServeConfig.model_validate(yaml.safe_load(manifests["ConfigMap"]["data"]["serve.yaml"]))


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_manifests_follow_kubernetes_schemas(manifests: dict[str, Any], version: str) -> None:
    assert set(manifests) == {"ConfigMap", "Deployment", "Service", "NetworkPolicy"}
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_probes_ask_what_they_are_for(container: Any) -> None:
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"]
             for kind in ("startup", "readiness", "liveness")}  # fmt: skip
    startup = container["startupProbe"]

    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 20 * 60
    assert container["readinessProbe"]["failureThreshold"] == 1


def test_pods_are_given_longer_than_the_drain(
    manifests: dict[str, Any], served: ServeConfig
) -> None:
    grace = manifests["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert grace > served.server.drain_timeout_s + 10


def test_a_gpu_is_taken_and_little_is_allowed(manifests: dict[str, Any], container: Any) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["spec"]

    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False


def test_user_is_the_images(manifests: dict[str, Any], root: Path) -> None:
    user = manifests["Deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]

    assert f"--uid {user} vlmserve" in (root / "Dockerfile").read_text()


def test_server_is_told_what_the_manifests_say(container: Any, served: ServeConfig) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert ports == {"http": served.server.port, "metrics": served.server.metrics_port}
    assert served.server.host == "0.0.0.0"  # noqa: S104 - within the pod
    assert served.server.playground is False
    assert str(Path(served.server.api_key_file or "").parent) in mounts
    names = {entry["name"] for entry in container["env"]}
    assert {served.server.metrics_key_env, served.server.admin_key_env} <= names


def test_command_fits_the_command_line(container: Any) -> None:
    from vlmserve.cli.main import _parser

    assert _parser(container["args"]).parse_args(container["args"]).ckpt == "/models/my-finetune"


def rules(root: Path) -> Iterator[dict[str, Any]]:
    groups = yaml.safe_load((root / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for group in groups:
        yield from group["rules"]


def test_alerts_are_whole(root: Path) -> None:
    found = list(rules(root))

    assert len({rule["alert"] for rule in found}) == len(found) >= 8
    for rule in found:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        promql_parser.parse(rule["expr"])


def panels(root: Path) -> list[dict[str, Any]]:
    path = root / "deploy" / "grafana" / "dashboards" / "vlmserve.json"
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def test_dashboard_has_a_place_for_each_panel(root: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(root):
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert panel["targets"]
        taken |= cells


def test_names_of_ours_exist(root: Path) -> None:
    ours = {sample.name for family in REGISTRY.collect() for sample in family.samples} | {
        f"{family.name}_total" for family in REGISTRY.collect() if family.type == "counter"
    }
    assert metrics.REQUESTS is not None
    asked = {name for name in metric_names(root) if name.startswith("vlmserve_")}
    histograms = {name for name in asked if name.endswith(("_bucket", "_sum", "_count"))}

    declared = {family.name for family in REGISTRY.collect()}
    assert asked - histograms <= ours | declared
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in histograms} <= declared
    assert metric_names(root) - asked - _OF_PROMETHEUS
    assert all(n.startswith("vllm:") for n in metric_names(root) - asked - _OF_PROMETHEUS)


def test_prometheus_finds_the_compose_services(root: Path) -> None:
    config = yaml.safe_load((root / "deploy" / "prometheus" / "prometheus.yml").read_text())
    services = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    mounts = services["prometheus"]["volumes"]

    assert set(found["names"]) <= set(services)
    for path in config["rule_files"]:
        assert any(f":{path}:" in mount for mount in mounts), path
    (key,) = services["prometheus"]["configs"]
    assert job["authorization"]["credentials_file"] == key["target"]
