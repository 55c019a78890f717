"""Choices of a question: their letters, and how they are listed."""

from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any


def letter_choices(texts: Iterable[str]) -> dict[str, str]:
    """Give choices the letters A, B, ... in their order."""
    return dict(zip(ascii_uppercase, texts, strict=False))


def choices_of_columns(doc: Mapping[str, Any], letters: str = ascii_uppercase) -> dict[str, str]:
    """Take the choices from columns A, B, ...; those that are empty or ``nan`` are none."""
    return {
        letter: str(doc[letter]) for letter in letters if doc.get(letter) not in {None, "", "nan"}
    }


def list_choices(choices: Mapping[str, str], form: str = "{letter}. {text}") -> str:
    """List choices, a line each."""
    return "\n".join(form.format(letter=letter, text=text) for letter, text in choices.items())
