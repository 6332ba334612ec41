"""Writes docs/report.png: python scripts/screenshot.py results/demo/report.html

The upper part of a run's report, as Chromium shows it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "report.png"
SIZE = {"width": 1200, "height": 1010}  # pixels: the figures and the first two charts


def main(page: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        tab.goto(page.resolve().as_uri())
        tab.wait_for_function("document.querySelectorAll('canvas, svg').length > 0")
        tab.screenshot(path=PICTURE, animations="disabled")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
