"""Arrivals of a catalogue that grows, on moto's S3: what ranks write and Summarize commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deltalake
import numpy as np

from inference.catalogue import write_part
from inference.contract.event import RankEvent
from inference.data.storage import Storage
from initialize.payload import resolve
from initialize.run import Deployed, start
from summarize.catalogue import grow
from summarize.contract.growing import Part
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import Grown, Run

Json = dict[str, Any]
BUCKET, CATALOGUE = "team3-cosmicai", "catalogues/night"
LOG = f"{CATALOGUE}/_delta_log"
PAYLOAD = {"bucket": BUCKET, "data_prefix": "in/a", "result_path": "results/in/a", "catalogue": CATALOGUE}


def _arrays(run_id: str, rank: int, rows: int, **more: Any) -> Json:
    return {
        "index": np.arange(rows), "z_pred": np.linspace(0.1, 1, rows, dtype=np.float32) + rank,
        "flags": np.full(rows, 40000, np.uint16), "files": np.array([f"{rank}.pt"]), "rows": np.array([rows]),
        "run_id": np.array(run_id), "id": 2**60 + 10 * rank + np.arange(rows), **more,
    }  # fmt: skip


class Arrival:
    """A run over a folder of partitions, without what computes: its ranks' parts, and Summarize's step."""

    def __init__(self, s3: Any, prefix: str = "in/a", run_id: str = "run-1", **payload: Any) -> None:
        self.s3, self.infos = s3, list[RankInfo]()
        fields = {**PAYLOAD, "data_prefix": prefix, "result_path": f"results/{prefix}", **payload}
        self.payload = resolve(fields)
        self.run = Run(run_id=run_id, started="", payload=self.payload, world_size=9, bytes=1)

    def rank(self, rank: int, rows: int = 2, network: str | None = "n", **more: Any) -> Part:
        event = RankEvent(
            bucket=BUCKET, world_size=9, data_bucket=BUCKET, data_prefix=self.payload["data_prefix"],
            result_path="r", batch_size=1, run_id=self.run.run_id, rank=rank, data_paths=("1.pt",),
            catalogue=self.payload["catalogue"],
        )  # fmt: skip
        part = write_part(event, Storage(self.s3), _arrays(self.run.run_id, rank, rows, **more), network)
        entry = json.loads(json.dumps(part.to_json()))
        self.infos = [info for info in self.infos if info.rank != rank]
        self.infos.append(RankInfo(rank=rank, run_id=self.run.run_id, catalogue=entry))
        return part

    def grow(self) -> Grown:
        growth = grow(self.s3, self.run, self.infos)
        assert growth is not None
        return growth

    def grown(self) -> Grown:
        growth = self.grow()
        assert growth.fault is None, growth.fault
        return growth


def rows(s3: Any, folder: Path, order: str | list[tuple[str, str]] = "id") -> Any:
    """The catalogue's rows in an order, as deltalake reads a copy of its objects in a folder."""
    for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{CATALOGUE}/")["Contents"]:
        place = folder / item["Key"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())
    return deltalake.DeltaTable(folder / CATALOGUE).to_pyarrow_table().sort_by(order)


def put(s3: Any, key: str, body: bytes = b"x") -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def keys(s3: Any, prefix: str) -> list[str]:
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def started(s3: Any, payload: Json) -> Json:
    """What Initialize answers."""
    deployed = Deployed(True, False, lambda: 9, lambda name: False)
    return start(s3, payload, "run-9", "2026-11-22T00:00:00Z", deployed)
