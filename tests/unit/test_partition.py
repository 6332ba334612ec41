"""Partition files are read without torch, without trust, and exactly as torch reads them."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from inference.data.partition import Layout, PartitionError, PartitionFile, read
from inference.data.torchfile import Buffer, is_legacy

Save = Callable[[object], bytes]
Make = Callable[..., TensorDataset]


def test_it_reads_what_torch_wrote_bit_for_bit(saved: Save, make_partition: Make) -> None:
    dataset = make_partition(7)
    partition = read(saved(dataset), "1.pt")
    for ours, theirs in zip(
        (partition.images, partition.magnitudes, partition.redshift), dataset.tensors, strict=True
    ):
        assert np.array_equal(ours, theirs.numpy())


def test_images_are_views_of_the_file(saved: Save, make_partition: Make) -> None:
    data = np.frombuffer(saved(make_partition()), np.uint8)
    assert np.shares_memory(read(data.data, "1.pt").images, data)


def test_data_without_redshifts_is_fine(saved: Save, make_partition: Make) -> None:
    assert read(saved(make_partition(with_redshift=False)), "1.pt").redshift is None


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_one_row_files(saved: Save, make_partition: Make, count: int) -> None:
    assert len(read(saved(make_partition(count)), "1.pt")) == count


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16])
def test_other_number_types_become_float32(saved: Save, make_partition: Make, dtype: torch.dtype) -> None:
    tensors = [tensor.to(dtype) for tensor in make_partition().tensors]
    images = read(saved(TensorDataset(*tensors)), "1.pt").images
    assert np.array_equal(images, tensors[0].to(torch.float32).numpy())


def test_strided_tensors_and_shared_storages(saved: Save) -> None:
    whole = torch.arange(2 * 6 * 32 * 32, dtype=torch.float32).reshape(6, 2, 32, 32)
    images, magnitudes = whole[:5].transpose(0, 1), torch.ones(1, 5).expand(2, 5)
    partition = read(saved(TensorDataset(images, magnitudes, torch.ones(2, 1))), "1.pt")
    assert np.array_equal(partition.images, images.numpy())
    assert np.array_equal(partition.magnitudes, np.ones((2, 5)))
    assert partition.redshift is not None
    assert partition.redshift.shape == (2,)


def test_a_tensor_blown_up_by_strides_of_zero_is_refused_at_once(saved: Save) -> None:
    images, magnitudes = torch.zeros(1).expand(10**9, 5, 32, 32), torch.zeros(1).expand(10**9, 5)
    with pytest.raises(PartitionError, match="more values than the file has bytes"):
        read(saved(TensorDataset(images, magnitudes)), "1.pt")


def test_batches_are_consecutive_and_complete(saved: Save, make_partition: Make) -> None:
    partition = read(saved(make_partition(7)), "1.pt")
    batches = list(partition.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert np.array_equal(np.concatenate([batch.images for batch in batches]), partition.images)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(saved: Save, make_partition: Make, share: float) -> None:
    data = saved(make_partition())
    with pytest.raises(PartitionError, match=r"^s3://b/1.pt: is cut short"):
        read(data[: int(len(data) * share)], "s3://b/1.pt")


class _Hostile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.marker,)


def test_a_malicious_pickle_is_refused_and_nothing_of_it_is_run(
    saved: Save, tmp_path: os.PathLike[str]
) -> None:
    marker = f"{tmp_path}/executed"
    with pytest.raises(
        PartitionError, match=r"1.pt: its pickle asks for posix.mkdir, .* no part of it was run"
    ):
        read(saved(_Hostile(marker)), "1.pt")
    assert not os.path.exists(marker)  # noqa: PTH110


def test_a_hostile_state_inside_a_tensor_dataset_is_refused(saved: Save, tmp_path: os.PathLike[str]) -> None:
    dataset = TensorDataset(torch.zeros(1, 5, 32, 32), torch.zeros(1, 5))
    dataset.extra = _Hostile(f"{tmp_path}/executed")  # type: ignore[attr-defined]
    with pytest.raises(PartitionError, match=r"posix\.mkdir"):
        read(saved(dataset), "1.pt")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([torch.zeros(1)], "holds a list, not a torch TensorDataset"),
        (TensorDataset(torch.zeros(2, 5, 32, 32)), "has 1 tensors, expected images, magnitudes and redshift"),
        (
            TensorDataset(torch.zeros(2, 4, 32, 32), torch.zeros(2, 5)),
            r"images have shape \(2, 4, 32, 32\), expected \(N, 5, 32, 32\)",
        ),
        (
            TensorDataset(torch.zeros(2, 5, 32, 32), torch.zeros(2, 4)),
            r"magnitudes have shape \(2, 4\), expected \(N, 5\)",
        ),
        (
            TensorDataset(torch.zeros(2, 5, 32, 32), torch.zeros(2, 5), torch.zeros(2, 2)),
            r"redshift have shape \(2, 2\), expected \(N, 1\)",
        ),
        (TensorDataset(torch.tensor(0.0).expand(2), torch.zeros(2, 5)), r"images have shape \(2,\)"),
    ],
)
def test_other_contents_are_named(saved: Save, content: object, fault: str) -> None:
    with pytest.raises(PartitionError, match=f"^1.pt: {fault}"):
        read(saved(content), "1.pt")


@pytest.mark.parametrize(("tensor", "what"), [(0, "images"), (1, "magnitudes")])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_located(
    saved: Save, make_partition: Make, tensor: int, what: str, value: float
) -> None:
    dataset = make_partition(4)
    dataset.tensors[tensor][2].view(-1)[3] = value
    with pytest.raises(
        PartitionError, match=f"{what} of 1 of 4 galaxies hold NaN or infinity, the first in row 2"
    ):
        read(saved(dataset), "1.pt")


def test_a_compressed_or_foreign_zip_is_refused() -> None:
    for compression, name, fault in (
        (zipfile.ZIP_DEFLATED, "archive/data.pkl", "is compressed"),
        (zipfile.ZIP_STORED, "readme.txt", "without data.pkl"),
    ):
        body = io.BytesIO()
        with zipfile.ZipFile(body, "w", compression) as archive:
            archive.writestr(name, pickle.dumps(None))
        with pytest.raises(PartitionError, match=fault):
            read(body.getvalue(), "1.pt")


def test_a_layout_of_other_widths(saved: Save) -> None:
    dataset = TensorDataset(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3))
    assert len(read(saved(dataset), "1.pt", Layout((3, 16, 16), 3))) == 2


def test_a_pickle_that_would_reserve_memory_is_refused_at_once(saved: Save) -> None:
    """Found by fuzzing: a kilobyte could make Python's unpickler reserve any number of bytes."""
    pickled = b"\x80\x05" + pickle.BYTEARRAY8 + (1 << 46).to_bytes(8, "little") + b"."
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(
        PartitionError, match=r"1\.pt: its pickle holds the opcode 0x96, which torch never writes"
    ):
        read(body.getvalue(), "1.pt")


