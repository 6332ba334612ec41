"""report.html: a run to look at, in one page that needs no network."""

from __future__ import annotations

import html
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from .accuracy import BIN_WIDTH, DENSITY_BINS, DENSITY_WIDTH, Metrics
from .infos import counted, figure, images_in_words, is_exact, samples

Json = dict[str, Any]

_PAGE = Path(__file__).parent / "page"
_PHASES = ("init", "download", "inference", "communication", "upload")
_ERROR_BIN = 0.005  # of the histogram of scaled errors
_ERROR_RANGE = 0.3
_LISTED = 2000  # ranks in the table, the slowest ones of a larger run

# Published for AstroMAE on Lambda, 12.6 GB: ranks, seconds end to end, USD. The second price is what Lambda bills:
# configured memory and billed duration; only that of the 75 MB case is known.
_PUBLISHED_GB = 12.6
_PUBLISHED = (
    ("25 MB partitions", 517, "55 to 60", 0.16, None),
    ("50 MB partitions", 259, "43 to 46", 0.20, None),
    ("75 MB partitions", 173, "45 to 52", 0.30, 0.97),
    ("100 MB partitions", 130, "67 to 70", 0.38, None),
)


def report(summary: Json, infos: list[Json]) -> str:
    """The page of a run from its summary.json and its rank infos."""
    template = (_PAGE / "report.html").read_text()
    parts = {
        "@@TITLE@@": _text(f"CosmicAI run {summary['run_id']}"),
        "@@BODY@@": _body(summary, infos),
        "@@DATA@@": _embedded(_data(summary, infos)),
        "@@ECHARTS@@": (_PAGE / "echarts.min.js").read_text(),
    }
    pieces = template
    for mark, part in parts.items():  # in the order of the page; what is put in is never looked at again
        before, _, pieces = pieces.partition(mark)
        parts[mark] = before + part
    return "".join(parts.values()) + pieces


def _data(summary: Json, infos: list[Json]) -> Json:
    """What the charts draw."""
    state = summary.get("accuracy_state")
    metrics = None if state is None else Metrics.from_json(state)
    return {
        "accuracy": summary["accuracy"],
        "density": {
            "width": DENSITY_WIDTH,
            "bins": DENSITY_BINS,
            "cells": [] if metrics is None else metrics.density.cells(),
        },
        "errors": [] if metrics is None else _errors(metrics.total.histogram),
        "ranks": _timeline(summary, infos),
    }


