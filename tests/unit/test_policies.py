"""Every choice of the next step, as rows of tables."""

from __future__ import annotations

import pytest
from scripted_parts import candidate, sample

from rttc_graph.arms import policy_names
from rttc_graph.run.policies import NextStep, decide
from rttc_graph.run.tau_r import best_candidate
from rttc_graph.settings import PolicyName, RttcSettings
from rttc_graph.state import Adapted, Arm, Attempt, Candidate, RttcState, Sample, Spent

ALL: frozenset[Attempt] = frozenset({"nearest", "direct", "recalled", "rag", "ttt"})
MODEL_ARMS = ("direct", "rag", "ttt")
WITHOUT_TRAINER: frozenset[Attempt] = frozenset({"direct", "rag"})
PLAIN: frozenset[Attempt] = frozenset({"direct"})
RECALLED: Adapted = {"key": "a", "origin": "recalled", "seconds": 0.0, "trained_tokens": 0}
TRAINED: Adapted = {"key": "b", "origin": "trained", "seconds": 1.0, "trained_tokens": 9}
FRESH: RttcState = {}
PASSAGE: Sample = {**sample(9), "metadata": {"kind": "passage"}}

DONT_KNOW: Candidate = {**candidate("direct", 0.9), "answer": "I do not know."}
PANEL: Candidate = {**candidate("majority", 0.3), "rests_on": ["a"]}
D, R, T = candidate("direct", 0.2), candidate("rag", 0.5), candidate("ttt", 0.6)
GOOD = candidate("direct", 0.9)


def asked(*candidates: Candidate, tried: tuple[Attempt, ...] = ("direct",)) -> RttcState:
    """Return the state before `retrieve` has run."""
    return {"candidates": list(candidates), "tried": list(tried), "retrieved": False}


def looked(
    *candidates: Candidate,
    tried: tuple[Attempt, ...] = ("direct",),
    samples: int = 2,
    adapted: Adapted | None = None,
) -> RttcState:
    """Return the state after `retrieve` has run."""
    return {
        "candidates": list(candidates),
        "tried": list(tried),
        "retrieved": True,
        "samples": [sample(n) for n in range(samples)],
        "adapted": adapted,
    }


def step(state: RttcState, policy: str, arms: frozenset[Attempt] = ALL) -> tuple[str, str]:
    """Return what comes next where every arm that asks the model may be tried."""
    settings = RttcSettings(policy=policy, arms=MODEL_ARMS, tau_r=0.9)
    choice = decide(state, settings, arms=arms)
    return choice.decision, choice.attempt


FINISH = ("finish", "direct")
N, N_GOOD = candidate("nearest", 0.3), candidate("nearest", 0.95)

BY_DEFAULT = [
    pytest.param(FRESH, ("retrieve", "nearest"), id="it-starts-with-the-samples"),
    pytest.param(looked(tried=()), ("nearest", "nearest"), id="whose-answer-comes-first"),
    pytest.param(looked(N_GOOD, tried=("nearest",)), FINISH, id="accepted-it-is-the-last"),
    pytest.param(looked(N, tried=("nearest",)), ("rag_generate", "rag"), id="then-rag"),
    pytest.param(looked(N, R, tried=("nearest", "rag")), ("ttt_adapt", "ttt"), id="then-ttt"),
    pytest.param(
        looked(N, R, T, tried=("nearest", "rag", "ttt")), FINISH, id="the-plain-model-is-left-out"
    ),
    pytest.param(
        looked(N, tried=("nearest", "rag", "ttt")), FINISH, id="no-model-leaves-the-samples-answer"
    ),
    pytest.param(looked(tried=(), samples=0), ("generate", "direct"), id="no-samples"),
    pytest.param(looked(D, samples=0), FINISH, id="no-samples-and-the-plain-model-has-answered"),
    pytest.param(
        {**looked(tried=()), "samples": [PASSAGE]}, ("rag_generate", "rag"), id="passages-alone"
    ),
    pytest.param(
        {**looked(tried=()), "samples": [PASSAGE, sample(1)]},
        ("nearest", "nearest"),
        id="passages-beside-a-solved-question",
    ),
]


