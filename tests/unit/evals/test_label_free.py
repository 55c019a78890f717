"""What is measured of an answer without knowing the right one."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmserve.chat import Completion, SamplingParams, Usage
from vlmserve.config.suite_entries import AMOUNT_CHECKS, ScorerConfig
from vlmserve.errors import ConfigError
from vlmserve.evals.label_free.refusal_patterns import PATTERNS
from vlmserve.evals.label_free.registry import CHECKS, create_check
from vlmserve.evals.label_free.repetition import repeated_share
from vlmserve.evals.samples import Turn, create_sample

Measure = Callable[..., float]


def measure(name: str, text: str, question: str = "What is it?", **options: Any) -> float:
    check = create_check(ScorerConfig(name=name, **options), place="suite.yaml: tasks.0.check")
    sample = create_sample([Turn("user", (question,))], "", SamplingParams())
    return check.measure(completion(text), sample)


def completion(text: str, **changes: Any) -> Completion:
    usage = Usage(prompt_tokens=30, completion_tokens=7)
    return Completion(**{"text": text, "finish_reason": "stop", "usage": usage, **changes})


def test_every_check_says_what_it_measures_and_where_the_rule_is_from() -> None:
    for name, check in CHECKS.items():
        assert check.name == name
        assert check.about
        assert check.source
    assert {name for name, check in CHECKS.items() if not check.is_fraction} == AMOUNT_CHECKS


@pytest.mark.parametrize(
    ("text", "is_invalid"),
    [
        ('{"total": 12}', 0.0),
        ("[1, 2]\n", 0.0),
        ("12", 0.0),
        ('{"total": 12', 1.0),
        ("{'total': 12}", 1.0),
        ('{"total": NaN}', 1.0),
        ("", 1.0),
        ('```json\n{"total": 12}\n```', 1.0),
        ("[" * 100_000, 1.0),
    ],
)
def test_invalid_json(text: str, is_invalid: float) -> None:
    assert measure("invalid_json", text) == is_invalid


def test_json_in_a_fence_counts_where_it_may() -> None:
    assert measure("invalid_json", 'Here:\n```json\n{"a": 1}\n```', fenced=True) == 0.0
    assert measure("invalid_json", "Here:\n```json\n{a: 1}\n```", fenced=True) == 1.0


def test_json_of_a_shape() -> None:
    schema = {
        "type": "object",
        "required": ["total"],
        "properties": {"total": {"$ref": "#/$defs/money"}},
        "$defs": {"money": {"type": "number", "minimum": 0}},
    }

    assert measure("invalid_json", '{"total": 12}', schema=schema) == 0.0
    assert measure("invalid_json", '{"total": -1}', schema=schema) == 1.0
    assert measure("invalid_json", '{"sum": 12}', schema=schema) == 1.0
    assert measure("invalid_json", "{}", schema=True) == 0.0


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, r"tasks\.0\.check\.schema.*no JSON Schema: .*type"),
        ({"$ref": "https://example.org/schema.json"}, "refers to https://example.org/schema.json"),
        ({"properties": {"a": {"$ref": "other.json#/b"}}}, "nothing outside of it is read"),
    ],
)
def test_bad_schemas_are_refused(schema: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        measure("invalid_json", "{}", schema=schema)


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        # The paper's own rule: a phrase of at least two words, three times, at the end.
        ("It is red. It is red. It is red.", 1.0),
        ("It is red. It is red.", 0.0),
        ("no no no", 0.0),
        ("so on and on and on and on", 1.0),
        ("on and on and on and on it goes", 0.0),
        # Cut by the length limit in the middle of the phrase.
        ("The cat sat. The cat sat. The cat sat. The cat", 1.0),
        ("!" * 40, 1.0),
        ("0" * 60, 1.0),
        ("红色的圆" * 3, 1.0),
        ("红色的圆和蓝色的方块。", 0.0),
        ("THE END the end The End", 1.0),
        ("[[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6]]", 0.0),
        ("The total is 12.50 EUR.", 0.0),
        ("", 0.0),
    ],
)
def test_repetition(text: str, repeats: float) -> None:
    assert measure("repetition", text) == repeats


def test_repetition_by_the_share_of_ngrams() -> None:
    # seq-rep-n of Welleck et al.: one minus unique n-grams over all n-grams.
    assert repeated_share(["a", "b", "a", "b", "a", "b"], 2) == pytest.approx(1 - 2 / 5)
    assert repeated_share(["a"], 2) == 0.0
    prose = "the cat sat on the mat and then the cat sat on the mat again today"

    assert measure("repetition", prose) == 0.0
    assert measure("repetition", prose, max_repeated_share=0.2) == 1.0
    assert measure("repetition", prose, max_repeated_share=0.3) == 0.0


def test_empty_and_cut_answers() -> None:
    sample = create_sample([Turn("user", ("?",))], "", SamplingParams())
    cut = create_check(ScorerConfig(name="cut"), place="x")

    assert measure("empty", " \n") == 1.0
    assert measure("empty", "0") == 0.0
    assert cut.measure(completion("a", finish_reason="length"), sample) == 1.0
    assert cut.measure(completion("a"), sample) == 0.0


def test_amounts() -> None:
    sample = create_sample([Turn("user", ("?",))], "", SamplingParams())
    latency = create_check(ScorerConfig(name="latency_ms"), place="x")

    assert measure("answer_tokens", "x") == 7
    assert measure("prompt_tokens", "x") == 30
    assert latency.measure(completion("x", latency_s=0.25), sample) == 250
    with pytest.raises(ValueError, match="nobody measured"):
        latency.measure(completion("x"), sample)


REFUSALS = {
    "en": "I\u2019m sorry, but I can\u2019t help with that.",
    "de": "Es tut mir leid, aber ich kann diese Person nicht identifizieren.",
    "fr": "Je suis désolé, mais je ne peux pas vous aider.",
    "es": "Lo siento, pero no puedo ayudarte con eso.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "it": "Mi dispiace, ma non posso aiutarti con questa richiesta.",
    "nl": "Sorry, ik kan je daar niet mee helpen.",
    "pl": "Przepraszam, ale nie mogę pomóc w tej sprawie.",
    "tr": "Üzgünüm, bu konuda yardımcı olamam.",
    "ru": "Извините, я не могу помочь с этим запросом.",
    "ar": "عذرًا، لا أستطيع المساعدة في ذلك.",
    "hi": "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
    "zh": "抱歉，我无法提供这方面的帮助。",
    "ja": "申し訳ありませんが、そのご質問にはお答えできません。",
    "ko": "죄송하지만 해당 요청에 대해서는 도움을 드릴 수 없습니다.",
}
ANSWERS = (
    "The total is 12.50 EUR.",
    "The sign says that visitors cannot enter.",
    "Sorry sight: the roof has collapsed.",
    "The man is unable to lift the box.",
    "Das Schild sagt, dass man hier nicht parken kann.",
    "Le texte ne mentionne pas de date.",
    "No se ve ninguna persona en la imagen.",
    "图中有一只狗，看不到人。",
    "画像には犬が写っています。人は写っていません。",
    "사진에 사람이 없습니다.",
    "На изображении нет людей.",
    "I can see a dog and a cat.",
)


def test_refusals_are_found_in_every_language() -> None:
    assert REFUSALS.keys() == PATTERNS.keys()
    assert {code: measure("refusal", text) for code, text in REFUSALS.items()} == dict.fromkeys(
        REFUSALS, 1.0
    )


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_no_refusals(text: str) -> None:
    assert measure("refusal", text) == 0.0


def test_a_refusal_begins_an_answer() -> None:
    late = f"{'A long description. ' * 20}I cannot help with the rest."

    assert measure("refusal", late) == 0.0
    assert measure("refusal", late, within=1000) == 1.0
    assert measure("refusal", "Out of scope, friend.") == 0.0
    assert measure("refusal", "Out of scope, friend.", patterns=["out of scope"]) == 1.0
    with pytest.raises(ConfigError, match="no regular expression"):
        measure("refusal", "x", patterns=["("])


ENGLISH = "What is the total amount of this invoice, please?"
GERMAN = "Der Gesamtbetrag der Rechnung beträgt zwölf Euro und fünfzig Cent."


@pytest.mark.parametrize(
    ("question", "text", "options", "is_other"),
    [
        (ENGLISH, GERMAN, {}, 1.0),
        (ENGLISH, "The invoice has a total amount of twelve euros and fifty cents.", {}, 0.0),
        (ENGLISH, "这张发票的总金额是十二欧元五十分。", {}, 1.0),
        ("Wie hoch ist der Gesamtbetrag dieser Rechnung?", GERMAN, {}, 0.0),
        # Nothing to tell a language by.
        (ENGLISH, "12.50", {}, 0.0),
        (ENGLISH, "EUR", {}, 0.0),
        ("12?", GERMAN, {}, 0.0),
        (ENGLISH, GERMAN, {"expected": "de"}, 0.0),
        (ENGLISH, GERMAN, {"expected": "fr"}, 1.0),
        # One language to this check.
        (ENGLISH, "Ova slika prikazuje psa koji trči po travi.", {"expected": "sr"}, 0.0),
        (ENGLISH, "这张发票的总金额是十二欧元五十分。", {"expected": "zh"}, 0.0),
    ],
)
def test_other_languages(
    question: str, text: str, options: dict[str, Any], is_other: float
) -> None:
    assert measure("other_language", text, question, **options) == is_other


def test_unknown_checks_options_and_languages_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.0\.check: no check 'refusals'") as caught:
        measure("refusals", "x")
    assert caught.value.hint == "did you mean 'refusal'?"
    with pytest.raises(ConfigError, match="no such option; it has: schema, fenced"):
        measure("invalid_json", "x", strict=True)
    with pytest.raises(ConfigError, match="no language 'klingon'"):
        measure("other_language", "x", expected="klingon")


def test_the_guide_lists_every_check_with_its_options() -> None:
    rows = {}
    guide = Path(__file__).parents[3] / "evals" / "README.md"
    _, _, table = guide.read_text().partition("| check | ")
    for line in table.partition("\n\n")[0].splitlines():
        if line.startswith("| `"):
            _, names, _, options, _ = line.split("|")
            for name in re.findall(r"`(\w+)`", names):
                rows[name] = set(re.findall(r"`(\w+)`", options))

    assert rows == {
        name: {field.alias or key for key, field in check.model_fields.items()}
        for name, check in CHECKS.items()
    }


def test_options_are_part_of_what_is_compared() -> None:
    check = create_check(ScorerConfig(name="invalid_json", schema={"type": "object"}), place="x")
    sample = create_sample([Turn("user", ("?",))], "", SamplingParams())
    check.measure(completion("{}"), sample)

    kept = json.loads(json.dumps(check.model_dump(mode="json", by_alias=True)))
    assert kept == {"schema": {"type": "object"}, "fenced": False}
