"""report.html: the results of a run in one page that needs no network."""

from __future__ import annotations

import json
from typing import Any

from .contract.figures import seconds_text, usd_text
from .contract.flags import BAD, FLAGS, name
from .contract.images import are_redshifts, counted, images_in_words, is_exact, samples
from .contract.limits import PHASES
from .contract.mapping import REDSHIFT
from .contract.metrics import kind_of
from .contract.probabilities import INTERVALS
from .contract.rank_info import RankInfo
from .contract.run_records import Summary, text_of
from .markup import PAGE, chart, escaped, facts, page, table, wrapped
from .measured import EXPLAINED, class_tables, tiles
from .report_data import (
    FEWEST,
    LAST_CELL,
    chart_data,
    drawn_at_the_edge,
    errors_beyond,
    predicted_histogram,
    rank_step,
)

Json = dict[str, Any]

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

_D = "d = (z_pred − z_true) / (1 + z_true)"
_EXPLAINED = EXPLAINED | {
    "NMAD": f"Normalised median absolute deviation: 1.48 × median |d − median d|, where {_D}. "
    "It is the scatter of typical galaxies; outliers hardly change it. Smaller is better.",
    "bias": f"The mean of {_D}: above 0, redshifts are predicted too high on average.",
    "outliers": f"The share of galaxies with |d| above 0.15, where {_D}. 0.05 is 5 %.",
    "R²": "The share of the variance of the true redshifts that the predictions explain; 1 is perfect.",
    "images/s of the run": "Images computed, divided by the time from start to the last rank's end.",
    "cost at list prices": "Lambda (configured memory × duration, start-up included) or AWS Batch (vCPUs, memory and "
    "public addresses), Step Functions, S3 requests and the rendezvous host, in USD; free tiers and discounts are not "
    "subtracted.",
    "GB-seconds": "Configured memory × duration of all ranks. Lambda bills this; AWS Batch bills vCPUs as well.",
    "cold starts": "Ranks that started in a new sandbox; the others reused a warm one.",
}
"""What the tiles' labels mean, shown on hover, focus or touch."""


def report(summary: Summary, infos: list[RankInfo]) -> str:
    """The page of a run from its summary.json and its rank infos."""
    title = f"CosmicAI run {summary.run_id}"
    return page(title, _body(summary, infos), chart_data(summary, infos), PAGE / "report.html")


def _body(summary: Summary, infos: list[RankInfo]) -> str:
    parts = [_head(summary), _tiles(summary, infos), _failed(summary), _catalogue(summary), _left_out(summary)]
    parts += [_flags(summary), *class_tables(summary.accuracy, summary.metrics_source)]
    parts += [*_accuracy_charts(summary), *_probability_charts(summary), *_predicted_chart(summary)]
    parts += _rank_charts(infos)
    return "\n".join(
        [*parts, _cost(summary, infos), _channel(summary), _ranks(infos), _payload(summary, infos)]
    )


def _accuracy_charts(summary: Summary) -> list[str]:
    if summary.accuracy is None or kind_of(summary.accuracy) != REDSHIFT:
        return []
    beyond = errors_beyond(summary)
    outside = f"Galaxies outside ±0.3, which are not drawn: {beyond:,}." if beyond else "All are drawn."
    edge = f" The last row and column hold all above {LAST_CELL:g}." if drawn_at_the_edge(summary) else ""
    count, source = summary.accuracy["count"], summary.metrics_source
    known = f"{count:,} galaxies whose true redshift is known; metrics from {source}. Colours are logarithmic."
    lines = " Dashed lines: the limits of outliers."
    return [
        '<div class="pair">',
        chart("density", "Predicted against true redshift", f"{known}{lines}{edge}", "tall"),
        chart(
            "errors",
            "Distribution of the error",
            f"(z_pred − z_true) / (1 + z_true); 0 is exact. {outside}",
            "tall",
        ),
        "</div>",
        chart(
            "bins",
            "Accuracy by true redshift",
            f"NMAD is the scatter, bias the mean error; both should be near 0.{_few(summary.accuracy['by redshift'])}",
        ),
    ]


