"""What every test shares: offline, visible tiers, and skips that CI turns into failures."""

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "chromium"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A shell starts what runs in its background with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_TIERS = ("engine", "compose", "browser", "node")


def _tier_reason(tier: str) -> str | None:
    """Why a tier cannot run here; ``None`` when it can."""
    if tier == "node":
        return _node_reason()
    module = {"engine": "vllm", "compose": "compose", "browser": "playwright"}[tier]
    if importlib.util.find_spec(module) is None:
        return f"{module} is not installed"
    if tier == "browser" and shutil.which(CHROMIUM) is None:
        return f"{CHROMIUM} is not installed"
    return None


def _node_reason() -> str | None:
    if shutil.which("node") is None:
        return "node is not installed"
    if not (ROOT / "tests" / "node" / "node_modules" / "openai").is_dir():
        return "OpenAI's JavaScript client is not installed: make node-client"
    return None


def pytest_report_header() -> str:
    states = [f"{tier}: {_tier_reason(tier) or 'runs'}" for tier in _TIERS]
    return f"tiers: {'; '.join(states)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    required = set(filter(None, os.environ.get("VLMSERVE_REQUIRE", "").split(",")))
    if unknown := required - set(_TIERS):
        raise pytest.UsageError(f"VLMSERVE_REQUIRE: unknown tiers {', '.join(sorted(unknown))}")
    # Quick tests first. An engine in this process also binds torch's threads for good, and training
    # gives other last digits on other numbers of threads.
    items.sort(key=lambda item: item.path.is_relative_to(ROOT / "tests" / "engine"))
    for item in items:
        for tier in _TIERS:
            if item.get_closest_marker(tier) is None or (reason := _tier_reason(tier)) is None:
                continue
            if tier in required:
                raise pytest.UsageError(f"tier {tier} is required and cannot run: {reason}")
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("engine") is not None:
            # vLLM and torch warn of dozens of things on import; our own warnings stay errors.
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoints, as ``vlmserve demo build`` writes them. Not to be changed."""
    from vlmserve.cli.main import main

    directory = tmp_path_factory.mktemp("zoo") / "zoo"
    assert main(["demo", "build", "--out", str(directory)]) == 0
    return directory


@pytest.fixture
def zoo_copy(zoo: Path, tmp_path: Path) -> Path:
    """A copy of the demo checkpoints that a test may damage."""
    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    return copy
