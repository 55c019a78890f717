"""Ids of tokens against the base, the configuration and the embedding."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlmserve.checkpoint.placeholders import find_placeholders
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown
from vlmserve.doctor.token_rows import check_rows
from vlmserve.doctor.tokens import check_id_stability
from vlmserve.platform import cure_torch_extensions

Check = Callable[[Examination], Iterator[Outcome]]

VOCAB = {"<unk>": 0, "a": 1, "b": 2, "c": 3}
QWEN = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_IDS = {
    "vision_start_token_id": 10,
    "vision_end_token_id": 11,
    "image_token_id": 12,
    "video_token_id": 13,
}


def write_tokenizer(
    directory: Path, vocab: dict[str, int] | None = None, added: dict[str, int] | None = None
) -> Path:
    if added is None:
        added = {token: 10 + place for place, token in enumerate(QWEN)}
    content = {
        "model": {"type": "WordLevel", "vocab": VOCAB if vocab is None else vocab},
        "added_tokens": [{"id": n, "content": t, "special": True} for t, n in added.items()],
    }
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def config(tiny_qwen2_vl: dict[str, Any]) -> dict[str, Any]:
    return {**tiny_qwen2_vl, **QWEN_IDS}


@pytest.fixture
def base(write: Any, config: dict[str, Any]) -> Path:
    return write_tokenizer(write.model("base", config))


@pytest.fixture
def tuned(write: Any, config: dict[str, Any]) -> Path:
    return write_tokenizer(write.model("tuned", config))


def run(check: Check, directory: Path, base: Path | None = None, **settings: Any) -> list[Outcome]:
    exam = Examination(load_checkpoint(directory, base_model=base), **settings)
    return list(check(exam))


def only(check: Check, directory: Path, base: Path | None = None, **settings: Any) -> Finding:
    (outcome,) = run(check, directory, base, **settings)
    assert isinstance(outcome, Finding)
    return outcome


def test_equal_tokenizers_are_clean(tuned: Path, base: Path) -> None:
    assert run(check_id_stability, tuned, base) == []
    # The same tokens, written by another version.
    content = json.loads((tuned / "tokenizer.json").read_text())
    (tuned / "tokenizer.json").write_text(json.dumps(content, indent=2))
    assert run(check_id_stability, tuned, base) == []


def test_without_a_base_it_is_not_known(tuned: Path) -> None:
    (outcome,) = run(check_id_stability, tuned)
    assert isinstance(outcome, Unknown)
    assert "--base-model" in outcome.reason


def test_new_tokens_behind_the_old_ones_are_fine(tuned: Path, base: Path) -> None:
    added = {token: 10 + place for place, token in enumerate([*QWEN, "<box>"])}
    write_tokenizer(tuned, added=added)
    assert run(check_id_stability, tuned, base) == []


def test_shuffled_vocabulary(tuned: Path, base: Path) -> None:
    write_tokenizer(tuned, {"<unk>": 0, "b": 1, "c": 2, "a": 3})
    finding = only(check_id_stability, tuned, base)
    assert finding.severity == "block"
    assert finding.title.startswith("3 tokens of the base have another id")
    assert finding.evidence[0].value == "id 3; 1 in the base"


def test_moved_placeholder_comes_first(tuned: Path, base: Path, config: dict[str, Any]) -> None:
    write_tokenizer(tuned, {"b": 1, "a": 2}, {**dict.fromkeys(QWEN, 0), **_swapped()})
    (tuned / "config.json").write_text(
        json.dumps({**config, "image_token_id": 13, "video_token_id": 12})
    )
    finding = only(check_id_stability, tuned, base)
    assert [evidence.key for evidence in finding.evidence[:2]] == QWEN[2:]


def test_lost_placeholder(tuned: Path, base: Path) -> None:
    write_tokenizer(tuned, added={token: 10 + place for place, token in enumerate(QWEN[:3])})
    finding = only(check_id_stability, tuned, base)
    assert finding.evidence[0].key == "<|video_pad|>"
    assert "gone" in finding.evidence[0].value


def test_other_lost_tokens_are_no_finding(tuned: Path, base: Path) -> None:
    write_tokenizer(tuned, {"<unk>": 0, "a": 1, "b": 2})
    assert run(check_id_stability, tuned, base) == []


def _swapped() -> dict[str, int]:
    return dict(zip(QWEN, (10, 11, 13, 12), strict=True))


def test_tokenizer_without_its_configuration(tuned: Path) -> None:
    write_tokenizer(tuned, added=_swapped())
    finding, unknown = run(check_id_stability, tuned)
    assert isinstance(finding, Finding)
    assert isinstance(unknown, Unknown)
    assert finding.severity == "block"
    assert finding.evidence[0].value == "12, which is '<|video_pad|>'"
    assert '"image_token_id": 13' in finding.remedy


def test_files_that_disagree(tuned: Path, base: Path) -> None:
    (tuned / "added_tokens.json").write_text(json.dumps({"<|image_pad|>": 9}))
    finding = only(check_id_stability, tuned, base)
    assert finding.severity == "warn"
    assert finding.evidence[0].value == "id 12, and 9 in another file"


def test_borrowed_tokenizer_is_held_against_the_configuration(tuned: Path, base: Path) -> None:
    (tuned / "tokenizer.json").unlink()
    write_tokenizer(base, added=_swapped())
    assert "placeholder" in only(check_id_stability, tuned, base).title


def test_adapter_with_a_tokenizer_of_its_own(write: Any, base: Path) -> None:
    adapter = write.adapter(base)
    assert run(check_id_stability, adapter) == []
    write_tokenizer(adapter, {"<unk>": 0, "b": 1, "a": 2})
    assert "'a'" in only(check_id_stability, adapter).title


def test_a_vocabulary_that_was_cut_with_its_rows(write: Any, base: Path, config: Any) -> None:
    def cut(tensors: Any) -> None:
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name][:30].copy()

    smaller = write.model("smaller", config, edit=cut)
    write_tokenizer(smaller, {"<unk>": 0, "b": 1, "a": 2})
    assert only(check_id_stability, smaller, base).severity == "warn"


def test_padded_rows_are_normal(tuned: Path) -> None:
    assert run(check_rows, tuned) == []


def test_tokens_behind_the_rows(tuned: Path) -> None:
    write_tokenizer(tuned, added={"<|image_pad|>": 12, "<box>": 40, "</box>": 41})
    finding = only(check_rows, tuned)
    assert finding.severity == "warn"  # no prompt need have them
    assert finding.title == ("2 tokens lie behind the 40 rows of the embedding: '<box>', '</box>'")
    assert finding.evidence[0].key == "model.embed_tokens.weight"


def test_tokens_of_the_template_behind_the_rows(tuned: Path) -> None:
    write_tokenizer(tuned, added={"<|image_pad|>": 12, "<box>": 40})
    (tuned / "chat_template.jinja").write_text("<box>{{ messages }}")
    assert only(check_rows, tuned).severity == "block"


def test_last_row_is_used(tuned: Path) -> None:
    write_tokenizer(tuned, added={"<box>": 39})
    assert run(check_rows, tuned) == []


def test_adapter_that_added_tokens(write: Any, base: Path) -> None:
    adapter = write.adapter(base)
    write_tokenizer(adapter, added={"<box>": 40})
    finding = only(check_rows, adapter)
    assert "modules_to_save" in finding.remedy
    path = adapter / "adapter_model.safetensors"
    rows = {"base_model.model.model.embed_tokens.weight": np.zeros((41, 16), np.float32)}
    save_file({**load_file(path), **rows}, path)
    assert run(check_rows, adapter) == []


def test_image_token_behind_the_rows_is_served_for_llava(
    write: Any, tiny_llava: dict[str, Any]
) -> None:
    model = write.model("llava", {**tiny_llava, "image_token_index": 40})
    write_tokenizer(model, added={"<image>": 40})
    assert run(check_rows, model) == []
    write_tokenizer(model, added={"<image>": 40, "<pad>": 41})
    assert "'<pad>'" in only(check_rows, model).title


def test_rows_of_an_unknown_family(write: Any, config: dict[str, Any]) -> None:
    model = write_tokenizer(write.model("model", config))
    other = {**config, "architectures": ["OtherForConditionalGeneration"], "vocab_size": 44}
    (model / "config.json").write_text(json.dumps(other | {"model_type": "other"}))
    finding = only(check_rows, model)
    assert finding.title == "vocab_size is 44, and the embedding has 40 rows"


@pytest.mark.parametrize(
    ("value", "count", "word"), [(0.0, 1, "zero"), (0.5, 2, "identical"), (0.5, 1, None)]
)
def test_rows_that_were_never_trained(
    tuned: Path, base: Path, value: float, count: int, word: str | None
) -> None:
    new = {f"<new{place}>": 20 + place for place in range(count)}
    write_tokenizer(tuned, added={**dict(zip(QWEN, range(10, 14), strict=True)), **new})
    path = tuned / "model.safetensors"
    tensors = dict(load_file(path))
    tensors["model.embed_tokens.weight"][20 : 20 + count] = value
    save_file(tensors, path)
    assert run(check_rows, tuned, base) == []
    outcomes = run(check_rows, tuned, base, fast=False)
    if word is None:
        assert outcomes == []
    else:
        (finding,) = outcomes
        assert isinstance(finding, Finding)
        assert finding.severity == "info"
        assert word in finding.title


@pytest.mark.parametrize(
    "name",
    [
        "Qwen2VLConfig",
        "Qwen2_5_VLConfig",
        "Qwen3VLConfig",
        "LlavaConfig",
        "LlavaNextConfig",
        "LlavaOnevisionConfig",
        "InternVLConfig",
    ],
)
def test_placeholders_and_their_defaults_are_the_classes_own(name: str, tmp_path: Path) -> None:
    cure_torch_extensions()
    import transformers

    real = getattr(transformers, name)()
    found = find_placeholders({"model_type": real.model_type}, tmp_path)
    assert found
    for placeholder in found:
        assert placeholder.id == getattr(real, placeholder.key)
        other = {"model_type": real.model_type, placeholder.key: 7}
        (changed,) = (p for p in find_placeholders(other, tmp_path) if p.key == placeholder.key)
        assert changed.id == getattr(type(real)(**{placeholder.key: 7}), placeholder.key) == 7


def test_both_spellings_of_llavas_image_token(tmp_path: Path) -> None:
    cure_torch_extensions()
    import transformers

    both = {"image_token_index": 7, "image_token_id": 8}
    (found,) = find_placeholders({"model_type": "llava", **both}, tmp_path)
    assert found.id == transformers.LlavaConfig(**both).image_token_index


def test_the_processor_may_name_another_token(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"image_token": "<img>"}')
    (found,) = find_placeholders({"model_type": "llava"}, tmp_path)
    assert [found.token] == ["<img>"]