def _errors(histogram: Counter[int]) -> list[tuple[float, int]]:
    """(middle of a bin, galaxies) of the scaled errors within ±_ERROR_RANGE."""
    per_bin, last = round(_ERROR_BIN / BIN_WIDTH), round(_ERROR_RANGE / _ERROR_BIN)
    coarse: Counter[int] = Counter()
    for index, galaxies in histogram.items():
        coarse[index // per_bin] += galaxies
    return [(round((index + 0.5) * _ERROR_BIN, 4), coarse[index]) for index in range(-last, last)]


def _timeline(summary: Json, infos: list[Json]) -> list[list[Any]]:
    """[rank, seconds from the run's start, cold, seconds of each phase…, images/s, MB] of each rank."""
    began = datetime.fromisoformat(summary["started"].replace("Z", "+00:00")).timestamp()
    rows = []
    for info in infos:
        ended, duration = (figure(info, name) for name in ("ended (unix seconds)", "duration (seconds)"))
        if ended is None or duration is None:
            continue
        phases = [round(figure(info, f"{phase} (seconds)") or 0.0, 4) for phase in _PHASES]
        figures = [figure(info, name) for name in ("sample_persec", "total_process_memory (MB)")]
        start = round(max(ended - duration - began, 0.0), 3)
        rows.append([info["rank"], start, bool(info.get("cold_start")), *phases, *figures])
    return rows


def _body(summary: Json, infos: list[Json]) -> str:
    parts = [_head(summary), _tiles(summary, infos), _failed(summary), _left_out(summary)]
    if summary["accuracy"] is not None:
        parts += [
            '<div class="pair">',
            _chart("density", "Predicted against true redshift", "tall"),
            _chart("errors", "Scaled error", "tall"),
            "</div>",
            _chart("bins", "Bias and NMAD by true redshift"),
        ]
    if infos:
        parts += [
            _chart("timeline", "Ranks by phase", "tall"),
            '<div class="pair">',
            _chart("speed", "Throughput of each rank"),
            _chart("memory", "Peak memory of each rank"),
            "</div>",
        ]
    return "\n".join([*parts, _cost(summary), _ranks(infos), _payload(summary, infos)])


def _head(summary: Json) -> str:
    wall = summary.get("wall (seconds)")
    took = "" if wall is None else f", {wall:,.1f} s from start to the last rank"
    return (
        f"<header><h1>Run {_text(summary['run_id'])}</h1>"
        f'<p class="soft">{_text(summary["payload"].get("data_prefix", ""))}, started '
        f"{_text(summary['started'])}{took}, {summary['finished_ranks']:,} of {summary['world_size']:,} ranks "
        f"finished. Metrics from {_text(summary['metrics_source'])}.</p></header>"
    )


def _tiles(summary: Json, infos: list[Json]) -> str:
    accuracy, cost = summary["accuracy"] or {}, summary["cost"]
    images, sources = counted(infos)
    shown, how = images_in_words(images, sources)
    wall = summary.get("wall (seconds)")
    rate = images / wall if wall and images is not None and is_exact(sources) else None
    tiles = {
        f"images: {how}" if how else "redshifts": shown,
        "NMAD": _measure(accuracy.get("precision (NMAD)")),
        "bias": _measure(accuracy.get("bias")),
        "outliers": _measure(accuracy.get("outlier fraction")),
        "R²": _measure(accuracy.get("R2")),
        "images/s of the run": "–" if rate is None else f"{rate:,.0f}",
        "USD at list prices": f"{cost['total (USD)']:.4g}",
        "GB-seconds": f"{cost['GB-seconds']:,.1f}",
        "cold starts": f"{summary['cold_starts']:,}",
    }
    items = (f"<li><b>{_text(value)}</b><span>{_text(name)}</span></li>" for name, value in tiles.items())
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _measure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _chart(name: str, title: str, kind: str = "") -> str:
    return f'<section><h2>{_text(title)}</h2><div class="chart {kind}" id="{name}"></div></section>'


def _failed(summary: Json) -> str:
    failed, missing = summary["failed_ranks"], summary["missing_ranks"]
    if not failed and not missing:
        return ""
    rows = [
        f'<tr><td>{_text(rank)}</td><td class="text bad">{_text(record["error"])}</td>'
        f'<td class="text">{_text(record["cause"])}</td></tr>'
        for rank, record in failed.items()
    ]
    rows += [
        f'<tr><td>{rank}</td><td class="text bad">missing</td><td class="text">left neither result nor error</td></tr>'
        for rank in missing
    ]
    return (
        f'<section><h2 class="bad">{len(rows):,} ranks without a result</h2><div class="scroll"><table><thead><tr>'
        '<th scope="col">rank</th><th scope="col" class="text">error</th><th scope="col" class="text">cause</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _left_out(summary: Json) -> str:
    """The wrong fields of rank infos; '' of a run, or of an older summary, that has none."""
    ranks = list(summary.get("left_out", {}).items())
    if not ranks:
        return ""
    rows = (
        f'<tr><td>{_text(rank)}</td><td class="text">{_text("; ".join(faults))}</td></tr>'
        for rank, faults in ranks[:_LISTED]
    )
    return (
        f'<section><h2>Fields left out of {len(ranks):,} rank infos</h2><div class="scroll"><table><thead><tr>'
        '<th scope="col">rank</th><th scope="col" class="text">field and reason</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _cost(summary: Json) -> str:
    cost, gigabytes = summary["cost"], summary["input_bytes"] / 1e9
    own = [
        f"<tr><td>{_text(name)}</td><td>{value:,.6f}</td></tr>"
        for name, value in cost.items()
        if isinstance(value, float) and name.endswith("(USD)")
    ]
    wall = summary.get("wall (seconds)")
    rows = [
        (
            "this run",
            summary["world_size"],
            "–" if wall is None else f"{wall:,.1f}",
            gigabytes,
            cost["total (USD)"],
        )
    ]
    for name, ranks, seconds, published, billed in _PUBLISHED:
        rows.append((f"published, {name}, by used memory", ranks, seconds, _PUBLISHED_GB, published))
        if billed is not None:
            rows.append((f"published, {name}, as Lambda bills", ranks, seconds, _PUBLISHED_GB, billed))
    beside = "".join(
        f"<tr><td>{_text(name)}</td><td>{ranks:,}</td><td>{size:,.2f}</td><td>{seconds}</td><td>{usd:,.4f}</td>"
        f"<td>{usd / size if size else 0:,.4f}</td></tr>"
        for name, ranks, seconds, size, usd in rows
    )
    headings = ("", "ranks", "GB", "seconds", "USD", "USD per GB")
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        '<div class="pair"><section><h2>Cost</h2><table><caption>List prices of us-east-1 as of '
        f"{_text(cost['prices as of'])}</caption><tbody>{''.join(own)}</tbody></table></section>"
        '<section><h2>Beside earlier results</h2><div class="scroll"><table><caption>Published with a larger '
        f"network on other data; prices differ by what was counted</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{beside}</tbody></table></div></section></div>"
    )


_COLUMNS = {
    "duration, s": ("duration (seconds)", ",.2f"),
    **{f"{phase}, s": (f"{phase} (seconds)", ",.2f") for phase in _PHASES},
    "images/s": ("sample_persec", ",.0f"),
    "MB": ("total_process_memory (MB)", ",.0f"),
    "MAE": ("MAE", ".4f"),
}


def _ranks(infos: list[Json]) -> str:
    listed = infos
    if len(infos) > _LISTED:
        slowest = sorted(infos, key=lambda info: -(figure(info, "duration (seconds)") or 0.0))[:_LISTED]
        listed = sorted(slowest, key=lambda info: int(info["rank"]))
    names = ("rank", "images", *_COLUMNS, "cold", "data")
    head = "".join(
        f'<th scope="col"{" class=text" if name in ("cold", "data") else ""}><button>{_text(name)}</button></th>'
        for name in names
    )
    rows = []
    for info in listed:
        figures = [(samples(info)[0], ",.0f"), *((figure(info, key), form) for key, form in _COLUMNS.values())]
        cells = "".join(f"<td>{'–' if value is None else format(value, form)}</td>" for value, form in figures)
        paths = info.get("data_path", "")
        data = ", ".join(map(str, paths)) if isinstance(paths, list) else str(paths)
        cold = "cold" if info.get("cold_start") else "warm"
        data = data if len(data) <= 120 else data[:117] + "…"
        rows.append(
            f'<tr><td>{int(info["rank"])}</td>{cells}<td class="text">{cold}</td>'
            f'<td class="text">{_text(data)}</td></tr>'
        )
    more = f" The {_LISTED:,} slowest of {len(infos):,}." if len(listed) < len(infos) else ""
    return (
        '<section><h2>Ranks</h2><p class="noprint"><label>Filter <input id="filter" type="search" '
        f'placeholder="a rank, or part of a row"></label><small>{more}</small></p><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Ranks"><table id="ranks"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _payload(summary: Json, infos: list[Json]) -> str:
    versions = {
        json.dumps({name: info.get(name) for name in ("engine", "precision", "architecture", "versions")})
        for info in infos
    }
    shown = {"payload": summary["payload"], "ranks ran": [json.loads(text) for text in sorted(versions)[:20]]}
    body = _text(json.dumps(shown, indent=1, ensure_ascii=False))
    return f"<section><h2>Payload and versions</h2><pre tabindex=0>{body}</pre></section>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _embedded(content: Json) -> str:
    """JSON that no string in it can end the script element of."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
