"""Pictures of the page for the how-tos, taken in a real browser from a server that is running.

    make demo && .venv/bin/rttc serve --port 8008 &
    .venv/bin/python docs/site/take_pictures.py http://127.0.0.1:8008 docs/pictures

It asks a question of the demo, so a run with several answers is there to be shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

QUESTION = "My bike takes up too much space. Could the workshop hold on to it?"
SIZE = {"width": 1100, "height": 760}
ANSWER_MILLISECONDS = 180_000
"""Longest wait for an answer: models load at the first one."""

CHROMIUM = "/usr/bin/chromium"


def main(url: str, folder: Path) -> None:
    """Write `page-ask.png` and `page-runs.png`, and print how soon the page was painted."""
    with sync_playwright() as playwright:
        path = CHROMIUM if Path(CHROMIUM).exists() else None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(url)
        print(f"first paint after {first_paint(page):.0f} ms")  # noqa: T201 - a script for people
        page.get_by_label("Question").fill(QUESTION)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_role("heading", name="Ledger").wait_for(timeout=ANSWER_MILLISECONDS)
        page.screenshot(path=folder / "page-ask.png")
        page.get_by_role("navigation").get_by_role("link", name="Runs").click()
        page.get_by_role("table").wait_for()
        page.screenshot(path=folder / "page-runs.png")
        browser.close()


def first_paint(page: Page) -> float:
    """Return the milliseconds from the request to the first content on the screen."""
    found = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
    return float(page.evaluate(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
