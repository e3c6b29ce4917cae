"""Text that every tokenizer and every wire format takes."""

from __future__ import annotations


def clean(text: str) -> str:
    """Return the text with a question mark for each lone surrogate.

    JSON may carry half of a surrogate pair, which Python keeps in a string but which has no UTF-8
    form, so that tokenizers and HTTP clients fail on it.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
