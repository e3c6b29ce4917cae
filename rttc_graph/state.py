"""What flows through the graph: plain serialisable data, never tensors or connections.

The TypedDicts come from `typing_extensions`, since pydantic refuses `typing.TypedDict` on
Python 3.11 when LangGraph builds the JSON schema of the graph.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage
from langgraph.channels import EphemeralValue
from langgraph.graph.message import Messages, add_messages
from typing_extensions import TypedDict

from rttc_graph.arms import Arm as Arm
from rttc_graph.arms import Attempt as Attempt
from rttc_graph.arms import Decision as Decision
from rttc_graph.errors import ConfigurationError

FinishReason = Literal["stop", "length", "loop", "budget", "step"]
"""Why an answer ended: by itself, at its longest, since it repeated itself, at the deadline, or at
the end of a step, from which it can be gone on with."""


def with_messages(left: Messages | None, right: Messages | None) -> Messages:
    """Return a thread's messages with new ones appended, as LangGraph's `add_messages` does.

    Raises:
        ConfigurationError: The new ones are none in any form that LangChain takes.
    """
    try:
        return add_messages(left or [], right or [])
    except (NotImplementedError, TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"'messages' cannot be read: {exc}: give messages, or pairs of role and text"
        ) from exc


class ChatTurn(TypedDict):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(TypedDict):
    """A solved question from the knowledge base."""

    id: str
    """Hexadecimal content hash; the same question, answer and domain always have the same id."""
    question: str
    answer: str
    domain: str
    similarity: float
    """Cosine similarity to the query in [-1, 1]."""
    metadata: NotRequired[dict[str, Any]]


class Candidate(TypedDict):
    """One answer, how it was made and what it cost."""

    arm: Arm
    answer: str
    reward: float | None
    """Judge's score in [0, 1]; `None` until judged, or when the reward model failed."""
    seconds: float
    """Wall time of the arm: generation, and for `ttt` also training or loading the adapter."""
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int
    """Tokens that went through the optimiser, all epochs counted; 0 when nothing was trained."""
    mean_logprob: float | None
    """Mean log-probability of the answer's tokens in nats; `None` when the model reports none."""
    finish_reason: FinishReason
    adapter: str | None
    """Key of the adapter that was on, for the `ttt` arm."""
    rests_on: NotRequired[list[str]]
    """Ids of the samples in hand that it was made from; empty for the plain model."""
    reused_tokens: NotRequired[int]
    """Tokens of `prompt_tokens` that were not computed, since they were known."""
    draws: NotRequired[int]
    """Answers that it was chosen from; missing for an arm that answers once."""
    standing: NotRequired[str]
    """Key of the domain's own adapter, where the model answered with it, or with an adapter that
    was trained on top of it."""
    flops: NotRequired[float | None]
    """Floating-point operations of the model, a training among them, but not the judge's; `None`
    where the model does not say how large it is."""


class Drawn(TypedDict):
    """One answer of a panel."""

    proposer: Attempt
    """Attempt that it was drawn from: the plain model, samples in the prompt, or an adapter."""
    text: str
    """Answer without the model's thoughts. Empty where the model gave none, and in the state where
    another draw has the same vote and a higher reward, or all texts would be too long together."""
    vote: str | None
    """Form of the answer in which equal answers are equal; `None` where it cannot be read."""
    reward: float | None
    """Judge's score in [0, 1]; `None` where the judge gave none."""
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float | None
    finish_reason: FinishReason
    shown: list[int]
    """Places in `samples` of those in its prompt."""
    reused_tokens: NotRequired[int]
    """Tokens of `prompt_tokens` that were not computed."""
    flops: NotRequired[float | None]
    """Floating-point operations of the model; `None` where it does not say how large it is."""
    whole: NotRequired[str]
    """Text as the model wrote it, thoughts included, of a draw of the last round that the strategy
    may go on from."""
    revises: NotRequired[int]
    """Place in the panel of the draw that it is a revision of."""
    grade: NotRequired[float | None]
    """Grade in [0, 1] that the policy model gave it: its expected value."""
    halt: NotRequired[Halt]
    """Place in it at which something is to be looked up."""
    inserted: NotRequired[list[int]]
    """Places in `looked_up` of the samples that were inserted into it."""
    known: NotRequired[list[int]]
    """Places of the smaller questions whose answers stood in its prompt."""


class Halt(TypedDict):
    """Place in an answer at which something is to be looked up."""

    trigger: Literal["tag", "confidence", "reward"]
    """The model asks by a tag of its own, is unsure of what it writes, or a step is judged worse
    than the one before, or the whole answer below τr."""
    at: int
    """Number of characters of `Drawn.whole` that are gone on from."""
    query: str
    """Text to look up: what the model wrote, or else the step that it is unsure of."""
    is_whole: bool
    """Whether the answer is whole; one that stops at a tag is not."""


