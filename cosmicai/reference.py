"""docs/reference.md from the code: payload, results, command line. `python -m cosmicai.reference` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer.main
from typer.cli import get_docs_for_click

from cosmicai.packaging.places import ROOT
from inference.contract.columns import COLUMNS, LEVELS, quantile_name
from inference.contract.names import COPY, METADATA
from initialize.payload import schema
from summarize.contract.event import RankEvent
from summarize.contract.fields import Record
from summarize.contract.growing import Part
from summarize.contract.pricing import Cost
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Grown, LastRun, ReducedMetrics, Run, Summary

PAGE = ROOT / "docs" / "reference.md"

RESULTS = {
    "total cpu time (second)": "of the processes while they computed, summed over the ranks",
    "total gpu time (second)": "0 on a CPU; null on a GPU, where it is not measured",
    "execution time per batch (second)": "inference time per batch",
    "cpu memory (MB)": "peak memory beyond that of the imports, of the largest rank",
    "gpu memory (MB)": "0 on a CPU; null on a GPU, where it is not measured",
    "throughput(bps)": "bits of images and magnitudes (164,000 per galaxy) per second of inference in a rank",
    "batch size": "from the payload or the script",
    "number of batches": "of all ranks",
    "device": "cpu or cuda",
    "MAE": "mean |z_pred - z|",
    "MSE": "mean (z_pred - z)²",
    "Bias": "mean Δz/(1+z)",
    "Precision": "1.48 median |Δz/(1+z) - its median|, exact if all predictions are available",
    "R2": "coefficient of determination",
}
_CALIBRATED = (*("z_mode", "z_mean", "z_median", "z_std"), *map(quantile_name, LEVELS), "z_conf", "pdf", "pit")
PREDICTIONS = {
    "index": "position of the galaxy in the rank's data",
    "z_pred": "photometric redshift; NaN where none could be computed",
    "flags": "flag bits of each galaxy; payload.md lists them",
    "other columns": "of an imported network; other-networks.md says which",
    METADATA: "JSON of the units, UCDs and descriptions of these columns",
    "z_true": "redshift, if the partition has it",
    "files": "keys of the partitions, in their order",
    "rows": "galaxies of each of these partitions",
    "id": "identifier, if the partition has it; data.md says which",
    "ra": "degrees, if the partition has it",
    "dec": "degrees, if the partition has it",
    "run_id": "of the run",
    COPY: "number of the copy, from 1; only in the files of copies, in copies/predictions/",
    **{name: f"{COLUMNS[name].description}; of a calibrated model" for name in _CALIBRATED},
    "z_grid": "redshifts at which pdf is given",
    **{name: f"{COLUMNS[name].description}; of a calibrated model" for name in ("ood_score", "ood_p")},
    "embedding": f"{COLUMNS['embedding'].description}, where `outputs` asks for it",
}


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `python -m cosmicai.reference`; a test checks that it is up to date.",
            "",
            "## Payload",
            "",
            *_payload(schema()),
            "",
            "## Results",
            "",
            "Under `bucket/result_path/`. The info of a rank that runs a user's own script has what the script "
            "wrote and what the rank measures; what the script wrote under the name of such a figure is in "
            "`script_values`.",
            "",
            *_record("run.json", Run),
            *_record("manifest.json: the event of each rank", RankEvent),
            *_record("{rank}.json and combined_data.json", RankInfo),
            *_record("catalogue in {rank}.json", Part),
            *_record("metrics.json", ReducedMetrics),
            *_record("summary.json", Summary),
            *_record("catalogue in summary.json", Grown),
            *_record("cost in summary.json", Cost),
            *_record(".last-runs/bundled.json and .last-runs/models/{model}.json in the bucket", LastRun),
            *_table("predictions/{rank}.npz", PREDICTIONS),
            *_table("Results.json", RESULTS),
            "`cosmicai infer` and `cosmicai results` write Results.json, with the keys of the historic script "
            "for one machine. A figure that not every rank has is null, and so is accuracy without known "
            "redshifts. Next to them are the same figures under the names of the rank infos, with "
            "`num_samples`, `num_samples_from`, `sample_persec` and `outlier fraction`.",
            "",
            _command_line(),
        ]
    )


def _payload(rules: dict[str, Any]) -> list[str]:
    lines = ["| field | meaning | allowed | default |", "| --- | --- | --- | --- |"]
    for name, rule in rules["properties"].items():
        allowed = rule.get("x-allowed") or ", ".join(f"`{value}`" for value in rule["enum"])
        default = "required" if name in rules["required"] else _shown(rule.get("default"))
        lines.append(f"| {name} | {rule['description']} | {allowed} | {default} |")
    return lines


def _shown(value: object) -> str:
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _record(title: str, record: type[Record]) -> list[str]:
    rows = [(one.name, one.field.unit, one.field.meaning) for one in record.described()]
    return _rows(title, ("name", "unit", "what"), rows)


def _table(title: str, fields: dict[str, str]) -> list[str]:
    return _rows(title, ("name", "what"), fields.items())


def _rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    table = [columns, ["---"] * len(columns), *lines]
    return [f"### {title}", "", *(f"| {' | '.join(row)} |" for row in table), ""]


def _command_line() -> str:
    from cosmicai.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command)
    text = get_docs_for_click(obj=command, ctx=context, name="cosmicai", title="cosmicai")
    text = text.replace(f"{ROOT}/", "")
    lines = (f"#{line}" if line.startswith("#") else line for line in text.splitlines())
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
