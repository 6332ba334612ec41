"""Starting a run, or resuming one: what Initialize does with a checked payload."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .payload import PayloadError, resolve
from .plan import data_map, deal, list_partitions, rank_events

SCHEMA_VERSION = 1
_READERS = 32  # parallel GETs when a run is resumed
_MAY_CHANGE_ON_RESUME = ("resume", "max_concurrency", "tolerated_failure_percentage")


def start(s3: Any, payload: object, run_id: str, started: str, allow_scripts: bool) -> dict[str, Any]:
    """Writes run.json and manifest.json and returns what the state machine carries on: a pointer to them.

    Raises PayloadError and PlanError before anything is written.
    """
    resolved = resolve(payload)
    if "script" in resolved and not allow_scripts:
        raise PayloadError(
            "script: users' own scripts are switched off in this deployment; set allow_scripts = true in the "
            "team's tfvars and deploy again"
        )
    run = _resumed(s3, resolved) if resolved["resume"] else _planned(s3, resolved, run_id, started)
    ranks = _missing(s3, run) if resolved["resume"] else range(run["world_size"])
    folder = resolved["result_path"]
    _put(s3, resolved["bucket"], f"{folder}/manifest.json", rank_events(run, ranks))
    if not resolved["resume"]:
        _put(s3, resolved["bucket"], f"{folder}/run.json", run)
        if "script" in resolved:  # such scripts read it there
            _put(s3, resolved["bucket"], "payload.json", {**resolved, "data_map": run["data_map"]})
    return {
        "run_id": run["run_id"],
        "bucket": resolved["bucket"],
        "result_path": folder,
        "manifest": f"{folder}/manifest.json",
        "world_size": run["world_size"],
        "max_concurrency": resolved.get("max_concurrency", run["world_size"]),
        "tolerated_failure_percentage": resolved["tolerated_failure_percentage"],
    }


def _planned(s3: Any, payload: dict[str, Any], run_id: str, started: str) -> dict[str, Any]:
    files = list_partitions(s3, payload["data_bucket"], payload["data_prefix"])
    files = files[: payload.get("file_limit", len(files))]
    hands = deal(files, payload.get("world_size", len(files)))
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "started": started,
        "payload": payload,
        "world_size": len(hands),
        "data_map": data_map(hands),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "bytes_per_rank": [sum(file.size for file in hand) for hand in hands],
    }


def _resumed(s3: Any, payload: dict[str, Any]) -> dict[str, Any]:
    key = f"{payload['result_path']}/run.json"
    try:
        run: dict[str, Any] = json.load(s3.get_object(Bucket=payload["bucket"], Key=key)["Body"])
    except s3.exceptions.NoSuchKey:
        raise PayloadError(
            f"resume: there is no run at s3://{payload['bucket']}/{payload['result_path']}; "
            "start it without resume"
        ) from None
    changed = [
        name
        for name in {**payload, **run["payload"]}
        if name not in _MAY_CHANGE_ON_RESUME and payload.get(name) != run["payload"].get(name)
    ]
    if changed:
        raise PayloadError(
            f"resume: {', '.join(sorted(changed))} differ from the run to resume; give its payload unchanged"
        )
    return run


def _missing(s3: Any, run: dict[str, Any]) -> list[int]:
    """Ranks without a result of this very run."""
    bucket, folder = run["payload"]["bucket"], run["payload"]["result_path"]

    def unfinished(rank: int) -> bool:
        try:
            body = s3.get_object(Bucket=bucket, Key=f"{folder}/{rank}.json")["Body"]
        except s3.exceptions.NoSuchKey:
            return True
        return bool(json.load(body).get("run_id") != run["run_id"])

    with ThreadPoolExecutor(_READERS) as pool:
        verdicts = list(pool.map(unfinished, range(run["world_size"])))
    return [rank for rank, verdict in enumerate(verdicts) if verdict]


def _put(s3: Any, bucket: str, key: str, content: object) -> None:
    body = json.dumps(content, indent=1).encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")
