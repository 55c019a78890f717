"""Would vLLM apply the adapter, and all of it?"""

from collections.abc import Iterator

from vlmserve.checkpoint.adapter import (
    CONFIG_NAME,
    MAX_LORA_RANK,
    WEIGHTS_NAME,
    AdapterInfo,
    AdapterMatch,
    ShapeMismatch,
    match_adapter,
)
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.weights import NON_LORA_NAME
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Unknown,
    enumerate_names,
)

_SILENT = "vllm 0.32 lora/model_manager.py activate_adapter; vllm#48019, ms-swift#4725"
_FEATURES = "vllm 0.32 lora/peft_helper.py _validate_features"
_MERGE = (
    "merge the adapter into its base (PEFT: merge_and_unload, ms-swift: swift export --merge_lora "
    "true) and serve the result"
)
_RENAME = (
    "rename the adapter's keys to the base's module paths (save it with the same transformers "
    f"version that the base is loaded with), or {_MERGE}"
)
_ALWAYS = "language model"  # the part that vLLM takes LoRA on whatever the family

# Initialisations that leave the base as it is, so that the saved adapter is a plain one
# (vllm 0.32 lora/peft_helper.py _init_is_supported).
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")

# PEFT settings that vLLM refuses when they are set, with their names.
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}


def check_match(exam: Examination) -> Iterator[Outcome]:
    """``lora.match``: modules of the adapter that vLLM does not find, or finds in other sizes."""
    checkpoint = exam.checkpoint
    adapter = checkpoint.adapter
    if adapter is None:
        return
    if adapter.rank > MAX_LORA_RANK:
        yield _rank_finding(adapter)
    match = match_adapter(adapter, checkpoint.model)
    if match is None:
        reason = f"the modules of {checkpoint.architecture} are not known to vlmserve"
        yield Unknown(id="lora.match", reason=reason)
    # Where there is no pair at all, ckpt.files or lora.coverage says what there is instead.
    elif match.unmatched or match.shape_mismatches:
        yield _match_finding(checkpoint, adapter, match)


def check_coverage(exam: Examination) -> Iterator[Outcome]:
    """``lora.coverage``: parts of the adapter that vLLM refuses, ignores, or needs a switch for."""
    checkpoint = exam.checkpoint
    adapter = checkpoint.adapter
    if adapter is None:
        return
    refused = _refused_features(adapter)
    if refused:
        yield Finding(
            id="lora.coverage",
            title=f"vLLM refuses adapters with {enumerate_names((name for name, _ in refused), 5)}",
            evidence=[evidence for _, evidence in refused],
            consequence="vLLM fails to load the adapter.",
            remedy=_MERGE,
            source=_FEATURES,
        )
    if (checkpoint.path / NON_LORA_NAME).is_file():
        yield Finding(
            id="lora.coverage",
            title="weights trained beside the adapter are in a file that vLLM does not read",
            evidence=[Evidence(file=NON_LORA_NAME, key="", value="present")],
            consequence="The base's own weights are used in their place: the projector's, mostly.",
            remedy="merge it and the adapter with the scripts of the training code",
            source="haotian-liu/LLaVA llava/train/train.py",
            severity="warn",
        )
    match = match_adapter(adapter, checkpoint.model)
    if match is not None and match.vision:
        yield Finding(
            id="lora.coverage",
            title=f"{len(match.vision)} adapted modules are in the vision tower or the projector",
            evidence=[
                Evidence(file=WEIGHTS_NAME, key=enumerate_names(match.vision, 1), value="LoRA")
            ],
            consequence="Plain vLLM would drop them without a word; vlmserve serve sets "
            "enable_tower_connector_lora, which applies them.",
            remedy="nothing to do under vlmserve serve; elsewhere pass "
            "--enable-tower-connector-lora to vLLM",
            source=_SILENT,
            severity="info",
        )


def _rank_finding(adapter: AdapterInfo) -> Finding:
    return Finding(
        id="lora.match",
        title=f"rank {adapter.rank} is above vLLM's largest, {MAX_LORA_RANK}",
        evidence=[Evidence(file=CONFIG_NAME, key="r, rank_pattern", value=str(adapter.rank))],
        consequence="vLLM refuses to load the adapter.",
        remedy=_MERGE,
        source="vllm 0.32 config/lora.py MaxLoRARanks",
    )


