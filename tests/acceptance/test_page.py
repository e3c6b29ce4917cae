"""The page at `/` in a real browser, over a real server with a tiny model: its six stories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import SHOTS, Watched, chromium, needs_chromium, shot
from http_servers import MemoryKeys, get, post, send, served
from installations import described_installation
from playwright.sync_api import Browser, expect
from postgres_fixtures import cloned

from rttc_graph.cli.commands.serve import everything_of
from rttc_graph.installation.config import load_config
from rttc_graph.installation.local import open_local
from rttc_graph.serving.http_app import ServedParts, create_app

pytestmark = needs_chromium

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
SAMPLES = [
    {"question": f"what is {n} plus {n}", "answer": str(2 * n), "domain": "sums"} for n in range(12)
] + [{"question": f"{EVIL} costs", "answer": EVIL, "domain": "shop", "external_id": EVIL}]
CURVE = [[n / 50, 0.5 + n / 200, 1 + n / 20, 1 - n / 60, 0.3 - n / 200] for n in range(51)]


async def _calibrations(tenant: str) -> list[dict[str, Any]]:
    domain: dict[str, Any] = {
        "domain": "sums",
        "answers": 90,
        "method": "platt",
        "knots": [[1.2, 0.3]],
        "own": True,
        "for_others": False,
        "arms": ["nearest", "rag"],
        "tau_r": 0.6,
        "curve": CURVE,
    }
    told = {"reward_model": tenant, "in_force": True, "saved_at": "2026-01-02T03:04:05+00:00"}
    return [{**told, "aim": "highest accuracy", "domains": [domain]}]


@pytest.fixture(scope="module")
def parts(
    postgres_server: Any,
    postgres_template: str,
    tiny_model_path: Path,
    tiny_embedder_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServedParts]:
    folder = tmp_path_factory.mktemp("page")
    with cloned(postgres_server.dsn, postgres_template) as dsn, pytest.MonkeyPatch.context() as env:
        described = described_installation(folder, dsn, tiny_model_path, tiny_embedder_path)
        for name, value in described.described.items():
            env.setenv(name, value)
        env.setenv("RTTC_CORRECTIONS", "store")
        with open_local(load_config()) as local:
            yield replace(everything_of(local), calibrations=_calibrations)


@pytest.fixture(scope="module")
def url(parts: ServedParts) -> Iterator[str]:
    with served(create_app(parts)) as url:
        assert post(url, "/kb/ingest", {"samples": SAMPLES}).json()["samples"] == len(SAMPLES)
        no_domain = {"policy": "direct", "max_new_tokens": 4}
        sums = {"domain": "sums", "arms": ["nearest", "rag"]}
        for n, ours in ((2, no_domain), (3, sums | {"tau_r": 0.0}), (4, sums | {"tau_r": 0.9})):
            asked = {"role": "user", "content": f"what is {n} plus {n}"}
            body = {"model": "rttc", "messages": [asked], "rttc": ours}
            assert post(url, "/v1/chat/completions", body).status_code == 200
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def watched(browser: Browser, url: str) -> Iterator[Watched]:
    watched = Watched(browser, url)
    yield watched
    watched.close()
    assert watched.faults == []


def test_a_question_is_asked_and_its_run_is_watched(watched: Watched) -> None:
    page = watched.open()
    page.get_by_label("Question").fill(f"what is 5 plus 5 {EVIL}")
    page.get_by_label("Domain").fill("sums")
    page.get_by_label("τr", exact=True).fill("1")
    page.get_by_label("Question").press("Control+Enter")
    expect(page.locator("#answer")).to_be_visible()
    steps = page.locator(".steps li").all_inner_texts()
    assert steps[:2] == ["prepare", "retrieve"]
    assert {"nearest", "reward_judge", "rag_generate", "ttt_adapt"} <= set(steps)
    arms = [text.split()[0] for text in page.locator(".cards h3").all_inner_texts()]
    assert arms == ["nearest", "rag", "ttt"]
    expect(page.locator(".cards .taken")).to_have_count(1)
    expect(page.locator(".run .tag.warn")).to_have_text("not accepted")
    expect(page.locator(".run .status")).to_contain_text(re.compile(r"Not accepted: score \d"))
    expect(page.locator(".run .status")).to_contain_text("is below τr 1.00")
    expect(page.get_by_role("table")).to_contain_text("what is")
    expect(page.locator(".timeline").last).to_contain_text("judged")
    page.locator(".timeline summary").first.click()
    page.get_by_label("The right answer").fill(f"10 {EVIL}")
    page.get_by_role("button", name="Wrong").click()
    expect(page.locator(".rating")).to_contain_text("Rated wrong.")
    expect(page.locator("#notes")).to_contain_text("a sample now")
    watched.check("ask")


def test_a_question_goes_on_while_another_story_is_shown(watched: Watched) -> None:
    page = watched.open("/#/ask")
    page.get_by_label("Question").fill("what is 9 plus 9")
    page.get_by_label("Policy").select_option("direct")
    page.get_by_role("button", name="Ask", exact=True).click()
    stories = page.get_by_role("navigation")
    stories.get_by_role("link", name="Statistics").click()
    expect(page.get_by_role("heading", name="Statistics")).to_be_visible()
    stories.get_by_role("link", name="Ask").click()
    expect(page.locator("#answer")).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("what is 9 plus 9")
    expect(page.locator(".run .status")).not_to_contain_text("Stopped")
    expect(page.locator(".cut")).to_contain_text("cut at its longest")  # 4 tokens of a tiny model
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#answer")).to_have_count(0)


def test_a_panel_is_watched_as_it_grows(watched: Watched) -> None:
    page = watched.open("/#/ask")
    page.get_by_label("Question").fill("what is 6 plus 6")
    page.get_by_label("Policy").select_option("majority")
    page.get_by_text("More settings").click()
    page.get_by_label("search n").fill("4")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#answer")).to_be_visible()
    expect(page.get_by_role("heading", name="Panel")).to_be_visible()
    expect(page.locator(".result")).to_contain_text("of at most 4 answers")
    assert "panel_round" in page.locator(".steps li").all_inner_texts()


def test_what_fails_is_said_where_it_was_asked(watched: Watched) -> None:
    page = watched.open("/#/ask")
    page.get_by_label("Question").fill("what is 6 plus 6")
    page.get_by_label("Domain").fill("sumz")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("did you mean 'sums'")
    assert page.get_by_role("button", name="Ask", exact=True).is_enabled()


def test_runs_are_found_opened_compared_and_asked_again(watched: Watched) -> None:
    page = watched.open("/#/runs")
    rows = page.locator("table.runs tbody tr")
    expect(rows.filter(has_text="what is 3 plus 3")).to_have_count(1)
    page.get_by_label("Text").fill("what is 4 plus")
    page.get_by_label("Accepted", exact=True).select_option("not accepted")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="what is 4 plus 4").click()
    expect(page.get_by_role("heading", name="Ledger")).to_be_visible()
    page.get_by_role("button", name="Right").click()
    expect(page.locator(".rating")).to_contain_text("Rated right.")
    page.get_by_role("button", name="Ask again").click()
    expect(page.get_by_label("Question")).to_have_value("what is 4 plus 4")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("link", name="Compare with the run before").click()
    expect(page.get_by_role("table")).to_contain_text("what is 4 plus 4")
    expect(page.locator(".two .timeline")).to_have_count(2)
    shot(page, "compare")
    page.get_by_role("link", name="All runs").click()
    page.get_by_label("Text").fill("")
    page.get_by_label("Accepted", exact=True).select_option("any")
    page.get_by_role("button", name="Show").click()
    compare = page.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    expect(rows.filter(has_text="what is 3 plus 3")).to_have_count(1)
    for n in (0, 1):
        rows.nth(n).get_by_role("checkbox").check()
    expect(compare).to_be_enabled()
    watched.check("runs")
    compare.click()
    expect(page.get_by_text("Two runs; what differs is marked")).to_be_visible()


def test_another_threshold_is_tried_over_curve_and_runs(watched: Watched) -> None:
    page = watched.open("/#/threshold")
    expect(page.get_by_label("Domain")).to_have_value("sums")
    slider = page.get_by_label("Threshold τr")
    assert slider.input_value() == "0.6"
    expect(page.locator(".figures")).to_contain_text("65.0 %")
    slider.fill("0.2")
    expect(page.locator(".figures")).to_contain_text("55.0 %")
    expect(page.locator("canvas")).to_have_count(2)
    slider.fill("0")
    expect(page.get_by_text("would be accepted, 0 would not")).to_be_visible()
    slider.press("End")
    expect(page.get_by_text("would go on to dearer arms")).to_be_visible()
    watched.check("threshold")
    page.get_by_label("Domain").select_option("(runs without a domain)")
    expect(page.locator(".hint")).to_contain_text("rttc calibrate")


def test_samples_are_searched_added_corrected_and_deleted_after_a_question(
    watched: Watched,
) -> None:
    page = watched.open("/#/samples")
    rows = page.locator("table.samples tbody tr")
    expect(rows.filter(has_text="</script> costs")).to_have_count(1)
    page.get_by_role("button", name="Add a sample").click()
    new = page.get_by_role("dialog")
    new.get_by_label("Domain").fill("shop")
    new.get_by_label("Question").fill("what does a bell cost")
    new.get_by_label("Answer").fill("5 euros")
    watched.check_access()
    new.get_by_role("button", name="Add").click()
    expect(page.locator("#notes")).to_contain_text("stored")
    page.get_by_label("Search").fill("what does a bell cost")
    page.get_by_role("button", name="Show").click()
    expect(rows.first).to_contain_text("1.000")
    page.get_by_label("By").select_option("these very words")
    page.get_by_role("button", name="Show").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Correct what does a bell cost").click()
    page.get_by_role("dialog").get_by_label("Answer").fill("6 euros")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(rows.first).to_contain_text("6 euros")
    page.get_by_role("button", name="Delete what does a bell cost").click()
    expect(page.get_by_role("dialog")).to_contain_text("will be gone")
    page.keyboard.press("Escape")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Delete what does a bell cost").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(0)
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="Show").click()
    expect(rows.filter(has_text="</script> costs")).to_have_count(1)
    watched.check("samples")
    kept = post(watched.url, "/kb/list", {"domain": "shop"}).json()["samples"]
    assert [sample["answer"] for sample in kept] == [EVIL]


def test_statistics_add_up_by_day_and_arm(watched: Watched) -> None:
    page = watched.open("/#/stats")
    expect(page.get_by_role("table", name="By arm")).to_contain_text("nearest")
    expect(page.get_by_role("table", name="By domain")).to_contain_text("sums")
    expect(page.locator("canvas")).to_have_count(3)
    page.get_by_label("The last").select_option("7 days")
    expect(page.locator(".figures")).to_contain_text("runs")
    watched.check("stats")


def test_a_key_opens_its_stories_and_no_others(browser: Browser, parts: ServedParts) -> None:
    keys = MemoryKeys()
    asks, reads = keys.add("ask"), keys.add("kb:read", "runs:read")
    with served(create_app(parts, keys=keys)) as url:
        watched = Watched(browser, url)
        page = watched.open()
        expect(page.get_by_role("alert")).to_contain_text("needs an API key")
        links = page.get_by_role("navigation").get_by_role("link")
        assert links.all_inner_texts() == ["API", "Key"]
        page.get_by_label("API key").fill(asks)
        page.get_by_role("button", name="Use this key").click()
        expect(links).to_have_text(["Ask", "API", "Key"])
        expect(page.locator("#who")).to_have_text("tenant acme")
        watched.check("key")
        page.reload()
        expect(links).to_have_text(["Ask", "API", "Key"])
        links.filter(has_text="Key").click()
        page.get_by_label("API key").fill(reads)
        page.get_by_role("button", name="Use this key").click()
        expect(links).to_have_text(
            ["Runs", "Threshold", "Knowledge base", "Statistics", "API", "Key"]
        )
        links.filter(has_text="Knowledge base").click()
        expect(page.get_by_text("The knowledge base is empty")).to_be_visible()
        expect(page.get_by_role("button", name="Add a sample")).to_have_count(0)
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        links.filter(has_text="Key").click()
        page.get_by_role("button", name="Forget it").click()
        expect(links).to_have_text(["API", "Key"])
        watched.close()
        expected = "401 (Unauthorized)"
        assert [fault for fault in watched.faults if expected not in fault] == []


def test_all_routes_are_listed_at_docs(watched: Watched) -> None:
    page = watched.open("/docs")
    for path in ("/v1/chat/completions", "/runs/list", "/kb/correct", "/rttc/invoke", "/me"):
        expect(page.get_by_text(path, exact=True)).to_be_visible()
    page.get_by_text("/kb/correct", exact=True).click()
    expect(page.get_by_text("Id of the sample, as a search or a list returns it.")).to_be_visible()
    watched.check("docs")


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # LangServe's
def test_langserves_playground_has_a_form_that_answers(watched: Watched) -> None:
    page = watched.open("/rttc/playground/")
    query = page.get_by_role("textbox").and_(page.locator("#\\#\\/properties\\/query-input"))
    query.fill("what is 7 plus 7")
    expect(page.get_by_text("Validation Errors")).to_have_count(0)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("run_id").first).to_be_visible()
    shot(page, "playground")


def test_everything_works_by_keyboard_alone(watched: Watched) -> None:
    page = watched.open()
    expect(page.get_by_label("Question")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    seen: list[str] = []
    for _ in range(12):
        seen.append(page.evaluate("() => document.activeElement.id || document.activeElement.text"))
        page.keyboard.press("Tab")
    names = ["Ask", "Runs", "Threshold", "Knowledge base", "Statistics", "API", "Key"]
    assert seen[: len(names)] == names
    page.get_by_role("link", name="Runs").press("Enter")
    expect(page.get_by_role("heading", name="Runs")).to_be_focused()


def test_the_page_is_light_quick_and_keeps_to_its_server(watched: Watched) -> None:
    sizes: list[int] = []
    watched.page.on("response", lambda one: sizes.append(len(one.body())))
    page = watched.open()
    expect(page.get_by_label("Question")).to_be_visible()
    for story in ("runs", "threshold", "samples", "stats", "key"):
        page.goto(f"{watched.url}/#/{story}")
        expect(page.locator(f"main[data-story={story}]")).to_be_visible()
    assert sum(sizes) < 500_000
    paint: Any = page.evaluate("() => performance.getEntriesByType('paint').map(e => e.startTime)")
    assert max(paint) < 5000, paint  # of a machine that does much else; alone it is a tenth
    if SHOTS:
        print(sum(sizes), paint)  # noqa: T201


def test_the_files_are_guarded_and_cached(url: str) -> None:
    page = send("GET", url, headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in page.text
    assert " style=" not in page.text
    tag = page.headers["etag"]
    again = send("GET", url, headers={"accept": "text/html", "if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert get(url, "/").headers["content-type"] == "application/json"
    for name in ("nothing.js", "__init__.py", "..%2fserver.py", "%2e%2e/openapi.py"):
        assert get(url, f"/page/{name}").status_code == 404
