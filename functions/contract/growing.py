"""A catalogue that grows with every arrival: a folder of S3 that is a table of Delta Lake.

An arrival is a folder of partitions that a run computes. Its ranks write Parquet files to
CATALOGUE/arrival=HASH/. Summarize makes them part of the table by one object,
CATALOGUE/_delta_log/VERSION.json, which S3 writes only if there is none of that version yet. So readers see
an arrival as a whole or not at all.
The specification is https://github.com/delta-io/delta/blob/master/PROTOCOL.md; versions 1 (readers) and 2
(writers) of the protocol are used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Annotated, Any, Self

from .columns import GRID, PARTITION, Column, described
from .fields import Field, Json, Record, RecordError

LOG = "_delta_log"
OURS = "cosmicai"
"""The field of a commit's commitInfo that holds its Form."""
_NUMBERED = re.compile(r"([0-9]{20})(\.checkpoint[0-9A-Za-z.-]*\.(?:parquet|json)|\.json)")
LARGEST = 128 << 20
"""Bytes of a commit. One of 100,000 ranks has 30 MB, and twice that if it replaces an arrival of as many."""
_MOST_FOREIGN = 1000  # commits of other programs since our last one, which are read
_TYPE = re.compile(r"(array<)?(byte|short|integer|long|float|double|boolean|string|decimal\(20,0\))(?(1)>|)")
_ARRIVAL = Column("folder of partitions that the galaxy came with: a hash of its bucket and prefix")


class CatalogueError(ValueError):
    """An arrival cannot become part of a catalogue; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    """What a rank says about its part of a catalogue."""

    file: Annotated[str, Field("the name of its file in the arrival's folder; empty without galaxies")]
    rows: Annotated[int, Field("its galaxies", unit="galaxies")]
    columns: Annotated[dict[str, str], Field("Delta Lake's types by column")]
    z_grid: Annotated[list[float], Field("the redshifts at which pdf is given")]
    network: Annotated[str, Field("SHA-256 of the network's weights; empty if unknown")]
    metadata: Annotated[
        dict[str, Any], Field("units, UCDs and descriptions of an imported network's columns, by column")
    ] = field(default_factory=dict)

    @property
    def imported_columns(self) -> dict[str, Column]:
        return {name: Column.of(one) for name, one in self.metadata.items()}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Raises RecordError."""
        part = super().from_json(content)
        if part.metadata is None:
            raise RecordError("metadata: null is not a JSON object")
        try:
            for one in part.metadata.values():
                Column.of(one)
        except ValueError as error:
            raise RecordError(f"metadata: {error}") from error
        if not all(_TYPE.fullmatch(kind) for kind in part.columns.values()):
            raise RecordError("columns: holds a type that a rank does not write")
        if not all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,64}", name) for name in part.columns):
            raise RecordError("columns: holds a name that no column has")
        if part.file and not re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}\.parquet", part.file):
            raise RecordError("file: is not the name of a rank's file")
        return part


@dataclass(frozen=True, kw_only=True)
class Form(Record):
    """What all arrivals of a catalogue have in common. Each of our commits repeats it."""

    columns: Annotated[dict[str, str], Field("Delta Lake's types by column")]
    z_grid: Annotated[str, Field("SHA-256 of the redshifts at which pdf is given; empty without pdf")]
    network: Annotated[str, Field("SHA-256 of the network's weights; empty if unknown")]
    model: Annotated[str, Field("the model of the payload; empty for the bundled one")]
    outputs: Annotated[list[str], Field("the outputs of the payload")]

    def check_payload(self, payload: Json, place: str) -> None:
        """Raises CatalogueError where a run by this payload would not fit. place: of the catalogue."""
        model, outputs = str(payload.get("model") or ""), list(payload["outputs"])
        if model != self.model:
            raise CatalogueError(
                f"{place} holds redshifts of {_named(self.model)}, and this run uses {_named(model)}; give "
                "another catalogue, or the same model"
            )
        if outputs != self.outputs:
            raise CatalogueError(
                f"{place} was begun with the outputs {', '.join(self.outputs)}, and this run has "
                f"{', '.join(outputs)}; give another catalogue, or the same outputs"
            )

    def check(self, new: Form, place: str, arrival: str) -> None:
        """Raises CatalogueError where an arrival of the form `new` does not fit. arrival: its folder."""
        lacking = [name for name in self.columns if name not in new.columns]
        more = [name for name in new.columns if name not in self.columns]
        both = ((name, kind, new.columns.get(name, kind)) for name, kind in self.columns.items())
        other = [f"{name} ({kind} there, {new_kind} here)" for name, kind, new_kind in both if new_kind != kind]
        faults = [
            f"{what} {', '.join(names)}"
            for what, names in (
                ("it lacks columns of the catalogue:", lacking),
                ("it has columns that the catalogue lacks:", more),
                ("columns differ in type:", other),
            )
            if names
        ]
        faults += ["p(z) is given at other redshifts"] if new.z_grid != self.z_grid else []
        faults += (
            ["another network, or another mapping of its outputs, computed it"]
            if new.network != self.network
            else []
        )
        if faults:
            raise CatalogueError(
                f"the arrival {arrival} does not fit into {place}, which stays as it was: {'; '.join(faults)}. "
                "Run it again with another catalogue and another result_path, or prepare its partitions like "
                "the others"
            )


