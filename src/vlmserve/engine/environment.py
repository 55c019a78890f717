"""Prepares the process for importing vLLM 0.32: its environment variables and its absence."""

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import MutableMapping

from vlmserve.errors import ConfigError, EngineError
from vlmserve.platform import cure_torch_extensions

PLUGIN_NAME = "vlmserve"
"""Name of our entry points in vLLM's plugin groups, and of our media connector."""

_INSTALL_HINT = (
    "pip install 'vlmserve[gpu]' on a machine with an NVIDIA GPU, 'vlmserve[cpu]' elsewhere"
)

# What vLLM would do otherwise is said at each line.
_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # report usage to a server of its own
    "VLLM_LOGGING_LEVEL": "WARNING",  # print some 150 lines while it starts
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork a process that holds threads
    "TOKENIZERS_PARALLELISM": "false",  # warn about forking in each subprocess
    "OPENCV_LOG_LEVEL": "SILENT",  # print several lines for each broken video
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # as above
    # Warn of deprecations inside vLLM, torch and transformers, and of their leaks at exit.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
}


def is_cpu_build() -> bool:
    """Tell whether the installed vLLM computes on the CPU, without importing it."""
    try:
        return "cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec("vllm") is not None


def prepare_vllm(environ: MutableMapping[str, str] | None = None) -> None:
    """Set this process up so that vLLM can be imported and does what vlmserve promises.

    Call it before anything imports ``vllm``; child processes inherit the settings.

    Args:
        environ: The environment to change; the process's own when ``None``.

    Raises:
        EngineError: vLLM is not installed.
        ConfigError: An environment variable asks for what this build cannot do.
    """
    environ = os.environ if environ is None else environ
    if importlib.util.find_spec("vllm") is None:
        raise EngineError("vLLM is not installed", hint=_INSTALL_HINT)
    if is_cpu_build():
        _prepare_cpu(environ)
    for name, value in _DEFAULTS.items():
        environ.setdefault(name, value)
    # All media go through our connector. vLLM's own would fetch from wherever a request says, and
    # checks a host's permission on the first address only.
    environ["VLLM_MEDIA_CONNECTOR"] = PLUGIN_NAME
    environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"
    # VLLM_PLUGINS is an allowlist over every group of plugins; without us on it vLLM's child
    # processes would run without the cures.
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN_NAME not in allowed.split(","):
        environ["VLLM_PLUGINS"] = ",".join(filter(None, [allowed, PLUGIN_NAME]))
    # What PYTHONWARNINGS says to the child processes, for this one.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(vllm|torch|transformers)\b")
    # Pillow warns of large images; those over the operator's limit are refused.
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")
    cure_torch_extensions()


def _prepare_cpu(environ: MutableMapping[str, str]) -> None:
    if environ.get("VLLM_BATCH_INVARIANT", "0") not in ("", "0"):
        raise ConfigError(
            "VLLM_BATCH_INVARIANT is set, but vLLM 0.32 has no batch-invariant kernels for CPUs: "
            "the engine would die at the first request",
            hint="unset VLLM_BATCH_INVARIANT",
        )
    # vLLM skips platform plugins when this is set, and with them the cure for CUDA-linked
    # torchvision. A CPU build finds its platform without it.
    environ.pop("VLLM_TARGET_DEVICE", None)
    # Every process warns a dozen times of accelerator features that a CPU does not have.
    environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # oneDNN keeps a kernel for each shape of each operation, a third of a MiB apiece and by default
    # 1024 of them. Images of all sizes come in as many shapes.
    environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
