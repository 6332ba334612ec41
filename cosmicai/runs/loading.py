"""Results from wherever they are: a folder, a path in S3, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3

from cosmicai.results.report import ResultsError
from cosmicai.results.run_results import Results
from cosmicai.runs.client import Progress, RunError
from cosmicai.runs.deployment import Run, fetched
from inference.contract.paths import below


def load_results(
    source: str | Path | Run,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    session: Any = None,
    progress: Progress = lambda finished, total: None,
    copies: bool = False,
) -> Results:
    """The results in a folder, under s3://bucket/path, or of a run.

    Those in S3 and of a run are downloaded to `out`, by default results/NAME in the current folder; `overwrite`
    replaces those of another run. session: a boto3.Session, by default the environment's, for
    s3://. progress: called with (objects downloaded, all objects). copies: download the results of copies too.

    Raises ResultsError if a folder holds no results, RunError if no run has written to the path in S3,
    OutputError if `out` cannot be written to, and botocore's errors.
    """
    if isinstance(source, Run):
        return source.results(out, overwrite, progress, copies)
    if str(source).startswith("s3://"):
        bucket, _, path = str(source).removeprefix("s3://").partition("/")
        prefix = path.strip("/")
        s3 = (session or boto3.Session()).client("s3")
        name = _run_at(s3, bucket, prefix)
        folder = below(Path("results"), name) if out is None else Path(out)
        return fetched(s3, bucket, prefix, name, folder, overwrite, progress, copies)
    folder = Path(source)
    if not (folder / "predictions").is_dir() and not (folder / "run.json").exists():
        raise ResultsError(
            f"{folder} holds no results of a run: give a folder that `cosmicai results` or `cosmicai infer` "
            "has written, s3://bucket/path, or a run"
        )
    return Results(folder)


def _run_at(s3: Any, bucket: str, prefix: str) -> str:
    """The run whose results are there. Raises RunError."""
    place = f"s3://{bucket}/{prefix}/run.json"
    try:
        content = json.load(s3.get_object(Bucket=bucket, Key=f"{prefix}/run.json")["Body"])
        return str(content["run_id"])
    except s3.exceptions.NoSuchKey as error:
        raise RunError(f"{place} is not there: give the result_path of a run") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{place} is not what a run writes") from error