@pytest.mark.parametrize(("state", "expected"), BY_DEFAULT)
@pytest.mark.parametrize("policy", ["cascade", "compare"])
def test_the_arms_that_are_tried_where_nobody_says_which(
    policy: PolicyName, state: RttcState, expected: tuple[str, str]
) -> None:
    choice = decide(state, RttcSettings(policy=policy, tau_r=0.9), arms=ALL - {"recalled"})
    assert (choice.decision, choice.attempt) == expected


@pytest.mark.parametrize(
    ("arms", "state", "cascade", "compare"),
    [
        pytest.param(("nearest",), looked(N, tried=("nearest",)), "finish", "finish", id="nearest"),
        pytest.param(
            ("nearest", "direct"), looked(N, tried=("nearest",)), "generate", "generate", id="plain"
        ),
        pytest.param(
            ("nearest", "ttt"), looked(N, tried=("nearest",)), "ttt_adapt", "ttt_adapt", id="no-rag"
        ),
        pytest.param(
            ("nearest", "rag", "ttt"),
            looked(N, candidate("rag", 0.95), tried=("nearest", "rag")),
            "finish",
            "ttt_adapt",
            id="compare-runs-both",
        ),
        pytest.param(("rag",), FRESH, "retrieve", "retrieve", id="rag-alone"),
    ],
)
def test_a_list_of_arms_leaves_out_all_others(
    arms: tuple[Arm, ...], state: RttcState, cascade: str, compare: str
) -> None:
    for policy, expected in (("cascade", cascade), ("compare", compare)):
        settings = RttcSettings(policy=policy, arms=arms, tau_r=0.9)
        assert decide(state, settings, arms=ALL - {"recalled"}).decision == expected
        free = RttcSettings(policy=policy, tau_r=0.9)  # the same list, from calibration
        chosen: RttcState = {**state, "arms": list(arms)}
        assert decide(chosen, free, arms=ALL - {"recalled"}).decision == expected


def test_settings_go_before_calibration_and_unknown_arms_do_not_count() -> None:
    calibrated: RttcState = {**looked(N, tried=("nearest",)), "arms": ["nearest"]}
    told = RttcSettings(arms=("nearest", "rag"), tau_r=0.9)
    assert decide(calibrated, told, arms=ALL).attempt == "rag"
    assert decide(calibrated, RttcSettings(tau_r=0.9), arms=ALL).decision == "finish"
    gone: RttcState = {**calibrated, "arms": ["gone"]}
    assert decide(gone, RttcSettings(tau_r=0.9), arms=ALL).attempt == "rag"


FROM_RAG = [
    pytest.param(FRESH, ("retrieve", "recalled"), id="it-starts-with-samples"),
    pytest.param(looked(tried=(), adapted=RECALLED), ("generate", "recalled"), id="recalled-first"),
    pytest.param(looked(tried=()), ("rag_generate", "rag"), id="then-rag"),
    pytest.param(looked(R, tried=("rag",)), ("ttt_adapt", "ttt"), id="rag-judged-low-trains"),
    pytest.param(looked(R, T, tried=("rag", "ttt")), FINISH, id="the-plain-model-is-left-out"),
    pytest.param(looked(tried=(), samples=0), ("generate", "direct"), id="no-samples"),
]


@pytest.mark.parametrize(("state", "expected"), FROM_RAG)
@pytest.mark.parametrize("policy", ["cascade", "compare"])
def test_a_policy_that_begins_with_rag(
    policy: PolicyName, state: RttcState, expected: tuple[str, str]
) -> None:
    settings = RttcSettings(policy=policy, first_arm="rag", tau_r=0.9)
    choice = decide(state, settings, arms=ALL)
    if policy == "compare" and expected[1] == "recalled":
        expected = ("retrieve" if state is FRESH else "rag_generate", "rag")  # both will run
    assert (choice.decision, choice.attempt) == expected


