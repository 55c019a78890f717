"""Does generation stop where the template ends a turn, and sample as the base does?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.text_config import find_text_section
from vlmserve.checkpoint.token_table import load_token_table
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, shown_path
from vlmserve.errors import CheckpointError

FILE = "generation_config.json"

# What vLLM 0.32 takes from the file for requests that do not say otherwise (config/model.py
# get_diff_sampling_param), with the values that change nothing.
_SAMPLING: Mapping[str, tuple[float, ...]] = {
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "temperature": (1,),
    "top_k": (0, -1),
    "top_p": (1,),
    "min_p": (0,),
    "max_new_tokens": (),
}

# Those that vlmserve's own evaluation leaves as the file has them: engine/offline.py and
# engine/remote_chat.py set temperature, top_p and the length themselves.
_KEPT_IN_EVAL = ("repetition_penalty", "presence_penalty", "frequency_penalty", "top_k", "min_p")

# Tokens with which templates end a turn, the more particular first.
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "[UNUSED_TOKEN_145]",
    "<|end|>",
    "<|END_OF_TURN_TOKEN|>",
    "</s>",
)

_VLLM = "vllm 0.32 config/model.py get_diff_sampling_param"


def check_generation(exam: Examination) -> Iterator[Outcome]:
    """``gen.config-diff``: stop tokens, and the sampling that vLLM applies by itself."""
    checkpoint = exam.checkpoint
    settings = read_json_if_present(checkpoint.model.path / FILE)
    if exam.serve.server.chat_template is None:
        yield from _missing_stop(checkpoint, settings)
    if checkpoint.adapter is None and checkpoint.base is not None:
        yield from _other_sampling(checkpoint, checkpoint.base, settings)
    penalty = _sampling(settings, checkpoint.model.path).get("repetition_penalty")
    if penalty is not None:
        yield _penalty(checkpoint, penalty)


def _missing_stop(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Iterator[Outcome]:
    """The token that ends a turn is none that vLLM stops at."""
    end = _turn_end(checkpoint)
    if end is None:
        return
    token, template_file, directory = end
    table = load_token_table(directory)
    end_id = None if table is None else table.id_of(token)
    if table is None or end_id is None:
        return
    stops, source = _stop_ids(checkpoint, settings)
    eos = table.roles.get("eos")
    eos_id = None if eos is None else table.id_of(eos)
    # vLLM stops at the tokenizer's own end, too; where no file names it, its class does.
    if end_id in stops or eos_id is None or eos_id == end_id:
        return
    stated = ", ".join(f"{number} {table.by_id.get(number, '')!r}" for number in stops)
    yield Finding(
        id="gen.config-diff",
        title=f"generation does not stop at {token}, with which the template ends a turn",
        evidence=[
            Evidence(file=source[0], key=source[1], value=stated or "absent"),
            Evidence(
                file=shown_path(directory / "tokenizer_config.json", checkpoint),
                key="eos_token",
                value=f"{eos_id} {eos!r}",
            ),
            Evidence(file=template_file, key="", value=f"ends turns with {end_id} {token!r}"),
        ],
        consequence="Answers run on into invented further turns, up to the limit of tokens.",
        remedy=f"add {end_id} to eos_token_id in {FILE}, as a list",
        source="vllm 0.32 sampling_params.py update_from_generation_config",
    )


def _other_sampling(
    checkpoint: Checkpoint, base: Checkpoint, settings: Mapping[str, Any]
) -> Iterator[Outcome]:
    ours = _sampling(settings, checkpoint.path)
    base_file = base.path / FILE
    theirs = _sampling(read_json_if_present(base_file), base.path)
    differing = [key for key in _SAMPLING if ours.get(key) != theirs.get(key)]
    if not differing:
        return
    evidence = []
    for key in differing:
        for path, values in ((checkpoint.path / FILE, ours), (base_file, theirs)):
            file = shown_path(path, checkpoint)
            value = f"{values[key]:g}" if key in values else "absent"
            evidence.append(Evidence(file=file, key=key, value=value))
    kept = [key for key in differing if key in _KEPT_IN_EVAL]
    judged = (
        f"vlmserve eval sets temperature, top_p and the length itself and keeps {', '.join(kept)}, "
        "so a comparison with the base compares these as well."
        if kept
        else "vlmserve eval sets these itself, so its verdict does not depend on them."
    )
    yield Finding(
        id="gen.config-diff",
        title=f"sampling defaults differ from the base model's: {', '.join(differing)}",
        evidence=evidence,
        consequence="vLLM applies them to every request that does not say otherwise, and so does "
        f"vlmserve serve. {judged}",
        remedy=f"copy {FILE} from {base.path}, or serve with -- --generation-config vllm to use "
        "none",
        source=f"{_VLLM}; NeMo-RL#3497, lm-eval#3154, vllm#10408",
        severity="warn",
    )


def _penalty(checkpoint: Checkpoint, penalty: float) -> Finding:
    return Finding(
        id="gen.config-diff",
        title=f"vLLM will apply repetition_penalty {penalty:g} by itself",
        evidence=[
            Evidence(
                file=shown_path(checkpoint.model.path / FILE, checkpoint),
                key="repetition_penalty",
                value=f"{penalty:g}",
            )
        ],
        consequence="Answers that repeat text, such as tables and numbers read from an image, are "
        "changed by it; vlmserve serve and eval apply it, too, as transformers does.",
        remedy="keep it if the model is meant to be used so; otherwise send repetition_penalty 1 "
        "with the request, or serve with -- --generation-config vllm",
        source=f"{_VLLM}; NeMo-RL#3497",
        severity="info",
    )


def _sampling(settings: Mapping[str, Any], directory: Path) -> dict[str, float]:
    """The settings that change something.

    Raises:
        CheckpointError: One is no number.
    """
    values: dict[str, float] = {}
    for key, neutral in _SAMPLING.items():
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{directory / FILE}: {key}: a number is expected, not {value!r}")
        if value not in neutral:
            values[key] = float(value)
    return values


def _stop_ids(
    checkpoint: Checkpoint, settings: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[str, str]]:
    """The ids that the configuration stops at, and where they stand."""
    directory = checkpoint.model.path
    section = find_text_section(checkpoint.config)
    # Without the file vLLM makes one of the model's configuration.
    places: list[tuple[str, str, Any]] = [(FILE, "eos_token_id", settings.get("eos_token_id"))]
    if not (directory / FILE).is_file():
        places += [
            ("config.json", "eos_token_id", checkpoint.config.get("eos_token_id")),
            ("config.json", f"{section.where}eos_token_id", section.values.get("eos_token_id")),
        ]
    for file, key, value in places:
        ids = value if isinstance(value, list) else [value]
        if ids and all(type(number) is int for number in ids):
            return tuple(ids), (shown_path(directory / file, checkpoint), key)
    file = places[0][0]
    return (), (shown_path(directory / file, checkpoint), "eos_token_id")


def _turn_end(checkpoint: Checkpoint) -> tuple[str, str, Path] | None:
    """The token that ends a turn, the template's file, and the directory of the tokenizer.

    Only what is written out in the template counts: ``{{ eos_token }}`` is the tokenizer's own.
    """
    base = [] if checkpoint.base is None else [checkpoint.base.path]
    places = list(dict.fromkeys([checkpoint.model.path, checkpoint.path, *base]))
    for directory in places:
        found = find_processor(directory)
        names = found.files["chat template"]
        if not names:
            continue
        # Of several templates by name, none is the one.
        text = found.template or ""
        token = next((end for end in _TURN_ENDS if end in text), None)
        if token is None or ("eos_token" in text and token == "</s>"):  # noqa: S105 - no secret
            return None
        file = shown_path(directory / names[0], checkpoint)
        tokenizer = next(
            (place for place in places if load_token_table(place) is not None), directory
        )
        return token, file, tokenizer
    return None


CHECKS = (
    Check(
        id="gen.config-diff",
        run=check_generation,
        cause="Fine-tuning frameworks rewrite `generation_config.json`, or leave it out; a base "
        "model without chat stops at another token than the template of the fine-tune ends its "
        "turns with.",
        evidence="`eos_token_id` and the tokenizer's `eos_token` against the token that is written "
        "out at the end of the template's turns; `repetition_penalty`, `temperature`, `top_k`, "
        "`top_p` and the other settings that vLLM applies by itself against the base's.",
        example="generation does not stop at <|im_end|>, with which the template ends a turn",
        remedy="Copy the file from the base model, or list all ends in `eos_token_id`.",
    ),
)
"""The checks of this theme, in the order in which they run."""
