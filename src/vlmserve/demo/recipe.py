"""The shipped weights: where they are, how each was made and how good it is."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.errors import CheckpointError, ConfigError

WEIGHTS_DIR = Path(__file__).parent / "weights"
"""One folder for each trained checkpoint, package data."""

TRAINED = ("base", "good", "good-lora", "forgetful", "wrong-template")
"""The checkpoints that were trained; the others of the zoo are derived from the base."""

RECIPE_FILE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Shipped:
    """One trained checkpoint as it is shipped."""

    folder: Path
    weights_file: str
    """``model.safetensors`` or ``adapter_model.safetensors``."""

    recipe: dict[str, Any]
    """The whole of ``recipe.json``: settings, seed, digest, training log and accuracies."""

    @property
    def weights(self) -> Path:
        """The weights file's path."""
        return self.folder / self.weights_file


def load_shipped(name: str, root: Path = WEIGHTS_DIR) -> Shipped:
    """Find a trained checkpoint and verify that its weights are the ones that were measured.

    Args:
        name: One of ``TRAINED``.
        root: The folder of folders to look in; the package's own by default.

    Raises:
        ConfigError: No trained checkpoint has that name.
        CheckpointError: It is missing, incomplete, or its weights are not those of its recipe.
    """
    if name not in TRAINED:
        raise ConfigError(f"no trained demo checkpoint {name!r}; there are {', '.join(TRAINED)}")
    folder = root / name
    path = folder / RECIPE_FILE
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        weights_file = recipe["weights"]["file"]
        expected = recipe["weights"]["sha256"]
        found = sha256_of(folder / weights_file)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a recipe: {error}") from error
    if found != expected:
        raise CheckpointError(
            f"{folder / weights_file}: sha256 is {found}, but {RECIPE_FILE} says {expected}",
            hint="install vlmserve again, or train it again with: vlmserve demo train",
        )
    return Shipped(folder, weights_file, recipe)


def write_recipe(folder: Path, weights_file: str, recipe: dict[str, Any]) -> None:
    """Write ``recipe.json`` beside new weights, adding their size and digest."""
    weights = folder / weights_file
    entry = {
        "file": weights_file,
        "bytes": weights.stat().st_size,
        "sha256": sha256_of(weights),
    }
    text = json.dumps({**recipe, "weights": entry}, indent=2)
    (folder / RECIPE_FILE).write_text(f"{text}\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
