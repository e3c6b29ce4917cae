"""Pictures of the page for the how-tos, taken in a real browser from a server that is running.

    make demo && RTTC_TENANT=demo RTTC_MAX_NEW_TOKENS=48 .venv/bin/rttc serve --port 8008 &
    .venv/bin/python docs/site/take_pictures.py http://127.0.0.1:8008 docs/pictures

It asks a question of the demo, whose samples are those of a tenant of their own, so a run with
several answers is there to be shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

QUESTION = "Fitted in this order: saddle, lock. In which order do they come off?"
SIZE = {"width": 1280, "height": 760}
LONG = {"width": 1280, "height": 1180}
STORIES = (("Runs", "page-runs.png"), ("Knowledge base", "page-samples.png"))
"""Stories with the files of their pictures."""

ANSWER_MILLISECONDS = 180_000
"""Longest wait for an answer: models load at the first one."""

CHROMIUM = "/usr/bin/chromium"


def main(url: str, folder: Path) -> None:
    """Write the pictures of three stories, and print how soon the page was painted."""
    with sync_playwright() as playwright:
        path = CHROMIUM if Path(CHROMIUM).exists() else None
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(url)
        print(f"first paint after {first_paint(page):.0f} ms")  # noqa: T201 - a script for people
        page.get_by_label("Question").fill(QUESTION)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("#answer").wait_for(timeout=ANSWER_MILLISECONDS)
        page.set_viewport_size(LONG)  # type: ignore[arg-type]
        page.evaluate("() => scrollTo(0, document.querySelector('.run').offsetTop - 16)")
        take(page, folder / "page-ask.png")
        page.set_viewport_size(SIZE)  # type: ignore[arg-type]
        for name, picture in STORIES:
            page.get_by_role("navigation").get_by_role("link", name=name).click()
            page.get_by_role("heading", name=name, level=1).wait_for()
            page.evaluate("() => scrollTo(0, 0)")
            take(page, folder / picture)
        browser.close()


def take(page: Page, path: Path) -> None:
    """Write a picture of what is on the screen, in the few colours that the page has."""
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True)


def first_paint(page: Page) -> float:
    """Return the milliseconds from the request to the first content on the screen."""
    found = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
    return float(page.evaluate(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