@pytest.mark.parametrize(("policy", "then"), [("cascade", "finish"), ("compare", "ttt_adapt")])
def test_only_a_cascade_stops_at_a_good_rag_answer(policy: PolicyName, then: str) -> None:
    settings = RttcSettings(policy=policy, first_arm="rag", tau_r=0.9)
    good = looked(candidate("rag", 0.95), tried=("rag",))
    assert decide(good, settings, arms=ALL).decision == then


CASCADE = [
    pytest.param(FRESH, ("generate", "direct"), id="it-starts-with-the-plain-model"),
    pytest.param(asked(GOOD), FINISH, id="a-reward-at-the-threshold-is-accepted"),
    pytest.param(asked(D), ("retrieve", "recalled"), id="below-the-threshold-it-retrieves"),
    pytest.param(asked(), ("retrieve", "recalled"), id="a-failed-direct-answer-is-passed-over"),
    pytest.param(
        looked(D, adapted=RECALLED), ("generate", "recalled"), id="a-recalled-adapter-comes-first"
    ),
    pytest.param(looked(D), ("rag_generate", "rag"), id="nothing-recalled-leads-to-rag"),
    pytest.param(
        looked(D, T, tried=("direct", "recalled"), adapted=RECALLED),
        ("rag_generate", "rag"),
        id="a-recalled-adapter-judged-low-leads-to-rag",
    ),
    pytest.param(
        looked(D, R, tried=("direct", "rag")), ("ttt_adapt", "ttt"), id="rag-judged-low-trains"
    ),
    pytest.param(
        looked(D, tried=("direct", "rag")), ("ttt_adapt", "ttt"), id="rag-that-failed-trains"
    ),
    pytest.param(
        looked(D, candidate("rag", 0.95), tried=("direct", "rag")), FINISH, id="rag-is-accepted"
    ),
    pytest.param(
        looked(D, R, T, tried=("direct", "rag", "ttt"), adapted=TRAINED),
        FINISH,
        id="all-arms-tried-is-the-end",
    ),
    pytest.param(
        looked(D, adapted=TRAINED),
        ("rag_generate", "rag"),
        id="an-adapter-of-this-run-is-not-taken-for-a-recalled-one",
    ),
    pytest.param(looked(D, samples=0), FINISH, id="no-samples-is-the-end"),
    pytest.param(
        looked(D, samples=0, adapted=RECALLED),
        ("generate", "recalled"),
        id="no-samples-but-an-adapter-is-recalled",
    ),
]


@pytest.mark.parametrize(("state", "expected"), CASCADE)
def test_cascade(state: RttcState, expected: tuple[str, str]) -> None:
    assert step(state, "cascade") == expected


COMPARE = [
    pytest.param(FRESH, ("generate", "direct"), id="it-starts-with-the-plain-model"),
    pytest.param(asked(GOOD), FINISH, id="a-good-direct-answer-is-enough"),
    pytest.param(asked(), ("retrieve", "rag"), id="a-failed-direct-answer-is-passed-over"),
    pytest.param(asked(D), ("retrieve", "rag"), id="below-the-threshold-it-retrieves"),
    pytest.param(looked(D), ("rag_generate", "rag"), id="rag-comes-before-ttt"),
    pytest.param(
        looked(D, candidate("rag", 1.0), tried=("direct", "rag")),
        ("ttt_adapt", "ttt"),
        id="a-good-rag-answer-does-not-save-the-training",
    ),
    pytest.param(
        looked(D, R, tried=("direct", "rag"), adapted=RECALLED),
        ("generate", "recalled"),
        id="a-recalled-adapter-stands-for-ttt",
    ),
    pytest.param(
        looked(D, R, T, tried=("direct", "rag", "recalled"), adapted=RECALLED),
        FINISH,
        id="a-recalled-adapter-saves-the-training",
    ),
    pytest.param(looked(D, samples=0), FINISH, id="no-samples-is-the-end"),
    pytest.param(
        looked(tried=("direct",), samples=0), FINISH, id="the-plain-model-does-not-fail-twice"
    ),
]


