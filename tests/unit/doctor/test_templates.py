"""Served prompts against trained ones, marks in pieces, and labels: one fault, one finding."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.chat_templates import LLAVA_1_5, QWEN2_VL
from tests.unit.toy_tokenizer import write_tokenizer
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.read import load_dataset
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown
from vlmserve.doctor.labels import check_labels
from vlmserve.doctor.run import run_checks
from vlmserve.doctor.separators import check_atomic
from vlmserve.doctor.templates import check_render_diff

QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
NO_SYSTEM = QWEN2_VL.replace(
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "",
)
LLAVA_TOKENS = ["<unk>", "<s>", "</s>", "<image>"]


def put_template(directory: Path, template: str | list[Any]) -> Path:
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return directory


def put_args(directory: Path, **args: Any) -> Path:
    (directory / "args.json").write_text(json.dumps({"swift_version": "4.0", **args}))
    return directory


def put_yaml(directory: Path, *lines: str) -> Path:
    (directory / "training_args.yaml").write_text("\n".join(lines))
    return directory


@pytest.fixture
def base(write: Any) -> Path:
    return qwen(write, "base")


@pytest.fixture
def tuned(write: Any, base: Path) -> Path:
    return qwen(write, "tuned")


def qwen(write: Any, name: str) -> Path:
    directory: Path = write.model(name)
    write_tokenizer(directory, QWEN_TOKENS, eos="<|im_end|>")
    return put_template(directory, QWEN2_VL)


def exam(directory: Path, base: Path | None = None, **options: Any) -> Examination:
    return Examination(load_checkpoint(directory, base_model=base), **{"fast": False, **options})


def diff(directory: Path, base: Path | None = None, **options: Any) -> list[Outcome]:
    return list(check_render_diff(exam(directory, base, **options)))


def only(outcomes: Sequence[Outcome]) -> Finding:
    (finding,) = outcomes
    assert isinstance(finding, Finding)
    return finding


def test_the_same_template_is_clean(tuned: Path, base: Path) -> None:
    assert diff(tuned, base) == []
    put_args(tuned, template="qwen2_vl")
    for fast in (False, True):
        assert diff(tuned, base, fast=fast) == []


def test_nothing_to_compare_with_is_unknown(tuned: Path) -> None:
    (outcome,) = diff(tuned)
    assert isinstance(outcome, Unknown)
    assert "--base-model" in outcome.reason


@pytest.mark.parametrize("fast", [False, True])
def test_default_system_prompt_that_is_not_served(tuned: Path, fast: bool) -> None:
    put_args(put_template(tuned, NO_SYSTEM), template="qwen2_vl")
    finding = only(diff(tuned, fast=fast))
    assert finding.severity == "warn"
    assert finding.title == (
        "ms-swift trained with a system prompt that is not served: 'You are a helpful assistant.'"
    )
    shown = finding.evidence[-1].value.splitlines()
    assert "-<|im_start|>system\\n" in shown
    assert " What is shown here?<|im_end|>\\n" in shown


def test_llama_factory_too(tuned: Path) -> None:
    put_yaml(put_template(tuned, NO_SYSTEM), "template: qwen2_vl", "model_name_or_path: x")
    assert "llama-factory trained with a system prompt" in only(diff(tuned)).title
    put_yaml(tuned, "template: qwen3_vl_nothink", "model_name_or_path: x")
    assert diff(tuned) == []


def test_a_system_prompt_of_the_run_counts(tuned: Path) -> None:
    put_args(tuned, template="qwen2_vl", system="You name colours.")
    assert "'You name colours.'" in only(diff(tuned)).title


def test_served_system_prompt_that_was_not_trained(tuned: Path) -> None:
    put_args(tuned, template="qwen3_vl")
    finding = only(diff(tuned))
    assert finding.title.startswith("the served chat template puts in a system prompt")
    assert "You are a helpful assistant." in finding.title


def test_the_base_has_the_template_that_was_trained_with(tuned: Path, base: Path) -> None:
    put_args(put_template(tuned, NO_SYSTEM), template="qwen2_vl")
    finding = only(diff(tuned, base))
    assert str(base / "chat_template.json") in finding.remedy


def test_a_new_template_that_was_trained_with_is_worth_knowing(tuned: Path, base: Path) -> None:
    put_args(put_template(tuned, NO_SYSTEM), template="qwen3_vl")
    finding = only(diff(tuned, base))
    assert finding.severity == "info"
    assert "its base's" in finding.title


def test_a_new_template_of_nobody_knows_whom_is_a_warning(tuned: Path, base: Path) -> None:
    put_template(tuned, QWEN2_VL.replace("assistant\n", "assistant"))
    assert only(diff(tuned, base)).severity == "warn"


def test_what_differs_for_tools_alone_is_worth_knowing(tuned: Path, base: Path) -> None:
    put_template(tuned, "{% if tools %}TOOLS{% endif %}" + QWEN2_VL)
    finding = only(diff(tuned, base))
    assert (finding.severity, "a tool" in finding.title) == ("info", True)


def test_spelling_of_the_same_ids_is_no_difference(tuned: Path, base: Path) -> None:
    put_template(tuned, QWEN2_VL.replace("helpful", "HELPFUL"))
    assert only(diff(tuned, base)).severity == "warn"
    for directory in (tuned, base):
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text())
        content["normalizer"] = {"type": "Lowercase"}
        path.write_text(json.dumps(content))
    assert diff(tuned, base) == []


def test_a_template_that_does_not_render(tuned: Path, base: Path) -> None:
    put_template(tuned, QWEN2_VL.replace("{% endfor %}", ""))
    finding = only(diff(tuned, base))
    assert finding.title == "the served chat template cannot be rendered"
    assert "endfor" in finding.evidence[0].value


def test_an_unknown_name_of_a_template_is_unknown(tuned: Path) -> None:
    put_args(tuned, template="my_own")
    (outcome,) = diff(tuned)
    assert isinstance(outcome, Unknown)
    assert "'my_own' is not known here" in outcome.reason


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"template_backend": "jinja"}, "neither a base model"),
        ({"use_chat_template": False}, "bare text"),
        ({"system": "prompt.txt"}, "prompt.txt"),
    ],
)
def test_runs_that_wrote_no_template_are_unknown(
    tuned: Path, args: dict[str, Any], said: str
) -> None:
    put_args(tuned, template="qwen2_vl", **args)
    (outcome,) = diff(tuned)
    assert isinstance(outcome, Unknown)
    assert said in outcome.reason


def test_several_templates_by_name_are_unknown(tuned: Path, base: Path) -> None:
    put_template(tuned, [{"name": "default", "template": "x"}])
    (outcome,) = diff(tuned, base)
    assert isinstance(outcome, Unknown)


def test_an_adapter_with_a_template_of_its_own(write: Any, base: Path) -> None:
    adapter = write.adapter(base)
    assert diff(adapter) == []
    put_template(adapter, NO_SYSTEM)
    finding = only(diff(adapter))
    assert finding.title.startswith("the base's chat template is served")
    assert str(adapter / "chat_template.json") in finding.remedy
    # Served with its own, and trained with that, all is well.
    put_args(adapter, template="qwen3_vl", model=str(base))
    serve = ServeConfig.model_validate(
        {"server": {"chat_template": str(write_text(adapter / "own.jinja", NO_SYSTEM))}}
    )
    assert diff(adapter, serve=serve) == []


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def llava(write: Any, tiny: dict[str, Any], name: str = "llava", **options: Any) -> Path:
    directory: Path = write.model(name, tiny)
    write_tokenizer(directory, LLAVA_TOKENS, **{"bos": "<s>", "eos": "</s>", **options})
    return put_template(directory, LLAVA_1_5)


def test_bos_in_front_of_training_alone(write: Any, tiny_llava: Any) -> None:
    directory = put_args(llava(write, tiny_llava), template="llava1_5_hf")
    put_template(directory, LLAVA_1_5.replace("content['text'] + ' '", "content['text'] + '\n'"))
    finding = only(diff(directory))
    assert "with <s> in front of every conversation" in finding.title
    assert "{{ bos_token }}" in finding.remedy


# Marks.


def marks(directory: Path, **options: Any) -> list[Outcome]:
    return list(check_atomic(exam(directory, **options)))


def test_whole_marks_are_clean(tuned: Path, write: Any, tiny_llava: Any) -> None:
    assert marks(tuned) == []
    assert marks(llava(write, tiny_llava)) == []
    assert marks(tuned, fast=True) == []


def test_marks_in_pieces(tuned: Path) -> None:
    write_tokenizer(tuned, [token for token in QWEN_TOKENS if token != "<|im_end|>"])  # noqa: S105
    finding = only(marks(tuned))
    assert finding.title == "<|im_end|> is 10 tokens in this tokenizer"
    assert "10 tokens: < | i m _ e n d | >" in finding.evidence[0].value


def test_marks_in_pieces_follow_from_a_changed_tokenizer(tuned: Path, base: Path) -> None:
    write_tokenizer(tuned, [token for token in QWEN_TOKENS if token != "<|im_end|>"])  # noqa: S105
    found = {finding.id: finding for finding in run_checks(exam(tuned, base)).findings}
    assert found["tok.id-stability"].severity == "block"
    assert found["template.sep-atomic"].caused_by == "tok.id-stability"


def test_marks_of_the_training_framework_count(tuned: Path) -> None:
    put_args(tuned, template="internvl2_5")
    assert "<img>" in only(marks(tuned)).title


def original_llava(write: Any, **options: Any) -> Path:
    """LLaVA's own format: nothing but its architecture tells the template."""
    directory: Path = write.model("llava")
    config = json.loads((directory / "config.json").read_text())
    config |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.json").unlink()
    tokens = options.pop("tokens", LLAVA_TOKENS)
    write_tokenizer(directory, tokens, **{"bos": "<s>", "eos": "</s>", **options})
    return directory


