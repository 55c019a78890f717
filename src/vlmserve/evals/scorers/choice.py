"""Multiple choice: the letter that an answer picks."""

import re
import unicodedata
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator
from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer, shorten

# Latin letters, digits, and both kinds of apostrophe; other scripts may put a letter next to words.
_WORD = r"A-Za-z\u00c0-\u024f0-9_'\u2019"
_END = rf"(?![{_WORD}])"
_STATEMENTS = (
    r"\b(?i:answer)(?:\s+(?i:is))?\s*[:=]?\s*(?i:option|choice)?\s*",
    r"\b(?i:option|choice)(?:\s+(?i:is))?\s*[:=]?\s*",
)
_MARKS = " \t\r\n()[]{}<>*_`'\".:,;"


class MultipleChoice(Scorer):
    """1 where answer and target pick the same letter, else 0.

    The letter is found by the first of these rules that finds one; nothing is ever guessed:

    1. the whole text is a letter, with or without marks around it (``b``, ``(B)``, ``**B.**``);
    2. the last ``answer is B``, ``Answer: (B)``, ``answer: option B``; else the last ``option B``,
       ``choice is B``;
    3. the text begins with a capital and a mark (``B. a dog``, ``(B) a dog``, ``B) a dog``);
    4. the only letter that stands in brackets;
    5. the only capital that stands alone; ``A`` and ``I`` in front of a word are words.

    Full-width letters and brackets are as the others (NFKC). A text without a letter is a wrong
    answer.
    """

    name: ClassVar[str] = "multiple_choice"
    about: ClassVar[str] = "the same letter, found in the text by stated rules, never guessed"
    source: ClassVar[str] = "MMMU eval_utils.parse_multi_choice_response without its random guess"

    choices: str = "ABCDEFGHIJ"
    """The letters that there are."""

    by: Literal["text", "logprob"] = "text"
    """Whether the letter is what the model says, or which of ``choices`` it finds likeliest."""

    @field_validator("choices")
    @classmethod
    def _letters(cls, choices: str) -> str:
        if not re.fullmatch("[A-Z]{2,26}", choices) or len(set(choices)) < len(choices):
            raise ValueError("different capital letters are expected, such as ABCD")
        return choices

    @model_validator(mode="after")
    def _letters_are_stated(self) -> "MultipleChoice":
        if self.by == "logprob" and "choices" not in self.model_fields_set:
            raise ValueError("by: logprob needs choices: the letters that every question has")
        return self

    @property
    @override
    def answers_to_choose(self) -> tuple[str, ...]:
        return tuple(self.choices) if self.by == "logprob" else ()

    @override
    def score(self, answer: str, target: str) -> float:
        picked = self.find(answer)
        return float(picked is not None and picked == self.find(target))

    @override
    def check_target(self, target: str) -> None:
        if self.find(target) is None:
            raise ValueError(f"picks no letter of {self.choices}: {shorten(target)}")

    def find(self, text: str) -> str | None:
        """Find the letter that a text picks; ``None`` where it picks none or several."""
        letters = self.choices
        text = unicodedata.normalize("NFKC", text)
        bare = text.strip(_MARKS)
        if len(bare) == 1 and bare.upper() in letters:
            return bare.upper()
        for stated in _STATEMENTS:
            if found := re.findall(stated + rf"[(\[*]*([{letters}]){_END}", text):
                return str(found[-1])
        if lead := re.match(rf"[\s(\[*]*([{letters}])\s*[)\].:,*\n]", text):
            return lead[1]
        for pattern in (
            rf"[(\[]([{letters}])[)\]]",
            rf"(?<![{_WORD}])([{letters}]){_END}(?!(?<=[AI])\s+\w)",
        ):
            if once := set(re.findall(pattern, text)):
                return str(once.pop()) if len(once) == 1 else None
        return None
