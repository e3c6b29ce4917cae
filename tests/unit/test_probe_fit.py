"""A probe fitted on drawn steps: it finds what is in the states, and says where it is of no use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import Generation, GenerationRequest, NewSample
from rttc_graph.reward_training.process.probe_fit import ProbeSettings, card_lines, fit_probe
from rttc_graph.reward_training.process.step_drawing import StepDrawing, StepSampler
from rttc_graph.reward_training.process.step_rows import (
    DrawnAnswer,
    DrawnStep,
    QuestionSteps,
    decoded_state,
    encoded_state,
    read_step_rows,
)
from rttc_graph.state import ChatTurn

SETTINGS = ProbeSettings(name="p", policy_model="m", policy_fingerprint="f", directions=6)


def rows(
    count: int, *, signal: float, surer: float = 0.0, domain: str = "", seed: int = 0
) -> list[QuestionSteps]:
    """Return questions with eight answers of three steps, a third of them right.

    The first of six numbers of a state is higher by `signal` for a step of a right answer, and the
    model's log-probability by `surer`. Wrong answers agree with each other more often than the
    right ones are many, so that a vote is wrong.
    """
    dice = random.Random(seed)
    made: list[QuestionSteps] = []
    for number in range(count):
        answers: list[DrawnAnswer] = []
        for place in range(8):
            right = place < 3
            steps: list[DrawnStep] = [
                {
                    "text": "a\n",
                    "tokens": 5,
                    "label": float(right),
                    "rollouts": 0,
                    "state": encoded_state(
                        [dice.gauss(signal * right, 1.0), *(dice.gauss(0, 3) for _ in range(5))]
                    ),
                    "logprob": dice.gauss(-1.0 + surer * right, 0.1),
                }
                for _ in range(3)
            ]
            answers.append(
                {
                    "steps": steps,
                    "right": right,
                    "vote": "right" if right else f"wrong {place % 2}" if place > 6 else "wrong",
                    "first_wrong": None if right else 1,
                    "was_probed": place in (0, 7),
                }
            )
        made.append(
            {
                "key": f"{domain}{number}",
                "question": f"{domain} question {number}",
                "domain": domain,
                "rate": 3 / 8,
                "answers": answers,
                "completions": [],
            }
        )
    return made


def test_a_probe_finds_what_the_states_tell() -> None:
    """With a difference of three standard deviations the AUC is .98, and a vote is beaten."""
    probe = fit_probe(rows(40, signal=3.0), SETTINGS)
    figures = probe.figures
    assert figures["auc"] > 0.95
    assert all(one > 0.9 for one in figures["auc_by_depth"])
    assert figures["log_loss"] < figures["base_log_loss"] - 0.2
    assert 0 < figures["first_error_f1"] < 1  # the states say wrong from the first step on
    assert figures["gain_over_majority"][1] > 0
    assert probe.closed == {}
    assert probe.widest is not None
    assert probe.widest > 4
    assert "It is closed for no domain." in card_lines(probe)
    assert fit_probe(rows(40, signal=3.0), SETTINGS).fingerprint() == probe.fingerprint()


def test_a_probe_reads_how_sure_the_model_was_of_its_steps() -> None:
    """The states are noise, and a right step is likelier by four standard deviations."""
    probe = fit_probe(rows(40, signal=0.0, surer=0.4), SETTINGS)
    assert probe.figures["auc"] > 0.95
    assert probe.closed == {}


def test_steps_whose_log_probability_is_not_known_are_left_out() -> None:
    some = rows(40, signal=3.0)
    for row in some[:20]:
        for answer in row["answers"]:
            for step in answer["steps"]:
                step["logprob"] = None
    assert fit_probe(some, SETTINGS).figures["steps"] == 20 * 8 * 3


def test_a_probe_of_noise_is_closed_and_chooses_nothing() -> None:
    probe = fit_probe(rows(40, signal=0.0), SETTINGS)
    assert probe.widest == 1
    assert "over a plain vote" in probe.closed[""]
    assert any(line.startswith("- all other domains:") for line in card_lines(probe))


def test_domains_are_closed_one_by_one_and_have_maps_of_their_own() -> None:
    both = [*rows(40, signal=3.0, domain="sums"), *rows(40, signal=0.0, domain="law", seed=1)]
    probe = fit_probe(both, SETTINGS)
    assert set(probe.maps) == {"", "sums", "law"}
    assert "law" in probe.closed
    assert "sums" not in probe.closed


def test_too_few_questions_make_no_probe() -> None:
    with pytest.raises(ConfigurationError, match="at least 20 are needed"):
        fit_probe(rows(10, signal=3.0), SETTINGS)


def test_a_state_is_kept_in_two_bytes() -> None:
    text = encoded_state([1.5, -1e9, 0.0])
    assert text is not None
    assert decoded_state(text) == (1.5, -60000.0, 0.0)
    assert encoded_state(None) is None
    assert encoded_state([float("nan")]) is None


# --- drawing -----------------------------------------------------------------------------------


@dataclass
class Countdown:
    """Writes `a`, `b`, `c` and an answer, one a step; behind a `B` in its path it is always wrong.

    Its third answer to a question takes `B` for its second step, and every other one is right.
    """

    calls: list[list[GenerationRequest]] = field(default_factory=list[list[GenerationRequest]])
    name: str = "countdown"
    continues_answers: bool = True

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        return len(messages)

    async def context_tokens(self) -> int | None:
        return None

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.calls.append(list(requests))
        return [self._one(place, request) for place, request in enumerate(requests)]

    def _one(self, place: int, asked: GenerationRequest) -> Generation:
        text, steps = asked.answer_prefix, 0
        while steps == 0 or (asked.step is None and not text[-1].isdigit()):
            done = len(text)
            letters = "aBc" if place == 2 and asked.step else "abc"
            text += letters[done] if done < 3 else f"#### {9 if 'B' in text else 4}"
            steps += 1
        return Generation(
            text=text,
            prompt_tokens=3,
            completion_tokens=steps,
            mean_logprob=-1.0,
            finish_reason="stop" if text[-1].isdigit() else "step",
            state=(float(len(text)), 1.0),
        )


QUESTION = NewSample(question="2+2?", answer="4", domain="sums")


async def test_the_first_wrong_step_is_searched_for_by_halves(tmp_path: Path) -> None:
    """Of a, B, c, 9 the B is completed first, always wrong, then a, which is always right."""
    model = Countdown()
    sampler = StepSampler(model, "f", StepDrawing(answers=4, rollouts=2))
    [row] = await sampler.draw([QUESTION], tmp_path / "steps.jsonl")
    assert row["rate"] == 0.75
    wrong, right = row["answers"][2], row["answers"][0]
    assert [step["text"] for step in wrong["steps"]] == ["a", "B", "c", "#### 9"]
    assert (wrong["first_wrong"], wrong["was_probed"]) == (1, True)
    assert [step["label"] for step in wrong["steps"]] == [1.0, 0.0, 0.0, 0.0]
    assert [step["rollouts"] for step in wrong["steps"]] == [2, 2, 0, 0]
    assert right["first_wrong"] is None
    assert len(row["completions"]) == 8
    # From the rate of 3/4 towards the outcome of 1, by .8 a step from the end.
    other = row["answers"][1]
    wanted = [0.75 + 0.25 * 0.8**n for n in (3, 2, 1, 0)]
    assert [step["label"] for step in other["steps"]] == pytest.approx(wanted)
    assert other["vote"] == "4"


async def test_a_killed_drawing_goes_on_and_other_settings_draw_anew(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    settings = StepDrawing(answers=4, rollouts=2)
    other = NewSample(question="1+3?", answer="4", domain="sums")
    await StepSampler(Countdown(), "f", settings).draw([QUESTION], file)
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"key": "half of a li')
    model, told = Countdown(), list[tuple[int, int]]()
    await StepSampler(model, "f", settings).draw(
        [QUESTION, other], file, on_progress=lambda done, total: told.append((done, total))
    )
    asked = {request.messages[-1]["content"] for call in model.calls for request in call}
    assert asked == {"1+3?"}
    assert told == [(1, 2), (2, 2)]  # the one that is there counts from the beginning
    await StepSampler(Countdown(), "another model", settings).draw([QUESTION], file)
    assert len(await asyncio.to_thread(read_step_rows, file)) == 3


async def test_questions_are_drawn_independently(tmp_path: Path) -> None:
    model = Countdown()
    sampler = StepSampler(model, "f", StepDrawing(answers=2, rollouts=2))
    other = replace(QUESTION, question="3+1?")
    await sampler.draw([QUESTION, other], tmp_path / "steps.jsonl")
    seeds: dict[str, set[int | None]] = {}
    for request in chain.from_iterable(model.calls):
        seeds.setdefault(request.messages[-1]["content"], set()).add(request.seed)
    of_one, of_other = seeds.values()
    assert not of_one & of_other


async def test_questions_that_tell_nothing_are_not_completed(tmp_path: Path) -> None:
    model = Countdown()
    sampler = StepSampler(model, "f", StepDrawing(answers=2, rollouts=2))
    [row] = await sampler.draw([QUESTION], tmp_path / "steps.jsonl")
    assert row["rate"] == 1.0
    assert len(model.calls) == 4  # four steps, no completion


@pytest.mark.parametrize("wrong", [{"answers": 1}, {"rollouts": 0}, {"points": -1}, {"decay": 0}])
def test_settings_out_of_their_bounds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        StepDrawing(**wrong)  # type: ignore[arg-type]  # of any field