@pytest.mark.parametrize(("state", "expected"), COMPARE)
def test_compare(state: RttcState, expected: tuple[str, str]) -> None:
    assert step(state, "compare") == expected


SINGLE = [
    pytest.param("direct", FRESH, ("generate", "direct"), id="direct-answers"),
    pytest.param("direct", asked(D), FINISH, id="direct-answers-once"),
    pytest.param("direct", asked(), FINISH, id="direct-that-failed-is-the-end"),
    pytest.param("rag", FRESH, ("retrieve", "rag"), id="rag-retrieves-at-once"),
    pytest.param("rag", looked(tried=()), ("rag_generate", "rag"), id="rag-answers"),
    pytest.param("rag", looked(R, tried=("rag",)), FINISH, id="rag-answers-once"),
    pytest.param(
        "rag",
        looked(tried=(), samples=0),
        ("generate", "direct"),
        id="rag-without-samples-falls-back",
    ),
    pytest.param(
        "rag", looked(tried=("rag",)), ("generate", "direct"), id="rag-that-failed-falls-back"
    ),
    pytest.param(
        "rag", looked(tried=("rag", "direct")), FINISH, id="a-fallback-that-failed-is-the-end"
    ),
    pytest.param("ttt", FRESH, ("retrieve", "recalled"), id="ttt-retrieves-at-once"),
    pytest.param("ttt", looked(tried=()), ("ttt_adapt", "ttt"), id="ttt-trains"),
    pytest.param(
        "ttt", looked(tried=(), adapted=RECALLED), ("generate", "recalled"), id="ttt-recalls"
    ),
    pytest.param("ttt", looked(T, tried=("ttt",), adapted=TRAINED), FINISH, id="ttt-answers-once"),
    pytest.param(
        "ttt",
        looked(T, tried=("recalled",), adapted=RECALLED),
        FINISH,
        id="ttt-does-not-train-after-a-recalled-answer",
    ),
    pytest.param(
        "ttt", looked(tried=("ttt",)), ("generate", "direct"), id="ttt-that-failed-falls-back"
    ),
    pytest.param(
        "ttt",
        looked(tried=(), samples=0),
        ("generate", "direct"),
        id="ttt-without-samples-falls-back",
    ),
]


@pytest.mark.parametrize(("policy", "state", "expected"), SINGLE)
def test_policies_of_one_arm(policy: str, state: RttcState, expected: tuple[str, str]) -> None:
    assert step(state, policy) == expected


@pytest.mark.parametrize(
    ("policy", "state", "arms", "expected"),
    [
        pytest.param("cascade", asked(D), PLAIN, FINISH, id="a-plain-graph-ends-after-direct"),
        pytest.param("compare", asked(D), PLAIN, FINISH, id="a-plain-graph-compares-nothing"),
        pytest.param(
            "cascade",
            asked(D),
            WITHOUT_TRAINER,
            ("retrieve", "rag"),
            id="without-a-trainer-nothing-is-recalled",
        ),
        pytest.param(
            "cascade",
            looked(D, R, tried=("direct", "rag")),
            WITHOUT_TRAINER,
            FINISH,
            id="without-a-trainer-rag-is-the-last-arm",
        ),
        pytest.param(
            "cascade",
            asked(D),
            ALL - {"recalled"},
            ("retrieve", "rag"),
            id="without-a-cache-nothing-is-recalled",
        ),
    ],
)
def test_a_policy_uses_only_the_arms_of_its_graph(
    policy: str, state: RttcState, arms: frozenset[Attempt], expected: tuple[str, str]
) -> None:
    assert step(state, policy, arms) == expected


def spent(*, seconds: float = 0.0, tokens: int = 0, arms: int = 1) -> Spent:
    return {"seconds": seconds, "tokens": tokens, "arms": arms}


