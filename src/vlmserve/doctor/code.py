"""Is the Python that a checkpoint carries known to be broken, or other than its base's?

It is read as text and parsed, never run.
"""

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Unknown,
    enumerate_names,
    shown_path,
)

_MAX_BYTES = 2_000_000  # the largest modelling file of transformers has a tenth of it
_TILE_DIMENSIONS = 6
_CHANNELS = 3

Site = tuple[int, str]
"""A line, counted from 1, and the code in it."""


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A change to a model's code that people hand on, and that breaks it."""

    file: str
    find: Callable[[ast.Module], Iterator[Site]]
    title: str
    consequence: str
    remedy: str
    source: str


def check_code(exam: Examination) -> Iterator[Outcome]:
    """``code.hash``: known faults, differences to the base's code, and files that are missing."""
    checkpoint = exam.checkpoint
    unreadable = []
    for directory in dict.fromkeys([checkpoint.path, checkpoint.model.path]):
        for path in sorted(directory.glob("*.py")):
            tree = _parse(path)
            if tree is None:
                unreadable.append(shown_path(path, checkpoint))
            else:
                yield from _known_faults(checkpoint, path, tree)
    if unreadable:
        names = enumerate_names(unreadable)
        yield Unknown(id="code.hash", reason=f"not Python that can be parsed: {names}")
    yield from _other_than_base(checkpoint)
    yield from _missing_files(checkpoint)


def _known_faults(checkpoint: Checkpoint, path: Path, tree: ast.Module) -> Iterator[Outcome]:
    for fault in _FAULTS:
        sites = list(fault.find(tree)) if path.name == fault.file else []
        if sites:
            file = shown_path(path, checkpoint)
            yield Finding(
                id="code.hash",
                title=fault.title,
                evidence=[
                    Evidence(file=file, key=f"line {line}", value=code) for line, code in sites
                ],
                consequence=fault.consequence,
                remedy=fault.remedy,
                source=fault.source,
            )