@pytest.mark.parametrize("kind", ["", "-strided-double", "-legacy"])
def test_files_that_torch_1_13_wrote(kind: str) -> None:
    """Saved with the oldest torch that Python 3.11 has, as a TensorDataset of 2 galaxies."""
    name = f"torch-1.13.1{kind}.pt"
    source = Buffer((Path(__file__).parents[1] / "reference" / name).read_bytes())
    assert is_legacy(source) == (kind == "-legacy")
    block = PartitionFile.open(source, name, Layout((2, 4, 4), 2)).block(0, 2)
    assert np.array_equal(block.images, np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4) / 8)
    assert block.magnitudes.tolist() == [[20.25, 21.5], [22, 23.125]]
    assert block.redshift is not None
    assert block.redshift.tolist() == [0.25, 1.5]


def test_damaged_files_give_errors_or_the_very_numbers(saved: Save, make_partition: Make) -> None:
    """10,000 files with bytes changed, cut out or doubled anywhere, half of them outside the tensors' data."""
    data = saved(make_partition(2))
    whole, rng = read(data, "1.pt"), random.Random(0)
    payload = range(data.index(b"data/0") + 200, data.index(b"data/0") + 40_000)
    framing = [place for place in range(len(data)) if place not in payload]
    refused = 0
    for number in range(10_000):
        damaged, places = bytearray(data), framing if number % 2 else range(len(data))
        for place in rng.sample(places, rng.choice((1, 1, 3))):
            damaged[place] = rng.randrange(256)
        if number % 10 == 0:
            start, length = rng.choice(places), rng.randrange(1, 200)
            damaged[start : start + length] = damaged[start : start + length] * 2 if number % 20 else b""
        try:
            partition = read(bytes(damaged), "1.pt")
        except PartitionError:
            refused += 1
            continue
        for ours, theirs in (
            (partition.images, whole.images),
            (partition.magnitudes, whole.magnitudes),
            (partition.redshift, whole.redshift),
        ):
            assert ours is not None
            assert theirs is not None
            assert ours.tobytes() == theirs.tobytes()
    assert refused > 6_000
