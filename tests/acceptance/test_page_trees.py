"""Trees of steps and graphs of thoughts on the page, over a served graph of scripted parts."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from browser import Watched, chromium, needs_chromium
from http_servers import post, served
from playwright.sync_api import Browser, Locator, Page, Route, expect
from scripted_parts import Parts
from scripted_thoughts import ThinkingModel

from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    ProcessRewardModel,
    StepScores,
)
from rttc_graph.serving.http_app import ServedParts, create_app

pytestmark = needs_chromium

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
LINES = (f"{EVIL} costs", "a line of the next step " * 9, "so it is")
HARD = "what do a, b and c come to"
PARTS = ((f"how much is {EVIL}", ()), ("how much is b", (1,)), ("how much is c in euros", ()))
ANSWERS = {
    HARD: ("7 euros", ("a is 1", "b is 2")),
    PARTS[0][0]: (f"a is 1 {EVIL}", ()),
    PARTS[1][0]: ("b is 2", ()),
    PARTS[2][0]: ("", ()),
}
REWARDS = {"7 euros": 0.95, "wrong": 0.1}
THOUGHTS = {"policy": "graph_of_thoughts", "search_thought_depth": 1}


@dataclass
class WritingModel(ThinkingModel):
    """Thinks, and writes three lines where it is asked for steps."""

    continues_answers: bool = True

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        made = await super().generate(requests, deadline=deadline)
        return [
            one if request.step is None and not request.answer_prefix else _written(request, one)
            for request, one in zip(requests, made, strict=True)
        ]


def _written(request: GenerationRequest, made: Generation) -> Generation:
    dice, begun = random.Random(request.seed), request.answer_prefix.count("\n")
    lines = [f"{line} {dice.randrange(10)}\n" for line in LINES[begun:]]
    new = lines if request.step is None else lines[:1]
    text = request.answer_prefix + "".join(new)
    ended = len(new) == len(lines)
    return replace(made, text=text, finish_reason="stop" if ended else "step")


class Unsure(ProcessRewardModel):
    """Judges steps by their last digit, and abstains from the odd ones."""

    @property
    def name(self) -> str:
        return "unsure"

    async def fingerprint(self) -> str:
        return "unsure"

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        ends = [int(one.steps[-1].strip()[-1]) for one in answers]
        return [(None if end % 2 else end / 10,) for end in ends]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def model() -> WritingModel:
    return WritingModel(splits={HARD: PARTS}, answers=ANSWERS)


@pytest.fixture
def watched(browser: Browser, database: Database, model: WritingModel) -> Iterator[Watched]:
    parts = Parts(policy_model=model).parts()
    parts["process_reward_model"] = Unsure()
    parts["reward_model"] = lambda query, answer: REWARDS.get(answer, 0.5)
    ledger = parts["ledger_store"] = PostgresLedgerStore(database)
    with served(create_app(ServedParts(parts=parts, history=ledger))) as url:
        watched = Watched(browser, url)
        yield watched
        watched.close()
    assert watched.faults == []


def answered(watched: Watched, question: str, **ours: Any) -> str:
    """Ask, and return the id of the stored run."""
    told = {"search_from": ["direct"], "tau_r": 0.9, "use_cache": False, **ours}
    body = {"model": "rttc", "messages": [{"role": "user", "content": question}], "rttc": told}
    done = post(watched.url, "/v1/chat/completions", body)
    assert done.status_code == 200, done.text
    return str(done.json()["rttc"]["run_id"])


def ask(watched: Watched, question: str, **ours: Any) -> Page:
    """Ask, and open the stored run."""
    page = watched.open(f"/#/runs/{answered(watched, question, **ours)}")
    expect(page.get_by_role("tree")).to_be_visible()
    return page


def rows_of(page: Page) -> Locator:
    return page.get_by_role("treeitem")


def test_a_tree_of_steps_is_drawn_with_the_kept_answer_and_abstentions(watched: Watched) -> None:
    page = ask(watched, "what does it cost", policy="beam", search_n=4)
    rows = rows_of(page)
    expect(page.get_by_role("tree", name="Tree of steps, beam")).to_be_visible()
    expect(rows).to_have_count(12)
    assert "beam: 12 steps, " in page.locator(".search-tree").inner_text()
    expect(rows.filter(has_text=EVIL)).to_have_count(4)
    expect(rows.filter(has_text=re.compile(r"P 0\.\d\d"))).not_to_have_count(0)
    expect(rows.filter(has_text="judge abstained")).not_to_have_count(0)
    expect(rows.filter(has_text="3 tokens")).to_have_count(12)
    expect(rows.filter(has_text="direct")).to_have_count(12)
    kept = page.get_by_role("treeitem", name=re.compile("^Kept: so it is"))
    expect(kept).to_have_count(1)
    expect(kept).to_have_attribute("aria-selected", "true")
    expect(kept).to_have_attribute("aria-level", "3")
    on_the_way = page.get_by_role("treeitem", name=re.compile("^On the way to the kept answer: "))
    expect(on_the_way).to_have_count(2)
    pane = page.get_by_role("region", name="Tree of steps, beam: what is selected")
    expect(pane).to_contain_text(f"{EVIL} costs")
    expect(pane.locator("mark")).to_contain_text("so it is")
    long = rows.filter(has_text=LINES[1][:100]).first
    long.click()
    expect(pane.locator("mark")).to_have_text(re.compile("…$"))
    assert len(pane.locator("mark").inner_text()) == 200
    watched.check("steps")


def test_nothing_is_marked_in_a_ledger_that_does_not_tell_what_was_kept(watched: Watched) -> None:
    page = ask(watched, "what does it cost", policy="beam", search_n=4)

    def as_of_an_earlier_release(route: Route) -> None:
        reply = route.fetch()
        run = reply.json()
        for entry in run["ledger"]:
            entry["detail"].pop("kept", None)
        route.fulfill(response=reply, json=run)

    page.route("**/runs/show", as_of_an_earlier_release)
    page.reload()
    expect(rows_of(page)).to_have_count(12)
    expect(rows_of(page).filter(has_text="✓")).to_have_count(0)
    expect(page.get_by_role("button", name="Go to the kept answer")).to_be_hidden()


def test_a_tree_is_moved_through_by_keyboard(watched: Watched) -> None:
    page = ask(watched, "what does it cost", policy="beam", search_n=4)
    page.get_by_role("button", name="Close all").focus()
    page.keyboard.press("Tab")
    focused = page.locator(".branch:focus")
    expect(focused).to_have_attribute("aria-selected", "true")
    for key, level, shown in (
        ("Home", "1", 12), ("ArrowLeft", "1", None), ("ArrowRight", "1", 12),
        ("ArrowRight", "2", 12), ("ArrowLeft", "2", None), ("ArrowLeft", "1", None),
        ("*", "1", None), ("End", None, None), ("ArrowUp", None, None),
    ):  # fmt: skip
        page.keyboard.press(key)
        if level:
            expect(focused).to_have_attribute("aria-level", level)
        if shown:
            expect(rows_of(page)).to_have_count(shown)
    page.keyboard.press("Home")
    open_first = focused.get_attribute("aria-expanded")
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-expanded", "false" if open_first == "true" else "true")
    page.keyboard.press("Tab")
    expect(page.locator(".branch:focus")).to_have_count(0)


def test_hundreds_of_steps_begin_closed(watched: Watched) -> None:
    many = {"search_n": 64, "search_nodes": 1024, "seed": 46}  # one of the last answers is kept
    page = ask(watched, "what does it cost", policy="beam", **many)
    rows = rows_of(page)
    expect(page.locator(".search-tree")).to_contain_text("192 steps")
    begun = rows.count()
    assert 64 < begun < 100
    page.locator(".search-tree").scroll_into_view_if_needed()
    expect(page.get_by_role("treeitem", name=re.compile("^Kept: "))).to_be_in_viewport()
    page.get_by_role("button", name="Open all").click()
    expect(rows).to_have_count(192)
    page.get_by_role("button", name="Close all").click()
    expect(rows).to_have_count(64)
    expect(rows.filter(has_text=re.compile(r"\+\d"))).not_to_have_count(0)
    page.get_by_role("button", name="Go to the kept answer").click()
    expect(page.locator(".branch:focus")).to_contain_text("kept")
    watched.check_access()


def test_a_graph_of_thoughts_is_drawn_while_it_grows_and_afterwards(
    watched: Watched, model: WritingModel
) -> None:
    model.seconds = 0.3
    page = watched.open("/#/ask")
    page.get_by_label("Question").fill(HARD)
    page.get_by_label("Policy").select_option("graph_of_thoughts")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_function(
        "() => document.querySelectorAll('[role=treeitem]').length === 4"
        " && !document.querySelector('#answer')"
    )
    expect(page.locator("#answer")).to_have_text("7 euros")
    rows = rows_of(page)
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_have_accessible_name(
        re.compile(f"^Kept: 0. {HARD} Answer: 7 euros kept from its parts reward 0.95")
    )
    expect(rows.nth(1)).to_contain_text(EVIL)
    expect(rows.nth(2)).to_contain_text("needs 1")
    expect(rows.nth(3)).to_contain_text("no answer")
    expect(rows.nth(3)).not_to_contain_text("✓")
    rows.nth(2).click()
    pane = page.get_by_role("region", name="Graph of thoughts, graph_of_thoughts: what is selected")
    expect(pane).to_contain_text("b is 2")
    pane.get_by_role("button", name="1. how much is").first.click()
    expect(rows.nth(1)).to_be_focused()
    expect(pane).to_contain_text(f"a is 1 {EVIL}")
    watched.check("thoughts")


def test_two_runs_side_by_side_have_a_tree_each(watched: Watched) -> None:
    runs = [answered(watched, "what does it cost", policy="beam", search_n=n) for n in (2, 4)]
    runs.append(answered(watched, HARD, **THOUGHTS))
    page = watched.open(f"/#/runs/compare/{runs[0]}/{runs[1]}")
    trees = page.get_by_role("tree")
    expect(trees).to_have_count(2)
    second = page.get_by_role("tree", name="Tree of steps, beam, second run")
    expect(second.get_by_role("treeitem")).to_have_count(12)
    expect(page.get_by_role("region", name="Tree of steps, beam, first run")).to_be_visible()
    watched.check("compared-steps")
    page.goto(f"{watched.url}/#/runs/compare/{runs[1]}/{runs[2]}")
    expect(page.get_by_role("tree", name="Graph of thoughts, graph_of_thoughts")).to_be_visible()
    expect(trees).to_have_count(2)


def test_a_run_without_a_search_has_no_tree(watched: Watched) -> None:
    page = ask(watched, "what does it cost", policy="beam", search_n=4)
    page.goto(f"{watched.url}/#/ask")
    page.get_by_label("Question").fill("what is it")
    page.get_by_label("Policy").select_option("direct")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer")).to_be_visible()
    expect(page.get_by_role("tree")).to_have_count(0)
