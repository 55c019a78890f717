"""What each framework makes of a conversation: texts and labels known from its code."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.toy_tokenizer import write_tokenizer
from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.datasets.sample import Medium, Turn
from vlmserve.frameworks import llama_factory, llava, ms_swift, xcomposer
from vlmserve.frameworks.labels import IGNORED, MEDIUM_ID, label_sample
from vlmserve.frameworks.template import FrameworkTemplate, RenderError, render, text_of
from vlmserve.frameworks.truncation import count_after_cut

IMAGE = Medium("image", "a.png")
VIDEO = Medium("video", "a.mp4")
ROLES: Any = {"bos": "<s>", "eos": "</s>"}
SYSTEM = Turn("system", ("Be brief.",))
ROUND = [Turn("user", (IMAGE, "Who?")), Turn("assistant", ("A cat.",))]
AGAIN = [Turn("user", ("Sure?",)), Turn("assistant", ("Yes.",))]
VICUNA = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)


def rendered(template: FrameworkTemplate, *turns: Turn) -> str:
    return text_of(render(template, turns, ROLES))


def learned(template: FrameworkTemplate, *turns: Turn, **options: Any) -> list[str]:
    segments = render(template, turns, ROLES, **options)
    return [segment.text for segment in segments if segment.is_supervised]


# What is rendered: whose template, its name, the turns, the text.
GOLDEN: list[tuple[Any, str, list[Turn], str]] = [
    (
        ms_swift,
        "qwen2_vl",
        ROUND + AGAIN,
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Who?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n",
    ),
    (
        ms_swift,
        "qwen3_vl",
        ROUND[:1],
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Who?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        ms_swift,
        "llava1_5_hf",
        [SYSTEM, *ROUND, *AGAIN],
        "<s>Be brief.\nUSER: <image>\nWho?\nASSISTANT:A cat.</s>USER: Sure?\nASSISTANT:Yes.</s>",
    ),
    # The registered form never takes the system prompt in, and leaves BOS out with it.
    (
        ms_swift,
        "llava1_6_mistral_hf",
        [SYSTEM, *ROUND],
        "<<SYS>>\n{{system}}\n<</SYS>>\n\n<image>\nWho? [/INST]A cat.</s>",
    ),
    (
        ms_swift,
        "internvl3_5",
        ROUND,
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\nWho?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n",
    ),
    (
        ms_swift,
        "mplug_owl3",
        ROUND[:1],
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|image|>\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (ms_swift, "mplug_owl2", ROUND, "USER: <|image|>Who?ASSISTANT:A cat.</s>"),
    (
        ms_swift,
        "xcomposer2_5",
        [SYSTEM, *ROUND],
        "<s>[UNUSED_TOKEN_146]system\nBe brief.[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]user\n</s>Who?"
        "[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\nA cat.[UNUSED_TOKEN_145]",
    ),
    (
        llama_factory,
        "llava",
        ROUND + AGAIN,
        VICUNA.format("user", "user")
        + "USER: <image>Who? ASSISTANT:A cat.</s>USER: Sure? ASSISTANT:Yes.</s>",
    ),
    (
        llama_factory,
        "llava_next_mistral",
        [SYSTEM, *ROUND, *AGAIN],
        "<s>[INST] Be brief.\n\n<image>Who?[/INST] A cat.</s>[INST] Sure?[/INST] Yes.</s>",
    ),
    (
        llama_factory,
        "qwen3_vl",
        AGAIN,
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        "Yes.<|im_end|>\n",
    ),
    (
        llava,
        "v1",
        ROUND + AGAIN,
        VICUNA.format("user", "user")
        + " USER: <image>\nWho? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>",
    ),
    (
        llava,
        "llava_llama_2",
        AGAIN + AGAIN,
        "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to "
        "understand the visual content that the user provides, and assist the user with a variety "
        "of tasks using natural language.\n<</SYS>>\n\nSure? [/INST] Yes. </s><s>[INST] Sure? "
        "[/INST] Yes. </s>",
    ),
    (
        llava,
        "mpt",
        AGAIN,
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The "
        "assistant gives helpful and honest answers.<|im_end|><|im_start|>user\nSure?<|im_end|>"
        "<|im_start|>assistant\nYes.<|im_end|>",
    ),
    (llava, "plain", ROUND, "<image>A cat.\n"),
    (
        xcomposer,
        "conv2text",
        ROUND,
        "[UNUSED_TOKEN_146]user\n<ImageHere>Who?[UNUSED_TOKEN_145]\n"
        "[UNUSED_TOKEN_146]assistant\nA cat.[UNUSED_TOKEN_145]\n</s>",
    ),
    # A system turn becomes an answer.
    (
        xcomposer,
        "conv2text",
        [SYSTEM, *AGAIN],
        "[UNUSED_TOKEN_146]assistant\nBe brief.[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]user\nSure?"
        "[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\nYes.[UNUSED_TOKEN_145]\n</s>",
    ),
]


@pytest.mark.parametrize(
    ("module", "name", "turns", "text"), GOLDEN, ids=[f"{g[0].__name__}-{g[1]}" for g in GOLDEN]
)
def test_golden_renderings(module: Any, name: str, turns: list[Turn], text: str) -> None:
    assert rendered(module.TEMPLATES[name], *turns) == text


def test_ms_swift_learns_the_end_of_every_answer() -> None:
    template = ms_swift.TEMPLATES["qwen2_vl"]
    assert learned(template, *ROUND, *AGAIN) == [
        "A cat.",
        "<|im_end|>\n",
        "Yes.",
        "<|im_end|>\n",
    ]
    # XComposer's separator only begins with the end.
    assert learned(ms_swift.TEMPLATES["xcomposer2_5"], *AGAIN, *AGAIN)[1] == "[UNUSED_TOKEN_145]"


def test_loss_flags_and_last_answer_only() -> None:
    muted = [Turn("user", ("Who?",)), Turn("assistant", ("A cat.",), is_trained=False)]
    swift, factory = ms_swift.TEMPLATES["qwen2_vl"], llama_factory.TEMPLATES["qwen2_vl"]
    assert learned(swift, *muted, *AGAIN) == ["Yes.", "<|im_end|>\n"]
    # ms-swift learns the suffix on its own, whatever becomes of the answer.
    assert learned(swift, *muted) == ["<|im_end|>\n"]
    assert learned(factory, *muted) == []
    assert learned(factory, *ROUND, *AGAIN, only_last=True) == ["Yes.<|im_end|>\n"]


def test_a_system_prompt_can_be_taken_away() -> None:
    template = ms_swift.TEMPLATES["qwen2_vl"]
    assert rendered(template.with_system(""), AGAIN[0]).startswith("<|im_start|>user")
    assert "Be brief." in rendered(template.with_system("Be brief."), AGAIN[0])


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (llama_factory.TEMPLATES["qwen2_vl"], [AGAIN[0], AGAIN[0]]),
        (llama_factory.TEMPLATES["llava"], [Turn("user", (VIDEO, "Who?"))]),
        (llava.TEMPLATES["v1"], [SYSTEM, *AGAIN]),
        (ms_swift.TEMPLATES["qwen2_vl"], [*AGAIN, Turn("tool", ("3",))]),
        (ms_swift.TEMPLATES["internvl"].with_system("x"), [AGAIN[0], SYSTEM]),
    ],
)
def test_what_a_framework_refuses(template: FrameworkTemplate, turns: list[Turn]) -> None:
    with pytest.raises(RenderError):
        render(template, turns, ROLES)


def test_ms_swift_joins_turns_of_one_side() -> None:
    turns = [AGAIN[0], Turn("user", (" Really?",)), AGAIN[1]]
    assert "Sure? Really?<|im_end|>" in rendered(ms_swift.TEMPLATES["qwen2_vl"], *turns)


# Labels. One byte is one token, so lengths can be read off the texts.


def tokenizer(path: Path, tokens: list[Any], **options: Any) -> Tokenizer:
    return load_tokenizer(write_tokenizer(path, tokens, **options))


def text_of_labels(labelled: Any, cut: Tokenizer) -> str:
    return cut.decode(labelled.supervised)


def test_labels_by_segments(tmp_path: Path) -> None:
    cut = tokenizer(tmp_path, ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"])
    labelled = label_sample(ms_swift.TEMPLATES["qwen2_vl"], [*ROUND, *AGAIN], cut)
    assert text_of_labels(labelled, cut) == "A cat.<|im_end|>\nYes.<|im_end|>\n"
    assert labelled.ids.count(MEDIUM_ID) == 1
    factory = label_sample(llama_factory.TEMPLATES["qwen2_vl"], [*ROUND, *AGAIN], cut)
    assert text_of_labels(factory, cut) == "A cat.<|im_end|>\nYes.<|im_end|>\n"
    assert factory.ids == labelled.ids


def test_llava_rounds_with_bos(tmp_path: Path) -> None:
    cut = tokenizer(tmp_path, ["<s>", "</s>"], bos="<s>", eos="</s>", adds_bos=True)
    labelled = label_sample(llava.VICUNA_V1, [*ROUND, *AGAIN], cut)
    assert labelled.mismatch is None
    # One byte a token: "ASSISTANT: " is cut two tokens before its end, as the code takes off for
    # BOS and for a blank that sentencepiece would have joined to the answer's first word.
    assert text_of_labels(labelled, cut) == " A cat.</s> Yes.</s>"


def test_llava_rounds_with_sentencepiece(tmp_path: Path) -> None:
    """What LLaVA was made for: BOS added, ``</s>`` one token, a blank before each stretch."""
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(f"{rendered(llava.VICUNA_V1, *ROUND, *AGAIN)}\nA cat. Yes. Who? Sure?\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=110,
        model_type="bpe",
        # As in Llama's model: the blank behind "ASSISTANT:" is a token that the mask counts on.
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    settings = '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "unk_token": "<unk>"}'
    (tmp_path / "tokenizer_config.json").write_text(settings)
    cut = load_tokenizer(tmp_path)
    labelled = label_sample(llava.VICUNA_V1, [*ROUND, *AGAIN, *AGAIN], cut)
    assert labelled.mismatch is None
    assert text_of_labels(labelled, cut).replace(" ", "") == "Acat.</s>Yes.</s>Yes.</s>"


@pytest.mark.parametrize(
    ("rounds", "whole", "counted"), [(1, 104, 102), (5, 399, 385)], ids=["1166", "1706"]
)
def test_tokenization_mismatch_is_k_times_rounds_minus_one(
    rounds: int, whole: int, counted: int, tmp_path: Path
) -> None:
    """A tokenizer without BOS that cuts ``</s>`` into three, as in LLaVA#1166 and #1706."""
    # A token for the long system prompt, so that there is room for a question.
    cut = tokenizer(tmp_path, ["</", VICUNA.format("user", "user")])
    assert len(cut.encode("</s>")) == 3
    empty = [Turn("user", ("",)), Turn("assistant", ("",))] * rounds
    missing = whole - len(label_sample(llava.VICUNA_V1, empty, cut).ids)
    turns = [Turn("user", ("q" * missing,)), *empty[1:]]
    labelled = label_sample(llava.VICUNA_V1, turns, cut)
    assert labelled.mismatch == (counted, whole)
    assert whole - counted == 3 * rounds - 1
    assert set(labelled.labels) == {IGNORED}