class LookUp(TypedDict):
    """A look-up in mid-answer, and what became of it."""

    place: int
    """Place in `drawn` of the answer that was stopped."""
    trigger: Literal["tag", "confidence", "reward"]
    query: str
    """Text that the knowledge base was asked."""
    samples: list[str]
    """Ids of the samples that were inserted; empty where none were found, or none were asked."""
    without: int | None
    """Place of the answer that goes on without them; `None` where there was no room for it."""
    behind: int | None
    """Place of the answer that goes on behind them; `None` where nothing was inserted."""
    kept: bool | None
    """Whether the answer behind them is judged better; `None` while it is not whole."""
    reason: str
    """Why nothing was inserted, or why it was kept or not."""


class StepNode(TypedDict):
    """One step of an answer, in a tree of steps."""

    parent: int | None
    """Place in the tree of the step that it goes on from; `None` for a first step."""
    round: int
    """Round of the panel in which it was drawn, from 0."""
    branch: int
    """Number of the tree that it belongs to, where a strategy keeps several apart; else 0."""
    look: bool
    """Whether it was drawn to look ahead."""
    proposer: Attempt
    shown: list[int]
    """Places in `samples` of those in its prompt."""
    text: str
    """Text that this step adds to its answer."""
    p: float | None
    """Probability in [0, 1] that an answer which goes on from here will be right; `None` where no
    judge of steps says."""
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: int
    flops: float | None
    """Floating-point operations of the model; `None` where it does not say how large it is."""
    mean_logprob: float | None
    finish_reason: FinishReason
    """`step` if it can be gone on from."""
    answer: int | None
    """Place in `drawn` of the answer that ends with it; `None` for a step that ends none."""


ThoughtStatus = Literal["open", "answered", "split", "joined"]
"""State of a question: it waits, is answered directly, waits for its parts, or is answered from
them too."""


class Thought(TypedDict):
    """One question of a graph of thoughts: the run's own, or one that it was split into."""

    question: str
    parent: int | None
    """Place in the graph of the question that it was split from; `None` for the run's own."""
    depth: int
    """Number of splits above it; 0 for the run's own."""
    needs: list[int]
    """Places of the questions whose answers stand in its prompt."""
    parts: list[int]
    """Places of the questions that it was split into."""
    round: int
    """Round of the panel in which it came, from 0."""
    status: ThoughtStatus
    answer: str
    """Best-judged answer, on one line; empty without any. The run's own has its answers in the
    panel's draws."""
    reward: float | None
    """Judge's score in [0, 1] of it; `None` where the judge gave none."""
    proposer: Attempt | None
    """Attempt that the answer was drawn from."""
    known: NotRequired[list[int]]
    """Places of the questions whose answers stood in the prompt of the answer; the run's own has
    those of each answer in the panel's draws."""
    found: list[int]
    """Places in `looked_up` of the samples that were found for it."""
    near: list[float]
    """Cosine similarity in [-1, 1] of each of these to this question."""
    inserted: list[int]
    """Places in `looked_up` of those that its answer rests on, with those below it."""
    why: str
    """Why it was not split, or what came of that; empty while nothing has."""
    prompt_tokens: int
    """Tokens of the prompts of its answers and its split; of the run's own, of its split alone."""
    completion_tokens: int
    reused_tokens: int
    flops: float | None
    """Floating-point operations of the model; `None` where it does not say how large it is."""


class Compared(TypedDict):
    """Two draws of a panel that the policy model was asked to choose between."""

    places: tuple[int, int]
    """Places in the panel, the earlier one first."""
    earlier: float
    """Probability in [0, 1] that it prefers the earlier one."""


class PanelState(TypedDict):
    """The panel that a run is drawing, or has drawn last."""

    attempt: Attempt
    """Attempt that draws it."""
    drawn: list[Drawn]
    rounds: int
    seconds: float
    """Wall time of all rounds, judging included."""
    compared: NotRequired[list[Compared]]
    """Pairs of draws that were compared."""
    checking_tokens: NotRequired[int]
    """Tokens that grading and comparing took."""
    checking_flops: NotRequired[float | None]
    """Floating-point operations of that; `None` where the model does not say how large it is."""
    tree: NotRequired[list[StepNode]]
    """Steps, of a strategy that writes answers step by step."""
    lookups: NotRequired[list[LookUp]]
    """Look-ups in mid-answer, in order."""
    thoughts: NotRequired[list[Thought]]
    """Questions that the run's own was split into, which is the first."""


class Source(Sample):
    """A sample that answers of a run were made from."""

    arms: list[Arm]
    """Arms whose answers rest on it, in the order in which they answered."""
    taken: bool
    """Whether the answer that was taken rests on it."""


class PlanBin(TypedDict):
    """What a plan does with questions of one difficulty."""

    arms: list[Arm]
    """Arms that follow the first one, from cheap to dear; empty to stop there."""
    tau_r: float
    """Reward from which on no further arm is tried."""


class Plan(TypedDict):
    """Arms by difficulty, which is the reward of the first arm's answer."""

    first: Arm
    """Arm that answers every question."""
    edges: list[float]
    """Bounds between the bins, rising: a reward on a bound belongs to the bin above it."""
    bins: list[PlanBin]
    """One more than there are edges, the hardest questions first."""