def _match_finding(checkpoint: Checkpoint, adapter: AdapterInfo, match: AdapterMatch) -> Finding:
    total = len(adapter.pairs)
    fitting = set(match.matched) - {mismatch.module for mismatch in match.shape_mismatches}
    evidence, remedy = [], _RENAME
    if match.unmatched:
        value, remedy = _unmatched(checkpoint.model, match)
        evidence.append(Evidence(file=WEIGHTS_NAME, key="module names", value=value))
    evidence += [shape_evidence(mismatch) for mismatch in match.shape_mismatches[:3]]
    if match.shape_mismatches:
        consequence = "vLLM fails to load the adapter."
    elif not fitting:
        consequence = "vLLM loads it, reports success and answers exactly as the base model does."
    else:
        consequence = "vLLM applies the rest and drops these modules without a word."
    return Finding(
        id="lora.match",
        title=f"{len(fitting)} of {total} LoRA modules fit the base model"
        + ("" if fitting else ": this adapter would do nothing in vLLM"),
        evidence=evidence,
        consequence=consequence,
        remedy=remedy,
        source=_SILENT,
    )


def _unmatched(base: Checkpoint, match: AdapterMatch) -> tuple[str, str]:
    """What the modules without a match are, and what to do about them."""
    where, names = base.architecture, enumerate_names(match.unmatched)
    family = base.family
    linear = None if family is None else family.linear_modules(base.config)
    if family is not None and linear:
        paths = {module: family.canonical_module(module) for module in match.unmatched}
        tower = [path for path in paths.values() if family.component(f"{path}.") != _ALWAYS]
        if len(tower) == len(paths) and not family.supports_tower_lora:
            return (
                f"vLLM takes no LoRA on vision tower and projector of {where}: {names}",
                _MERGE,
            )
        expected = family.expected_tensors(base.config) or {}
        if all(f"{path}.weight" in expected for path in paths.values()):
            return f"vLLM takes no LoRA on these modules of {where}: {names}", _MERGE
    return f"not in {where}: {names}", _RENAME


def shape_evidence(mismatch: ShapeMismatch) -> Evidence:
    """A LoRA matrix of other sizes than the base's module, as evidence."""
    found = "absent" if mismatch.found is None else str(list(mismatch.found))
    return Evidence(
        file=WEIGHTS_NAME,
        key=mismatch.tensor,
        value=f"{found}, where the base takes {list(mismatch.expected)}",
    )


def _refused_features(adapter: AdapterInfo) -> list[tuple[str, Evidence]]:
    """What vLLM refuses, by name, with where it stands."""
    refused = [
        (name, Evidence(file=CONFIG_NAME, key=key, value=str(adapter.config[key])))
        for key, name in _REFUSED.items()
        if adapter.config.get(key)
    ]
    saved = [name for name in adapter.modules_to_save if name not in ("classifier", "score")]
    if saved:
        evidence = Evidence(file=CONFIG_NAME, key="modules_to_save", value=", ".join(saved))
        refused.append(("whole modules beside the LoRA", evidence))
    if adapter.bias != "none":
        evidence = Evidence(file=CONFIG_NAME, key="bias", value=adapter.bias)
        refused.append(("trained biases", evidence))
    init = adapter.init_lora_weights
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        evidence = Evidence(file=CONFIG_NAME, key="init_lora_weights", value=init)
        refused.append((f"{init} initialisation, which changes the base", evidence))
    extra = adapter.other_tensors
    if extra and not refused:
        value = f"{len(extra)} tensors that are not LoRA matrices"
        evidence = Evidence(file=WEIGHTS_NAME, key=enumerate_names(extra), value=value)
        refused.append(("tensors other than LoRA matrices", evidence))
    return refused


CHECKS = (
    Check(
        id="lora.match",
        run=check_match,
        cause="PEFT writes the module paths of the class that was trained. They changed with "
        "transformers 4.52 (`model.layers` became `model.language_model.layers`), and each "
        "framework wraps models in its own way, so an adapter and the base that vLLM loads "
        "may disagree on every name.",
        evidence="Each module of the adapter is mapped as vLLM maps it and looked up among the "
        "modules of the base, with its sizes. One that is not there, a pair that is "
        "incomplete or of other sizes, or a rank above 512 is a finding.",
        example="0 of 21 LoRA modules fit the base model: this adapter would do nothing in vLLM",
        remedy="Rename the adapter's keys to the base's module paths, save it with the "
        "transformers version that the base is loaded with, or merge it into its base.",
    ),
    Check(
        id="lora.coverage",
        run=check_coverage,
        cause="Trainers can adapt more than vLLM applies: DoRA, trained biases, whole modules "
        "beside the LoRA, initialisations that change the base, and weights that LLaVA "
        "keeps in `non_lora_trainables.bin`.",
        evidence="`adapter_config.json`, the names of the adapter's tensors and the files beside "
        "them. What vLLM refuses blocks; what it leaves out warns; modules in the vision"
        " tower are worth knowing.",
        example="vLLM refuses adapters with DoRA",
        remedy="Merge the adapter into its base and serve the result.",
    ),
)
"""The checks of this theme, in the order in which they run."""
