"""Run-scoped settings, given through LangGraph's runtime context.

Flat on purpose: LangGraph Studio shows one form field for each, on the node it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rttc_graph.arms import Arm, arms_from, in_order
from rttc_graph.arms import FirstArm as FirstArm
from rttc_graph.arms import PolicyName as PolicyName
from rttc_graph.arms import Proposer as Proposer
from rttc_graph.errors import ConfigurationError
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, checked_name, known_names
from rttc_graph.support.others_words import problem_words

SamplesChoice = Literal["nearest", "sift"]
Below = Literal["answer", "decline"]
BeamForm = Literal["soft", "hard"]
ViewKind = Literal["order", "options", "labels", "names", "grids"]
Trigger = Literal["tag", "confidence", "reward"]
"""Reason to stop an answer for a look-up: see `rttc_graph.state.Halt`."""
TrainingDtype = Literal["auto", "float32", "bfloat16"]

SYSTEM_PROMPT = "Answer the question."
"""System prompt of runs that set none."""

RAG_PLACEHOLDERS: tuple[str, str] = ("{samples}", "{question}")
"""Places in the setting `rag_template`, each of which it must have."""

DEFAULT_TENANT = "default"
"""Tenant of everything that is stored without naming one."""


def _on(*nodes: str) -> dict[str, Any]:
    """Name the nodes on which Studio shows a field."""
    return {"langgraph_nodes": list(nodes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TttSettings:
    """Settings of training an adapter; all of them are part of the adapter's key."""

    rank: int = 8
    alpha: float = 16.0
    """The adapter's output is scaled by `alpha / rank`."""
    layers: float = 1.0
    """Share of the layers that are adapted, counted from the top, in (0, 1]. The layers below are
    computed once per training."""
    learning_rate: float = 0.0
    """Learning rate of AdamW; 0 takes the one that suits the base (`learning_rate_for`)."""
    epochs: int = 2
    """Maximum number of passes over the samples. A third of the queries need the second one; with
    it accuracy rose by 5 points (docs/experiments.md)."""
    samples_per_step: int = 2
    """Maximum number of samples per optimiser step. One epoch over 8 samples in steps of 2 reaches
    what four epochs in steps of 8 reach (docs/experiments.md)."""
    min_steps: int = 4
    """Minimum number of steps: with few samples, epochs repeat until it is reached."""
    stop_loss: float = 1.0
    """Loss in nats per answer token; an epoch whose last step is below it, before its update, is
    the last one."""
    seed: int = 0

    def steps_of_epoch(self, samples: int) -> int:
        """Return the number of steps in one pass over the samples."""
        return math.ceil(samples / self.samples_per_step)

    def steps(self, steps_of_epoch: int) -> int:
        """Return the most steps that a training has."""
        return max(self.epochs * steps_of_epoch, self.min_steps)

    def fingerprint(self) -> str:
        """Return a digest of all fields, 16 hexadecimal characters.

        With all layers, `layers` is left out, so that keys written by earlier releases stay valid.
        """
        fields = asdict(self)
        if self.layers == 1:
            del fields["layers"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Settings of drawing a panel of answers."""

    n: int = 8
    """Most answers of a panel."""
    from_: tuple[Proposer, ...] = ()
    """Proposers in the order in which they take turns; empty for all."""
    temperature: float = 0.7
    """Sampling temperature of all draws but the first."""
    max_waits: int = 1
    """Times that a model which ends too early is made to think again."""
    answer_tokens: int = 32
    """Tokens of `max_new_tokens` that are kept for an answer which has to be forced."""
    max_new_tokens: int = 256
    """Most tokens of an answer, its thoughts among them."""
    beam: BeamForm = "soft"
    """Whether `beam` shares steps out by their probability, or keeps the best few."""
    children: int = 4
    """Steps behind a step that is kept, of the strategies with a fixed width."""
    lookahead: int = 1
    """Greedy steps that `lookahead` looks ahead."""
    nodes: int = 64
    """Most steps of a tree; then its answers are written to their ends."""
    step_marks: tuple[str, ...] = ("\n",)
    """Texts that end a step."""
    step_least: int = 8
    """Tokens of a step below which no mark ends it."""
    step_most: int = 48
    """Tokens of a step at which it ends without a mark."""
    lookups: int = 3
    """Most look-ups in mid-answer of a run."""
    lookup_on: tuple[Trigger, ...] = ("tag", "confidence", "reward")
    """Reasons to stop an answer for a look-up."""
    lookup_logprob: float = -0.7
    """Mean log-probability of a window in nats below which the model is unsure."""
    lookup_window: int = 4
    """Tokens of such a window."""
    lookup_fall: float = 0.2
    """Fall of the probability of a step, against the one before, at which it is looked up."""
    lookup_same: float = 0.95
    """Cosine similarity of two queries from which on they are the same one."""
    lookup_tokens: int = 96
    """Most tokens that one look-up inserts."""
    thoughts: int = 8
    """Most questions that the run's own is split into, on all levels together."""
    thought_parts: int = 3
    """Most questions that one split gives."""
    thought_depth: int = 2
    """Most splits above a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """Settings of how questions and samples become prompts."""

    system_prompt: str = SYSTEM_PROMPT
    """First turn of every prompt."""
    rag_template: str = ""
    """Text of the question's turn where there are samples; empty shows them as earlier turns."""
    ttt_shown: int = 0
    """Samples in the prompt that an adapter is trained and asked with; 0 for the question alone."""


class RttcSettings(BaseModel):
    """Settings of one run; every field has a default, a bound and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    if not TYPE_CHECKING:  # type checkers are to see the fields, which pydantic puts in its place

        def __init__(self, **given: Any) -> None:
            """Check the values; LangGraph calls this with a context that is given as a dict.

            Raises:
                ConfigurationError: A name is unknown, or a value is out of its bounds.
            """
            try:
                super().__init__(**given)
            except ValidationError as exc:
                raise ConfigurationError(_first_problem(exc)) from exc

    policy: PolicyName = Field(
        default="cascade",
        description="Which arm comes next: cascade (from cheap to dear, stop at τr), compare (RAG "
        "and TTT, the better one, unless a cheaper answer reaches τr), plan (by difficulty, as "
        "rttc calibrate has kept it for the domain), or always the one named.",
        json_schema_extra=_on("reward_judge"),
    )
    arms: tuple[Arm, ...] = Field(
        default=(),
        description="Arms that cascade and compare try, from cheap to dear. Empty: those that rttc "
        "calibrate has kept for the domain, else all but direct, which then answers only where no "
        "samples are found.",
        json_schema_extra=_on("reward_judge"),
    )
    first_arm: FirstArm = Field(
        default="",
        description="Deprecated, use arms: cascade and compare try this arm and all dearer ones.",
        json_schema_extra=_on("reward_judge"),
    )
    tau_r: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Reward at or above which an answer is accepted; 0.5 suits rewards that are "
        "probabilities, as calibrated ones are, and the scores of the reward model that ships.",
        json_schema_extra=_on("reward_judge"),
    )
    tau_r_of: str = Field(
        default="",
        max_length=200,
        description="Fingerprint of the reward model that τr was chosen for, as rttc calibrate "
        "prints it; a run that judges with another one is refused. Empty: not checked.",
        json_schema_extra=_on("reward_judge"),
    )
    min_similarity: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Lowest cosine similarity of the nearest sample: below it samples are not "
        "used, and no answer is accepted. 0: off, evidence_similarity holds.",
        json_schema_extra=_on("retrieve", "reward_judge"),
    )
    evidence_similarity: float = Field(
        default=0.25,  # of MiniLM, see docs/decisions/0041
        ge=0,
        le=1,
        description="Lowest cosine similarity of the nearest sample at which samples are used: "
        "below it the plain model answers, as where there are none. 0: all are used.",
        json_schema_extra=_on("retrieve"),
    )
    below: Below = Field(
        default="answer",
        description="What is returned where no answer is accepted: the best answer, or decline, "
        "which returns the text in decline_text.",
        json_schema_extra=_on("reward_judge"),
    )
    decline_text: str = Field(
        default="I do not know.",
        min_length=1,
        max_length=2000,
        description="Text that is returned instead of an answer that is not accepted.",
        json_schema_extra=_on("reward_judge"),
    )
    k: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Number of samples to retrieve.",
        json_schema_extra=_on("retrieve"),
    )
    nearest_votes: int = Field(
        default=4,
        ge=1,
        le=64,
        description="How many of the nearest samples vote in the arm nearest, each weighted by its "
        "similarity; 1 takes the nearest sample's answer.",
        json_schema_extra=_on("nearest"),
    )
    samples_choice: SamplesChoice = Field(
        default="nearest",
        description="Which samples: the k nearest, or sift, which takes k of the nearest 8 k (512 "
        "at most) that do not repeat each other.",
        json_schema_extra=_on("retrieve"),
    )
    tenant: str = Field(
        default=DEFAULT_TENANT,
        min_length=1,
        max_length=200,
        description="Whose samples and cache to use; tenants never see each other's.",
        json_schema_extra=_on("retrieve"),
    )
    domain: str = Field(
        default="",
        max_length=MAX_NAME_CHARACTERS,
        description="Domain of the knowledge base, for questions that name none. Empty: all.",
        json_schema_extra=_on("prepare", "retrieve"),
    )
    system_prompt: str = Field(
        default=SYSTEM_PROMPT,
        min_length=1,
        max_length=20_000,
        description="First turn of every prompt, also of those that adapters are trained on. A "
        "conversation's own system turns take the place of the default, and follow another one.",
        json_schema_extra=_on("generate", "rag_generate", "ttt_adapt"),
    )
    rag_template: str = Field(
        default="",
        max_length=20_000,
        description="Text of the question's turn where there are samples, with {samples} and "
        "{question} in it. Empty: solved questions stand as earlier turns before the question.",
        json_schema_extra=_on("rag_generate"),
    )
    rewrite_follow_ups: bool = Field(
        default=False,
        description="Whether the policy model rewrites the last question of a conversation into "
        "one that stands alone, which is then what samples are retrieved with.",
        json_schema_extra=_on("retrieve"),
    )
    budget_seconds: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="Longest wall time of the whole run, in seconds.",
        json_schema_extra=_on("generate"),
    )
    budget_tokens: int = Field(
        default=200_000,
        ge=1,
        description="Most tokens of the whole run: prompts, completions and training together.",
        json_schema_extra=_on("generate"),
    )
    budget_flops: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Most floating-point operations of the whole run, such as 1e13: two for each "
        "weight and computed token, three or four for a trained one. Needs a model that says how "
        "large it is, as local ones do. 0: no limit.",
        json_schema_extra=_on("generate"),
    )
    budget_arms: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Maximum number of answers that may be generated; a panel counts as one.",
        json_schema_extra=_on("generate"),
    )
    max_new_tokens: int = Field(
        default=256,
        ge=1,
        le=32_768,
        description="Maximum length of an answer in tokens.",
        json_schema_extra=_on("generate", "rag_generate"),
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="Sampling temperature; 0 is greedy.",
        json_schema_extra=_on("generate", "rag_generate"),
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sample among the likeliest tokens, up to this probability together; 1: all.",
        json_schema_extra=_on("generate", "rag_generate"),
    )
    stop_strings: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(),
        max_length=16,
        description="Strings before the first of which an answer ends. Empty: none.",
        json_schema_extra=_on("generate", "rag_generate", "nearest"),
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed of sampling and training.",
        json_schema_extra=_on("generate", "ttt_adapt"),
    )
    samples_similarity: float = Field(
        default=0.97,
        ge=0,
        le=1,
        description="Lowest cosine similarity at which another query's samples are recalled.",
        json_schema_extra=_on("retrieve"),
    )
    adapter_similarity: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Lowest cosine similarity at which another query's adapter is recalled.",
        json_schema_extra=_on("retrieve"),
    )
    reuse_similarity: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Lowest cosine similarity at which another query's adapter is tried on the "
        "samples before a new one is trained.",
        json_schema_extra=_on("ttt_adapt"),
    )
    reuse_loss: float = Field(
        default=0.2,
        ge=0,
        description="Reuse that adapter instead of training if its loss on the two nearest samples "
        "is below this (nats per answer token); 0 always trains.",
        json_schema_extra=_on("ttt_adapt"),
    )
    use_cache: bool = Field(
        default=True,
        description="Whether to recall from and store in the query-state cache.",
        json_schema_extra=_on("retrieve", "ttt_adapt"),
    )
    ask_before_training: bool = Field(
        default=False,
        description="Stop before a training and ask a person: train, skip, or accept the answer.",
        json_schema_extra=_on("ttt_adapt"),
    )
    stream_candidates: bool = Field(
        default=False,
        description="Whether each answer is streamed before it is judged: as a custom event "
        "candidate and, in a run over messages, as a message named rttc_candidate.",
        json_schema_extra=_on("nearest", "generate", "rag_generate", "panel_round"),
    )
    search_n: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Most answers that a panel draws, revisions among them (policies adaptive, "
        "majority, weighted, best_of_n, budget_forcing, search_o1, refine, revise, self_verify, "
        "graph_of_thoughts, beam, dvts, particles, lookahead and mcts).",
        json_schema_extra=_on("panel_round"),
    )
    search_from: tuple[Proposer, ...] = Field(
        default=(),
        description="What a panel draws from, in the order of their turns: direct, rag (each draw "
        "with other samples), recalled (the adapter in hand). Empty: all that there are.",
        json_schema_extra=_on("panel_round"),
    )
    search_temperature: float = Field(
        default=0.7,
        ge=0,
        le=2,
        description="Sampling temperature of a panel's draws. The first draw is asked as an answer "
        "of its own would be, with the setting temperature.",
        json_schema_extra=_on("panel_round"),
    )
    search_max_waits: int = Field(
        default=1,
        ge=0,
        le=8,
        description="How many times budget_forcing makes a model think again whose answer ends by "
        "itself with a reward below τr; 0: never.",
        json_schema_extra=_on("panel_round"),
    )
    search_answer_tokens: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Tokens of max_new_tokens that budget_forcing keeps for the final answer of a "
        "model that thinks until it is cut off.",
        json_schema_extra=_on("panel_round"),
    )
    search_beam: BeamForm = Field(
        default="soft",
        description="How the policies beam and lookahead share out steps: soft, by the probability "
        "of each step (REBASE), or hard, search_children behind each of the best ones.",
        json_schema_extra=_on("panel_round"),
    )
    search_children: int = Field(
        default=4,
        ge=1,
        le=16,
        description="Steps that are drawn behind a step by dvts, mcts and the hard form of beam.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookahead: int = Field(
        default=1,
        ge=1,
        le=4,
        description="Greedy steps that the policy lookahead looks ahead of each step.",
        json_schema_extra=_on("panel_round"),
    )
    search_nodes: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Most steps of a tree (policies beam, dvts, particles, lookahead and mcts); "
        "then its answers are written to their ends.",
        json_schema_extra=_on("panel_round"),
    )
    search_step_marks: tuple[Annotated[str, Field(min_length=1, max_length=20)], ...] = Field(
        default=("\n",),
        max_length=8,
        description="Texts that end a step of an answer. Empty: steps end by their length alone.",
        json_schema_extra=_on("panel_round"),
    )
    search_step_least: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Tokens of a step below which no mark ends it.",
        json_schema_extra=_on("panel_round"),
    )
    search_step_most: int = Field(
        default=48,
        ge=1,
        le=4096,
        description="Tokens of a step at which it ends without a mark.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookups: int = Field(
        default=3,
        ge=1,
        le=8,
        description="Most look-ups of the policy search_o1 in mid-answer; each draws two answers "
        "of search_n. The samples of its prompt and of all look-ups together are at most k.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_on: tuple[Trigger, ...] = Field(
        default=("tag", "confidence", "reward"),
        min_length=1,
        description="What stops an answer of search_o1 for a look-up: tag (the model writes what "
        "it looks for between <search> and </search>), confidence (unlikely tokens in a row), "
        "reward (a whole answer is judged below τr or, with a process reward model, a step worse "
        "than the one before).",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_logprob: float = Field(
        default=-0.7,
        ge=-20,
        le=0,
        description="Mean log-probability in nats of search_lookup_window tokens in a row below "
        "which search_o1 looks something up; 0: at the first window.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_window: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Tokens in a row whose mean log-probability search_o1 goes by.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_fall: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="How much lower than the step before a step must be judged, as a probability, "
        "for search_o1 to look something up.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_same: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Cosine similarity to an earlier query of search_o1, or question of "
        "graph_of_thoughts, from which on one counts as asked already.",
        json_schema_extra=_on("panel_round"),
    )
    search_lookup_tokens: int = Field(
        default=96,
        ge=8,
        le=4096,
        description="Most tokens that a look-up of search_o1 inserts into an answer.",
        json_schema_extra=_on("panel_round"),
    )
    search_thoughts: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Most smaller questions that graph_of_thoughts splits a question into, those "
        "of all levels together.",
        json_schema_extra=_on("panel_round"),
    )
    search_thought_parts: int = Field(
        default=3,
        ge=1,
        le=8,
        description="Most smaller questions that one split of graph_of_thoughts gives.",
        json_schema_extra=_on("panel_round"),
    )
    search_thought_depth: int = Field(
        default=2,
        ge=1,
        le=4,
        description="Levels of graph_of_thoughts: 1 splits the question alone, 2 its parts too.",
        json_schema_extra=_on("panel_round"),
    )
    ttt_rank: int = Field(
        default=8, ge=1, le=256, description="LoRA rank.", json_schema_extra=_on("ttt_adapt")
    )
    ttt_alpha: float = Field(
        default=16.0, gt=0, le=1024, description="LoRA alpha.", json_schema_extra=_on("ttt_adapt")
    )
    ttt_layers: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the layers, from the top, that are trained; fewer are faster.",
        json_schema_extra=_on("ttt_adapt"),
    )
    ttt_shown: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Samples in the prompt that an adapter is trained and asked with: each sample "
        "is learnt behind so many others, and the question is asked behind the nearest. 0: the "
        "question alone, which trains on fewer tokens.",
        json_schema_extra=_on("generate", "ttt_adapt"),
    )
    ttt_augment: tuple[ViewKind, ...] = Field(
        default=(),
        description="Transforms in which samples are learnt too, and the question is asked again, "
        "to vote: order (of the samples shown), options (letters of a choice), labels (their "
        "names), names (of persons), grids (turned, mirrored, coloured). What a transform does to "
        "an answer is undone. Empty: none.",
        json_schema_extra=_on("generate", "ttt_adapt"),
    )
    ttt_views: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Most views of each transform in ttt_augment; a training grows by each.",
        json_schema_extra=_on("generate", "ttt_adapt"),
    )
    ttt_learning_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Learning rate of AdamW; 0 takes the one that suits the base's weights.",
        json_schema_extra=_on("ttt_adapt"),
    )
    ttt_epochs: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Maximum number of passes over the samples.",
        json_schema_extra=_on("ttt_adapt"),
    )
    ttt_samples_per_step: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Maximum number of samples per optimiser step.",
        json_schema_extra=_on("ttt_adapt"),
    )
    ttt_min_steps: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="Minimum number of steps: with few samples, epochs repeat until it is reached.",
        json_schema_extra=_on("ttt_adapt"),
    )
    ttt_stop_loss: float = Field(
        default=1.0,
        ge=0,
        description="Stop after an epoch whose last loss is below this (nats per answer token).",
        json_schema_extra=_on("ttt_adapt"),
    )

    @field_validator("tenant")
    @classmethod
    def _can_be_kept(cls, tenant: str) -> str:
        return checked_name("tenant", tenant)

    @field_validator("domain")
    @classmethod
    def _is_none_or_kept(cls, domain: str) -> str:
        return checked_name("domain", domain) if domain.strip() else ""

    @field_validator("arms", "search_from", "search_lookup_on", "ttt_augment", mode="before")
    @classmethod
    def _read_names(cls, names: object) -> object:
        """Take a list written with commas, as an environment variable or a flag has it."""
        if isinstance(names, str):
            return tuple(word.strip() for word in names.split(",") if word.strip())
        return names

    @field_validator("search_from", "ttt_augment")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @field_validator("rag_template")
    @classmethod
    def _has_its_places(cls, template: str) -> str:
        missing = [place for place in RAG_PLACEHOLDERS if template and place not in template]
        if missing:
            raise ValueError(
                f"rag_template={template!r:.80} has no {' and no '.join(missing)}: write "
                "{samples} where solved questions and passages go, and {question} behind it"
            )
        return template

    @field_validator("stop_strings", "search_step_marks", mode="before")
    @classmethod
    def _read_stop_strings(cls, given: object) -> object:
        """Take a single string for a list of one; it may hold commas, so it is not split."""
        return (given,) if isinstance(given, str) else given

    @field_validator("arms")
    @classmethod
    def _sorted_arms(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        return in_order(arms)

    @model_validator(mode="after")
    def _arms_said_once(self) -> RttcSettings:
        if self.arms and self.first_arm:
            raise ValueError(
                f"arms={','.join(self.arms)} and first_arm={self.first_arm!r} both say which arms "
                "to try: leave out first_arm"
            )
        return self

    @model_validator(mode="after")
    def _samples_are_shown(self) -> RttcSettings:
        needing = [kind for kind in self.ttt_augment if kind in _TOLD_BY_SAMPLES]
        if needing and not self.ttt_shown:
            raise ValueError(
                f"ttt_augment={','.join(self.ttt_augment)} has {needing[0]}, which only samples in "
                f"the prompt can tell, and ttt_shown is 0: set ttt_shown, as 3, or leave out "
                f"{' and '.join(needing)}"
            )
        return self

    @model_validator(mode="after")
    def _steps_can_be_cut(self) -> RttcSettings:
        if self.search_step_least > self.search_step_most:
            raise ValueError(
                f"search_step_least={self.search_step_least} must be at most "
                f"search_step_most={self.search_step_most}"
            )
        return self

    @property
    def lowest_similarity(self) -> float:
        """Cosine similarity of the nearest sample from which on samples are used; 0 uses all."""
        return self.min_similarity or self.evidence_similarity

    @property
    def wanted_arms(self) -> tuple[Arm, ...]:
        """Arms that these settings ask for, from cheap to dear; empty where they say nothing."""
        return arms_from(self.first_arm) if self.first_arm else self.arms

    @property
    def ttt(self) -> TttSettings:
        """Settings of the training: each field of `TttSettings`, from `ttt_` and its name."""
        names = (field.name for field in fields(TttSettings))
        return TttSettings(**_group(names, self, prefix="ttt_"))

    @property
    def search(self) -> SearchSettings:
        """Settings of a panel: each field of `SearchSettings`, from `search_` and its name."""
        names = (field.name for field in fields(SearchSettings))
        return SearchSettings(**_group(names, self, prefix="search_"))

    @property
    def prompts(self) -> PromptSettings:
        """Settings of the prompts: each field of `PromptSettings`, under its own name."""
        return PromptSettings(
            system_prompt=self.system_prompt,
            rag_template=self.rag_template,
            ttt_shown=self.ttt_shown,
        )

    @property
    def training_fingerprint(self) -> str:
        """Digest of the training's settings and, unless they are the default, of more.

        More is `samples_choice`, `system_prompt`, `ttt_augment` with `ttt_views`, and `ttt_shown`
        with the template. An adapter of
        the query-state cache is recalled only under its own fingerprint. With the defaults it is
        the digest alone, so fingerprints of earlier releases stay valid.
        """
        digest = self.ttt.fingerprint()
        if self.system_prompt != SYSTEM_PROMPT:
            digest += f"-{hashlib.sha256(self.system_prompt.encode()).hexdigest()[:16]}"
        if self.ttt_shown:
            form = f"{self.ttt_shown} {self.rag_template}"
            digest += f"-{hashlib.sha256(form.encode()).hexdigest()[:16]}"
        if self.ttt_augment:
            digest += f"-{self.ttt_views}-{'-'.join(self.ttt_augment)}"
        return digest if self.samples_choice == "nearest" else f"{digest}-{self.samples_choice}"

    @classmethod
    def of(cls, context: object, *, defaults: RttcSettings | None = None) -> RttcSettings:
        """Read settings from whatever a host put into LangGraph's context.

        Args:
            context: `None`, our own type, a mapping, or an object of the host's, of which only
                attributes with our names are read. A `None` in it says nothing.
            defaults: What holds where `context` says nothing.

        Raises:
            ConfigurationError: A value is out of its bounds.
        """
        given = _fields_of(context, cls)
        if not given:
            return defaults or cls()
        base = defaults.model_dump() if defaults else {}
        if given.keys() & _SAY_ARMS:  # the nearer one holds, under whichever name
            base = {name: value for name, value in base.items() if name not in _SAY_ARMS}
        return cls(**{**base, **given})


def _group(names: Iterable[str], settings: RttcSettings, *, prefix: str) -> dict[str, Any]:
    """Return the fields of a group of settings, read from the flat ones.

    A field without a flat twin under the prefix, such as the seed, is shared by the whole run and
    read under its own name. A name that Python keeps for itself ends with an underscore here alone.
    """
    flat = type(settings).model_fields
    twins = {name: f"{prefix}{name.removesuffix('_')}" for name in names}
    return {name: getattr(settings, twin if twin in flat else name) for name, twin in twins.items()}


def _fields_of(context: object, cls: type[RttcSettings]) -> dict[str, Any]:
    """Return what a context says, under our names.

    Of our own type only what was set counts: LangGraph makes one from every dict, and its defaults
    must not hide those of the graph.
    """
    if context is None:
        return {}
    values: dict[str, Any]
    if isinstance(context, cls):
        values = {k: getattr(context, k) for k in cls.model_fields if k in context.model_fields_set}
    elif isinstance(context, Mapping):
        values = {k: context[k] for k in cls.model_fields if k in context}
    else:
        values = {k: getattr(context, k) for k in cls.model_fields if hasattr(context, k)}
    return {k: value for k, value in values.items() if value is not None}


_NO_DOMAINS_OWN = frozenset({"tenant", "domain"})
"""Settings that a domain cannot have of its own."""


_ONE_PER_GRAPH = frozenset({"model", "policy_model", "reward", "reward_model", "embedder"})
"""Parts of a graph under the names that people write for them."""


def domain_settings(domain: str, own: Mapping[str, Any], defaults: RttcSettings) -> RttcSettings:
    """Return the settings of runs in a domain.

    Args:
        domain: Its name.
        own: Settings of its own.
        defaults: What holds where it has none.

    Raises:
        ConfigurationError: A setting is unknown, out of its bounds, or none of a domain.
    """
    checked_name("domain", domain)
    ours = sorted(RttcSettings.model_fields.keys() - _NO_DOMAINS_OWN)
    for name in own:
        if name in _ONE_PER_GRAPH:
            raise ConfigurationError(
                f"domain {domain!r} has {name!r} of its own, and a graph has one for all domains: "
                f"write a second settings file with that {name}, serve it (rttc --config "
                "FILE serve) or build a graph of it, and send the domain's questions there"
            )
        if name not in ours:
            raise ConfigurationError(
                f"unknown setting {name!r} of domain {domain!r}: "
                f"{known_names(name, ours, most=len(ours))}"
            )
    try:
        return RttcSettings.of(own, defaults=defaults)
    except ConfigurationError as exc:
        raise ConfigurationError(f"domain {domain!r}: {exc}") from exc


def unknown_settings(names: Collection[str]) -> ConfigurationError:
    """Return the error about names that are no settings.

    Args:
        names: At least one.
    """
    first, *_ = unknown = sorted(names)
    shown = ", ".join(map(repr, unknown))
    ours = sorted(RttcSettings.model_fields)
    known = known_names(first, ours, most=len(ours))
    return ConfigurationError(f"unknown settings {shown}: {known}")


def _first_problem(exc: ValidationError) -> str:
    problems = exc.errors()
    unknown = {str(one["loc"][0]) for one in problems if one["type"] == "extra_forbidden"}
    if unknown:
        return str(unknown_settings(unknown))
    problem = problems[0]
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    given = repr(problem["input"])
    shown = given if len(given) <= _SHOWN_CHARACTERS else f"{given[:_SHOWN_CHARACTERS]}…"
    words = problem_words(problem)
    return words if words.startswith(f"{name}=") else f"{name}={shown}: {words}"


_TOLD_BY_SAMPLES = frozenset({"order", "labels"})
"""Transforms that a prompt without samples cannot show."""

_SAY_ARMS = frozenset({"arms", "first_arm"})
"""Fields that say which arms a plan tries."""

_SHOWN_CHARACTERS = 200
"""Longest part of a wrong value that an error shows."""