def _other_than_base(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """Files that mean something else than those of the same name in the base."""
    if checkpoint.base is None:
        return
    evidence = []
    for path in sorted(checkpoint.path.glob("*.py")):
        theirs = checkpoint.base.path / path.name
        if not theirs.is_file() or path.read_bytes() == theirs.read_bytes():
            continue
        changed = _changed_names(_parse(path), _parse(theirs))
        if changed:
            value = f"{enumerate_names(changed)} {'are' if len(changed) > 1 else 'is'} not as in "
            file = shown_path(path, checkpoint)
            evidence.append(Evidence(file=file, key="", value=f"{value}{theirs}"))
    if evidence:
        yield Finding(
            id="code.hash",
            title="the model's code is not that of its base: "
            + enumerate_names([item.file for item in evidence]),
            evidence=evidence,
            consequence="vLLM computes with its own implementation of the model: what was changed "
            "here has no effect in serving. A newer release of the base's code looks the same.",
            remedy="if the change was made for the training, look whether serving needs it, too",
            source="vllm 0.32 model_executor/models/registry.py",
            severity="info",
        )


def _missing_files(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """Modules that ``auto_map`` names and that are not beside it."""
    auto_map = checkpoint.config.get("auto_map")
    if not isinstance(auto_map, dict):
        return
    directory = checkpoint.model.path
    wanted = sorted({name for value in auto_map.values() for name in _modules(value)})
    missing = [name for name in wanted if not (directory / name).is_file()]
    if missing:
        yield Finding(
            id="code.hash",
            title=f"auto_map names code that is not there: {enumerate_names(missing)}",
            evidence=[
                Evidence(
                    file=shown_path(directory / "config.json", checkpoint),
                    key=f"auto_map.{key}",
                    value=str(value),
                )
                for key, value in auto_map.items()
                if set(_modules(value)) & set(missing)
            ],
            consequence="Tools that run the model's own code cannot load it; vLLM does not need "
            "it for the models that it has.",
            remedy="copy the files from the base model",
            source="transformers 5.19 dynamic_module_utils.py get_class_from_dynamic_module",
            severity="info",
        )


def _modules(reference: Any) -> Iterator[str]:
    """The files of one entry; ``owner/name--module.Class`` means code of another repository."""
    for part in reference if isinstance(reference, list | tuple) else [reference]:
        if isinstance(part, str) and "--" not in part and "." in part:
            yield f"{part.partition('.')[0]}.py"


def _parse(path: Path) -> ast.Module | None:
    """The file's syntax tree, or ``None`` for what is no Python of today."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _changed_names(ours: ast.Module | None, theirs: ast.Module | None) -> list[str]:
    """Definitions that differ in more than layout, comments and docstrings."""
    if ours is None or theirs is None:
        return []
    left, right = _definitions(ours), _definitions(theirs)
    return [name for name in {**left, **right} if left.get(name) != right.get(name)]


def _definitions(tree: ast.Module) -> Mapping[str, str]:
    """A text of each function, by dotted name, and of what stands outside of them."""
    found: dict[str, str] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        rest = []
        for index, node in enumerate(body):
            if isinstance(node, ast.ClassDef):
                head = [*node.bases, *node.keywords, *node.decorator_list]
                rest += [ast.dump(part) for part in head]
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if ast.get_docstring(node, clean=False) is not None:
                    node.body = node.body[1:]
                found[f"{prefix}{node.name}"] = ast.dump(node)
            elif index or not _is_text(node):
                rest.append(ast.dump(node))
        found[prefix.rstrip(".") or "the module"] = "\n".join(rest)

    visit(tree.body, "")
    return found


def _is_text(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _find_batched_tiling(tree: ast.Module) -> Iterator[Site]:
    """``img.reshape(cnt, 3, H // 336, 336, W // 336, 336)``: other than 1 in the first place."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="reshape" | "view"),
                args=[first, ast.Constant(value=channels), *_] as args,
            ) if channels == _CHANNELS and len(args) == _TILE_DIMENSIONS:
                is_one = isinstance(first, ast.Constant) and first.value == 1
                if not is_one:
                    yield node.lineno, ast.unparse(node)


def _find_unchecked_query(tree: ast.Module, name: str) -> Iterator[Site]:
    """The function without any of its assertions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            has_check = any(isinstance(part, ast.Assert | ast.Raise) for part in ast.walk(node))
            if not has_check:
                yield node.lineno, f"def {name}: no assertion in it"


_FAULTS = (
    KnownFault(
        file="build_mlp.py",
        find=_find_batched_tiling,
        title="build_mlp.py cuts several images as one: their tiles are mixed up",
        consequence="With several images, one image's overview stands as another's tile and half "
        "of the tiles are never used; a model that was trained with this code was trained on "
        "mixed-up images.",
        remedy="restore build_mlp.py from the base model, hand the tower a list with one tensor "
        "of shape [1, 3, height, width] for each image, and train again",
        source="InternLM-XComposer#311",
    ),
    KnownFault(
        file="modeling_hyper_qwen2.py",
        find=partial(_find_unchecked_query, name="select_query"),
        title="modeling_hyper_qwen2.py no longer checks that media_offset fits its images",
        consequence="In batches of several samples, offsets that are padded wrongly make a sample "
        "see another one's images, or none, without a word.",
        remedy="restore modeling_hyper_qwen2.py from the base model, and train with offsets that "
        "count the images of the samples before",
        source="mPLUG-Owl#247, ms-swift#2100",
    ),
)

CHECKS = (
    Check(
        id="code.hash",
        run=check_code,
        cause="Models that bring their own code are trained with patched copies of it: to get past "
        "an error with several images, or a batch of more than one sample.",
        evidence="`*.py` of the checkpoint, parsed and never run: InternLM-XComposer's "
        "`build_mlp.py` with anything but 1 as the first size of the cut into tiles, mPLUG-Owl3's "
        "`select_query` without its assertions. Definitions that differ from the base's copy by "
        "more than layout, comments and docstrings, and code that `auto_map` names and that is "
        "missing, are for information.",
        example="build_mlp.py cuts several images as one: their tiles are mixed up",
        remedy="Restore the file from the base model and train again.",
    ),
)
"""The checks of this theme, in the order in which they run."""
