"""The benchmarks' rules against what the harnesses' own code made of the same answers."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from vlmserve.evals.benchmarks import blink, chartqa, docvqa, mmmu, mvbench, ocrbench
from vlmserve.evals.benchmarks.letters import (
    letter_by_form,
    letter_by_matching,
    letter_of_mmbench,
)
from vlmserve.evals.benchmarks.open_answers import is_open_answer_right

GOLDEN: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "benchmark_scores.json").read_text(encoding="utf-8")
)


def _blink(answer: str, target: str) -> float:
    return blink.score({"answer": target}, [answer])["acc"]


def _mvbench(answer: str, letter: str) -> float:
    return mvbench.score({"letter": letter}, [answer])["acc"]


def _chartqa(answer: str, target: str) -> float:
    return chartqa.score({"answer": target}, [answer])["relaxed_accuracy"]


def _docvqa(answer: str, targets: list[str]) -> float:
    return docvqa.score({"answers": targets}, [answer])["anls"]


def _ocrbench(answer: str, targets: list[str], kind: str) -> float:
    return ocrbench.score({"answer": targets, "question_type": kind}, [answer])["acc"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("letter_by_form", letter_by_form),
        ("letter_of_mmbench", letter_of_mmbench),
        ("letter_by_matching", letter_by_matching),
        ("mvbench", _mvbench),
        ("blink", _blink),
        ("relaxed_accuracy", _chartqa),
        ("anls", _docvqa),
        ("ocrbench", _ocrbench),
    ],
)
def test_answers_are_judged_as_the_harness_judges_them(
    name: str, ours: Callable[..., str | float]
) -> None:
    cases = GOLDEN[name]
    assert len(cases) > 100
    differing = [
        (*given, theirs)
        for *given, theirs in cases
        if (
            ours(*given) != theirs if isinstance(theirs, str) else abs(ours(*given) - theirs) > 1e-6
        )
    ]
    assert differing == []


def _rambling(rng: random.Random, choices: Mapping[str, str]) -> str:
    letter, other = rng.choice(list(choices)), rng.choice(list(choices))
    form = rng.choice(
        [
            "{l}", "({l})", "{l}.", "The answer is {l}", "({l}) not ({o})", "{l} or {o}",
            "it must be {t} as far as one can see", "{t}",
            "the picture shows neither {t} nor {u}, I am sure",
            "{l}. {t}", "Because of {t} I take ({l}).",
        ]
    )  # fmt: skip
    return form.format(l=letter, o=other, t=choices[letter], u=choices[other])


def test_mmmu_choices_are_read_as_lm_eval_reads_them() -> None:
    reference = pytest.importorskip("lm_eval.tasks.mmmu.utils")
    rng = random.Random(7)  # noqa: S311
    texts = ["a dog", "12 N", "the red one", "Paris", "none of these", "$y = 2$"]
    n_found = 0
    for _ in range(500):
        choices = dict(zip("ABCDE", rng.sample(texts, rng.choice([2, 4, 5])), strict=False))
        answer = _rambling(rng, choices)
        letter = mmmu.find_letter(answer, choices)
        if letter == "":
            continue  # it draws a letter by lot
        n_found += 1
        assert letter == reference.parse_multi_choice_response(answer, list(choices), choices)
    assert n_found > 300
    assert mmmu.find_letter("I cannot tell", {"A": "a dog", "B": "a cat"}) == ""


def test_mmmu_open_answers_are_judged_as_lm_eval_judges_them() -> None:
    reference = pytest.importorskip("lm_eval.tasks.mmmu.utils")
    rng = random.Random(8)  # noqa: S311
    targets = ["8.4", "1,200", "Mercantilism", "x", "24/7", "-3", "y=2x+1", "0.5"]
    forms = [
        "{t}", "The answer is {t}.", "so we get {t}\nthus = {t}", "{t} or {o}", "about {o}",
        "It could be {o}.\nFinal answer {t}", "= {t}", "is :", "", "1e3", "The result is\n{t}.",
        "8.404",
    ]  # fmt: skip
    n_right = 0
    for _ in range(500):
        target, other = rng.choice(targets), rng.choice(targets)
        answer = rng.choice(forms).format(t=target, o=other)
        theirs = reference.eval_open(target, reference.parse_open_response(answer))
        assert is_open_answer_right(answer, [target]) == theirs, (answer, target)
        n_right += theirs
    assert 100 < n_right < 450


def test_one_of_several_open_answers_is_enough() -> None:
    doc = {"question_type": "open", "answer": "['24/7', '3.429']"}
    assert mmmu.score(doc, ["The ratio is 3.429"]) == {"acc": 1.0}
    assert mmmu.score(doc, ["24/7"]) == {"acc": 1.0}
    assert mmmu.score(doc, ["3.5"]) == {"acc": 0.0}
