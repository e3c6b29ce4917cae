"""A headless Chromium, and what tests ask of a page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

CHROMIUM = os.environ.get("RTTC_TEST_CHROMIUM") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="there is no chromium: apt install chromium, or name one in RTTC_TEST_CHROMIUM",
)

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=20_000)  # of a machine that does much else

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 380, "height": 800}


SHOTS = os.environ.get("RTTC_TEST_SHOTS")
"""Folder for pictures of the page, for people."""


@contextmanager
def chromium() -> Generator[Browser]:
    """Yield a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=list(_FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page whose console and foreign requests are watched."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.faults: list[str] = []
        self._context = browser.new_context(viewport=DESKTOP)
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._asked)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"asked {request.url}")

    def open(self, place: str = "/") -> Page:
        """Go somewhere on the server."""
        self.page.goto(self.url + place)
        return self.page

    def check(self, name: str) -> None:
        """Check a story for everybody: on a wide screen, on a narrow one, and in the dark."""
        page = self.page
        assert page.evaluate("() => window.hacked") is None
        self.check_access()
        self.check_width()
        shot(page, name)
        page.set_viewport_size(PHONE)
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(50)  # charts follow their place
        self.check_width()
        self.check_access(["color-contrast", "scrollable-region-focusable", "target-size"])
        shot(page, f"{name}-phone")

    def check_access(self, rules: list[str] | None = None) -> None:
        """Fail on what axe finds wrong for people who see or use the page in another way."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(_axe())
        run = "async (rules) => (await axe.run(rules ? { runOnly: rules } : {})).violations"
        found: Any = self.page.evaluate(run, rules)
        told = [
            f"{one['id']}: {one['help']} {[node['html'][:150] for node in one['nodes'][:3]]}"
            for one in found
        ]
        assert not told, "\n".join(told)

    def check_width(self) -> None:
        """Fail if one has to scroll sideways to read the page."""
        wide: Any = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide[0] <= wide[1], wide

    def close(self) -> None:
        self._context.close()


def shot(page: Page, name: str) -> None:
    """Keep a picture, where somebody wants to look."""
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
