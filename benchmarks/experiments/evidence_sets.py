"""Sets of solved questions of many kinds, for a judge that sees samples.

Each set has samples, as a knowledge base would hold them, and questions to ask. Labels, numbers
and choices come from the data sets; sentences are written for the labels of banking77 and
clinc150, with invented prices, days and names; short facts and further sentences come from Python's
standard library, which is the same everywhere; the library's FAQ is invented.

Of each set with labels some are left out of the samples: their questions have no right answer
there, as those of users will.
"""

from __future__ import annotations

import errno
import http
import importlib
import inspect
import mimetypes
import os
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples
from rttc_graph.support.numbers import last_number

DATA = Path(__file__).parent.parent / "data"

_LEFT_OUT = 0.12
"""Share of the labels or facts that no sample has."""

_CANNOT_KNOW = 0.08
"""Share of the labels whose sentence says that nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSet:
    """Samples and questions of one domain and kind."""

    name: str
    kind: str
    """`labels`, `sentences`, `facts`, `numbers` or `choices`."""
    samples: tuple[NewSample, ...]
    asked: tuple[NewSample, ...]
    """With reference answers; some have no sample that says it."""


_SENTENCES = (
    "For {label} you need the form {code}, which costs {price} euros.",
    "Questions about {label} are answered by {name} within {n} working days.",
    "{Label} costs {price} euros a month and can be cancelled at any time.",
    "Go to Settings, {Label}, and confirm with the code that we send you; it is valid for {n} "
    "minutes.",
    "We settle {label} from Monday to {day}, between {n} am and {m} pm.",
    "Please call {phone} for everything that concerns {label}.",
    "{Label} takes {n} to {m} days, and longer before holidays.",
    "You can find {label} in the app under {place}; there is nothing to pay.",
    "{Label} is possible from the age of {age} and needs an ID.",
    "No, we do not offer {label} in {city}; in all other towns we do.",
    "Yes, {label} is included up to {price} euros a year.",
    "Write to {mail} and name your customer number; {label} is then done by {day}.",
    "At most {n} requests for {label} are free, each further one costs {price} euros.",
    "{Label} is handled by the team of {name} in {city}.",
    "{Label} was changed on {n} May: the limit is now {price} euros.",
    "Wait {n} hours and try again; if {label} still fails, {name} will help.",
)

OTHERWISE = "otherwise"
"""Key in a question's metadata: sentences on its subject that no sample has, as a model writes them
that knows none."""

_UNKNOWN = (
    "Nothing is known about {label} yet.",
    "We cannot say anything about {label}; please ask again in {n} weeks.",
    "There is no answer to questions about {label} at the moment.",
)

_NAMES = ("Mira Holt", "Jon Akande", "Ines Duarte", "Pavel Novak", "Aiko Mori", "Leo Brandt")
_CITIES = ("Lyon", "Ghent", "Porto", "Turin", "Graz", "Malmo", "Bergen")
_PLACES = ("Profile", "Payments", "Security", "Services", "Documents", "Help")
_DAYS = ("Thursday", "Friday", "Saturday")


def sentence_of(label: str, seed: int) -> str:
    """Return the sentence that answers questions of a label, with invented facts."""
    chance = random.Random(f"{seed} {label}")
    forms = _UNKNOWN if chance.random() < _CANNOT_KNOW else _SENTENCES
    n = chance.randrange(2, 9)
    return chance.choice(forms).format(
        label=label,
        Label=label[:1].upper() + label[1:],
        n=n,
        m=n + chance.randrange(1, 9),
        price=chance.choice((3, 4.5, 7, 12, 15, 19, 25, 40, 65, 120, 250)),
        age=chance.choice((14, 16, 18, 21)),
        code=f"{chance.choice('ABKT')}{chance.randrange(10, 99)}",
        name=chance.choice(_NAMES),
        day=chance.choice(_DAYS),
        phone=f"555 0{chance.randrange(100, 999)}",
        place=chance.choice(_PLACES),
        city=chance.choice(_CITIES),
        mail=f"{label.split()[0]}@example.org",
    )


def _by_label(rows: Sequence[NewSample]) -> dict[str, list[NewSample]]:
    found: dict[str, list[NewSample]] = {}
    for row in rows:
        found.setdefault(row.answer, []).append(row)
    return found


def labels_set(
    name: str, solved: Sequence[NewSample], asked: Sequence[NewSample], *, each: int, seed: int
) -> EvidenceSet:
    """Return labels as they are, with at most `each` samples of a label."""
    chance = random.Random(seed)
    kept = [rows for rows in _by_label(solved).values() if chance.random() >= _LEFT_OUT]
    samples = [row for rows in kept for row in rows[: chance.randrange(1, each + 1)]]
    return _set(name, "labels", samples, asked)


def sentences_set(
    name: str, solved: Sequence[NewSample], asked: Sequence[NewSample], *, each: int, seed: int
) -> EvidenceSet:
    """Return the same questions, answered by a sentence for each label, without their task."""

    def said(row: NewSample) -> NewSample:
        text = row.question.partition("\n")[2].partition(": ")[2] or row.question
        otherwise = [sentence_of(row.answer, seed + n) for n in (1, 2, 3)]
        metadata = {OTHERWISE: otherwise}
        answer = sentence_of(row.answer, seed)
        return replace(row, question=text, answer=answer, metadata=metadata)

    found = labels_set(name, solved, asked, each=each, seed=seed)
    samples, questions = [[said(row) for row in rows] for rows in (found.samples, found.asked)]
    return _set(name, "sentences", samples, questions)


def final_numbers(found: EvidenceSet, name: str) -> EvidenceSet:
    """Return a set of worked solutions with their last number as the whole answer."""

    def bare(row: NewSample) -> NewSample:
        return replace(row, answer=f"{last_number(row.answer)}")

    return _set(name, "numbers", [bare(r) for r in found.samples], [bare(r) for r in found.asked])


def _set(
    name: str, kind: str, samples: Sequence[NewSample], asked: Sequence[NewSample]
) -> EvidenceSet:
    """Return a set with its name as the domain of all rows."""
    return EvidenceSet(
        name=name,
        kind=kind,
        samples=tuple(replace(row, domain=name) for row in samples),
        asked=tuple(replace(row, domain=name) for row in asked),
    )


_MODULES = (
    *("os", "os.path", "shutil", "json", "math", "random", "statistics", "itertools", "functools"),
    *("re", "subprocess", "tempfile", "time", "textwrap", "heapq", "bisect", "urllib.parse"),
    *("html", "base64", "hashlib", "csv", "logging", "socket", "threading", "asyncio", "glob"),
    *("copy", "pickle", "inspect", "gc", "sys", "locale", "calendar", "colorsys", "operator"),
)
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)( ->.*)?$")


def python_set(questions: int, seed: int) -> EvidenceSet:
    """Return functions of the standard library with the first sentence of their documentation."""
    chance = random.Random(seed)
    entries = [entry for name in _MODULES for entry in _documented(importlib.import_module(name))]
    chance.shuffle(entries)
    ways = (
        "What is {name} of the module {module} good for?",
        "Tell me what {name} in {module} does.",
        "When would I call {module}'s {name}?",
    )
    samples = [
        NewSample(question=f"What does {module}.{name} do?", answer=text, domain="")
        for module, name, text in entries
        if chance.random() >= _LEFT_OUT
    ]
    asked = [
        NewSample(question=chance.choice(ways).format(name=n, module=m), answer=text, domain="")
        for m, n, text in entries[:questions]
    ]
    return _set("python", "sentences", samples, asked)


def _documented(module: ModuleType) -> Iterator[tuple[str, str, str]]:
    for name, found in sorted(vars(module).items()):
        if name.startswith("_") or isinstance(found, type) or not callable(found):
            continue
        paragraphs = (inspect.getdoc(found) or "").split("\n\n")
        texts = [" ".join(p.split()) for p in paragraphs]
        text = next((t for t in texts if t and not _SIGNATURE.match(t)), "")
        sentence = text.partition(". ")[0].rstrip(".") + "."
        if 20 <= len(sentence) <= 200:
            yield module.__name__, name, sentence


def codes_set(questions: int, seed: int) -> EvidenceSet:
    """Return short facts: status codes, errors of the system, media types, names of characters."""
    chance = random.Random(seed)
    entries = list(_codes())
    chance.shuffle(entries)
    samples = [
        NewSample(question=first, answer=text, domain="")
        for first, _, text in entries
        if chance.random() >= _LEFT_OUT
    ]
    asked = [NewSample(question=second, answer=text, domain="") for _, second, text in entries][
        :questions
    ]
    return _set("codes", "facts", samples, asked)


def _codes() -> Iterator[tuple[str, str, str]]:
    for status in http.HTTPStatus:
        number = status.value
        yield (
            f"What does the HTTP status {number} mean?",
            f"A web server answers me with {number}. What does it say?",
            status.phrase,
        )
    for number, name in sorted(errno.errorcode.items())[:60]:
        yield (
            f"What does the system error {name} mean?",
            f"My program stops with {name}, which is what?",
            os.strerror(number),
        )
    for ending, media in sorted(mimetypes.types_map.items())[:80]:
        yield (
            f"Which media type has a file that ends in {ending}?",
            f"I send a {ending} file; what do I put into Content-Type?",
            media,
        )
    for code in range(0xBF, 0xFF):
        letter = chr(code)
        yield (
            f"What is the name of the character {letter}?",
            f"How is {letter} called in Unicode?",
            unicodedata.name(letter).lower(),
        )


def library_sets() -> list[EvidenceSet]:
    """Return the library's FAQ, and the same questions with the team that answers them."""
    samples = list(read_samples(DATA / "library_faq.jsonl"))
    asked = list(read_samples(DATA / "library_faq_asked.jsonl"))

    def routed(row: NewSample) -> NewSample:
        return replace(row, answer=row.metadata["team"])

    return [
        _set("library", "sentences", samples, asked),
        _set("routing", "labels", [routed(r) for r in samples], [routed(r) for r in asked]),
    ]


