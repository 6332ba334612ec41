"""One rank of a run on the embedded AWS: python benchmarks/embedded.py MODEL_FOLDER PARTITIONS OUT.json

MODEL_FOLDER: of the full-size network, with int8 admitted. PARTITIONS: folder with numbered .pt files of 25 MB.

Whole runs with two vCPUs per rank: one rank after the other in one sandbox, with one engine, then the next. The
figures are those of the rank infos: of the first rank, whose sandbox is cold, and the medians of the others.
`torch` is this project's torch engine in the image variant that has torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from cosmicai.data import copying
from cosmicai.data.places import Bucket
from cosmicai.deploy.terraform import Deployment, Outputs, emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.packaging.assembly import assemble
from cosmicai.packaging.places import BuildFolder
from cosmicai.runs import client as runs

Json = dict[str, Any]
MEMORY_MB = 3538  # two vCPUs
CASES = {
    "torch": {"engine": "torch"},
    "float32": {"precision": "float32"},
    "int8": {"precision": "int8"},
}
FIGURES = {
    "cold: duration, s": ("cold", "duration (seconds)"),
    "cold: init, s": ("cold", "init (seconds)"),
    "warm: duration, s": ("warm", "duration (seconds)"),
    "warm: inference, s": ("warm", "inference (seconds)"),
    "warm: waiting for bytes, s": ("warm", "download (seconds)"),
    "warm: images/s of inference": ("warm", "sample_persec"),
    "CPU seconds": ("warm", "total_cpu_time (seconds)"),
    "peak memory, MB": ("warm", "total_process_memory (MB)"),
}


def run(aws: Emulator, outputs: Outputs, name: str, fields: Json) -> list[Json]:
    """The rank infos, by rank."""
    s3, machine = aws.client("s3"), aws.client("stepfunctions")
    payload = {
        "bucket": outputs.bucket, "data_prefix": "data", "model": "model", "result_path": f"results/{name}",
        "max_concurrency": 1, "collectives": "none", **fields,
    }  # fmt: skip
    arn = machine.start_execution(stateMachineArn=outputs.state_machine_arn, input=json.dumps(payload))
    ended = runs.follow(machine, s3, arn["executionArn"], payload, lambda finished, total: None)
    if not ended.succeeded:
        raise SystemExit(f"{name}: {ended.status}: {ended.cause}")
    body = s3.get_object(Bucket=outputs.bucket, Key=f"results/{name}/combined_data.json")["Body"]
    infos: list[Json] = json.load(body)
    return infos


def figures(infos: list[Json]) -> Json:
    kinds = {
        "cold": [info for info in infos if info["cold_start"]],
        "warm": [info for info in infos if not info["cold_start"]],
    }
    medians: Json = {
        title: statistics.median(info[field] for info in kinds[kind])
        for title, (kind, field) in FIGURES.items()
    }
    return medians | {"instructions": infos[0]["instructions"], "galaxies a rank": infos[0]["num_samples"]}


def table(cases: dict[str, Json]) -> str:
    lines = ["| | " + " | ".join(cases) + " |", "| --- |" + " ---: |" * len(cases)]
    for title in FIGURES:
        cells = (f"{one[title]:,.0f}" if one[title] >= 100 else f"{one[title]:.2f}" for one in cases.values())
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("partitions", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    build = BuildFolder()
    assemble(build, ("lean", "torch"))
    cases: dict[str, Json] = {}
    with Emulator(build, 1) as aws:
        for case, fields in CASES.items():
            variant = "torch" if case == "torch" else "lean"
            variables = emulated_variables(case, aws, variant, inference={"memory_mb": MEMORY_MB})
            outputs = Deployment(aws.folder / case, aws.environment, os.environ).apply(variables)
            s3 = aws.client("s3")
            for file in arguments.model.iterdir():
                s3.upload_file(str(file), outputs.bucket, f"model/{file.name}")
            copying.copy(arguments.partitions, Bucket(s3, outputs.bucket, "data"), overwrite=True)
            cases[case] = figures(run(aws, outputs, case, fields))
            print(case, cases[case], flush=True)
    arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "medians": cases}, indent=1) + "\n")
    print(f"\n{table(cases)}")


if __name__ == "__main__":
    main()