def xcomposer_tokenizer(path: Path, *, end: int = 92542) -> Tokenizer:
    """``assistant`` is two tokens, as in the stock tokenizer."""
    tokens: list[Any] = [("<s>", 1), ("</s>", 2), ("ass", 3), ("istant", 4)]
    tokens += [("[UNUSED_TOKEN_145]", end), ("[UNUSED_TOKEN_146]", 92543)]
    return tokenizer(path, tokens, bos="<s>", eos="</s>", adds_bos=True)


def test_xcomposer_labels(tmp_path: Path) -> None:
    cut = xcomposer_tokenizer(tmp_path)
    labelled = label_sample(xcomposer.CONV2TEXT, [*ROUND, *AGAIN], cut)
    # The line break after the first answer's end falls to the next question.
    assert text_of_labels(labelled, cut) == ("A cat.[UNUSED_TOKEN_145]Yes.[UNUSED_TOKEN_145]\n</s>")


def test_xcomposer_learns_the_question_after_a_system_turn(tmp_path: Path) -> None:
    cut = xcomposer_tokenizer(tmp_path)
    text = text_of_labels(label_sample(xcomposer.CONV2TEXT, [SYSTEM, *AGAIN], cut), cut)
    assert "Sure?" in text
    assert "Yes." not in text