@pytest.mark.parametrize(
    ("used", "reason"),
    [
        pytest.param(spent(seconds=10.0), "budget of seconds is spent", id="seconds-at-the-limit"),
        pytest.param(spent(tokens=100), "budget of tokens is spent", id="tokens-at-the-limit"),
        pytest.param(spent(arms=2), "budget of arms is spent", id="arms-at-the-limit"),
        pytest.param(
            spent(seconds=9.9, tokens=99), "samples are needed for recalled", id="just-below"
        ),
    ],
)
@pytest.mark.parametrize("policy", ["cascade", "compare"])
def test_a_spent_budget_ends_the_run(policy: str, used: Spent, reason: str) -> None:
    settings = RttcSettings(
        policy=policy, arms=MODEL_ARMS, budget_seconds=10, budget_tokens=100, budget_arms=2
    )
    choice = decide({**asked(D), "spent": used}, settings, arms=ALL)
    assert choice.reason.replace("for rag", "for recalled") == reason


@pytest.mark.parametrize(
    "used",
    [spent(seconds=10.0), spent(tokens=100), spent(arms=2)],
    ids=["seconds", "tokens", "arms"],
)
def test_a_spent_budget_still_owes_an_answer(used: Spent) -> None:
    settings = RttcSettings(budget_seconds=10, budget_tokens=100, budget_arms=2)
    assert decide({"spent": used}, settings, arms=ALL - {"nearest"}).decision == "retrieve"
    assert decide({"spent": used}, settings, arms=PLAIN).decision == "generate"


@pytest.mark.parametrize("policy", policy_names())
def test_an_answer_that_could_not_be_judged_ends_the_run(policy: str) -> None:
    settings = RttcSettings(policy=policy)
    state = looked(D, candidate("rag"), tried=("direct", "rag"))
    assert decide(state, settings, arms=ALL) == NextStep("finish", "an answer could not be judged")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        pytest.param(asked(GOOD), "accepted", id="accepted"),
        pytest.param(looked(D, samples=0), "nothing left to try", id="not-accepted"),
    ],
)
def test_the_end_says_why(state: RttcState, reason: str) -> None:
    assert decide(state, RttcSettings(tau_r=0.9), arms=ALL).reason == reason


def test_a_threshold_of_zero_accepts_a_reward_of_zero() -> None:
    state = asked(candidate("direct", 0.0))
    assert decide(state, RttcSettings(tau_r=0), arms=ALL).reason == "accepted"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(FRESH, ("panel_round", "majority"), id="it-retrieves-by-itself"),
        pytest.param(looked(tried=(), samples=0), ("panel_round", "majority"), id="no-samples"),
        pytest.param(looked(PANEL, tried=("majority",)), FINISH, id="once"),
        pytest.param(looked(tried=("majority",)), ("generate", "direct"), id="it-has-no-answer"),
    ],
)
def test_a_panel_is_drawn_once(state: RttcState, expected: tuple[str, str]) -> None:
    assert step(state, "majority", PLAIN | {"majority"}) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        pytest.param([], None, id="none-of-none"),
        pytest.param([D, T, R], T, id="the-highest-reward-wins"),
        pytest.param([R, candidate("ttt", 0.5)], R, id="the-earlier-of-equals-wins"),
        pytest.param([candidate("direct"), R], R, id="a-judged-one-beats-an-unjudged-one"),
        pytest.param(
            [candidate("direct"), candidate("rag", 0.0)],
            candidate("rag", 0.0),
            id="even-a-reward-of-zero-beats-an-unjudged-one",
        ),
        pytest.param(
            [candidate("direct"), candidate("rag")],
            candidate("direct"),
            id="unjudged-the-first-wins",
        ),
        pytest.param([DONT_KNOW, PANEL], PANEL, id="a-panel-from-samples-beats-a-refusal"),
        pytest.param(
            [DONT_KNOW, candidate("majority", 0.3)],
            DONT_KNOW,
            id="one-from-the-model-alone-does-not",
        ),
    ],
)
def test_best_candidate(candidates: list[Candidate], expected: Candidate | None) -> None:
    assert best_candidate(candidates) == expected
