"""Where uv looks for packages: wherever pip would.

uv reads none of pip's configuration. The indexes and wheel folders that pip is configured with are
put into uv's words here, so that a mirror or an air-gapped folder works, and nothing of it has to
be written into the repository.
"""

import os
import subprocess
from pathlib import Path

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# pip's option -> uv's environment variable and the separator between its values.
_LISTS = {
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}
# pip's sections, the weakest first; it prints them in alphabetical order.
_SECTIONS = ("global", "install", ":env:")


def uv_environment(python: Path) -> dict[str, str]:
    """Build an environment for uv from that of this process and the configuration of pip.

    What the user set for uv itself is left as it is.

    Args:
        python: An interpreter that has pip.
    """
    environment = dict(os.environ)
    # pip takes the best version over all indexes; uv by default stops at the first that has any.
    environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    settings = _pip_settings(python)
    if "index-url" in settings:
        environment.setdefault("UV_DEFAULT_INDEX", settings["index-url"][-1])
    if settings.get("no-index", ["0"])[-1].lower() in ("1", "true", "yes", "on"):
        environment.setdefault("UV_NO_INDEX", "1")
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"][-1])
    if "proxy" in settings:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
            environment.setdefault(variable, settings["proxy"][-1])
    for option, (variable, separator) in _LISTS.items():
        if option in settings:
            environment.setdefault(variable, separator.join(dict.fromkeys(settings[option])))
    return environment


def add_pytorch_index(uv: Path, python: Path, torch: str, environment: dict[str, str]) -> bool:
    """Add PyTorch's CPU index where no configured place has the CPU build of torch.

    Args:
        uv: The uv program.
        python: The interpreter that is installed for.
        torch: The pinned requirement, such as ``torch==2.13.0+cpu``.
        environment: What ``uv_environment`` gave; changed in place.

    Returns:
        Whether the index was added.
    """
    found = subprocess.run(
        [uv, "pip", "install", "--python", python, "--dry-run", "--no-deps", torch],
        env=environment,
        capture_output=True,
        check=False,
    )
    if found.returncode == 0:
        return False
    others = environment.get("UV_EXTRA_INDEX_URL", "")
    environment["UV_EXTRA_INDEX_URL"] = f"{others} {PYTORCH_CPU_INDEX}".strip()
    return True


def _pip_settings(python: Path) -> dict[str, list[str]]:
    """Read pip's own view of its files and of ``PIP_*``: option -> values, the strongest last."""
    listed = subprocess.run(
        [python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    by_section: dict[str, dict[str, list[str]]] = {section: {} for section in _SECTIONS}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in by_section:
            by_section[section][option] = value.strip("'\"").replace("\\n", " ").split()
    settings: dict[str, list[str]] = {}
    for section in _SECTIONS:
        for option, values in by_section[section].items():
            settings.setdefault(option, []).extend(values)
    return settings
