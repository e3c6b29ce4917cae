"""Questions in words written otherwise: option letters, label names and names of persons."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from rttc_graph.state import Sample
from rttc_graph.support.thinking import answer_behind
from rttc_graph.views.view import View, as_it_is, renamed_sample

__all__ = ("label_view", "name_view", "option_view", "order_view")


def order_view(query: str, samples: Sequence[Sample], number: int) -> View | None:
    """Return a view with the samples in another order; the first one has the nearest one last."""
    order = list(samples)
    if len(order) < 2:
        return None
    if number == 1:
        order.reverse()
    else:
        random.Random(f"order {number}").shuffle(order)
    return View(kind="order", number=number, query=query, samples=tuple(order), undo=as_it_is)


_OPTION = re.compile(
    r"(?m)^(?P<head>[ \t]*\(?)(?P<letter>[A-Z])(?P<tail>[).:][ \t]+)(?P<text>\S.*)$"
)
_CHOSEN = re.compile(
    r"^(?P<lead>\W{0,4}(?:(?:the\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*\W{0,4})?)"
    r"(?P<letter>[A-Z])(?![\w'\u2019])",
    re.IGNORECASE,
)


def option_view(query: str, samples: Sequence[Sample], number: int) -> View | None:
    """Return a view with the texts of options under other letters.

    Each question has its own options, so each is permuted on its own; samples without options stay
    as they are.
    """
    asked = _permuted(query, number)
    if asked is None:
        return None
    back = {new: old for old, new in asked[1].items()}
    shown: list[Sample] = []
    for one in samples:
        found = _permuted(one["question"], number)
        if found is None:
            shown.append(one)
        else:
            text, letters = found
            answer = _with_letter(one["answer"], letters)
            shown.append(renamed_sample(one, text, one["answer"] if answer is None else answer))

    def undo(text: str) -> str | None:
        return _with_letter(text, back)

    return View(kind="options", number=number, query=asked[0], samples=tuple(shown), undo=undo)


def _permuted(question: str, number: int) -> tuple[str, dict[str, str]] | None:
    """Return a question with permuted options, and the new letter of each; `None` without any."""
    options = list(_OPTION.finditer(question))
    letters = [option["letter"] for option in options]
    wanted = [chr(ord("A") + place) for place in range(len(letters))]
    if len(letters) < 2 or letters != wanted:
        return None
    places = list(range(len(letters)))
    if len(places) <= number or number > 1:
        random.Random(f"options {number} {len(places)}").shuffle(places)
    if places == sorted(places):
        places = [*places[1:], places[0]]
    # the option at place n now has the text that was at places[n]
    moved = {letters[old]: letters[new] for new, old in enumerate(places)}
    lines = iter(options[old]["text"] for old in places)
    text = _OPTION.sub(
        lambda one: f"{one['head']}{one['letter']}{one['tail']}{next(lines)}", question
    )
    return text, moved


def _with_letter(answer: str, letters: Mapping[str, str]) -> str | None:
    """Return an answer with the letter that it chooses renamed; `None` if it chooses none."""
    chosen = _CHOSEN.match(answer)
    if chosen is None or chosen["letter"].upper() not in letters:
        return None
    new = letters[chosen["letter"].upper()]
    return f"{answer[: chosen.start('letter')]}{new}{answer[chosen.end('letter') :]}"


_LONGEST_LABEL = 60
"""Characters of an answer from which on it is no label."""

_LABELS = tuple(f"class {chr(ord('A') + place)}" for place in range(26))


def label_view(query: str, samples: Sequence[Sample], number: int) -> View | None:
    """Return a view with the labels that samples answer with under other names.

    The new names say nothing, so that only the samples in the prompt tell what they mean.

    Args:
        query: The question, in which labels are renamed too where they stand.
        samples: Its samples; their answers are taken for labels if they are short, differ in words,
            and at least one comes twice.
        number: Number of the view.
    """
    answers = [answer_behind(one["answer"]).strip() for one in samples]
    labels = sorted(set(answers))
    repeated = 2 <= len(labels) < len(answers)
    short = all(0 < len(label) <= _LONGEST_LABEL and _is_words(label) for label in labels)
    if not repeated or not short or len(labels) > len(_LABELS):
        return None
    names = list(_LABELS[: len(labels)])
    random.Random(f"labels {number} {len(labels)}").shuffle(names)
    renamed = dict(zip(labels, names, strict=True))
    back = {name.casefold(): label for label, name in renamed.items()}

    def undo(text: str) -> str | None:
        said = " ".join(text.split()).strip(" .!\"'*`").casefold()
        return back.get(said)

    return View(
        kind="labels",
        number=number,
        query=_replaced(query, renamed),
        samples=tuple(
            renamed_sample(one, _replaced(one["question"], renamed), renamed[answer])
            for one, answer in zip(samples, answers, strict=True)
        ),
        undo=undo,
    )


def _is_words(label: str) -> bool:
    """Tell whether a text has letters, more than one, and is one line."""
    return "\n" not in label and sum(letter.isalpha() for letter in label) > 1


_NAMES = (
    *("Abel", "Bruno", "Carla", "Dario", "Edda", "Felix", "Greta", "Hanno", "Ida", "Jonas"),
    *("Klara", "Livia", "Milo", "Nora", "Otto", "Paula", "Rosa", "Silas", "Thea", "Viktor"),
    *("Alma", "Bodo", "Cora", "Enno", "Flora", "Gustav", "Hedda", "Ivo", "Jule", "Kuno"),
)
"""Names that are given instead; a text that has one of them keeps it."""

_NO_NAMES = frozenset(
    (
        *("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
        *("january", "february", "march", "april", "may", "june", "july", "august"),
        *("september", "october", "november", "december", "english", "french", "german"),
    )
)

_WORD = re.compile(r"(?<![\w'\u2019])[A-Z][a-z]{2,14}(?![\w])")
_INSIDE = re.compile(r"[a-z0-9,;]['\"\u201d]?[ \t]+$")
"""End of a text in the middle of a sentence."""


def name_view(query: str, samples: Sequence[Sample], number: int) -> View | None:
    """Return a view with the names in the question and its samples exchanged for others.

    A name is a capitalised word that stands somewhere in the middle of a sentence.
    """
    texts = [query, *(text for one in samples for text in (one["question"], one["answer"]))]
    names = _names_in(texts)
    if not any(name in names for name in _WORD.findall(query)):
        return None
    there = {word for text in texts for word in _WORD.findall(text)}
    fresh = [name for name in _NAMES if name not in there]
    random.Random(f"names {number}").shuffle(fresh)
    renamed = dict(zip(names, fresh, strict=False))  # more than thirty: the others stay
    back = {new: old for old, new in renamed.items()}

    def undo(text: str) -> str | None:
        return _replaced(text, back)

    return View(
        kind="names",
        number=number,
        query=_replaced(query, renamed),
        samples=tuple(
            renamed_sample(
                one, _replaced(one["question"], renamed), _replaced(one["answer"], renamed)
            )
            for one in samples
        ),
        undo=undo,
    )


def _names_in(texts: Iterable[str]) -> list[str]:
    """Return the names in texts, in the order in which they come."""
    found: dict[str, None] = {}
    for text in texts:
        for word in _WORD.finditer(text):
            inside = _INSIDE.search(text[max(0, word.start() - 8) : word.start()])
            if inside and word[0].casefold() not in _NO_NAMES:
                found[word[0]] = None
    return list(found)


def _replaced(text: str, names: Mapping[str, str]) -> str:
    """Return a text with whole words or phrases replaced, all at once."""
    if not names:
        return text
    longest = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
    return pattern.sub(lambda found: names[found[0]], text)
