"""Making an arrival part of a catalogue that grows, in one atomic step."""

from __future__ import annotations

import json
import random
import time
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from .contract.columns import PARTITION, Column, ordered
from .contract.fields import Json, RecordError
from .contract.growing import (
    LARGEST,
    LOG,
    OURS,
    CatalogueError,
    Form,
    Part,
    arrival_folder,
    arrival_of,
    commit_key,
    digest_of,
    latest,
    schema_string,
)
from .contract.rank_info import RankInfo
from .contract.run_records import Grown, Run
from .contract.s3 import BROKEN, put_if, read, repeated

_PATIENCE = 300.0  # seconds for which others may be first, of the 900 that Summarize has
_LONGEST_PAUSE = 0.5
_AGAIN = "Run the same payload with resume: only this step is repeated"
_CONFIGURATION = {"delta.logRetentionDuration": "interval 3650 days"}
"""Of the table: a checkpoint may not delete the commits from which the next one learns the table's form."""
_COMMON = ("columns", "z_grid", "metadata")
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict")


def grow(s3: Any, run: Run, infos: list[RankInfo]) -> Grown | None:
    """Makes the galaxies of the run's ranks those of its arrival; None for a run without a catalogue.

    Whatever the arrival had in the catalogue before is replaced. Where that fails, the catalogue stays as it
    was, and `fault` says why.
    """
    payload = run.payload
    if not payload.get("catalogue"):
        return None
    bucket, catalogue = payload["bucket"], payload["catalogue"]
    arrival = arrival_of(payload["data_bucket"], payload["data_prefix"])
    place = f"s3://{bucket}/{catalogue}"

    def failed(why: str) -> Grown:
        return Grown(place=place, arrival=arrival, fault=why)

    try:
        parts = _parts(infos)
        version, replaced = _commit(s3, bucket, catalogue, arrival, run, parts)
    except CatalogueError as error:
        return failed(str(error))
    except (s3.exceptions.ClientError, *BROKEN) as error:
        return failed(f"{place}: {error}. {_AGAIN}")
    rows = sum(part.rows for part in parts.values())
    return Grown(place=place, arrival=arrival, version=version, galaxies=rows, replaced_files=replaced)


def _parts(infos: list[RankInfo]) -> dict[int, Part]:
    """What each rank has written. Raises CatalogueError."""
    parts, alike = {}, dict[tuple[int, ...], Part]()
    for info in infos:
        try:
            parts[info.rank] = _part(info.catalogue, alike)
        except RecordError as error:
            raise CatalogueError(
                f"rank {info.rank} does not say what it wrote to the catalogue ({error}); run it again with "
                "another result_path"
            ) from error
    return parts


def _part(content: Any, alike: dict[tuple[int, ...], Part]) -> Part:
    """A rank's part. Raises RecordError.

    alike: earlier parts by the identity of what most ranks have in common, which lean infos share. It is
    neither read nor held again: of 100,000 ranks with p(z) that takes minutes, and gigabytes.
    """
    if not isinstance(content, dict):
        return Part.from_json(content)
    common = tuple(id(content.get(name)) for name in _COMMON)
    if common not in alike:
        alike[common] = Part.from_json(content)
    first = alike[common]
    own = Part.from_json({**content, "columns": {}, "z_grid": [], "metadata": {}})
    return replace(own, columns=first.columns, z_grid=first.z_grid, metadata=first.metadata)


def _form(run: Run, parts: dict[int, Part]) -> tuple[Form, list[float]]:
    """What the ranks' files have in common, and the redshifts at which pdf is given. Raises CatalogueError."""
    columns: dict[str, str] = {}
    firsts: dict[str, int] = {}  # by column: the first rank that has it
    grids: dict[int, list[float]] = {}  # by identity, as most ranks share one
    networks = set()
    for rank, part in parts.items():
        for name, kind in part.columns.items():
            firsts.setdefault(name, rank)
            if columns.setdefault(name, kind) != kind:
                raise CatalogueError(
                    f"the partitions of the arrival {_place_of(run)} differ in the column {name}: it is "
                    f"{columns[name]} in {_paths(run, firsts[name])} and {kind} in {_paths(run, rank)}. "
                    "Prepare them alike, and run again with another result_path; the catalogue stays as it was"
                )
        grids[id(part.z_grid)] = part.z_grid
        networks.add(part.network)
    by_digest = {digest_of(grid): grid for grid in grids.values()}
    if len(by_digest) > 1 or len(networks) > 1:
        raise CatalogueError("the ranks used different networks; run again with another result_path")
    (digest, grid), (network,) = *by_digest.items(), networks
    form = Form(
        columns={name: columns[name] for name in ordered(set(columns))},
        z_grid=digest,
        network=network,
        model=run.payload.get("model") or "",
        outputs=list(run.payload["outputs"]),
    )
    return form, grid


def _place_of(run: Run) -> str:
    """Where the partitions of the run's arrival are."""
    return f"s3://{run.payload['data_bucket']}/{run.payload['data_prefix']}/"


def _paths(run: Run, rank: int) -> str:
    """The partitions of a rank, for a message."""
    keys = (run.data_map or {}).get(str(rank), [])
    return (
        f"rank {rank}"
        if not keys
        else keys
        if isinstance(keys, str)
        else f"{keys[0]} and others of rank {rank}"
    )


