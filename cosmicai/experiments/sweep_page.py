"""What a sweep has shown: which case won, plots as PNGs, and one page that needs no network."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmicai.results.outputs import new_file, write_text
from summarize.contract.figures import seconds_text, usd_text
from summarize.markup import escaped, page

Json = dict[str, Any]

_SCRIPT = Path(__file__).with_name("sweep.html")
_STYLE = """.won { border-left: .4rem solid var(--good); }
.won p { margin: .2rem 0; }
tr.best td { font-weight: 600; }
tr.best td:first-child::after { content: " ★"; color: var(--good); }
"""
_SAME_AMOUNT = 1.02
_TWO_SIDED = 2.0  # standard errors: a smaller difference of two means may be chance


@dataclass(frozen=True)
class Measure:
    """A figure of a run: its column, a title, what it describes, its unit, and whether less is better."""

    column: str
    title: str
    what: str
    unit: str
    less_is_better: bool = True


_MEASURES = (
    Measure("duration (seconds)", "Time", "from start to the last rank's end", "seconds"),
    Measure("images_per_second", "Throughput", "of the whole run", "images per second", less_is_better=False),
    Measure("total_process_memory (MB)", "Peak memory", "of the largest rank", "MB"),
    Measure("total (USD)", "Cost", "of a run at list prices", "USD"),
)
_AXES = {"batch_size": "batch size, galaxies", "partition_mb": "partition size, MB", "data_gb": "data, GB"}
_WON = {"duration (seconds)": "fastest", "total (USD)": "cheapest"}


def verdicts(cases: Sequence[Json]) -> list[str]:
    """A sentence for each amount of data and each of time and cost: the best case, and those as good."""
    return [
        _verdict(column, word, group)
        for group in _by_amount(with_same_amounts(cases))
        for column, word in _WON.items()
        if all(case[f"{column} mean"] is not None for case in group)
    ]


def _by_amount(cases: Sequence[Json]) -> list[list[Json]]:
    """Cases of the same amount of data: more data takes longer and costs more."""
    amounts = sorted({case["data_gb"] for case in cases})
    return [[case for case in cases if case["data_gb"] == amount] for amount in amounts]


def with_same_amounts(rows: Sequence[Json]) -> list[Json]:
    """Rows with one number for amounts of data that are the same except for the headers of their partitions."""
    same: dict[float, float] = {}
    for amount in sorted({row["data_gb"] for row in rows}):
        near = [known for known in same.values() if amount <= known * _SAME_AMOUNT]
        same[amount] = near[0] if near else amount
    return [{**row, "data_gb": same[row["data_gb"]]} for row in rows]


def _verdict(column: str, word: str, cases: list[Json]) -> str:
    best = min(cases, key=lambda case: case[f"{column} mean"])
    amount = f"{best['data_gb']:.3g} GB"
    winner = f"{amount}: {word} is {_case_name(best)}, {_figures(best)}"
    if len(cases) == 1:
        return f"{amount}: the only case is {_case_name(best)}, {_figures(best)}."
    equal = [case for case in cases if case is not best and not _differ(best, case, column)]
    if not equal:
        return f"{winner}."
    if len(equal) == len(cases) - 1:
        return f"{winner}, but no case differs from it by more than chance."
    names = "; ".join(_case_name(case) for case in equal[:3]) + ("; …" if len(equal) > 3 else "")
    return f"{winner}. As good within chance: {names}."


def _case_name(case: Json) -> str:
    return f"batch size {case['batch_size']} with {case['partition_mb']:g} MB partitions"


def _figures(case: Json) -> str:
    runs = "1 run" if case["repeats"] == 1 else f"mean of {case['repeats']} runs"
    return f"{seconds_text(case['duration (seconds) mean'])} and {usd_text(case['total (USD) mean'])} ({runs})"


def _differ(first: Json, second: Json, column: str) -> bool:
    """Whether two means differ by more than two standard errors; single runs cannot show it."""
    if min(first["repeats"], second["repeats"]) < 2:
        return False
    error = math.hypot(*(case[f"{column} std"] / math.sqrt(case["repeats"]) for case in (first, second)))
    return bool(abs(first[f"{column} mean"] - second[f"{column} mean"]) > _TWO_SIDED * error)


def write(out: Path, rows: list[Json], cases: list[Json]) -> Path:
    """Writes a plot for each axis that varies, as PNG, and sweep.html. Raises OutputError.

    rows: the runs; cases: their means, as in the CSVs.
    """
    rows, cases = with_same_amounts(rows), with_same_amounts(cases)
    axes = [axis for axis in _AXES if len({row[axis] for row in rows}) > 1]
    for axis in axes:
        with new_file(out / f"by_{axis}.png") as scratch:
            _picture(scratch, rows, axis)
    charts = [_chart(rows, axis, measure) for axis in axes for measure in _MEASURES]
    file = out / "sweep.html"
    title = f"CosmicAI sweep of {len(rows)} runs"
    write_text(file, page(title, _body(rows, cases, axes), charts, _SCRIPT, _STYLE))
    return file


def _body(rows: list[Json], cases: list[Json], axes: list[str]) -> str:
    won = "".join(f"<p>{escaped(sentence)}</p>" for sentence in verdicts(cases))
    runs = "1 run" if len(rows) == 1 else f"{len(rows):,} runs"
    count = "1 case" if len(cases) == 1 else f"{len(cases):,} cases"
    parts = [
        f'<header><h1>Sweep</h1><p class="soft">{runs} of {count}; every run is a line of result_stats.csv, '
        "every case one of batch_varying_results.csv.</p></header>",
        f'<section class="won"><h2>What won</h2>{won}<p class="note">Chance: two means differ by less than two '
        "standard errors, or one of the cases has one run only.</p></section>",
    ]
    for axis in axes:
        sections = "".join(_section(axis, measure) for measure in _MEASURES)
        parts.append(f'<h2>By {escaped(_AXES[axis].partition(",")[0])}</h2><div class="pair">{sections}</div>')
    return "\n".join([*parts, _table(cases)])


def _section(axis: str, measure: Measure) -> str:
    better = "Less" if measure.less_is_better else "More"
    note = f"{better} is better. Lines join the means of cases; pale points are runs."
    return (
        f'<section><h3>{measure.title} {measure.what}</h3><p class="note">{note}</p>'
        f'<div class="chart" id="{_id(axis, measure)}"></div></section>'
    )


def _id(axis: str, measure: Measure) -> str:
    return f"{axis}-{measure.title.lower().replace(' ', '-')}"


def _table(cases: list[Json]) -> str:
    headings = (
        "partition, MB", "batch size", "seconds", "USD", "images/s", "peak MB", "data, GB", "runs", "far off",
    )  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in headings)
    best = [min(group, key=lambda case: case["duration (seconds) mean"]) for group in _by_amount(cases)]
    body = "".join(_row(case, any(case is one for one in best)) for case in cases)
    return (
        '<section><h2>All cases</h2><p class="note">Mean ± standard deviation over the runs of a case. ★: the '
        "fastest of its amount of data. 3×: there was less data, so each partition was computed three times. "
        "Far off: runs whose time has a modified z-score above 3.5.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="All cases">'
        f'<table class="compact" id="cases"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _row(case: Json, best: bool) -> str:
    def spread(column: str, form: str) -> str:
        mean, deviation = case[f"{column} mean"], case[f"{column} std"]
        return f"{mean:{form}}" if case["repeats"] == 1 else f"{mean:{form}} ± {deviation:{form}}"

    cells = (
        f"{case['partition_mb']:g}",
        f"{case['batch_size']:,}",
        spread("duration (seconds)", ",.1f"),
        spread("total (USD)", _usd_form(case["total (USD) mean"])),
        spread("images_per_second", ",.0f"),
        spread("total_process_memory (MB)", ",.0f"),
        f"{case['data_gb']:.3g}" + (f" ({case['repeat_data']:,}×)" if case["repeat_data"] > 1 else ""),
        f"{case['repeats']}",
        f"{case['outliers']}",
    )
    kind = ' class="best"' if best else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _usd_form(usd: float) -> str:
    """The format that shows as many digits as usd_text."""
    return f",.{len(usd_text(usd).partition('.')[2])}f"


def _chart(rows: list[Json], axis: str, measure: Measure) -> Json:
    """What the page's script draws: a line of means for each combination of the other axes, and all runs."""
    values = sorted({row[axis] for row in rows})
    lines = []
    for name, group in _lines(rows, axis):
        at = {x: [row[measure.column] for row in group if row[axis] == x] for x in values}
        lines.append(
            {
                "name": name,
                "means": [statistics.fmean(each) if each else None for each in at.values()],
                "runs": [[index, value] for index, each in enumerate(at.values()) for value in each],
            }
        )
    return {
        "id": _id(axis, measure),
        "label": f"{measure.title} {measure.what}, {measure.unit}, by {_AXES[axis]}",
        "x": _AXES[axis],
        "y": measure.unit,
        "values": [f"{value:g}" for value in values],
        "lines": lines,
    }


