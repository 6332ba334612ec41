"""Starting a run, or resuming one: what Initialize does with a checked payload."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from .catalogue import Ranks, check_catalogue
from .channel import collectives
from .contract import dispatch
from .contract.limits import FANOUT, MOST_AT_ONCE, most_ranks
from .contract.rank_files import READERS, listed, rank_files
from .contract.rank_info import is_result
from .contract.run_records import COPIES, Run
from .contract.s3 import put_if, put_json, put_list, read
from .deployed import Deployed
from .model_folder import check_model
from .payload import PayloadError, defaults, resolve
from .photometry import check_photometry
from .plan import data_map, deal, list_partitions, rank_events
from .speed import speed

SCHEMA_VERSION = 1
_KEY_BYTES = 32
_JOB_NAME = 128  # characters (https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html)
_MAY_CHANGE_ON_RESUME = (
    "resume",
    "max_concurrency",
    "tolerated_failure_percentage",
    "max_bad_fraction",
    "backend",
    "collectives",  # those of the missing ranks go to no channel
)


def start(
    s3: Any,
    payload: object,
    run_id: str,
    started: str,
    deployed: Deployed,
    reads: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Writes run.json, manifest.json and the run's key; returns what the state machine passes on.

    reads: makes the client by which the infos of a resumed run are read, of contract/s3_rest; None: s3.
    Raises PayloadError and PlanError before anything is written.
    """
    resolved = resolve(payload)
    _check(resolved, deployed)
    resume, bucket, folder = resolved["resume"], resolved["bucket"], resolved["result_path"]
    earlier, version = _earlier(s3, resolved, run_id, deployed)
    model = check_model(s3, resolved) if "model" in resolved else deployed.bundled
    run = _resumed(earlier, resolved) if resume else _planned(s3, resolved, run_id, started, deployed)
    reader = s3 if reads is None or not resume else reads()
    ranks: Sequence[int] = _missing(s3, reader, run) if resume else range(run.world_size)
    notes = check_catalogue(s3, resolved, model, Ranks(_hands(run, ranks), len(ranks) == run.world_size))
    run = replace(run, notes=list(dict.fromkeys([*(run.notes or []), *notes])))
    # Lambda would throttle more than can run at once; they would be tried again, and start in any order.
    most = run.world_size if run.on_batch else min(deployed.concurrency(), MOST_AT_ONCE)
    at_once = min(resolved.get("max_concurrency", run.world_size), most)
    executions = list(dict.fromkeys([*(run.executions or [run.run_id]), run_id]))
    children = run.children if run.on_batch else _children(run, deployed)  # ranks that ended on Lambda keep it
    run = replace(run, execution=run_id, executions=executions, children=children)
    known = partial(speed, s3, bucket, resolved.get("model"))
    run = replace(run, collectives=collectives(resolved["collectives"], run, resume, at_once, deployed, known))
    channel = str(run.channel)
    _claim(s3, resolved, run, version)
    key = f".cosmicai/{run.run_id}/key"
    s3.put_object(Bucket=bucket, Key=key, Body=secrets.token_bytes(_KEY_BYTES))
    # The job with index i of an array computes event i.
    events = rank_events(run, ranks if run.on_batch else _in_order(ranks, channel))
    put_list(s3, bucket, f"{folder}/manifest.json", (event.to_json() for event in events))
    if "script" in resolved and not resume:  # historic scripts read it there
        put_json(s3, bucket, "payload.json", _for_scripts(resolved, run))
    return {
        "run_id": run.run_id,
        "bucket": resolved["bucket"],
        "result_path": folder,
        "manifest": f"{folder}/manifest.json",
        "world_size": run.world_size,
        "max_concurrency": at_once,
        "tolerated_failure_percentage": resolved["tolerated_failure_percentage"],
        "collectives": channel,
        "children": run.child_type,
        "backend": "batch" if run.on_batch else "lambda",
        "jobs": len(ranks),
        "job_name": re.sub("[^A-Za-z0-9_-]", "-", f"rank-{run_id}")[:_JOB_NAME],
        "not_taken": run.not_taken or {},
        "notes": run.notes or [],
        "rendezvous": {"RENDEZVOUS": None},
    }


