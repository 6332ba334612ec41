"""The head of a partition as Initialize reads it from S3, compared with what a rank reads of the same bytes."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import torch
from botocore.exceptions import ClientError
from torch.utils.data import TensorDataset

from cosmicai.data import objects
from inference.data.partition import PartitionError, PartitionFile
from inference.data.torchfile import Buffer
from initialize.contract.names import NAME
from initialize.partition_head import _MOST_BYTES, _MOST_REQUESTS, HeadError, read_head
from tests.fuzz import files
from tests.fuzz.guard import bounded
from tests.fuzz.seeds import LAYOUT


class _Bucket:
    """S3 with one object, which counts what is read of it."""

    def __init__(self, body: bytes) -> None:
        self._body, self.requests, self.read = body, 0, 0

    def get_object(self, Bucket: str, Key: str, Range: str) -> dict[str, Any]:
        suffix, first, last = re.fullmatch(r"bytes=(?:-(\d+)|(\d+)-(\d+))", Range).groups()  # type: ignore[union-attr]
        size = len(self._body)
        if not size:
            raise ClientError({"Error": {"Code": "InvalidRange", "Message": "not satisfiable"}}, "GetObject")
        start, stop = (max(size - int(suffix), 0), size) if suffix else (int(first), min(int(last) + 1, size))
        body = self._body[start:stop]
        self.requests, self.read = self.requests + 1, self.read + len(body)
        return {"ContentRange": f"bytes {start}-{stop - 1}/{size}", "Body": io.BytesIO(body)}


def head(data: bytes) -> None:
    """A .pt file of S3: refused with HeadError after little has been read, or the columns that a rank finds."""
    s3, known = _Bucket(data), None
    with bounded(len(data), files.SECONDS):
        try:
            known = read_head(s3, "bucket", "1.pt")
        except (HeadError, ClientError):
            return
        finally:
            assert s3.requests <= _MOST_REQUESTS
            assert s3.read <= _MOST_BYTES + (1 << 16)
    if known is None:
        return
    assert all(re.fullmatch(NAME, name) for name in known.columns)
    try:
        file = PartitionFile.open(Buffer(data), "1.pt", LAYOUT)
    except PartitionError:
        return
    assert known.columns.keys() == (file.objects or {}).keys()
    assert (known.tensors == 3) == (file.redshift is not None)


def seeds() -> list[bytes]:
    """Partitions with columns of every kind, with none, and without galaxies."""
    kinds = {
        "id": np.arange(3, dtype=np.uint64), "ra": np.arange(3.0), "dec": np.arange(3.0),
        "mag": np.arange(3, dtype=np.float32),
        "tile": np.array(["a", "bc", ""]), "good": np.array([True, False, True]),
        "n": np.arange(3, dtype=np.int64),
    }  # fmt: skip
    return [
        _partition(3, {}), _partition(3, kinds), _partition(3, {"id": kinds["tile"]}), _partition(0, {}),
        _partition(3, kinds, with_redshift=False),
    ]  # fmt: skip


def _partition(count: int, columns: dict[str, Any], with_redshift: bool = True) -> bytes:
    tensors = [torch.ones(count, *LAYOUT.image), torch.ones(count, LAYOUT.magnitudes), torch.ones(count)]
    body = io.BytesIO()
    torch.save(TensorDataset(*tensors[: 2 + with_redshift]), body)
    if columns:
        objects.append(body, columns)
    return body.getvalue()
