"""Answers in another language than they should be in."""

from collections import Counter
from functools import cache
from typing import Any, ClassVar

from pydantic import Field, field_validator
from typing_extensions import override

from vlmserve.chat import Completion
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.samples import Sample

# Standards and registers of one language, which no short text tells apart.
_VARIANTS = {
    **dict.fromkeys(("bs", "hr", "sr", "sh", "srl"), "hbs"),
    **dict.fromkeys(("nb", "nn"), "no"),
    **dict.fromkeys(("wuu", "yue", "hak", "gan", "lzh", "nan"), "zh"),
    **dict.fromkeys(("id", "ms"), "ms"),
    "pcm": "en",
}
_NONE = "none"


class OtherLanguage(AnswerCheck):
    """1 for an answer in another language than ``expected``, or than the question.

    What cannot be told is no fault: an answer or a question whose language is not sure, as short
    ones, numbers and code are, scores 0. Bosnian, Croatian and Serbian count as one language, as do
    the Norwegian standards, the Chinese languages, and Malay and Indonesian.
    """

    name: ClassVar[str] = "other_language"
    about: ClassVar[str] = "in another language than the question, or than `expected`"
    source: ClassVar[str] = (
        "py3langid, after M. Lui and T. Baldwin 2012, langid.py: An Off-the-shelf Language "
        "Identification Tool (ACL demos, P12-3005); its model comes with the package"
    )

    expected: str | None = None
    """ISO 639 code of the language that answers should be in; that of the question when unset."""

    confidence: float = Field(default=0.8, gt=0.5, lt=1.0)
    """Probability from which a language is sure."""

    @field_validator("expected")
    @classmethod
    def _is_known(cls, code: str | None) -> str | None:
        if code is not None and code not in (known := _identifier().labels):
            raise ValueError(f"no language {code!r}; known are {', '.join(sorted(known))}")
        return code

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        wanted = self._wanted(sample)
        found = identify_language(completion.text, self.confidence)
        return float(_NONE not in {wanted, found} and wanted != found)

    def _wanted(self, sample: Sample) -> str:
        if self.expected is not None:
            return _VARIANTS.get(self.expected, self.expected)
        asked = next(turn for turn in reversed(sample.turns) if turn.role == "user")
        words = "\n".join(part for part in asked.parts if isinstance(part, str))
        return identify_language(words, self.confidence)


def identify_language(text: str, confidence: float) -> str:
    """Tell a text's language.

    Returns:
        Its ISO 639 code, one for all variants of a language; ``none`` where none is as probable as
        ``confidence``, or the text is none of a language.
    """
    chances: Counter[str] = Counter()
    for code, chance in _identifier().rank(text):
        chances[_VARIANTS.get(code, code)] += chance
    code, chance = chances.most_common(1)[0]
    return _NONE if chance < confidence or code == "zxx" else code


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
