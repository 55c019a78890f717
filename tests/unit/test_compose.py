"""docker-compose.yml, resolved by Docker Compose's own parser."""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.compose


def resolve(root: Path, **variables: str) -> Any:
    spec = find_spec("compose")
    assert spec is not None
    assert spec.origin is not None
    done = subprocess.run(
        [
            Path(spec.origin).with_name("docker-compose"),
            "--file", root / "docker-compose.yml", "--profile", "*", "config", "--format", "json",
        ],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def services(root: Path) -> Any:
    return resolve(root, CKPT="tuned", MODELS_DIR="/data/models")["services"]


def test_gpu_server_is_the_default_service(services: Any) -> None:
    server = services["serve"]
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]

    assert "profiles" not in server
    assert device == {"capabilities": ["gpu"], "driver": "nvidia", "count": 1}
    assert int(server["shm_size"]) >= 8 << 30
    assert "--ckpt=/models/tuned" in server["command"]
    assert server["build"]["target"] == "gpu"


def test_profiles(services: Any) -> None:
    assert services["serve-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in services["serve-cpu"]
    assert services["eval"]["profiles"] == ["eval"]
    assert services["eval"]["restart"] == "no"


@pytest.mark.parametrize("name", ["serve", "serve-cpu", "eval"])
def test_services_can_write_only_their_volumes(services: Any, name: str) -> None:
    service = services[name]
    writable = {
        mount["target"]: mount["type"]
        for mount in service["volumes"]
        if not mount.get("read_only", False)
    }

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(writable.values()) == {"volume"}
    assert {"/models", "/media", "/configs", "/evals"}.isdisjoint(writable)


@pytest.mark.parametrize("name", ["serve", "serve-cpu"])
def test_servers_are_probed_restarted_and_given_time_to_drain(services: Any, name: str) -> None:
    service = services[name]

    assert "/ready" in service["healthcheck"]["test"][-1]
    assert service["restart"] == "on-failure:3"
    assert service["stop_grace_period"] == "45s"
    assert service["ports"][0]["host_ip"] == "127.0.0.1"


def test_monitoring_is_an_option(services: Any) -> None:
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert service["profiles"] == ["monitoring"]
        assert service["ports"][0]["host_ip"] == "127.0.0.1"
        assert service["cap_drop"] == ["ALL"]


def test_keys_reach_the_server_and_prometheus(root: Path) -> None:
    config = resolve(root, CKPT="tuned", VLMSERVE_METRICS_KEY="watch-me", VLMSERVE_ADMIN_KEY="boss")
    environment = config["services"]["serve"]["environment"]

    assert environment["VLMSERVE_METRICS_KEY"] == "watch-me"
    assert environment["VLMSERVE_ADMIN_KEY"] == "boss"
    assert config["configs"]["metrics-key"]["content"] == "watch-me"


def test_missing_checkpoint_is_refused_by_name(root: Path) -> None:
    assert "required variable CKPT is missing" in resolve(root)


@pytest.mark.parametrize(("baseline", "given"), [("", False), ("before", True)])
def test_baseline_is_an_option(root: Path, baseline: str, given: bool) -> None:
    command = resolve(root, CKPT="tuned", BASELINE=baseline)["services"]["eval"]["command"]

    assert ("--baseline=/models/before" in command) == given
    assert "" not in command


@pytest.mark.parametrize("name", ["serve", "serve-cpu", "eval"])
def test_commands_fit_the_command_line(services: Any, name: str, root: Path) -> None:
    """Each service's command is one that vlmserve's own parser accepts."""
    from vlmserve.cli.main import _parser

    command = services[name]["command"]
    args = _parser(command).parse_args(command)

    assert args.ckpt == "/models/tuned"
    assert (root / str(args.config).lstrip("/")).is_file()


def test_images_run_as_another_user_than_root(root: Path) -> None:
    stages = (root / "Dockerfile").read_text().split("\nFROM ")

    assert len(stages) == 3
    for stage in stages[1:]:
        assert "\nUSER vlmserve\n" in stage
    assert "vllm/vllm-openai:v0.32.0 AS gpu" in stages[1]