def _earlier(
    s3: Any, payload: dict[str, Any], run_id: str, deployed: Deployed
) -> tuple[Run | None, str | None]:
    """run.json of an earlier run at the result path, and its ETag. Raises PayloadError if that still runs."""
    key = f"{payload['result_path']}/run.json"
    try:
        body, version = read(s3, payload["bucket"], key)
    except s3.exceptions.NoSuchKey:
        return None, None
    except s3.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        raise PayloadError(
            f"bucket: {payload['bucket']} cannot be read ({code}); give this deployment's own bucket"
        ) from error
    try:
        run = Run.from_json(json.loads(body))
    except (ValueError, RecursionError):
        return None, version  # not written by Initialize
    other = run.execution or run.run_id
    if other != run_id and deployed.is_running(other):
        raise _in_use(payload, f"the run {other}")
    return run, version


def _claim(s3: Any, payload: dict[str, Any], run: Run, version: str | None) -> None:
    """Writes run.json unless another execution has just done so: of two at once, only one continues."""
    body = json.dumps(run.to_json(), indent=1).encode()
    key = f"{payload['result_path']}/run.json"
    condition = {"If-None-Match": "*"} if version is None else {"If-Match": version}
    try:
        put_if(s3, payload["bucket"], key, body, condition)
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
            raise
        held, _ = read(s3, payload["bucket"], key)
        if held != body:  # else it is ours: only S3's answer was lost, and the request repeated
            raise _in_use(payload, "another run") from error


def _in_use(payload: dict[str, Any], user: str) -> PayloadError:
    return PayloadError(
        f"result_path: {user} writes to s3://{payload['bucket']}/{payload['result_path']}; give another "
        "result_path, or wait until it has ended"
    )