def test_llava_counts_on_bos_and_a_whole_end(write: Any) -> None:
    directory = original_llava(write, adds_bos=True)
    assert marks(directory) == []
    write_tokenizer(directory, LLAVA_TOKENS, bos="<s>", eos="</s>")
    assert "counts on a BOS" in only(marks(directory)).title
    write_tokenizer(directory, ["<unk>", "<s>", "</"], bos="<s>", adds_bos=True)
    assert only(marks(directory)).title == "</s> is 3 tokens in this tokenizer"


def test_a_tokenizer_that_cannot_spell_is_unknown(tuned: Path) -> None:
    vocab = {"<unk>": 0, **{token: n for n, token in enumerate(QWEN_TOKENS, 1)}}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    (tuned / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    (outcome,) = marks(tuned)
    assert isinstance(outcome, Unknown)


# Labels.


def chats(path: Path, *answers: str | None, **extra: Any) -> Path:
    """A data set of one round a sample; ``None`` leaves the answer out."""
    rows = []
    for answer in answers:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "What is shown here?"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer, **extra})
        rows.append({"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learned(directory: Path, data: Path, **options: Any) -> list[Outcome]:
    return list(check_labels(exam(directory, data=load_dataset(str(data)), **options)))


def test_answers_are_learned(tuned: Path, tmp_path: Path) -> None:
    put_args(tuned, template="qwen2_vl")
    assert learned(tuned, chats(tmp_path / "a.jsonl", "A cat.", "Two  dogs\n")) == []
    put_yaml(tuned, "template: qwen2_vl")
    assert learned(tuned, chats(tmp_path / "a.jsonl", "A cat.")) == []


def test_without_a_framework_only_empty_answers_are_seen(tuned: Path, tmp_path: Path) -> None:
    (outcome,) = learned(tuned, chats(tmp_path / "a.jsonl", "A cat."))
    assert isinstance(outcome, Unknown)
    finding, _ = learned(tuned, chats(tmp_path / "b.jsonl", "A cat.", " "))
    assert isinstance(finding, Finding)
    assert finding.title == "nothing is learned from 1 of 2 samples: its answers are empty"


def test_a_few_empty_answers_are_worth_knowing(tuned: Path, tmp_path: Path) -> None:
    put_args(tuned, template="qwen2_vl")
    data = chats(tmp_path / "a.jsonl", *["A cat."] * 199, "")
    assert only(learned(tuned, data)).severity == "info"


def test_muted_answers(tuned: Path, tmp_path: Path) -> None:
    put_args(tuned, template="qwen2_vl")
    finding = only(learned(tuned, chats(tmp_path / "a.jsonl", "A cat.", loss=False)))
    assert "every answer is marked as not to be learned" in finding.title


def test_llava_mismatch(write: Any, tmp_path: Path) -> None:
    directory = original_llava(write, tokens=["<unk>", "<s>", "</"])
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A cat."}]
    data = tmp_path / "train.json"
    data.write_text(json.dumps([{"id": "1", "conversations": turns * 5}]))
    finding = only(learned(directory, data))
    assert "tokenization mismatch: " in finding.title
    count, whole = finding.title.split("mismatch: ")[1].split(" tokens")[0].split(" vs. ")
    assert int(whole) - int(count) == 3 * 5 - 1
    assert "3 tokens (</ s >), and BOS is not added" in finding.evidence[-1].value


def test_xcomposer_learns_the_question_after_a_system_turn(write: Any, tmp_path: Path) -> None:
    directory: Path = write.model("composer")
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["InternLMXComposer2ForCausalLM"]
    (directory / "config.json").write_text(json.dumps(config))
    tokens: list[Any] = [("<s>", 1), ("</s>", 2), ("ass", 3), ("istant", 4)]
    tokens += [("[UNUSED_TOKEN_145]", 92542), ("[UNUSED_TOKEN_146]", 92543)]
    write_tokenizer(directory, tokens, bos="<s>", eos="</s>", adds_bos=True)
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A cat."}]
    data = tmp_path / "train.json"
    data.write_text(json.dumps([{"id": "1", "conversations": turns}]))
    assert learned(directory, data) == []
    system = {"from": "system", "value": "Be brief."}
    data.write_text(json.dumps([{"id": "1", "conversations": [system, *turns]}]))
    finding = only(learned(directory, data))
    assert "something else than the answers" in finding.title
    assert "Who?" in finding.evidence[0].value


def test_turns_that_are_cut_otherwise_as_a_whole(
    write: Any, tiny_llava: Any, tmp_path: Path
) -> None:
    directory = put_args(llava(write, tiny_llava), template="llava1_5_hf")
    data = chats(tmp_path / "a.jsonl", "yes", "no")
    assert learned(directory, data) == []
    write_tokenizer(directory, [*LLAVA_TOKENS, ":yes"], bos="<s>", eos="</s>")
    finding = only(learned(directory, data))
    assert (finding.severity, "1 of 2 samples" in finding.title) == ("info", True)
    assert "'T' ':' 'y' 'e' turn by turn, 'T' ':yes'" in finding.evidence[0].value


def test_samples_that_the_framework_drops(tuned: Path, tmp_path: Path) -> None:
    put_yaml(tuned, "template: qwen2_vl")
    data = tmp_path / "a.jsonl"
    user = {"role": "user", "content": "Hi"}
    messages = [user, user, {"role": "assistant", "content": "Yes."}]
    data.write_text(json.dumps({"messages": messages}) + "\n")
    assert "does not take 1 of 1 samples" in only(learned(tuned, data)).title


def test_a_cut_that_takes_every_label_follows_from_the_length(tuned: Path, tmp_path: Path) -> None:
    put_args(tuned, template="qwen2_vl", truncation_strategy="right", max_length=30)
    finding = only(learned(tuned, chats(tmp_path / "a.jsonl", "A cat.")))
    assert finding.caused_by == "data.budget"
    assert finding.title == "the cut takes every label of 1 of 1 samples"


def test_runs_that_learn_from_questions_are_unknown(tuned: Path, tmp_path: Path) -> None:
    put_args(tuned, template="qwen2_vl", loss_scale="all")
    (outcome,) = learned(tuned, chats(tmp_path / "a.jsonl", "A cat."))
    assert isinstance(outcome, Unknown)


def test_nothing_is_asked_of_data_that_is_not_given(tuned: Path) -> None:
    assert list(check_labels(exam(tuned))) == []
    assert list(check_labels(replace(exam(tuned), fast=True))) == []
