"""Headless Chromium for tests and benchmarks that look at a page as people do."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
MISSING = "no Chromium here: `apt-get install chromium`, or name one in CHROMIUM"


def find_chromium() -> str | None:
    """Path of an installed Chromium: `CHROMIUM`, or one on the path; None if there is none."""
    given = os.environ.get("CHROMIUM")
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextlib.contextmanager
def chromium(**page: Any) -> Iterator[Any]:
    """A new page (Playwright's) in a fresh browser with an empty profile.

    Args:
        page: Playwright's settings of a page, for example `color_scheme="dark"`.
    """
    with browser() as running:
        yield running.new_page(**{"viewport": {"width": 1400, "height": 900}, **page})


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium (Playwright's `Browser`)."""
    from playwright.sync_api import sync_playwright

    # as root there is no sandbox; and nothing of the browser's own may go out to the network
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        try:
            yield running
        finally:
            running.close()


def open_page(tab: Any, path: Path, view: str = "") -> None:
    """Opens a gallery from disk and waits until its first pictures are drawn, or it says that there are none."""
    tab.goto(path.absolute().as_uri() + (f"#{view}" if view else ""))
    wait_until(tab, "document.querySelector('.card canvas')?.width > 0 || document.querySelector('.none') !== null")


def wait_until(tab: Any, expression: str, seconds: float = 30) -> None:
    """Waits until a JavaScript expression is true. (Playwright's own wait needs `eval`, which the page forbids.)"""
    until = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < until, f"never true: {expression}"
        tab.wait_for_timeout(10)


def contrast(tab: Any, selector: str) -> tuple[float, float]:
    """WCAG's contrast of an element's words with what is behind them, and the relative luminance of that."""
    text, ground = tab.evaluate(
        """selector => {
          let node = document.querySelector(selector);
          const text = getComputedStyle(node).color;
          let ground = "rgba(0, 0, 0, 0)";
          for (; ground === "rgba(0, 0, 0, 0)"; node = node.parentElement)
            ground = getComputedStyle(node).backgroundColor;
          return [text, ground].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number));
        }""",
        selector,
    )
    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05), luminance(ground)


def luminance(rgb: list[float]) -> float:
    """WCAG's relative luminance."""
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