def all_sets(folder: Path, *, questions: int, seed: int = 0) -> list[EvidenceSet]:
    """Return all sets, from the folders that `shipped_reward` reads.

    None of the questions is among those that the towers of the shipped reward model learned from.

    Args:
        folder: With `banking77/samples.jsonl` and so on, and `reasoning.jsonl`.
        questions: Asked of each set at most.
        seed: Of what is drawn.
    """
    found: list[EvidenceSet] = []
    for name, file in (("banking", "banking77"), ("assistant", "clinc150")):
        solved = list(read_samples(folder / file / "samples.jsonl"))[2_500:6_500]
        rows = list(read_samples(folder / file / "questions.jsonl"))
        more = list(read_samples(folder / file / "samples.jsonl"))[6_500 : 6_500 + questions]
        asked = [*rows, *more]
        found.append(labels_set(name, solved, asked[:questions], each=12, seed=seed))
        faq = f"{name}-faq"
        found.append(sentences_set(faq, solved, asked[::-1][:questions], each=3, seed=seed))
    for name, file, kind in (("math", "gsm8k", "numbers"), ("medical", "pubmedqa", "choices")):
        solved = list(read_samples(folder / file / "samples.jsonl"))[60:360]
        asked = list(read_samples(folder / file / "questions.jsonl"))
        found.append(_set(name, kind, solved, asked[: min(questions, 100)]))
        if name == "math":
            shorter = _set("", "", solved, asked[::-1][: min(questions, 100)])
            found.append(final_numbers(shorter, "math-bare"))
    found += [python_set(questions, seed), codes_set(questions, seed)]
    return [*found, *_reasoning(folder), *library_sets()]


def _reasoning(folder: Path) -> list[EvidenceSet]:
    """Return each task as a set of its own, whose rows keep their verifier."""
    solved, asked = (
        _by_domain(list(read_samples(folder / file))) for file in ("reasoning.jsonl", "asked.jsonl")
    )
    return [
        EvidenceSet(
            name=task,
            kind="computed",
            samples=tuple(rows),
            asked=tuple(asked.get(task, [])[4:16]),
        )
        for task, rows in solved.items()
    ]


def _by_domain(rows: Sequence[NewSample]) -> dict[str, list[NewSample]]:
    found: dict[str, list[NewSample]] = {}
    for row in rows:
        found.setdefault(row.domain, []).append(row)
    return found
