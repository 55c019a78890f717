"""Lets vLLM, transformers and lm-eval import beside a CPU build of torch.

The package index's ``torchvision``, ``torchaudio`` and ``torchcodec`` wheels are linked against
CUDA. Beside a CPU build of torch their native libraries do not load, and whatever imports them
dies with an error that names neither the package nor the cause. This module makes them look the
way transformers and vLLM can cope with: torchvision imports without its native operators, and the
other two are absent. Builds that do load are left alone, and so is every machine with CUDA torch.

It must run before ``torchvision`` is first imported. In vLLM's processes that is the platform
plugin's moment (``vllm.platform_plugins`` in pyproject.toml); everywhere else call
``cure_torch_extensions`` before importing transformers, peft or lm-eval.
"""

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path

_HIDDEN_WHEN_BROKEN = ("torchaudio", "torchcodec")

# torchvision registers fake kernels for these two on import, whether its library loaded or not;
# without a schema to attach to, that registration is what fails (torchvision 0.28,
# torchvision/_meta_registrations.py).
_TORCHVISION_OPERATORS = ("nms", "qnms")
_OPERATOR_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def cure_torch_extensions() -> None:
    """Make broken torchvision, torchaudio and torchcodec builds harmless in this process.

    Does nothing where torch is absent or is not a CPU build. Safe to call again.
    """
    if importlib.util.find_spec("torch") is None:
        return
    # Read when torch is first imported: its C++ side warns of memory binding in each process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    if torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None:
        return
    _define_torchvision_operators()
    _hide_useless_triton()
    for name in _HIDDEN_WHEN_BROKEN:
        _hide_if_broken(name)


def platform_plugin() -> None:
    """Entry point of ``vllm.platform_plugins``: run the cure, and claim no platform.

    vLLM calls it in each of its processes before torchvision or transformers is imported.
    """
    cure_torch_extensions()
    # Where triton was imported before, vLLM says in each process that it is of no use on a CPU.
    logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)


def _define_torchvision_operators() -> None:
    import torch

    if "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return  # a real build for this torch: its own operators are registered now
    for name in _TORCHVISION_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _OPERATOR_SCHEMA)


def _hide_useless_triton() -> None:
    """Hide a triton that has no CPU backend: nothing beside a CPU torch could use it.

    vLLM finds that out itself, after importing it into each of its processes, and each of them
    then prints pages about leaks in its bindings at exit.
    """
    if "triton" in sys.modules:
        return
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return
    if not (Path(spec.origin).parent / "backends" / "cpu").is_dir():
        sys.modules["triton"] = None  # type: ignore[assignment]
        logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def _hide_if_broken(name: str) -> None:
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001 - OSError, RuntimeError or ImportError, by version
        for module in set(sys.modules) - before:
            if module == name or module.startswith(f"{name}."):
                del sys.modules[module]
        # None is how Python spells "not importable"; find_spec then answers None as well.
        sys.modules[name] = None  # type: ignore[assignment]
