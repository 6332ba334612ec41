"""report.html in a real headless Chromium, opened from disk without a network."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from cosmicai.experiments import sweep, sweep_page
from summarize.contract.figures import seconds_text, usd_text
from summarize.contract.run_records import Run, Summary
from summarize.report import report
from summarize.summary import summary

from .reports import HOSTILE, STARTED, Open, made

Json = dict[str, Any]


def _screenshot(page: Page, name: str) -> None:
    folder = os.environ.get("COSMICAI_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_it_shows_the_right_numbers(opened: Open) -> None:
    content = made(12, failed=2)
    page = opened(content)
    run_summary = content[0]
    assert page.title() == "CosmicAI run run-1"
    tiles = dict(tuple(reversed(tile.inner_text().split("\n"))) for tile in page.locator(".tiles li").all())
    assert tiles["redshifts"] == "400"
    assert tiles["NMAD"] == f"{run_summary.accuracy['precision (NMAD)']:.4f}"
    assert tiles["cost at list prices"] == usd_text(run_summary.cost.total)
    assert tiles["images/s of the run"] == f"{400 / run_summary.wall_seconds:,.0f}"
    assert f"{seconds_text(run_summary.wall_seconds)} from start" in page.inner_text("header").replace(
        "\xa0", " "
    )
    assert "2 ranks without a result" in page.inner_text("body")
    assert "25MB/11.pt is cut short" in page.inner_text("body")
    assert page.locator("#ranks tbody tr").count() == 10
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart')].map(e => [e.id, e.querySelectorAll('canvas').length])"
    )
    assert dict(drawn) == dict.fromkeys(("density", "errors", "bins", "timeline", "speed", "memory"), 1)
    option = "echarts.getInstanceByDom(document.getElementById('{}')).getOption().series"
    series = page.evaluate(option.format("density"))[0]["data"]
    assert sum(cell[2] for cell in series) == run_summary.accuracy["count"] == 400
    bars = page.evaluate(option.format("timeline"))
    assert [one["name"] for one in bars] == ["init", "download", "inference", "communication", "upload"]
    last = bars[-1]["data"][-1]
    assert last[2] == pytest.approx(content[1][-1].ended - STARTED, abs=0.01)


def test_the_table_of_ranks_sorts_and_filters_by_keyboard_too(opened: Open) -> None:
    page = opened(made(12))
    button = page.locator("#ranks thead button", has_text=re.compile("^duration"))
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("#ranks th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert page.locator("#ranks tbody tr").first.locator("td").first.inner_text() == "5"  # the straggler
    page.fill("#filter", "7")
    assert page.locator("#ranks tbody tr:visible").count() == 1
    page.fill("#filter", "25MB/1")
    assert page.locator("#ranks tbody tr:visible").count() == 4  # 1, 10, 11, 12


def test_hostile_names_are_text(opened: Open) -> None:
    page = opened(made(3, hostile=True, failed=1))
    page.wait_for_timeout(200)
    assert page.title().startswith("CosmicAI run </script><img")
    assert page.locator("img").count() == 0
    assert "owned" in page.inner_text("h1")  # as written, never run


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_screen_is_too_narrow_and_text_has_contrast(opened: Open, scheme: str, width: int) -> None:
    page = opened(made(517), color_scheme=scheme, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.querySelector('{}')).{}"
    for text, ground in (("header p", "body"), (".tiles span", ".tiles li"), ("#ranks td", "section")):
        colours = [
            page.evaluate(style.format(text, "color")),
            page.evaluate(style.format(ground, "backgroundColor")),
        ]
        assert _contrast(*colours) >= 4.5, (text, colours)  # WCAG 2.1, AA
    _screenshot(page, f"report-{scheme}-{width}")


def _contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_thousand_ranks_and_700_000_redshifts_stay_under_3_mb(opened: Open) -> None:
    content = made(1000, per_rank=700)
    assert content[0].num_samples == 700_000
    assert len(report(*content).encode()) < 3e6
    page = opened(content)
    assert page.locator("#ranks tbody tr").count() == 1000


_PRINTED = """([id, from]) => {
  dispatchEvent(new Event("beforeprint"));
  let count = 0;
  for (const canvas of document.querySelectorAll(`#${id} canvas`)) {
    const left = Math.floor(canvas.width * from), width = Math.floor(canvas.width * .2);
    const pixels = canvas.getContext("2d").getImageData(left, 0, width, canvas.height).data;
    for (let i = 0; i < pixels.length; i += 4) {
      const [red, green, blue, opacity] = pixels.slice(i, i + 4);
      count += opacity > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 100;
    }
  }
  return count;
}"""
"""How many pixels of a fifth of a chart, which begins there, are in a strong colour when printing begins."""


def test_the_page_of_twelve_thousand_ranks_opens(opened: Open) -> None:
    content = made(12_000, per_rank=1)
    assert len(report(*content).encode()) < 5e6
    page = opened(content)
    assert page.locator("#ranks tbody tr").count() == 2000
    assert "One rank of 3 is drawn" in page.inner_text("body")
    for chart in ("timeline", "speed", "memory"):
        assert page.evaluate(_PRINTED, [chart, 0.75]) > 0, chart


def test_without_redshifts_and_without_ranks_it_still_opens(opened: Open) -> None:
    run_summary, infos = made(3)
    unknown = [replace(info, accuracy_state=None) for info in infos]
    page = opened((replace(run_summary, accuracy=None, accuracy_state=None), unknown))
    assert [chart.get_attribute("id") for chart in page.locator(".chart").all()] == [
        "predicted", "timeline", "speed", "memory",
    ]  # fmt: skip
    old = [replace(info, predicted_redshifts=None) for info in unknown]
    before = replace(run_summary, accuracy=None, accuracy_state=None, predicted_redshifts=None)
    assert opened((before, old)).locator(".chart").count() == 3
    nothing = made(2, failed=2)
    assert opened(nothing).locator(".chart").count() == 0


@pytest.mark.parametrize(
    ("failed", "tolerated", "kind", "label"),
    [
        (0, 0, "good", "✓ Succeeded: all 10 ranks finished"),
        (2, 20, "warn", "! Succeeded, but 2 of 10 ranks left no result (up to 20 % are tolerated)"),
        (2, 19.9, "fail", "✗ Failed: 2 of 10 ranks left no result"),
        (10, 0, "fail", "✗ Failed: 10 of 10 ranks left no result"),
    ],
)
def test_a_badge_says_whether_the_run_succeeded(
    opened: Open, failed: int, tolerated: float, kind: str, label: str
) -> None:
    run_summary, infos = made(10, failed=failed)
    run_summary.payload["tolerated_failure_percentage"] = tolerated
    badge = opened((run_summary, infos)).locator(".badge")
    assert badge.inner_text() == label
    assert kind in str(badge.get_attribute("class"))


@pytest.mark.parametrize("width", [390, 1280])
def test_a_measure_is_explained_on_hover_and_on_focus(opened: Open, width: int) -> None:
    page = opened(made(3), viewport={"width": width, "height": 900})
    for name in ("NMAD", "images/s of the run", "cold starts"):
        tile = page.locator(".tiles li", has_text=re.compile(f"^[^a-z]*{name}"))
        tip = tile.locator("[role=tooltip]")
        assert not tip.is_visible()
        tile.hover()
        assert tip.is_visible()
        box = tip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        page.mouse.move(0, 0)
        assert not tip.is_visible()
        tile.focus()
        assert tip.is_visible()
        assert tile.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.locator(".tiles li", has_text="NMAD").focus()
    assert "1.48 × median |d − median d|" in page.inner_text(".tiles")
    _screenshot(page, f"report-hover-{width}")


def test_predicted_redshifts_are_drawn_where_some_true_ones_are_unknown(opened: Open) -> None:
    run_summary, infos = made(3, per_rank=300)
    mixed = [replace(infos[0], accuracy_state=None), *infos[1:]]
    page = opened((summary(_run_of(run_summary), mixed, {}), mixed))
    note = page.locator("section", has=page.locator("#predicted")).locator(".note").inner_text()
    assert note.startswith("900 galaxies. The true redshifts of only 600 galaxies are known")
    bars = page.evaluate(
        "echarts.getInstanceByDom(document.getElementById('predicted')).getOption().series[0].data"
    )
    left_out = sum(int(count) for count in re.findall(r"(\d+) (?:below|above)", note))
    assert sum(bar[1] for bar in bars) + left_out == 900
    assert len(bars) <= 90
    assert opened(made(3)).locator("#predicted").count() == 0  # all are known


def _run_of(run_summary: Summary) -> Run:
    return Run(
        run_id=run_summary.run_id,
        started=run_summary.started,
        payload=run_summary.payload,
        world_size=run_summary.world_size,
        collectives=run_summary.collectives,
        bytes=1,
    )


def test_a_run_on_one_machine_has_no_cost(opened: Open) -> None:
    run_summary, infos = made(3)
    page = opened((replace(run_summary, cost=None), infos))
    assert "cost at list prices" not in page.inner_text("body")
    assert "by cosmicai infer" in page.inner_text("header")


@pytest.mark.parametrize(("table", "width"), [("#ranks", 1280), ("table.compact", 390)])
def test_tables_fit(opened: Open, table: str, width: int) -> None:
    """The ranks on a desktop, the comparison with published runs on a phone; the rest scrolls in its frame."""
    page = opened(made(40), viewport={"width": width, "height": 900})
    frame = page.locator(".scroll", has=page.locator(table)).first
    assert frame.evaluate("frame => frame.scrollWidth <= frame.clientWidth")
    heights = page.locator("#ranks tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert max(heights) < 40  # a line each


def test_a_table_fades_where_it_continues(opened: Open) -> None:
    """Else half a number at the edge of a phone reads like a whole one."""
    frame = opened(made(3), viewport={"width": 390, "height": 900}).locator(".scroll", has_text="peak")
    assert "more" in str(frame.get_attribute("class")).split()
    frame.evaluate("frame => frame.scrollTo(frame.scrollWidth, 0)")
    expect(frame).not_to_have_class(re.compile("more"))


def test_words_of_a_table_stay_whole_on_a_phone(opened: Open) -> None:
    page = opened(made(3, failed=1), viewport={"width": 390, "height": 900})
    error = page.locator("section", has_text="without a result").locator("td", has_text="PartitionError").first
    lines = (
        "cell => { const text = document.createRange(); text.selectNodeContents(cell); "
        "return text.getClientRects().length }"
    )
    assert error.evaluate(lines) == 1


def test_bins_of_few_galaxies_are_not_drawn(opened: Open) -> None:
    run_summary, infos = made(12)
    few = [one | {"count": 9} if one["from"] == 0.5 else one for one in run_summary.accuracy["by redshift"]]
    page = opened((replace(run_summary, accuracy=run_summary.accuracy | {"by redshift": few}), infos))
    names = page.evaluate("echarts.getInstanceByDom(document.getElementById('bins')).getOption().xAxis[0].data")
    assert names == [f"{one['from']:g} to {one['to']:g}" for one in few if one["count"] >= 10]
    assert "Bins of fewer than 10 galaxies are not drawn." in page.inner_text("body")


SWEEP_AXES = {"batch_size": (64, 256), "partition_mb": (25.0, 50.0)}


def _swept(folder: Path) -> Path:
    """The page of a sweep in which batches of 256 are faster and larger partitions cheaper."""
    rows = []
    for number in (1, 2, 3):
        for batch in SWEEP_AXES["batch_size"]:
            for partition in SWEEP_AXES["partition_mb"]:
                seconds = (40.0 if batch == 256 else 60.0) + partition / 50 + number / 10
                rows.append({
                    "partition_mb": partition, "data_gb": 12.6 + partition / 1e4, "batch_size": batch,
                    "experiment": number, "repeat_data": 1, "sample_persec": 400.0, "num_samples": 6000,
                    "total_cpu_time (seconds)": 1.0, "throughput_bps": 1e6, "images_per_second": 6000 / seconds,
                    "total (USD)": 0.09 - partition / 1000, "duration (seconds)": seconds, "GB-seconds": 9.0,
                    "world_size": 9, "run_id": HOSTILE, "total_process_memory (MB)": 150.0 + batch,
                })  # fmt: skip
    return sweep_page.write(folder, rows, list(sweep.over_repeats(rows)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_sweep_says_what_won(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    context = browser.new_context(
        offline=True,
        color_scheme=scheme,
        viewport={"width": width, "height": 900},  # type: ignore[arg-type]
    )
    page, faults = context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(_swept(tmp_path).as_uri())
    page.wait_for_selector("html[data-ready]")
    won = page.inner_text(".won")
    assert (
        "12.6 GB: fastest is batch size 256 with 25 MB partitions, 40.7 s and $0.0650 (mean of 3 runs)" in won
    )
    assert "12.6 GB: cheapest is batch size 64 with 50 MB partitions" in won
    assert "As good within chance: batch size 256 with 50 MB partitions." in won
    assert page.locator(".chart").count() == 2 * 4
    names = page.evaluate(
        "[...document.querySelectorAll('.chart')].map(e => echarts.getInstanceByDom(e).getOption())"
        ".map(o => [o.xAxis[0].name, o.yAxis[0].name])"
    )
    assert {tuple(name) for name in names} == {
        (x, y)
        for x in ("batch size, galaxies", "partition size, MB")
        for y in ("seconds", "images per second", "MB", "USD")
    }
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.querySelector('{}')).{}"
    for text, ground in ((".won p", ".won"), ("#cases td", "section"), ("header p", "body")):
        colours = [
            page.evaluate(style.format(text, "color")),
            page.evaluate(style.format(ground, "backgroundColor")),
        ]
        assert _contrast(*colours) >= 4.5, (text, colours)
    best = page.locator("#cases tr.best td").first
    assert best.evaluate("cell => getComputedStyle(cell, '::after').content") == '" ★"'
    assert faults == []
    _screenshot(page, f"sweep-{scheme}-{width}")
    context.close()


def test_it_prints_in_full(opened: Open) -> None:
    page = opened(made(80))
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowY") == "visible"
    assert len(page.pdf(format="A4")) > 50_000
