"""Are the tensors those that the configuration asks for?"""

from collections.abc import Iterator

from vlmserve.checkpoint.families import Component
from vlmserve.checkpoint.inventory import TensorInventory, compare_tensors
from vlmserve.checkpoint.quantisation import is_quantised
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Unknown,
    shown_path,
)

_COMPONENTS: tuple[Component, ...] = ("vision tower", "projector", "language model")


def check_tensors(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.tensors``: tensors that are missing, have no place, or have another shape."""
    checkpoint = exam.checkpoint
    family = checkpoint.model.family
    if family is None:
        reason = f"the tensors of {checkpoint.model.architecture} are not known to vlmserve"
        yield Unknown(id="ckpt.tensors", reason=reason)
        return
    inventory = compare_tensors(checkpoint)
    if inventory is None:
        reason = (
            "the weights are quantised"
            if is_quantised(checkpoint)
            else f"this {family.title} has a part of a kind not known to vlmserve"
        )
        yield Unknown(id="ckpt.tensors", reason=reason)
        return
    evidence = list(_inventory_evidence(checkpoint, inventory))
    if evidence:
        yield _tensors_finding(inventory, evidence, served=family.served)


def _inventory_evidence(checkpoint: Checkpoint, inventory: TensorInventory) -> Iterator[Evidence]:
    pattern = f"*{checkpoint.weights.files[0].suffix}"
    where = shown_path(checkpoint.model.path / pattern, checkpoint)
    for component in _COMPONENTS:
        groups = (
            ("missing", inventory.missing.get(component, ())),
            ("that the model has no place for", inventory.unexpected.get(component, ())),
        )
        for what, names in groups:
            if names:
                value = f"{_count(len(names))} {what}, e.g. {names[0]}"
                yield Evidence(file=where, key=component, value=value)
        # Tensors without values are ckpt.zero's.
        mismatched = [
            mismatch
            for mismatch in inventory.mismatched.get(component, ())
            if mismatch.found != (0,)
        ]
        if mismatched:
            first = mismatched[0]
            value = (
                f"{_count(len(mismatched))} of another shape, e.g. {first.name}: "
                f"{list(first.found)} in the file, {list(first.expected)} by config.json"
            )
            yield Evidence(file=where, key=component, value=value)


def _tensors_finding(
    inventory: TensorInventory, evidence: list[Evidence], *, served: bool
) -> Finding:
    consequences, remedies = [], []
    if inventory.missing:
        remedies.append(
            "save the model again with save_pretrained from the class that config.json names, or "
            "copy what was frozen in training from the base model"
        )
        consequences.append(
            "vLLM fills missing linear weights with whatever is in memory, without a word, and "
            "serves nonsense."
            if served
            else "The model's own code starts missing weights at random, with a warning at most."
        )
    if inventory.unexpected or inventory.mismatched:
        consequences.append(
            "vLLM refuses tensors it has no place for and other shapes."
            if served
            else "The model's own code leaves out tensors it has no place for and refuses other "
            "shapes."
        )
    title = "; ".join(f"{item.key}: {item.value.partition(',')[0]}" for item in evidence)
    if inventory.explanation is not None:
        remedies = [inventory.explanation]
    elif inventory.prefix is not None:
        n_renamed = sum(map(len, inventory.unexpected.values()))
        title = f"'{inventory.prefix}' stands before the names of {_count(n_renamed)}"
        is_peft = inventory.prefix.startswith("base_model.")
        bare = "model.merge_and_unload()" if is_peft else "accelerator.unwrap_model(model)"
        remedies = [
            f"take '{inventory.prefix}' off the names, or save again from the training code what "
            f"was wrapped there: {bare}.save_pretrained(DIR)"
        ]
    elif inventory.unexpected:
        remedies.append(
            "strip what a trainer put before the names, such as base_model.model., module. or "
            "_orig_mod."
        )
    if inventory.mismatched:
        remedies.append(
            "make config.json say the sizes of the weights, vocab_size the rows of embed_tokens"
        )
    return Finding(
        id="ckpt.tensors",
        title=title,
        evidence=evidence,
        consequence=" ".join(consequences),
        remedy="; ".join(remedies),
        source="vllm 0.32 model_executor/model_loader/default_loader.py track_weights_loading; "
        "vllm#18983",
    )


def _count(number: int) -> str:
    return "1 tensor" if number == 1 else f"{number} tensors"


CHECKS = (
    Check(
        id="ckpt.tensors",
        run=check_tensors,
        cause="A prefix that a trainer put before the names, a part that was frozen and left out,"
        " a vocabulary that was resized in the weights but not in the configuration.",
        evidence="The tensors in the headers against those that the configuration asks for, by "
        "component; buffers that are computed anyway are left out.",
        example="vision tower: 43 tensors missing",
        remedy="Save the model again from the class that `config.json` names, or copy what was "
        "frozen from the base model.",
    ),
)
"""The checks of this theme, in the order in which they run."""
