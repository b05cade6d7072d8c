"""Debian's Chromium, driven by Playwright, for the tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package)")

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Visit:
    """A page in the browser, with all that went wrong on it and all that it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        page.on("request", lambda request: self.requests.append(request.url))

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_function("document.body.dataset.ready === 'yes'", timeout=60_000)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector).replace("\N{NO-BREAK SPACE}", " ")

    @property
    def elsewhere(self) -> list[str]:
        """What was asked of anywhere but the page itself and what it holds."""
        own = ("data:", "blob:", self.page.url)
        return [url for url in self.requests if not url.startswith(own)]


@contextmanager
def visiting(width: int = 1360, height: int = 1100) -> Iterator[Visit]:
    """Start the browser with one empty page, which has neither network nor history."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield Visit(browser.new_page(viewport={"width": width, "height": height}))
        finally:
            browser.close()


def address(path: Path) -> str:
    """What a double click opens."""
    return path.absolute().as_uri()
