"""Which template a checkpoint was trained with, from what its training left behind."""

from dataclasses import dataclass, replace
from pathlib import Path

from vlmserve.checkpoint.files import read_json, read_yaml
from vlmserve.checkpoint.provenance import TrainingInfo
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.frameworks import llama_factory, llava, ms_swift, xcomposer
from vlmserve.frameworks.template import MEDIUM, FrameworkTemplate

# What the models' own scripts train with unless told otherwise.
_BY_ARCHITECTURE: dict[str, FrameworkTemplate] = {
    "LlavaLlamaForCausalLM": llava.VICUNA_V1,
    "InternLMXComposer2ForCausalLM": xcomposer.CONV2TEXT,
}


@dataclass(frozen=True, slots=True)
class TemplateRecipe:
    """How a run wrote conversations, and what it learned from them."""

    template: FrameworkTemplate
    file: str
    """Where it is said, relative to the checkpoint, or ``config.json`` where the architecture
    tells."""

    key: str
    is_assumed: bool = False
    """Taken from the architecture's own training scripts, not from a record of this run."""

    only_last: bool = False
    """Whether the last answer alone was learned from."""

    learns_all: bool = False
    """Whether questions were learned from as well."""


@dataclass(frozen=True, slots=True)
class NoRecipe:
    """Why the template is not known."""

    reason: str
    file: str | None = None
    """The file that names a template which is not known here."""


def find_recipe(checkpoint: Checkpoint) -> TemplateRecipe | NoRecipe:
    """Find out which template a checkpoint was trained with.

    Raises:
        CheckpointError: A file of the training is broken.
    """
    training = checkpoint.training
    if training is not None and training.framework == "ms-swift":
        return _swift(checkpoint.path, training)
    if training is not None and training.framework == "llama-factory":
        return _llama_factory(checkpoint.path, training)
    template = _BY_ARCHITECTURE.get(checkpoint.architecture)
    if template is None:
        return NoRecipe(
            "no file tells which framework trained it and with which template; args.json of "
            "ms-swift or training_args.yaml of LLaMA-Factory would, in its directory or above"
        )
    if checkpoint.config.get("mm_use_im_start_end") is True:
        template = _between_marks(template)
    return TemplateRecipe(template, "config.json", "architectures", is_assumed=True)


def _swift(path: Path, training: TrainingInfo) -> TemplateRecipe | NoRecipe:
    file = _file_of(training, "args.json")
    args = read_json(path / file) if file else {}
    name = training.template
    if name is None:
        return NoRecipe("args.json names no template", file or None)
    if args.get("template_backend") == "jinja":
        return NoRecipe("it was trained with its own chat template (template_backend: jinja)")
    if args.get("use_chat_template") is False:
        return NoRecipe("it was trained on bare text (use_chat_template: false)", file or None)
    template = ms_swift.TEMPLATES.get(name)
    if template is None:
        return NoRecipe(f"ms-swift's template {name!r} is not known here", file or None)
    system = args.get("system")
    if isinstance(system, str) and system.endswith(".txt"):
        return NoRecipe(f"its system prompt is in {system}, which is not here", file or None)
    strategy = str(args.get("loss_scale") or "default").split("+")[0]
    return TemplateRecipe(
        template.with_system(system if isinstance(system, str) else None),
        file,
        "template",
        only_last=strategy == "last_round",
        learns_all=strategy == "all",
    )


def _llama_factory(path: Path, training: TrainingInfo) -> TemplateRecipe | NoRecipe:
    file = _file_of(training, "training_args.yaml")
    args = read_yaml(path / file) if file else {}
    name = training.template
    if name is None:
        return NoRecipe("LLaMA-Factory left no training_args.yaml that names its template")
    template = llama_factory.TEMPLATES.get(name)
    if template is None:
        return NoRecipe(f"LLaMA-Factory's template {name!r} is not known here", file or None)
    return TemplateRecipe(
        # An empty prompt means the template's own here: `system or self.default_system`.
        template.with_system(training.system or None),
        file,
        "template",
        only_last=args.get("mask_history") is True,
        learns_all=args.get("train_on_prompt") is True,
    )


def _between_marks(template: FrameworkTemplate) -> FrameworkTemplate:
    return replace(template, image=f"<im_start>{MEDIUM}<im_end>")


def _file_of(training: TrainingInfo, name: str) -> str:
    return next((file for file in training.files if Path(file).name == name), "")
