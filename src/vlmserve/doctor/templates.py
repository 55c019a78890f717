"""Is the served prompt the one that was trained with?"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import SpecialRole, read_special_tokens
from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Severity,
    Unknown,
    enumerate_names,
    shown_path,
)
from vlmserve.doctor.probes import (
    PROBES,
    Probe,
    Rendering,
    is_same,
    render_probe,
    render_trained,
    with_system,
)
from vlmserve.doctor.served_template import Side, find_served, find_side
from vlmserve.errors import CheckpointError
from vlmserve.frameworks.recipe import NoRecipe, TemplateRecipe, find_recipe

_SOURCE = "LlamaFactory#5834, #8356; transformers 5.19 utils/chat_template_utils.py"
_DIFF_LINES = 14
# What a server writes out for these depends on the model; a difference may be none in the end.
_MILD = frozenset({"a tool", "a video"})


def check_render_diff(exam: Examination) -> Iterator[Outcome]:
    """``template.render-diff``: probes as base, fine-tune and training framework write them."""
    served = find_served(exam)
    if isinstance(served, str):
        yield Unknown(id="template.render-diff", reason=served)
    if not isinstance(served, Side):
        return  # a template that is missing is proc.present's to report
    recipe = find_recipe(exam.checkpoint)
    other = _find_other(exam.checkpoint, served)
    known = recipe if isinstance(recipe, TemplateRecipe) and not recipe.is_assumed else None
    if isinstance(recipe, NoRecipe) and recipe.file is not None:
        yield Unknown(id="template.render-diff", reason=f"{recipe.file}: {recipe.reason}")
    elif other is None and known is None:
        yield Unknown(
            id="template.render-diff",
            reason="neither a base model nor a record of the training to compare the chat "
            "template with; give --base-model DIR",
        )
    yield from _compare(exam, served, other, known)


def _compare(
    exam: Examination, served: Side, other: Side | None, recipe: TemplateRecipe | None
) -> Iterator[Finding]:
    is_other = other is not None and other.template != served.template
    if recipe is None and not is_other:
        return  # byte for byte the same, and nothing is rendered
    comparison = _Comparison(exam.checkpoint, served, fast=exam.fast)
    broken = comparison.broken()
    if broken is not None:
        yield broken
        return
    finding = None if recipe is None else comparison.with_training(recipe, other)
    if finding is not None:
        yield finding
    if other is not None and is_other and (finding is None or finding.severity == "info"):
        inherited = comparison.with_other(other, trained_as_served=recipe is not None)
        if inherited is not None:
            yield inherited


def _find_other(checkpoint: Checkpoint, served: Side) -> Side | None:
    """What the served template is held against: the base's, or the one beside an adapter.

    A directory without a template of its own goes with the served one.
    """
    place = checkpoint.path if checkpoint.adapter is not None else None
    if place is None and checkpoint.base is not None:
        place = checkpoint.base.path
    if place is None:
        return None
    side = find_side(place)
    return side if isinstance(side, Side) else Side(place, served.file, served.template)


class _Comparison:
    """Renders the probes with the served template and holds others against them."""

    def __init__(self, checkpoint: Checkpoint, served: Side, *, fast: bool) -> None:
        self._fast = fast
        self._checkpoint = checkpoint
        self._served = served
        self._rendered = _render_all(served)
        self._loaded: list[Tokenizer | None] = []

    def broken(self) -> Finding | None:
        """That the served template writes not even a question."""
        probe = PROBES[0]
        rendering = self._rendered[probe.name]
        if rendering.text is not None:
            return None
        shown = self._shown(self._served.file)
        return Finding(
            id="template.render-diff",
            title="the served chat template cannot be rendered",
            evidence=(Evidence(file=shown, key=probe.name, value=rendering.reason),),
            consequence="vLLM starts and fails at the first chat request.",
            remedy="copy the chat template from the base model or the training run",
            source=_SOURCE,
        )

    def with_training(self, recipe: TemplateRecipe, other: Side | None) -> Finding | None:
        """What differs from how the training framework wrote it."""
        trained = self._trained(recipe, None)
        differing = self._differing(trained)
        if not differing:
            return None
        template = recipe.template
        evidence = [
            Evidence(
                file=recipe.file, key=recipe.key, value=f"{template.framework} {template.name}"
            )
        ]
        title = (
            f"{template.framework} trained with other prompts than are served: "
            f"{enumerate_names(probe.name for probe in differing)}"
        )
        remedy = (
            f"serve a chat template that writes what {template.framework} wrote: edit "
            f"{self._shown(self._served.file)}, or name one with server.chat_template"
        )
        first = differing[0]
        extra = _head(trained[first.name], self._rendered[first.name])
        bare = self._trained(recipe, "")
        bos = _head(self._rendered[first.name], trained[first.name])
        if bos is not None and bos == self._bos and not template.default_system:
            title = (
                f"{template.framework} trained with {bos} in front of every conversation; the "
                "served chat template writes none, and vLLM adds none to chats"
            )
            remedy = f"begin {self._shown(self._served.file)} with {{{{ bos_token }}}}"
        elif template.default_system and (
            not self._differing(bare) or self._takes(template.default_system, trained)
        ):
            title = (
                f"{template.framework} trained with a system prompt that is not served: "
                f"{template.default_system!r}"
            )
            remedy = (
                "send that system prompt with every request, or write it into the chat template "
                f"({self._shown(self._served.file)}) for conversations that bring none"
            )
        elif extra is not None and not template.default_system:
            title = (
                f"the served chat template puts in a system prompt that {template.framework} "
                f"trained without: {extra!r}"
            )
            remedy = f"take it out of {self._shown(self._served.file)}"
        if other is not None and other.template != self._served.template:
            agreeing = not _differing(trained, _render_all(other), self._tokenizer)
            if agreeing:
                remedy = f"copy the chat template from {other.file}, which writes what was trained"
                evidence.append(
                    Evidence(file=str(other.file), key="", value="writes what was trained")
                )
        evidence.append(self._diff(trained, first, f"trained ({template.framework})"))
        severity = _severity(differing)
        return self._finding(title, evidence, remedy, source=template.source, severity=severity)

    def with_other(self, other: Side, *, trained_as_served: bool) -> Finding | None:
        """What differs from the base's template, or from the one beside an adapter."""
        rendered = _render_all(other)
        differing = self._differing(rendered)
        if not differing:
            return None
        names = enumerate_names(probe.name for probe in differing)
        is_adapter = self._checkpoint.adapter is not None
        owner = "the adapter's own" if is_adapter else "its base's"
        evidence = [self._diff(rendered, differing[0], owner)]
        if trained_as_served:
            evidence.append(
                Evidence(
                    file=self._shown(self._served.file), key="", value="writes what was trained"
                )
            )
        if is_adapter:
            title = f"the base's chat template is served, and the adapter brings another: {names}"
            remedy = f"serve with server.chat_template: {other.file}"
        else:
            title = f"the chat template writes other prompts than its base's: {names}"
            remedy = (
                "make sure that the training wrote its prompts like that; otherwise copy the chat "
                f"template from {other.file}"
            )
        severity = "info" if trained_as_served else _severity(differing)
        return self._finding(title, evidence, remedy, severity=severity)

    def _finding(
        self,
        title: str,
        evidence: Sequence[Evidence],
        remedy: str,
        *,
        source: str = "",
        severity: Severity,
    ) -> Finding:
        return Finding(
            id="template.render-diff",
            title=title,
            evidence=tuple(evidence),
            consequence="The model is asked in a form that it was not trained on; answers get "
            "worse, often only a little, and nothing fails.",
            remedy=remedy,
            source=f"{source}; {_SOURCE}" if source else _SOURCE,
            severity=severity,
        )

    def _takes(self, system: str, trained: Mapping[str, Rendering]) -> bool:
        """Whether the served template writes what was trained once it is given the prompt."""
        asked = {probe.name: with_system(probe, system) for probe in PROBES}
        tokens = read_special_tokens(self._served.directory)
        given = {
            name: render_probe(self._served.template, probe, tokens)
            for name, probe in asked.items()
        }
        return not _differing(trained, given, self._tokenizer)

    def _trained(self, recipe: TemplateRecipe, system: str | None) -> dict[str, Rendering]:
        template = recipe.template.with_system(system)
        tokens = read_special_tokens(self._served.directory)
        roles: dict[SpecialRole, str] = {
            "bos": tokens.get("bos_token", ""),
            "eos": tokens.get("eos_token", ""),
        }
        adds_bos = False
        if template.adds_bos and self._tokenizer is not None:
            adds_bos = bool(self._tokenizer.table.adds_bos)
        return {
            probe.name: render_trained(template, probe, roles, adds_bos=adds_bos)
            for probe in PROBES
        }

    @property
    def _bos(self) -> str:
        return read_special_tokens(self._served.directory).get("bos_token", "")

    def _differing(self, rendered: Mapping[str, Rendering]) -> list[Probe]:
        if all(_is_text_same(rendered[p.name], self._rendered[p.name]) for p in PROBES):
            return []
        return _differing(rendered, self._rendered, self._tokenizer)

    @property
    def _tokenizer(self) -> Tokenizer | None:
        """The served tokenizer, where it can be had: then ids are compared, not texts.

        Loading one takes up to half a second, too long for the fast pass.
        """
        if self._fast:
            return None
        if not self._loaded:
            try:
                self._loaded.append(load_tokenizer(self._served.directory))
            except CheckpointError:
                self._loaded.append(None)
        return self._loaded[0]

    def _diff(self, rendered: Mapping[str, Rendering], probe: Probe, owner: str) -> Evidence:
        old, new = rendered[probe.name], self._rendered[probe.name]
        lines = difflib.unified_diff(
            _lines(old.plain), _lines(new.plain), owner, "served", lineterm="", n=2
        )
        shown = [line for line in lines if not line.startswith("@@")]
        if len(shown) > _DIFF_LINES:
            shown = [*shown[:_DIFF_LINES], f"({len(shown) - _DIFF_LINES} more lines)"]
        return Evidence(file=self._shown(self._served.file), key=probe.name, value="\n".join(shown))

    def _shown(self, path: Path) -> str:
        return shown_path(path, self._checkpoint)


