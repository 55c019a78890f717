"""Texts of models and data sets made safe to look at: nothing in them is invisible or turns text.

A right-to-left override makes ``yes`` of what a program read as ``sey`` (Boucher and Anderson,
"Trojan Source", 2021), and an answer that ends in a zero-width space looks right and is scored
wrong. Both are shown by name.
"""

import re
import unicodedata

# Joiners are a part of words and emoji; the rest have shapes of their own (Unicode 17, ch. 23.2).
_SHOWN_FORMATS = frozenset(
    "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
    "\U000110bd\U000110cd"
)
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_PLAIN = frozenset("\n\t")


def visible(text: str) -> str:
    """Name each character that is not seen, such as ``⟨U+202E⟩``; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in re.sub(r"\r\n?", "\n", text))


def _visible(character: str) -> str:
    if character in _PLAIN or character in _SHOWN_FORMATS:
        return character
    if unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return f"⟨U+{ord(character):04X}⟩"
    return character