def _in_order(ranks: Sequence[int], channel: str) -> list[int]:
    """The order in which ranks are started: a rank that waits for others' metrics starts after them.

    If all run at once, a rank whose children are the next FANOUT - 1 starts right after these. Otherwise, or if
    messages wait in a store anyway, every rank starts after all its children.
    """
    if channel == "direct":
        return sorted(ranks, key=lambda rank: (rank // FANOUT, (rank - 1) % FANOUT))
    return sorted(ranks, reverse=True)


def _check(payload: dict[str, Any], deployed: Deployed) -> None:
    """Raises PayloadError for all that the payload asks for but this deployment does not have."""
    faults = []
    if "script" in payload and not deployed.allow_scripts:
        faults.append(
            "script: users' own scripts are switched off in this deployment; set "
            "inference.allow_scripts = true in the team's tfvars and deploy again"
        )
    if payload["collectives"] == "redis" and not deployed.has_redis:
        faults.append(
            "collectives: redis needs a Redis that the ranks reach; set redis_host in the team's tfvars and "
            "deploy again, or give auto, direct, s3 or none"
        )
    if payload.get("backend") == "batch" and not deployed.has_batch:
        faults.append(
            "backend: this deployment has no AWS Batch; set batch = { subnet_ids = […] } in the team's "
            "tfvars and deploy again, or leave backend out"
        )
    if faults:
        raise PayloadError("; ".join(faults))


def _children(run: Run, deployed: Deployed) -> dict[str, str]:
    """How Step Functions starts the ranks, and why."""
    largest = max(run.bytes_per_rank or [run.bytes])
    kind, reason = dispatch.children(largest, deployed.memory_mb, run.world_size, "script" in run.payload)
    return {"type": kind, "reason": reason}


def _hands(run: Run, ranks: Sequence[int]) -> list[list[str]]:
    """The keys of the partitions of each of the ranks."""
    keys = ((run.data_map or {})[str(rank)] for rank in ranks)
    return [[one] if isinstance(one, str) else list(one) for one in keys]


def _planned(s3: Any, payload: dict[str, Any], run_id: str, started: str, deployed: Deployed) -> Run:
    bucket, prefix = payload["data_bucket"], payload["data_prefix"]
    listing = list_partitions(s3, bucket, prefix)
    files, times = listing.files[: payload.get("file_limit")], payload["repeat_data"]
    hands = deal(files, payload.get("world_size", len(files)), times, payload.get("backend") == "batch")
    originals = len(hands) // times
    notes = [
        *check_photometry(s3, payload, listing.describing(files), deployed.bundled.card),
        listing.note(f"s3://{bucket}/{prefix}/"),
        _idle(payload.get("world_size", 0), len(files)),
        _unbounded(payload),
        _copied(times, originals),
    ]
    return Run(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        started=started,
        payload=payload,
        world_size=len(hands),
        first_ranks=None if times == 1 else originals,
        data_map=data_map(hands),
        files=len(files),
        bytes=sum(file.size for file in files) * times,
        bytes_per_rank=[sum(file.size for file in hand) for hand in hands],
        not_taken={reason: len(names) for reason, names in listing.left_out.items()},
        notes=[note for note in notes if note],
    )


def _idle(world_size: int, files: int) -> str | None:
    if world_size <= files:
        return None
    return f"world_size is {world_size}, but there are only {files} partition files: {files} ranks run"


def _unbounded(payload: dict[str, Any]) -> str | None:
    if payload.get("backend") != "batch" or "max_concurrency" not in payload:
        return None
    return "max_concurrency has no effect on AWS Batch: batch.max_vcpus in the tfvars limits the ranks at once"


def _copied(times: int, originals: int) -> str | None:
    if times == 1:
        return None
    return (
        f"repeat_data is {times}: the ranks from {originals} on are copies, which compute the data again; "
        f"their results are in {COPIES}/ and count only in time and cost"
    )


def _for_scripts(payload: dict[str, Any], run: Run) -> dict[str, Any]:
    """payload.json, with the actual number of ranks, since scripts wait for all the others."""
    return {**payload, "world_size": run.world_size, "data_map": run.data_map}


def _resumed(run: Run | None, payload: dict[str, Any]) -> Run:
    if run is None:
        raise PayloadError(
            f"resume: there is no run at s3://{payload['bucket']}/{payload['result_path']}; "
            "start it without resume"
        )
    before = {**defaults(), **run.payload}  # a run of an earlier version lacks newer fields
    changed = [
        name
        for name in {**payload, **before}
        if name not in _MAY_CHANGE_ON_RESUME and payload.get(name) != before.get(name)
    ]
    if changed:
        raise PayloadError(
            f"resume: {', '.join(sorted(changed))} differ from the run to resume; give its payload unchanged"
        )
    now: dict[str, Any] = {name: payload[name] for name in ("max_bad_fraction", "backend") if name in payload}
    before = {name: value for name, value in run.payload.items() if name != "backend"}
    return replace(run, payload={**before, **now})


def _missing(s3: Any, reads: Any, run: Run) -> list[int]:
    """Ranks without a result of this run. Raises PayloadError for more on AWS Batch than it runs."""
    bucket, folder = run.payload["bucket"], run.payload["result_path"]
    places = {folder: range(run.originals)}
    if run.has_copies:
        places[f"{folder}/{COPIES}"] = range(run.originals, run.world_size)
    finished = set()
    with ThreadPoolExecutor(READERS) as pool:
        for place, ranks in places.items():
            for file in rank_files(reads, pool, bucket, place, listed(s3, bucket, place), ranks):
                if is_result(file.content, run.run_id, file.rank):
                    finished.add(file.rank)
    missing = [rank for rank in range(run.world_size) if rank not in finished]
    most = most_ranks(run.on_batch)
    if len(missing) > most:  # of a run that began on Lambda
        raise PayloadError(
            f"backend: {len(missing)} ranks have no result, more than the {most} of one run on AWS Batch; "
            "leave backend out, so that they run on Lambda"
        )
    return missing