def _probability_charts(summary: Summary) -> list[str]:
    """How well p(z) is calibrated, if the model is calibrated."""
    measures = (summary.accuracy or {}).get("probabilities")
    if not measures or not measures["count"]:
        return []
    shares = (
        f"{100 * measures[f'coverage {one}']:.1f} % of the galaxies are in their interval of {one}"
        for one in INTERVALS
    )
    pit = (
        "The probability that p(z) puts below the true redshift, by tenth. Flat is calibrated: Kolmogorov-Smirnov "
        f"{measures['PIT KS']:.4f}, CDE loss {measures['CDE loss']:.3f}, CRPS {measures['CRPS']:.4f}."
    )
    band = "The magnitude is that of the fourth band (i of ugriz), or of the last."
    dashed = "The dashed lines are at 68 % and 95 %, where a calibrated p(z) is."
    by_magnitude, by_redshift = measures["coverage by magnitude"], measures["coverage by predicted redshift"]
    return [
        '<div class="pair">',
        chart("pit", "Calibration of p(z): PIT", pit),
        chart("coverage", "Coverage by magnitude", f"{'; '.join(shares)}. {band}{_few(by_magnitude)}"),
        "</div>",
        chart("coverage-z", "Coverage by predicted redshift", f"{dashed}{_few(by_redshift)}"),
        *([chart("nz", "n(z)", "The mean of p(z) over all galaxies.")] if measures["n(z)"] else []),
    ]


def _few(bins: list[Json]) -> str:
    """That some bins are not drawn; '' if all are."""
    few = any(one["count"] < FEWEST for one in bins)
    return f" Bins of fewer than {FEWEST} galaxies are not drawn." if few else ""


def _predicted_chart(summary: Summary) -> list[str]:
    """The distribution of predicted redshifts, if not every galaxy has a true one."""
    accuracy = summary.accuracy if kind_of(summary.accuracy) == REDSHIFT else None
    known = 0 if accuracy is None else accuracy["count"]
    histogram = predicted_histogram(summary)
    if histogram.count <= known:
        return []
    truth = f"The true redshifts of only {known:,} galaxies are known" if known else "No true redshift is known"
    bars = histogram.bars
    ends = ((histogram.below, f"below {bars[0][0]:g}"), (histogram.above, f"above {bars[-1][1]:g}"))
    beyond = ", ".join(f"{count:,} {where}" for count, where in ends if count)
    note = f"{histogram.count:,} galaxies. {truth}, so this shows no accuracy."
    return [
        chart("predicted", "Predicted redshifts", note + (f" Not drawn: {beyond}." if beyond else "")),
    ]


def _rank_charts(infos: list[RankInfo]) -> list[str]:
    if not infos:
        return []
    note = "A bar is a rank. A rank reads while it computes: download is only the time that it waited for data."
    step = rank_step(infos)
    few = "" if step == 1 else f" One rank of {step} is drawn; the table below has the slowest ranks."
    timeline = chart("timeline", "What each rank did, and when", note + few, "tall")
    if len(infos) == 1:
        return [timeline]  # with nothing to compare; the table has the rank's speed and memory
    return [
        timeline,
        '<div class="pair">',
        chart(
            "speed", "Speed of each rank", f"Images per second of inference, without start-up and waiting.{few}"
        ),
        chart("memory", "Peak memory of each rank", f"MB of the whole process.{few}"),
        "</div>",
    ]


def _head(summary: Summary) -> str:
    wall = summary.wall_seconds
    prefix = summary.payload.get("data_prefix")
    started = str(summary.started).partition(".")[0].replace("T", " ").removesuffix("Z")
    about = [f"data_prefix {prefix}" if prefix else "", f"started {started} UTC"]
    if wall is not None:
        about.append(f"{seconds_text(wall)} from start to the last rank's end")
    if summary.payload.get("backend") == "batch":
        about.append("on AWS Batch")
    elif summary.cost is None:
        about.append("on one machine, by cosmicai infer")
    if summary.times_text:
        copies = f"the {summary.world_size - (summary.originals or 0):,} ranks of copies"
        about.append(f"galaxies {summary.times_text}: {copies} count only in time and cost")
    return (
        f"<header><h1>Run {escaped(summary.run_id)}</h1>{_badge(summary)}"
        f'<p class="soft">{escaped(", ".join(filter(None, about))).replace(" s from", "&nbsp;s from")}</p></header>'
    )


def _badge(summary: Summary) -> str:
    """Whether the run succeeded, by the rule of the state machine."""
    ranks, finished = summary.world_size, summary.finished_ranks
    lacking = ranks - finished
    tolerated = float(summary.payload.get("tolerated_failure_percentage", 0))
    if summary.catalogue is not None and summary.catalogue.fault is not None:
        return '<p class="badge fail" role="status">✗ Failed: the arrival is not in its catalogue</p>'
    if not lacking:
        everyone = f": all {ranks:,} ranks finished" if ranks > 1 else ""
        return f'<p class="badge good" role="status">✓ Succeeded{everyone}</p>'
    lack = f"{lacking:,} of {ranks:,} ranks left no result"
    if 100 * lacking / ranks <= tolerated:
        return f'<p class="badge warn" role="status">! Succeeded, but {lack} (up to {tolerated:g} % are tolerated)</p>'
    return f'<p class="badge fail" role="status">✗ Failed: {lack}</p>'