def _lines(rows: list[Json], axis: str) -> list[tuple[str, list[Json]]]:
    """The runs of each combination of the other axes, with a name of what varies among them."""
    others = [name for name in _AXES if name != axis]
    varying = [name for name in others if len({row[name] for row in rows}) > 1]
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in others), []).append(row)
    named_groups = []
    for key, group in sorted(groups.items()):
        values = dict(zip(others, key, strict=True))
        values_text = ", ".join(
            f"{_AXES[name].partition(',')[0]} {values[name]:g}{_UNITS[name]}" for name in varying
        )
        named_groups.append((values_text or "all runs", group))
    return named_groups


_UNITS = {"batch_size": "", "partition_mb": " MB", "data_gb": " GB"}


def _picture(path: Path, rows: list[Json], axis: str) -> None:
    """The four measures by one axis, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    values = sorted({row[axis] for row in rows})
    places = figure.subplots(2, 2)
    for place, measure in zip(places.flat, _MEASURES, strict=True):
        for name, group in _lines(rows, axis):
            _draw(place, group, axis, values, measure.column, name)
        title = f"{measure.title} {measure.what}"
        place.set(title=title, xlabel=_AXES[axis], ylabel=measure.unit, ylim=(0, 1.05 * place.get_ylim()[1]))
        place.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        place.margins(x=0.1)
        place.grid(alpha=0.3)
    places.flat[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _draw(place: Any, rows: list[Json], axis: str, values: list[Any], column: str, name: str) -> None:
    """The means with their spread, and every run as a point; values: the axis has them at equal distances."""
    at = {x: [row[column] for row in rows if row[axis] == value] for x, value in enumerate(values)}
    at = {x: each for x, each in at.items() if each}
    means = [statistics.fmean(each) for each in at.values()]
    spread = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in at.values()]
    drawn = place.errorbar(list(at), means, spread, marker="o", capsize=3, label=name)
    points = [(x, value) for x, each in at.items() for value in each]
    place.scatter(*zip(*points, strict=True), s=12, alpha=0.5, color=drawn[0].get_color())