def _render_all(side: Side) -> dict[str, Rendering]:
    tokens = read_special_tokens(side.directory)
    return {probe.name: render_probe(side.template, probe, tokens) for probe in PROBES}


def _differing(
    first: Mapping[str, Rendering], second: Mapping[str, Rendering], tokenizer: Tokenizer | None
) -> list[Probe]:
    return [p for p in PROBES if is_same(first[p.name], second[p.name], tokenizer) is False]


def _is_text_same(first: Rendering, second: Rendering) -> bool:
    return first.plain is None or second.plain is None or first.plain == second.plain


def _severity(differing: Sequence[Probe]) -> Severity:
    return "info" if all(probe.name in _MILD for probe in differing) else "warn"


def _head(first: Rendering, second: Rendering) -> str | None:
    """What the second text has in front of the first, where that is all."""
    a, b = first.plain, second.plain
    if a and b and b != a and b.endswith(a):
        return b.removesuffix(a)
    return None


def _lines(text: str | None) -> list[str]:
    """Lines with their ends made visible."""
    return [line.replace("\n", "\\n") for line in (text or "").splitlines(keepends=True)]


CHECKS = (
    Check(
        id="template.render-diff",
        run=check_render_diff,
        cause="Training frameworks write conversations with tables of their own, not with the "
        "checkpoint's chat template: default system prompts, blanks, line breaks and BOS differ. "
        "And a saved checkpoint may carry another chat template than its base.",
        evidence="Nine conversations (a question, a system prompt, two rounds, one and two images, "
        "an image in the second round, a video, a tool), rendered with the served chat template, "
        "with the base's or the adapter's, and as ms-swift or LLaMA-Factory writes them where "
        "`args.json` or `training_args.yaml` names its template. Token ids are compared where the "
        "tokenizer is at hand; how a placeholder is spelled does not count. A difference in videos "
        "or tools alone, or from a base where the served template writes what was trained, is only "
        "worth knowing.",
        example="ms-swift trained with a system prompt that is not served: 'You are a helpful "
        "assistant.'",
        remedy="Serve a chat template that writes what was trained: copy it from where it is "
        "right, edit it, or name one with `server.chat_template`.",
    ),
)
"""The checks of this theme, in the order in which they run."""