def _tiles(summary: Summary, infos: list[RankInfo]) -> str:
    accuracy, cost = summary.accuracy or {}, summary.cost
    images, sources = counted(infos)
    shown, how = images_in_words(images, sources)
    wall = summary.wall_seconds
    computed = summary.computed
    rate = computed / wall if wall and computed is not None and is_exact(sources) else None
    predicted = "redshifts" if are_redshifts(infos) else "objects"
    shown_tiles = {f"images: {how}" if how else predicted: shown}
    if accuracy:
        shown_tiles |= tiles(accuracy)
    shown_tiles["images/s of the run"] = "–" if rate is None else f"{rate:,.0f}"
    if cost is not None:
        shown_tiles |= {
            "cost at list prices": usd_text(cost.total),
            "GB-seconds": f"{cost.gb_seconds:,.1f}",
            "cold starts": f"{summary.cold_starts:,}",
        }
    items = (_tile(name, value, number) for number, (name, value) in enumerate(shown_tiles.items()))
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _tile(name: str, value: str, number: int) -> str:
    explained = _EXPLAINED.get(name)
    if explained is None:
        return f"<li><b>{escaped(value)}</b><span>{escaped(name)}</span></li>"
    return (
        f'<li tabindex="0" aria-describedby="tip{number}"><b>{escaped(value)}</b><span class="term">{escaped(name)}</span>'
        f'<div role="tooltip" id="tip{number}">{escaped(explained)}</div></li>'
    )


def _failed(summary: Summary) -> str:
    failed, missing = summary.failed_ranks, summary.missing_ranks
    if not failed and not missing:
        return ""
    rows = [(rank, record["error"], record["cause"]) for rank, record in failed.items()]
    rows += [(str(rank), "missing", "left neither a result nor an error") for rank in missing]
    rows.sort(key=lambda row: int(row[0]))
    ranks = "1 rank" if len(rows) == 1 else f"{len(rows):,} ranks"
    more = f"The first {_LISTED:,}; summary.json names all." if len(rows) > _LISTED else ""
    heads = ("rank", "error", "cause")
    return table(f"{ranks} without a result", heads, rows[:_LISTED], bad=True, note=more)


def _catalogue(summary: Summary) -> str:
    """What the run did to its catalogue; '' for a run that names none."""
    grown = summary.catalogue
    if grown is None:
        return ""
    if grown.fault is not None:
        rows = [("why", grown.fault), ("catalogue", grown.place), ("arrival", grown.arrival)]
        return facts("The catalogue stays as it was", rows, bad=True)
    rows = [
        ("catalogue", grown.place),
        ("version", f"{grown.version or 0}"),
        ("galaxies added", f"{grown.galaxies or 0:,}"),
        ("files replaced", f"{grown.replaced_files or 0:,}"),
        ("arrival", grown.arrival),
    ]
    return facts("The arrival is in its catalogue", rows)


def _flags(summary: Summary) -> str:
    """How many galaxies have each flag; '' if no galaxy lacks anything."""
    counts = {flag: (summary.flags or {}).get(name(flag), 0) for flag in FLAGS}
    if not any(counts[flag] for flag in FLAGS if flag & BAD):
        return ""
    rows = [(f"{count:,}", name(flag), FLAGS[flag]) for flag, count in counts.items() if count]
    return table("Galaxies with flags", ("galaxies", "flag", "meaning"), rows)


def _left_out(summary: Summary) -> str:
    """The wrong fields of rank infos; '' if there is none, as in summaries of older versions."""
    ranks = list(summary.left_out.items())
    if not ranks:
        return ""
    rows = [(rank, "; ".join(faults)) for rank, faults in ranks[:_LISTED]]
    return table(f"Fields left out of {len(ranks):,} rank infos", ("rank", "field and reason"), rows)


def _cost(summary: Summary, infos: list[RankInfo]) -> str:
    cost = summary.cost
    if cost is None:
        return ""
    own = "".join(
        f"<tr><td>{escaped(one.name.removesuffix(' (USD)'))}</td>"
        f"<td>{usd_text(getattr(cost, one.attribute))}</td></tr>"
        for one in cost.described()
        if one.field.unit == "USD" and getattr(cost, one.attribute) is not None
    )
    notes = "".join(f'<p class="note">{escaped(note)}.</p>' for note in cost.notes or [])
    section = (
        '<section><h2>Cost</h2><p class="note">USD at the list prices of us-east-1 as of '
        f"{escaped(cost.prices_as_of)}</p><table><tbody>{own}</tbody></table>{notes}</section>"
    )
    if not are_redshifts(infos):
        return section
    return f'<div class="pair">{section}{_published(summary, cost.total)}</div>'


