"""Partitions from S3 in pieces: connections that break, several files as one stream, bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from botocore.exceptions import ClientError, IncompleteReadError
from torch.utils.data import TensorDataset

from inference.data import partition
from inference.data.partition import Layout, PartitionError, PartitionFile, read, stream
from inference.data.storage import ObjectError, Storage
from inference.data.torchfile import Buffer, is_legacy

Save = Callable[[object], bytes]
Make = Callable[..., TensorDataset]


class _Body:
    """A response that breaks after some bytes: with an error, or by ending."""

    def __init__(self, data: bytes, breaks_after: int | None, silently: bool) -> None:
        self._data, self._left, self._silently = data, breaks_after, silently
        self._place = 0

    def read(self, size: int) -> bytes:
        stop = self._place + size
        if self._left is not None:
            stop = min(stop, self._left)
            if self._place >= self._left and not self._silently:
                raise IncompleteReadError(actual_bytes=self._place, expected_bytes=len(self._data))
        piece = self._data[self._place : stop]
        self._place += len(piece)
        return piece


class _S3:
    """What Storage uses of boto3's client, over objects in memory; answer n breaks after n·`step` bytes."""

    class exceptions:
        ClientError = ClientError

    def __init__(self, objects: dict[str, bytes], step: int = 0, silently: bool = False) -> None:
        self.objects, self.version, self.answers = objects, "1", 0
        self._step, self._silently = step, silently

    def get_object(self, Bucket: str, Key: str, Range: str, IfMatch: str | None = None) -> dict[str, Any]:
        data = self.objects[Key]
        first, last = (int(n) for n in Range.removeprefix("bytes=").split("-"))
        if IfMatch not in (None, self.version):
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "GetObject")
        if first >= len(data):
            raise ClientError({"Error": {"Code": "InvalidRange"}}, "GetObject")
        self.answers += 1
        body = _Body(data[first : last + 1], self.answers * self._step if self._step else None, self._silently)
        return {"Body": body, "ETag": self.version, "ContentRange": f"bytes {first}-{last}/{len(data)}"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.data.storage.time.sleep", lambda seconds: None)


@pytest.mark.fault(
    "S3 connections break",
    "a server that cuts the stream after every tenth byte",
    "the read continues after the last byte received",
    "nothing",
)
@pytest.mark.parametrize("silently", [False, True])
def test_a_stream_that_is_cut_at_every_tenth_byte_recovers(
    saved: Save, make_partition: Make, silently: bool
) -> None:
    data = saved(make_partition(1))
    client = _S3({"1.pt": data}, 10, silently)
    source = Storage(client).open("b", "1.pt")
    assert source.read(0, source.size) == data
    assert client.answers > 50


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 3 << 20])
def test_any_range_of_a_large_object(size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    source = Storage(_S3({"k": data})).open("b", "k")
    for start in (0, 5, (1 << 20) - 3, size - 70_000, size - 1):
        for stop in (start, start + 1, start + 9, size):
            assert source.read(start, min(stop, size)) == data[start : min(stop, size)]


def test_a_connection_that_never_gives_a_byte_is_an_error() -> None:
    client = _S3({"k": b"x" * 100}, 0)
    client._step = -1  # every answer breaks at once
    with pytest.raises(ObjectError, match="s3://b/k could not be read"):
        Storage(client).open("b", "k")


def test_an_object_that_is_replaced_meanwhile_is_an_error() -> None:
    client = _S3({"k": bytes(3 << 20)})
    source = Storage(client).open("b", "k")
    client.version = "2"
    with pytest.raises(ObjectError, match="s3://b/k was replaced while it was read; run again"):
        source.read(1 << 20, 2 << 20)


def test_an_empty_object_is_a_broken_partition() -> None:
    source = Storage(_S3({"k": b""})).open("b", "k")
    with pytest.raises(PartitionError, match="k: is cut short"):
        PartitionFile.open(source, "k")


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_several_files_are_one_stream_in_order(
    saved: Save, make_partition: Make, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(partition, "BLOCK_BYTES", 5 * 20_480)
    files = [saved(make_partition(rows, seed=rows)) for rows in (13, 0, 1, 40)]
    objects = {str(n): data for n, data in enumerate(files)}
    storage = Storage(_S3(objects))
    openers = [partial(PartitionFile.open, storage.open("b", key), key, Layout()) for key in objects]
    with ThreadPoolExecutor(4) as pool:
        blocks = list(stream(openers, batch, pool))
    for n, data in enumerate(files):
        rows = [block.rows for block in blocks if block.file.name == str(n)]
        whole = read(data, "whole")
        assert np.array_equal(np.concatenate([block.images for block in rows]), whole.images)
        assert np.array_equal(np.concatenate([block.magnitudes for block in rows]), whole.magnitudes)
        assert all(len(block) % batch == 0 for block in rows[:-1])


def test_no_more_blocks_are_read_than_the_window_holds(
    saved: Save, make_partition: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "BLOCK_BYTES", 20_480)
    fetched: list[int] = []
    file = PartitionFile.open(Buffer(saved(make_partition(50))), "1.pt")
    fetch = file.fetch
    file.fetch = lambda start, stop: fetched.append(start) or fetch(start, stop)  # type: ignore[func-returns-value, method-assign]
    with ThreadPoolExecutor(2) as pool:
        blocks = stream([lambda: file], 1, pool, ahead=4)
        for taken in range(1, 40):
            next(blocks)
            assert len(fetched) <= taken + 4
        blocks.close()


def test_a_damaged_value_is_found_before_anything_is_kept(saved: Save, make_partition: Make) -> None:
    data = bytearray(saved(make_partition(30)))
    data[data.index(b"data/0") + 20_000] ^= 1
    with pytest.raises(PartitionError, match=r"1\.pt: is damaged: the checksum of data/0 is not"):
        read(bytes(data), "1.pt")


def test_files_without_checksums_are_read(saved: Save, make_partition: Make) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = saved(make_partition(3))
    finally:
        torch.serialization.set_crc32_options(True)
    assert np.array_equal(read(data, "1.pt").images, make_partition(3).tensors[0].numpy())


def test_a_file_of_before_torch_1_6_is_read_block_by_block(make_partition: Make, tmp_path: Path) -> None:
    old = tmp_path / "old.pt"
    torch.save(make_partition(4), old, _use_new_zipfile_serialization=False)
    source = Buffer(old.read_bytes())
    assert is_legacy(source)
    file = PartitionFile.open(source, "old.pt")
    rows = [file.block(start, start + 2).images for start in (0, 2)]
    assert np.array_equal(np.concatenate(rows), make_partition(4).tensors[0].numpy())


def test_a_hostile_file_of_before_torch_1_6_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    old = tmp_path / "old.pt"
    torch.save(Hostile(), old, _use_new_zipfile_serialization=False)
    with pytest.raises(PartitionError, match=r"old.pt: its pickle asks for posix.mkdir"):
        PartitionFile.open(Buffer(old.read_bytes()), "old.pt")
    assert not (tmp_path / "executed").exists()


_PEAK = """
import sys
from pathlib import Path
from cosmicai.runs.infer import _event, _sandbox, _run, LOCAL
from initialize.plan import PartitionFile
from inference.process import peak_memory
from inference.rank import Rank
files = [(LOCAL, PartitionFile(sys.argv[1], 1))]
out = Path(sys.argv[2])
Rank(_event(_run(files, out, 256, []), 0, files[0], out, None), _sandbox(2, "cpu")).run()
print(peak_memory() // 2**20)
"""


def test_memory_does_not_grow_with_the_partition(tmp_path: Path) -> None:
    """Peak resident memory of a rank, in MiB: 25 MB and 500 MB."""
    peaks = []
    for count in (1278, 25_560):
        tensors = [torch.rand(count, 5, 32, 32), torch.full((count, 5), 23.0), torch.ones(count)]
        torch.save(TensorDataset(*tensors), tmp_path / "1.pt")
        command = [sys.executable, "-c", _PEAK, str(tmp_path / "1.pt"), str(tmp_path / "out")]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(process.stdout.split()[-1]))
    assert peaks[1] - peaks[0] <= 50
    assert peaks[1] < 250