def test_xcomposer_learns_the_question_too_without_its_end_token(tmp_path: Path) -> None:
    """Its id is written into the code as a number; another one is never found."""
    cut = xcomposer_tokenizer(tmp_path, end=92000)
    labelled = label_sample(xcomposer.CONV2TEXT, ROUND, cut)
    assert xcomposer.END_ID not in labelled.ids
    assert "Who?" in text_of_labels(labelled, cut)


# Cuts.


@pytest.mark.parametrize(
    ("n_images", "max_length", "left"), [(2, 2048, 0), (4, 4096, 0), (2, 8192, 11)]
)
def test_xcomposer_cuts_every_label(
    n_images: int, max_length: int, left: int, tmp_path: Path
) -> None:
    """Images of 1225 tokens each, as of XComposer2-VL: InternLM-XComposer#227."""
    cut = xcomposer_tokenizer(tmp_path)
    # "yes, 3 x", the end, a line break and </s>: eleven tokens.
    turns = [Turn("user", (IMAGE,) * n_images + ("Who?",)), Turn("assistant", ("yes, 3 x",))]
    labelled = label_sample(xcomposer.CONV2TEXT, turns, cut)
    assert len(labelled.supervised) == 11
    sizes = [1225] * n_images
    assert count_after_cut(xcomposer.CONV2TEXT, labelled, sizes, max_length) == left