def _published(summary: Summary, total: float) -> str:
    headings = ("", "ranks", "seconds", "USD billed", "per GB", "USD published")
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        '<section><h2>Compared with published runs</h2><p class="note">AstroMAE on Lambda, a larger network on other '
        f"data, {_PUBLISHED_GB:g} GB. Billed: for the configured memory. Published: for the memory that was used. "
        "–: not known.</p>"
        f'<div class="scroll"><table class="compact"><thead><tr>{head}</tr></thead>'
        f"<tbody>{_compared(summary, total)}</tbody></table></div></section>"
    )


def _channel(summary: Summary) -> str:
    """The channel by which the ranks reduced their metrics, if the payload has not named it."""
    channel, reason = text_of(summary.collectives, "channel"), text_of(summary.collectives, "reason")
    if not channel or not reason:
        return ""
    return f'<section><h2>Collectives: {escaped(channel)}</h2><p class="note">{escaped(reason)}</p></section>'


def _compared(summary: Summary, total: float) -> str:
    wall, gigabytes = summary.wall_seconds, summary.input_bytes / 1e9
    duration = "–" if wall is None else f"{wall:,.1f}"
    own = (f"this run, {gigabytes:,.3g} GB", summary.world_size, gigabytes, duration, total, None)
    rows: list[tuple[str, int, float, str, float | None, float | None]] = [own]
    rows += [
        (name, ranks, _PUBLISHED_GB, seconds, billed, usd) for name, ranks, seconds, usd, billed in _PUBLISHED
    ]
    return "".join(
        f"<tr><td>{escaped(name)}</td><td>{ranks:,}</td><td>{seconds}</td><td>{_usd(billed)}</td>"
        f"<td>{_usd(billed / size if billed is not None and size else None)}</td><td>{_usd(usd)}</td></tr>"
        for name, ranks, size, seconds, billed, usd in rows
    )


def _usd(value: float | None) -> str:
    """A number for a column that has USD in its heading: at least two decimals."""
    if value is None:
        return "–"
    number, decimals = usd_text(value).removeprefix("$").split(".")
    return f"{number}.{decimals[:2]}{decimals[2:].rstrip('0')}"


_COLUMNS = {
    "duration, s": ("duration (seconds)", ",.2f"),
    **{f"{phase}, s": (f"{phase} (seconds)", ",.2f") for phase in PHASES},
    "images/s": ("sample_persec", ",.0f"),
    "peak MB": ("total_process_memory (MB)", ",.0f"),
    "MAE": ("MAE", ".4f"),
}


def _ranks(infos: list[RankInfo]) -> str:
    if not infos:
        return ""
    listed = infos
    if len(infos) > _LISTED:
        slowest = sorted(infos, key=lambda info: -(info.duration or 0.0))[:_LISTED]
        listed = sorted(slowest, key=lambda info: info.rank)
    names = ("rank", "images", *_COLUMNS, "start", "data")
    head = "".join(
        f'<th scope="col"{" class=text" if name in ("start", "data") else ""}><button>{escaped(name)}</button></th>'
        for name in names
    )
    more = f" The {_LISTED:,} slowest of {len(infos):,}." if len(listed) < len(infos) else ""
    return (
        '<section><h2>Ranks</h2><p class="noprint"><label>Filter <input id="filter" type="search" '
        f'placeholder="a rank, or part of a row"></label><small>{more}</small></p><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Ranks"><table id="ranks" class="compact"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_rank, listed))}</tbody></table></div></section>"
    )


def _rank(info: RankInfo) -> str:
    figures = [(samples(info)[0], ",.0f"), *((info.figure(key), form) for key, form in _COLUMNS.values())]
    cells = "".join(f"<td>{'–' if value is None else format(value, form)}</td>" for value, form in figures)
    data = ", ".join(info.data_paths or ())
    data = data if info.copy is None else f"copy {info.copy} of {data}"
    data = data if len(data) <= 120 else data[:117] + "…"
    start = "cold" if info.cold_start else "warm"
    return f'<tr><td>{info.rank}</td>{cells}<td class="text">{start}</td><td class="text">{wrapped(data)}</td></tr>'


def _payload(summary: Summary, infos: list[RankInfo]) -> str:
    versions = {
        json.dumps({name: getattr(info, name) for name in ("engine", "precision", "architecture", "versions")})
        for info in infos
    }
    shown = {"payload": summary.payload, "ranks ran": [json.loads(text) for text in sorted(versions)[:20]]}
    body = escaped(json.dumps(shown, indent=1, ensure_ascii=False))
    return f"<section><h2>Payload and versions</h2><pre tabindex=0>{body}</pre></section>"