def _named(model: str) -> str:
    return f"the model {model}" if model else "the bundled model"


def arrival_of(bucket: str, prefix: str) -> str:
    """The name of the arrival of a folder of partitions: 32 hexadecimal digits, of SHA-256."""
    return hashlib.sha256(json.dumps([bucket, prefix]).encode()).hexdigest()[:32]


def arrival_folder(catalogue: str, arrival: str) -> str:
    """Where the files of an arrival are, without the bucket."""
    return f"{catalogue}/{PARTITION}={arrival}"


def commit_key(catalogue: str, version: int) -> str:
    return f"{catalogue}/{LOG}/{version:020}.json"


def digest_of(grid: list[float]) -> str:
    return hashlib.sha256(json.dumps(grid).encode()).hexdigest() if grid else ""


def schema_string(columns: dict[str, str], grid: list[float], metadata: dict[str, Column]) -> str:
    """The schema of the table, with units, UCDs and descriptions as the metadata of its columns.

    metadata: of the columns of an imported network.
    """
    fields = [_field(name, kind, described(name, metadata)) for name, kind in columns.items()]
    for one in fields:
        if one["name"] == "pdf" and grid:
            one["metadata"] |= {"z_grid": json.dumps(grid), "z_grid_is": GRID.description}
    fields.append(_field(PARTITION, "string", _ARRIVAL))
    return json.dumps({"type": "struct", "fields": fields})


def _field(name: str, kind: str, column: Column) -> Json:
    inner = kind.removeprefix("array<").removesuffix(">")
    type_: Any = kind if inner == kind else {"type": "array", "elementType": inner, "containsNull": True}
    return {"name": name, "type": type_, "nullable": True, "metadata": column.metadata()}


def latest(s3: Any, bucket: str, catalogue: str) -> tuple[int, Form | None]:
    """The latest version of the table, and its form; -1 and None where there is no table yet.

    Raises CatalogueError for a log that another program began or changed, and for one that cannot be read.
    """
    from .s3 import read  # and botocore, which ranks do without

    sizes = _versions(s3, bucket, catalogue)
    if not sizes:
        return -1, None
    newest = max(sizes)
    for version in range(newest, max(-1, newest - _MOST_FOREIGN), -1):
        where = f"s3://{bucket}/{commit_key(catalogue, version)}"
        if sizes.get(version, -1) < 0:
            break
        if sizes[version] > LARGEST:
            raise CatalogueError(
                f"{where} has {sizes[version]:,} bytes, and at most {LARGEST:,} are read; give another "
                "catalogue"
            )
        form = _form(read(s3, bucket, commit_key(catalogue, version))[0], where)
        if form is not None:
            return newest, form
    raise CatalogueError(
        f"s3://{bucket}/{catalogue} is a table of another program, or its log has lost our commits; give "
        "another catalogue"
    )


def _versions(s3: Any, bucket: str, catalogue: str) -> dict[int, int]:
    """The size of each commit in the log by version; -1 for a version of which only a checkpoint is left."""
    from .s3 import repeated

    prefix = f"{catalogue}/{LOG}/"

    def listed() -> dict[str, int]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    sizes: dict[int, int] = {}
    for key, size in repeated(listed).items():
        match = _NUMBERED.fullmatch(key.removeprefix(prefix))
        if match:
            is_commit = match[2] == ".json"
            sizes[int(match[1])] = size if is_commit else sizes.get(int(match[1]), -1)
    return sizes


def _form(commit: bytes, where: str) -> Form | None:
    """The form that one of our commits repeats; None for a commit of another program, such as a compaction.

    Raises CatalogueError for an object that is not a commit, and where another program has changed the table.
    """
    changed = False
    for action in _actions(commit, where):
        info = action.get("commitInfo")
        if isinstance(info, dict) and OURS in info:
            try:
                return Form.from_json(info[OURS])
            except RecordError as error:
                raise CatalogueError(
                    f"{where} is not what this bundle wrote: {error}; give another catalogue"
                ) from error
        changed |= "metaData" in action or "protocol" in action
    if changed:
        raise CatalogueError(
            f"{where}: another program has changed the columns, the properties or the protocol of the table; "
            "give another catalogue"
        )
    return None


def _actions(commit: bytes, where: str) -> Iterator[Json]:
    for line in BytesIO(commit):  # which copies no more than a line
        try:
            action = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CatalogueError(
                f"{where} is not a commit of Delta Lake: {error}; give another catalogue"
            ) from error
        if not isinstance(action, dict):
            raise CatalogueError(f"{where} is not a commit of Delta Lake; give another catalogue")
        yield action