def test_llava_cuts_behind_its_images(tmp_path: Path) -> None:
    cut = tokenizer(tmp_path, ["<s>", "</s>"], bos="<s>", eos="</s>", adds_bos=True)
    labelled = label_sample(llava.VICUNA_V1, ROUND, cut)
    whole = len(labelled.ids) - 1 + 576

    def left(length: int) -> int | None:
        return count_after_cut(llava.VICUNA_V1, labelled, [576], length)

    assert left(whole) == len(labelled.supervised)
    assert left(whole - 2) == len(labelled.supervised) - 2
    assert left(600) == 0
    assert count_after_cut(llava.VICUNA_V1, labelled, [], 600) is None


def test_ms_swift_keeps_images_and_cuts_text(tmp_path: Path) -> None:
    template = ms_swift.TEMPLATES["qwen3_vl"]
    cut = tokenizer(tmp_path, ["<|im_start|>", "<|im_end|>", "<|image_pad|>"])
    labelled = label_sample(template, ROUND, cut)
    n_text = len(labelled.ids) - 1
    n_learned = len(labelled.supervised)

    def left(length: int, strategy: str) -> int | None:
        return count_after_cut(template, labelled, [100], length, strategy)

    assert left(100 + n_text, "right") == n_learned
    assert left(100 + n_text - n_learned, "right") == 0
    assert left(100 + n_text - n_learned, "left") == n_learned
    assert left(100, "left") == 0
    assert left(100, "delete") is None
