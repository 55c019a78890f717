"""Stop tokens and sampling defaults, as vLLM takes them from the files."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.generation import check_generation
from vlmserve.errors import CheckpointError

QWEN_2_5 = {
    "bos_token_id": 151643,
    "pad_token_id": 0,
    "do_sample": True,
    "eos_token_id": [2, 0],
    "repetition_penalty": 1.05,
    "temperature": 0.000001,
    "transformers_version": "4.49.0",
}
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def prepare(
    directory: Path,
    generation: dict[str, Any] | None,
    *,
    eos: str | None = "<|im_end|>",
    template: str = CHATML,
) -> Path:
    tokens = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "</s>": 3}
    files: dict[str, Any] = {
        "tokenizer.json": {
            "model": {"vocab": {}},
            "added_tokens": [{"id": n, "content": t, "special": True} for t, n in tokens.items()],
        },
        "tokenizer_config.json": {} if eos is None else {"eos_token": eos},
        "chat_template.json": {"chat_template": template},
    }
    if generation is not None:
        files["generation_config.json"] = generation
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.fixture
def base(write: Any) -> Path:
    return prepare(write.model("base"), QWEN_2_5)


@pytest.fixture
def tuned(write: Any) -> Path:
    return prepare(write.model("tuned"), QWEN_2_5)


def run(directory: Path, base: Path | None = None, **serve: Any) -> list[Finding]:
    exam = Examination(
        load_checkpoint(directory, base_model=base), serve=ServeConfig.model_validate(serve)
    )
    outcomes = list(check_generation(exam))
    assert all(isinstance(outcome, Finding) for outcome in outcomes)
    return outcomes  # type: ignore[return-value]


def serious(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "info"]


def test_equal_to_the_base_is_clean(tuned: Path, base: Path) -> None:
    (penalty,) = run(tuned, base)
    assert penalty.severity == "info"
    assert penalty.title == "vLLM will apply repetition_penalty 1.05 by itself"


def test_spelled_out_defaults_are_none(tuned: Path, base: Path) -> None:
    neutral = {"repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    prepare(base, {"eos_token_id": 2})
    prepare(tuned, {"eos_token_id": 2, "do_sample": False, **neutral})
    assert run(tuned, base) == []


@pytest.mark.parametrize(
    ("change", "keys", "kept"),
    [
        ({"repetition_penalty": 1.2}, ["repetition_penalty"], True),
        ({"repetition_penalty": None}, ["repetition_penalty"], True),
        ({"temperature": 0.7}, ["temperature"], False),
        ({"top_k": 50, "top_p": 0.9}, ["top_k", "top_p"], True),
        ({"max_new_tokens": 20}, ["max_new_tokens"], False),
    ],
)
def test_other_sampling_than_the_base(
    tuned: Path, base: Path, change: dict[str, Any], keys: list[str], kept: bool
) -> None:
    prepare(tuned, QWEN_2_5 | change)
    (finding,) = serious(run(tuned, base))
    assert finding.severity == "warn"
    assert finding.title.endswith(", ".join(keys))
    assert [evidence.key for evidence in finding.evidence[::2]] == keys
    assert ("and keeps" in finding.consequence) == kept


def test_a_file_that_was_lost(tuned: Path, base: Path) -> None:
    (tuned / "generation_config.json").unlink()
    (finding,) = serious(run(tuned, base))
    assert finding.evidence[0].value == "absent"
    assert finding.evidence[1].file == str(base / "generation_config.json")


def test_without_a_base_there_is_nothing_to_compare(tuned: Path) -> None:
    prepare(tuned, QWEN_2_5 | {"temperature": 0.7})
    assert serious(run(tuned)) == []


def test_adapters_are_served_with_the_base_s_settings(write: Any, base: Path) -> None:
    adapter = write.adapter(base)
    (adapter / "generation_config.json").write_text('{"temperature": 0.7}')
    assert serious(run(adapter)) == []


def test_the_end_of_a_turn_is_no_stop(tuned: Path) -> None:
    prepare(tuned, {"eos_token_id": 0}, eos="<|endoftext|>")
    (finding,) = run(tuned)
    assert finding.severity == "warn"
    assert "<|im_end|>" in finding.title
    assert [evidence.value for evidence in finding.evidence] == [
        "0 '<|endoftext|>'",
        "0 '<|endoftext|>'",
        "ends turns with 2 '<|im_end|>'",
    ]


@pytest.mark.parametrize(
    ("generation", "eos", "template"),
    [
        ({"eos_token_id": 2}, "<|endoftext|>", CHATML),
        ({"eos_token_id": [0, 2]}, "<|endoftext|>", CHATML),
        ({"eos_token_id": 0}, "<|im_end|>", CHATML),  # vLLM stops at the tokenizer's, too
        ({"eos_token_id": 0}, None, CHATML),  # the tokenizer's class has a default
        ({"eos_token_id": 0}, "<|endoftext|>", "{{ messages }}{{ eos_token }}"),
        ({"eos_token_id": 0}, "<|endoftext|>", "{{ messages }}</s>{{ eos_token }}"),
        ({"eos_token_id": 0}, "<|endoftext|>", "{{ messages }}<|eot_id|>"),  # no token of it
    ],
)
def test_stops_that_cover_the_turn(
    tuned: Path, generation: dict[str, Any], eos: str | None, template: str
) -> None:
    assert run(prepare(tuned, generation, eos=eos, template=template)) == []


def test_without_the_file_the_configuration_counts(tuned: Path) -> None:
    prepare(tuned, None, eos="<|endoftext|>")
    (tuned / "generation_config.json").unlink()
    config = json.loads((tuned / "config.json").read_text())
    for value, found in ((0, 1), (2, 0)):
        (tuned / "config.json").write_text(json.dumps({**config, "eos_token_id": value}))
        assert len(run(tuned)) == found


def test_a_template_of_the_operator_s_own_is_not_judged(tuned: Path) -> None:
    prepare(tuned, {"eos_token_id": 0}, eos="<|endoftext|>")
    assert run(tuned, server={"chat_template": "other.jinja"}) == []


def test_a_value_of_the_wrong_kind_is_named(tuned: Path, base: Path) -> None:
    prepare(tuned, {"temperature": "hot"})
    with pytest.raises(CheckpointError, match="temperature: a number"):
        run(tuned, base)