def _commit(
    s3: Any, bucket: str, catalogue: str, arrival: str, run: Run, parts: dict[int, Part]
) -> tuple[int, int]:
    """The version that holds the arrival, and how many files it has replaced. Raises CatalogueError."""
    with_rows = {rank: part for rank, part in parts.items() if part.file}
    if not with_rows:
        raise CatalogueError("no rank of the run has a galaxy; the catalogue stays as it was")
    new, grid = _form(run, with_rows)
    written = list(with_rows.values())
    metadata = {name: column for part in written for name, column in part.imported_columns.items()}
    place, deadline = f"s3://{bucket}/{catalogue}", time.monotonic() + _PATIENCE
    while True:
        version, form = latest(s3, bucket, catalogue)
        if form is not None:
            form.check(new, place, _place_of(run))
        files = _files(s3, bucket, f"{arrival_folder(catalogue, arrival)}/")
        actions, replaced = _file_actions(arrival, written, files)
        actions = [_info(run, arrival, new), *(_table(new, grid, metadata) if form is None else []), *actions]
        body = "".join(f"{json.dumps(action)}\n" for action in actions).encode()
        if len(body) > LARGEST:  # nobody could add to the table after it
            raise CatalogueError(
                f"{place}: a commit that adds {len(written):,} files and replaces {replaced:,} has "
                f"{len(body):,} bytes, and at most {LARGEST:,} are read. Delete files that were replaced "
                "before it (vacuum) and run the same payload with resume, or give a smaller world_size and "
                "another result_path"
            )
        if _put_first(s3, bucket, commit_key(catalogue, version + 1), body):
            return version + 1, replaced
        if time.monotonic() > deadline:
            raise CatalogueError(
                f"{place}/{LOG}: other runs have committed first for {_PATIENCE:.0f} s. {_AGAIN}"
            )
        time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - so that two do not meet again


def _put_first(s3: Any, bucket: str, key: str, body: bytes) -> bool:
    """Whether this has written the object; False where another run has written it before."""
    try:
        put_if(s3, bucket, key, body, {"If-None-Match": "*"})
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in _TAKEN:
            raise
        # Ours, where only S3's answer was lost and botocore has repeated the request.
        return error.response["Error"]["Code"] == _TAKEN[0] and read(s3, bucket, key)[0] == body
    return True


def _files(s3: Any, bucket: str, folder: str) -> dict[str, Json]:
    """The Parquet files of an arrival by name, those of earlier runs and of compactions too."""

    def listed() -> dict[str, Json]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
        items = (item for page in pages for item in page.get("Contents", []))
        return {item["Key"].removeprefix(folder): item for item in items if item["Key"].endswith(".parquet")}

    return repeated(listed)


def _file_actions(arrival: str, parts: list[Part], files: dict[str, Json]) -> tuple[list[Json], int]:
    """Adds the parts' files, and removes the arrival's others. Raises CatalogueError for a lost file."""
    now, values = int(time.time() * 1000), {PARTITION: arrival}
    actions: list[Json] = []
    for part in parts:
        if part.file not in files:
            raise CatalogueError(
                f"{part.file} is no longer in the arrival's folder; run again with another result_path"
            )
        item = files[part.file]
        add = {
            "path": f"{PARTITION}={arrival}/{part.file}",
            "partitionValues": values,
            "size": item["Size"],
            "modificationTime": int(item["LastModified"].timestamp() * 1000),
            "dataChange": True,
            "stats": json.dumps({"numRecords": part.rows}),
        }
        actions.append({"add": add})
    ours = {part.file for part in parts}
    others = [name for name in files if name not in ours]
    for name in others:
        remove = {
            "path": f"{PARTITION}={arrival}/{quote(name)}",
            "deletionTimestamp": now,
            "dataChange": True,
            "extendedFileMetadata": True,
            "partitionValues": values,
            "size": files[name]["Size"],
        }
        actions.append({"remove": remove})
    return actions, len(others)


def _info(run: Run, arrival: str, form: Form) -> Json:
    """Who made the commit, and the form that the next one is compared with."""
    return {
        "commitInfo": {
            "timestamp": int(time.time() * 1000),
            "operation": "WRITE",
            "operationParameters": {
                "mode": "Overwrite",
                "partitionBy": json.dumps([PARTITION]),
                "predicate": f"{PARTITION} = '{arrival}'",
            },
            "isBlindAppend": False,
            "engineInfo": "CosmicAI",
            "txnId": str(uuid.uuid4()),
            "runId": run.run_id,
            OURS: form.to_json(),
        }
    }


def _table(form: Form, grid: list[float], metadata: dict[str, Column]) -> list[Json]:
    """The actions that begin a table; metadata: of the columns of an imported network."""
    return [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": str(uuid.uuid4()),
                "name": None,
                "description": "predictions by CosmicAI, a row per galaxy",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema_string(form.columns, grid, metadata),
                "partitionColumns": [PARTITION],
                "configuration": _CONFIGURATION,
                "createdTime": int(time.time() * 1000),
            }
        },
    ]
