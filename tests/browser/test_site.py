"""The documentation site in a real headless Chromium: it needs no network, and its pictures can be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from cosmicai.packaging.places import ROOT

# Of each text in the picture: what it says, its box, and the boxes that it touches without being inside.
_OUTSIDE = """() => [...document.querySelectorAll('text')].filter(text => {
  const t = text.getBBox(), boxes = [...document.querySelectorAll('rect')].map(rect => rect.getBBox())
  return boxes.some(b =>
    t.x < b.x + b.width && b.x < t.x + t.width && t.y < b.y + b.height && b.y < t.y + t.height &&
    !(b.x <= t.x && t.x + t.width <= b.x + b.width && b.y <= t.y && t.y + t.height <= b.y + b.height))
}).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = str(Path(sys.executable).with_name("mkdocs"))
    command = [mkdocs, "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


def test_no_page_asks_another_host(browser: Browser, site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in (ROOT / "docs").glob("*.md")}
    tab = browser.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    for page in pages:
        tab.goto(page.as_uri(), wait_until="load")
    tab.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("source", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_lists_and_code_blocks_are_rendered_as_such(site: Path, source: Path) -> None:
    """With fewer than four spaces before a block, Python-Markdown ends the list, which GitHub does not."""
    text = source.read_text()
    without_code = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    items = len(re.findall(r"^ *(?:[-*]|\d+\.) +\S", without_code, re.MULTILINE))
    blocks = len(re.findall(r"^ *```", text, re.MULTILINE)) // 2
    article = (site / f"{source.stem}.html").read_text().split("<article")[1].split("</article")[0]
    assert (article.count("<li>"), article.count("<pre>")) == (items, blocks)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_the_architecture_picture_are_inside_their_boxes(browser: Browser, scheme: str) -> None:
    tab = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    tab.goto((ROOT / "docs" / "architecture.svg").as_uri())
    assert tab.evaluate("() => document.querySelectorAll('text').length") > 10
    assert tab.evaluate(_OUTSIDE) == []
    colours = "() => ['.paper', '.title'].map(name => getComputedStyle(document.querySelector(name)).fill)"
    paper, title = tab.evaluate(colours)
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert paper != title
    tab.close()