class LedgerEntry(TypedDict):
    """One event of a run, for people and for statistics."""

    node: str
    event: str
    """`answered`, `judged`, `retrieved`, `recalled`, `trained`, `kept`, `skipped`, `failed`, …"""
    seconds: float
    detail: dict[str, Any]


class CacheReport(TypedDict):
    """Whether the query-state cache had what the run asked it for."""

    samples: Literal["hit", "miss"]
    adapter: Literal["hit", "miss"]


class Spent(TypedDict):
    """Part of the budget that the run has used so far."""

    seconds: float
    tokens: int
    """Prompt, completion and trained tokens of all arms."""
    arms: int
    flops: NotRequired[float]
    """Floating-point operations as far as they are known, the judge's among them."""


class RttcInput(TypedDict, total=False):
    """Either `query` (with `domain` where known) or `messages` that end with a human message.

    `query` and `domain` are forgotten after the first step, also when that fails: on a thread they
    must never be taken for the input of a later run.
    """

    query: Annotated[str, EphemeralValue]
    domain: Annotated[str | None, EphemeralValue]
    messages: Annotated[list[AnyMessage], with_messages]


class RunAnswer(TypedDict, total=False):
    """What a run writes when it ends, and no node reads."""

    answer: str
    arm: Arm
    """Arm that gave the answer."""
    reward: float | None
    """Judge's score in [0, 1] of the answer; `None` if it was not judged."""
    accepted: bool
    """Whether the answer can be acted on: its reward is at least τr, it is no "I do not know" of
    the model, and the nearest sample is near enough where the settings ask for one."""
    declined: bool
    """Whether `answer` is the text that declines, by the settings; what the arms answered is in
    `candidates`, and `arm` and `reward` are those of the best of them."""
    tau_r: float
    """Reward from which on an answer of this run is accepted."""
    calibrated: bool
    """Whether `reward` is the probability that the answer is right, by a calibration for the
    question's domain; else it is a score, comparable with other scores of this judge only."""
    sources: list[Source]
    """Samples that the answers rest on, nearest first."""
    seconds: float


class RunRecord(TypedDict, total=False):
    """What a run gathers from its first node on."""

    run_id: str
    """Id under which the run is stored, if it is stored."""
    candidates: list[Candidate]
    ledger: list[LedgerEntry]
    cache: CacheReport
    messages: Annotated[list[AnyMessage], with_messages]
    """The input's messages with the answer appended, when the question came as messages."""


class RttcOutput(RunAnswer, RunRecord, total=False):
    """Output of a run."""


class Task(TypedDict):
    """The question of this run, taken out of the input when the run starts."""

    query: str
    domain: str | None
    history: list[ChatTurn]
    """Turns before the query, when the input was a conversation."""
    from_messages: bool
    """Whether the question came as the last message, so that the answer is appended there."""


class Adapted(TypedDict):
    """The adapter that the next `generate` answers with, and what it cost to get it."""

    key: str
    origin: Literal["recalled", "cache", "near", "trained", "waited"]
    """Recalled by the meaning of the query; else found in the cache under the digest of the
    samples, of a less near query and knows the samples, trained by this run, or trained by another
    one meanwhile."""
    seconds: float
    trained_tokens: int
    flops: NotRequired[float | None]
    """Floating-point operations of its training; `None` where they are not known."""
    rests_on: NotRequired[list[str]]
    """Ids of the samples in hand that it was trained on, as far as that is known."""


class NodeInput(RttcInput, RunRecord, total=False):
    """Part of the state that nodes read: LangGraph reads every channel of it before each node."""

    task: Task
    searched_with: str
    """Question that the policy model made of a follow-up, which samples were retrieved with; empty
    where the query itself was."""
    vector: list[float]
    """Embedding of what was searched with, unit length; empty until `retrieve` has run."""
    samples: list[Sample]
    looked_up: list[Sample]
    """Samples that were found in mid-answer, beside `samples`, in the order of the look-ups."""
    retrieved: bool
    """Whether `retrieve` has run, with or without success."""
    revision: int | None
    """Revision of the knowledge base's domain that `samples` belong to."""
    adapted: Adapted | None
    standing: str | None
    """Key of the adapter of the question's domain, which takes the place of the plain model."""
    arms: list[Arm]
    """Arms that calibration has chosen for the question's domain; empty where it has not."""
    plan: Plan | None
    """Plan that calibration has chosen for the question's domain, where the policy goes by one."""
    difficulty: float | None
    """Reward that the plan's first arm got when it was first judged; `None` until then, and where
    it gave no answer."""
    rejected_adapter: str | None
    """Key of the adapter that was trained on these samples for the query before, and did not raise
    the reward."""
    tried: list[Attempt]
    attempt: Attempt
    """Attempt for the next answering node, written together with `decision`."""
    decision: Decision
    panel: PanelState | None
    spent: Spent


class RttcState(NodeInput, RttcOutput, total=False):
    """The whole state; the first node resets every key but `messages`, since threads keep them."""
