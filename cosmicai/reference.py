"""docs/reference.md from the code: payload, results, command line. `python -m cosmicai.reference` writes it."""

from __future__ import annotations

from typing import Any

import typer.main
from typer.cli import get_docs_for_click

from cosmicai.packaging.places import ROOT
from initialize.payload import schema

PAGE = ROOT / "docs" / "reference.md"

RANK_INFO = {
    "rank": "number of the rank",
    "run_id": "name of the execution that planned the run",
    "world_size": "ranks of the run",
    "data_path": "key of the partition, or list of keys",
    "result_path": "of the payload",
    "num_samples": "galaxies",
    "batch_size": "of the payload",
    "num_batches": "batches of that size",
    "init (seconds)": "process start, imports, network",
    "download (seconds)": "that the rank waited for bytes",
    "inference (seconds)": "computing, while the next data are read",
    "communication (seconds)": "handing over metrics, waiting for other ranks",
    "upload (seconds)": "writing predictions",
    "duration (seconds)": "of it all, init included",
    "ended (unix seconds)": "by the rank's clock; Summarize believes S3's where they differ by a minute",
    "cold_start": "whether the sandbox was new",
    "total_cpu_time (seconds)": "of the process while it computed",
    "execution_time (seconds/batch)": "inference by batch",
    "throughput_bps": "bits of images and magnitudes by second of inference",
    "sample_persec": "galaxies by second of inference",
    "total_cpu_memory (MB)": "peak memory beyond that of the imports",
    "total_process_memory (MB)": "peak memory",
    "library_overhead_memory (MB)": "after the imports",
    "total_image_memory (MB)": "of the largest block of images",
    "total_model_memory (MB)": "of the network",
    "memory_limit (MB)": "configured",
    "threads": "that compute",
    "architecture": "of the machine",
    "device": "cpu or cuda",
    "engine": "what executed the network",
    "instructions": "by which it computed: avx2, avx512, neon, …",
    "precision": "of its arithmetic",
    "precision_reason": "why this one",
    "versions": "of Python and of what computed",
    "s3_num_requests": "requests to S3",
    "s3_total_time": "their seconds",
    "s3_avg_time": "their mean",
    "s3_min_time": "the fastest",
    "s3_max_time": "the slowest",
    "MAE": "mean |z_pred - z|",
    "MSE": "mean (z_pred - z)²",
    "bias": "mean Δz/(1+z)",
    "precision (NMAD)": "1.48 median |Δz/(1+z) - its median|",
    "R2": "coefficient of determination",
    "outlier fraction": "share of |Δz/(1+z)| > 0.15",
    "undefined": "why a measure is null",
    "accuracy_state": "sums and histograms from which Summarize merges the measures",
    "predicted_redshifts": "histogram of z_pred, whether or not the true redshifts are known",
    "flags": "galaxies by flag, of those that lack something or are unlike the training",
    "collectives": "channel, partners, relays, bytes, seconds, faults",
}
SUMMARY = {
    "run_id": "name of the execution that planned the run",
    "started": "when",
    "payload": "with every default",
    "world_size": "ranks",
    "finished_ranks": "with a result",
    "missing_ranks": "without result and error",
    "failed_ranks": "error and cause by rank",
    "num_samples": "galaxies; null where a script's ranks do not say",
    "num_samples_from": "ranks by the field they were counted by; batches * batch size is an upper bound",
    "input_bytes": "of the partitions",
    "seconds": "by phase, summed over the ranks",
    "wall (seconds)": "from the start to the last rank's end",
    "cold_starts": "ranks in new sandboxes",
    "spread": "least, median, 95th percentile and greatest of the ranks' figures",
    "accuracy": "measures over all galaxies, and by redshift and magnitude",
    "accuracy_state": "what report.html draws",
    "predicted_redshifts": "histogram of z_pred over all ranks",
    "flags": "galaxies by flag; null where a rank's own script does not say",
    "metrics_source": "collectives, with the ranks that were added from their infos, or rank infos",
    "left_out": "wrong fields that are not used, by the rank in whose info they stood",
    "collectives": "channel, and why another than the payload's",
    "cost": "GB-seconds and USD at list prices",
}
RESULTS = {
    "total cpu time (second)": "of the processes while they computed, summed over the ranks",
    "total gpu time (second)": "0 on a CPU; null on a GPU, where it is not measured",
    "execution time per batch (second)": "inference by batch",
    "cpu memory (MB)": "peak memory beyond that of the imports, of the largest rank",
    "gpu memory (MB)": "0 on a CPU; null on a GPU, where it is not measured",
    "throughput(bps)": "bits of images and magnitudes (164,000 a galaxy) by second of inference in a rank",
    "batch size": "of the payload, or the script's",
    "number of batches": "of all ranks",
    "device": "cpu or cuda",
    "MAE": "mean |z_pred - z|",
    "MSE": "mean (z_pred - z)²",
    "Bias": "mean Δz/(1+z)",
    "Precision": "1.48 median |Δz/(1+z) - its median|, exact where all predictions are at hand",
    "R2": "coefficient of determination",
}
PREDICTIONS = {
    "index": "place of the galaxy in the rank's data",
    "z_pred": "photometric redshift; NaN where none could be computed",
    "flags": "bits by galaxy; payload.md lists them",
    "z_true": "redshift, where the partition has it",
    "files": "keys of the partitions, in their order",
    "rows": "galaxies of each",
    "run_id": "of the run",
}


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `python -m cosmicai.reference`; a test keeps it so.",
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
            *_table("{rank}.json and combined_data.json", RANK_INFO),
            *_table("summary.json", SUMMARY),
            *_table("predictions/{rank}.npz", PREDICTIONS),
            *_table("Results.json", RESULTS),
            "`cosmicai infer` and `cosmicai results` write Results.json, with the keys of the historic script "
            "for one machine. A figure that not every rank has is null, and so is accuracy without known "
            "redshifts. Beside them stand the same figures by the names of the rank infos, with `num_samples`, "
            "`num_samples_from`, `sample_persec` and `outlier fraction`.",
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


def _table(title: str, fields: dict[str, str]) -> list[str]:
    rows = [
        f"| {name.replace('|', chr(92) + '|')} | {text.replace('|', chr(92) + '|')} |"
        for name, text in fields.items()
    ]
    return [f"### {title}", "", "| name | what |", "| --- | --- |", *rows, ""]


def _command_line() -> str:
    from cosmicai.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command)
    found = get_docs_for_click(obj=command, ctx=context, name="cosmicai", title="cosmicai")
    found = found.replace(f"{ROOT}/", "")
    lines = (f"#{line}" if line.startswith("#") else line for line in found.splitlines())
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
