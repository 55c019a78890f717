"""Serve fine-tuned vision-language checkpoints and tell whether they got worse."""

from importlib.metadata import version

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        return version("vlmserve")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
