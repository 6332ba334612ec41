"""Identifiers, positions and kept columns from the source to every prediction, exactly."""

from __future__ import annotations

import csv
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from torch.utils.data import TensorDataset

from cosmicai.data import objects as writing
from cosmicai.data.places import Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sources import SourceError
from cosmicai.packaging.places import ROOT
from cosmicai.results.catalogue import Catalogue
from cosmicai.results.formats import write
from cosmicai.runs.infer import infer
from inference.data.objects import MOST_BYTES, RECORD, Objects, joined
from inference.data.partition import PartitionError, PartitionFile
from inference.data.torchfile import Buffer

from .galaxies import BANDS, galaxies

Save = Callable[[object], bytes]
Make = Callable[..., TensorDataset]
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
SDSS = ROOT / "tests" / "reference" / "real" / "sdss_ugriz_20.npz"
COUNT = 130
BEYOND_A_FLOAT = np.arange(COUNT, dtype=np.int64)[::-1] + 2**62 + 1
NAMES = np.array([f'SDSS J{row:04d}+ä,"星"' for row in range(COUNT)])


def _opened(path: Path) -> PartitionFile:
    return PartitionFile.open(Buffer(path.read_bytes()), path.name)


def _stored(folder: Path) -> Objects:
    """The columns of all partitions of a folder."""
    files = [_opened(path) for path in sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))]
    return joined([(file.objects, file.count) for file in files])


def _prepared(path: Path, out: Path, **columns: Any) -> Objects:
    prepare(path, Folder(out), 1, Reading(columns=Columns(**columns)))
    return _stored(out)


def _source(path: Path, **columns: Any) -> Path:
    np.savez(path, **galaxies(), **columns)
    return path


# Preparing


def test_what_torch_reads_is_as_before(tmp_path: Path) -> None:
    _prepared(_source(tmp_path / "a.npz", objectId=BEYOND_A_FLOAT), tmp_path / "out")
    rows = galaxies()
    parts = [torch.load(tmp_path / "out" / f"{n}.pt", weights_only=False) for n in (1, 2, 3)]
    assert all(isinstance(part, TensorDataset) and len(part.tensors) == 3 for part in parts)
    for n, name in enumerate(("images", "magnitudes", "redshift")):
        assert np.array_equal(np.concatenate([part.tensors[n] for part in parts]), rows[name])
    mapped = torch.load(tmp_path / "out" / "1.pt", weights_only=False, mmap=True)
    assert torch.equal(mapped.tensors[0], parts[0].tensors[0])
    safe = [torch.Tensor, TensorDataset]
    with torch.serialization.safe_globals(safe):
        assert torch.equal(torch.load(tmp_path / "out" / "1.pt").tensors[1], parts[0].tensors[1])


def test_one_blas_thread_reads_it(tmp_path: Path) -> None:
    """As docs/data.md says."""
    _prepared(_source(tmp_path / "a.npz", objectId=BEYOND_A_FLOAT), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "1.pt") as file:
        folder = file.namelist()[0].split("/")[0]
        record = np.load(io.BytesIO(file.read(f"{folder}/{RECORD}")))
    assert np.array_equal(record["id"], BEYOND_A_FLOAT[: len(record)])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (BEYOND_A_FLOAT, BEYOND_A_FLOAT),
        (np.arange(COUNT, dtype=np.uint64) + np.uint64(2**63 + 1), None),
        (np.arange(COUNT, dtype=">i4") - 7, np.arange(COUNT) - 7),
        (NAMES, NAMES),
        (np.arange(COUNT, dtype=np.float64) + 2.0**51, np.arange(COUNT) + 2**51),
    ],
)
def test_identifiers_are_exact(tmp_path: Path, ids: np.ndarray, expected: np.ndarray | None) -> None:
    identifiers = _prepared(_source(tmp_path / "a.npz", TARGETID=ids), tmp_path / "out")["id"]
    assert identifiers.tolist() == (ids if expected is None else expected).tolist()
    assert identifiers.dtype.kind in "iuU"


@pytest.mark.parametrize("name", ["objectId", "OBJECT_ID", "id", "TARGETID", "SpecObjID"])
def test_identifiers_are_found_by_their_usual_names(tmp_path: Path, name: str) -> None:
    columns = _prepared(_source(tmp_path / "a.npz", **{name: NAMES}), tmp_path / "out")
    assert np.array_equal(columns["id"], NAMES)


def test_two_columns_of_identifiers_are_refused(tmp_path: Path) -> None:
    path = _source(tmp_path / "a.npz", objID=BEYOND_A_FLOAT, specObjID=np.arange(COUNT))
    with pytest.raises(SourceError, match=r"could be objID \(130,\) or specObjID \(130,\): give --id NAME"):
        prepare(path, Folder(tmp_path / "out"), 1)
    assert np.array_equal(_prepared(path, tmp_path / "one", ids="objID")["id"], BEYOND_A_FLOAT)
    assert np.array_equal(_prepared(path, tmp_path / "none", ids="none")["id"], np.arange(COUNT))


def test_without_identifiers_the_row_in_the_source_is_one(tmp_path: Path) -> None:
    """Also where galaxies before it were left out."""
    rows = galaxies()
    rows["images"][[0, 70], 0, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", **rows)
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1, Reading(drop_unusable=True))
    assert np.array_equal(_stored(tmp_path / "out")["id"], np.delete(np.arange(COUNT), [0, 70]))


def test_identifiers_that_are_no_text_are_refused(tmp_path: Path) -> None:
    broken = np.array([b"a\xff" if row == 60 else b"a" for row in range(COUNT)])
    with pytest.raises(SourceError, match=r"identifiers objectId.*are not UTF-8"):
        prepare(_source(tmp_path / "a.npz", objectId=broken), Folder(tmp_path / "out"), 1)


def test_positions_and_kept_columns_of_a_survey_table(tmp_path: Path) -> None:
    rows, rng = galaxies(), np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, COUNT), rng.uniform(-90, 90, COUNT)
    quality = MaskedColumn(np.arange(COUNT) + 2**60, mask=np.arange(COUNT) % 50 == 7)
    catalogue = Table(
        {
            "TARGETID": BEYOND_A_FLOAT,
            "RAJ2000": ra,
            "DEJ2000": dec,
            "EBV": rng.uniform(0, 1, COUNT).astype(np.float32),
            "TYPE": NAMES.astype("U9").tolist(),
            "STAR": np.arange(COUNT) % 3 == 0,
            "FLAGS": np.arange(COUNT),
            "QUALITY": quality,
            **{band: rows["magnitudes"][:, n] for n, band in enumerate(BANDS)},
        }
    )
    catalogue["TYPE"] = [f"T{row}" for row in range(COUNT)]
    image = fits.ImageHDU(rows["images"], name="IMAGES")
    fits.HDUList([fits.PrimaryHDU(), image, fits.table_to_hdu(catalogue)]).writeto(tmp_path / "a.fits")
    columns = _prepared(tmp_path / "a.fits", tmp_path / "out", keep=("EBV", "TYPE", "STAR", "FLAGS", "QUAL*"))
    assert list(columns) == ["id", "ra", "dec", "EBV", "TYPE", "STAR", "source_FLAGS", "QUALITY"]
    assert np.array_equal(columns["ra"], ra)
    assert np.array_equal(columns["dec"], dec)
    assert np.array_equal(columns["EBV"], catalogue["EBV"])
    assert columns["EBV"].dtype == np.float32
    assert columns["TYPE"].tolist() == [f"T{row}" for row in range(COUNT)]
    assert columns["STAR"].dtype == np.bool_
    assert np.array_equal(columns["source_FLAGS"], np.arange(COUNT))
    texts = ["" if row % 50 == 7 else str(row + 2**60) for row in range(COUNT)]
    assert columns["QUALITY"].tolist() == texts, "none is missing by a number, and none is rounded"


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("nothing",), "no column nothing"),
        (("a b", "a_b"), "a_b would be the column a_b, and there is one already"),
        (("pair",), r"pair \(130, 2\) has 2 values per galaxy.*--keep 'pair\[0\]'"),
        (("long",), "long holds a text of 1025 characters, more than 1024"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path: Path, keep: tuple[str, ...], message: str) -> None:
    columns = {"a b": np.arange(COUNT), "a_b": np.arange(COUNT), "pair": np.zeros((COUNT, 2))}
    path = _source(tmp_path / "a.npz", **columns, long=np.array(["x" * 1025] * COUNT))
    with pytest.raises(SourceError, match=message):
        _prepared(path, tmp_path / "out", keep=keep)


def test_a_second_call_writes_nothing_again(tmp_path: Path) -> None:
    path = _source(tmp_path / "a.npz", objectId=BEYOND_A_FLOAT)
    assert prepare(path, Folder(tmp_path / "out"), 1).written == 3
    assert prepare(path, Folder(tmp_path / "out"), 1).written == 0


def test_partitions_that_are_prepared_again_keep_them(tmp_path: Path) -> None:
    path = _source(tmp_path / "a.npz", objectId=NAMES, ra=np.linspace(0, 1, COUNT), EBV=np.ones(COUNT))
    first = tmp_path / "first"
    prepare(path, Folder(first), 25, Reading(columns=Columns(keep=("EBV",))))
    again = _prepared(first / "1.pt", tmp_path / "again", keep=("EBV",))
    assert list(again) == ["id", "ra", "EBV"]
    assert np.array_equal(again["id"], NAMES)


# A rank


def _catalogue(folder: Path) -> list[dict[str, str]]:
    [path] = write(Catalogue.of(folder), ["csv"], folder)
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_sdss_stamps_have_their_identifiers_in_the_results(tmp_path: Path) -> None:
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    words = [_COSMICAI, "data", "prepare", SDSS, "--out", tmp_path / "in", "--bands", "u,g,r,i,z"]
    words += ["--pixel-scale", "0.396", "--pixel-unit", "nanomaggies", "--keep", "label"]
    process = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env)
    assert process.returncode == 0, process.stderr
    words = [_COSMICAI, "infer", tmp_path / "in", "--out", tmp_path / "out", "--max-bad-fraction", "1"]
    process = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=env)
    assert process.returncode == 0, process.stderr
    with np.load(SDSS) as source, np.load(tmp_path / "out" / "predictions" / "0.npz") as predictions:
        assert np.array_equal(predictions["id"], source["object_id"])
        assert np.array_equal(predictions["label"], source["label"])
        redshifts = predictions["z_pred"]
        rows = _catalogue(tmp_path / "out")
        assert [int(row["id"]) for row in rows] == source["object_id"].tolist()
        assert [np.float32(row["z_pred"]) for row in rows] == redshifts.tolist()
        assert [int(row["label"]) for row in rows] == source["label"].tolist()


def _partition(path: Path, count: int, columns: Objects | None = None, seed: int = 0) -> str:
    rows = {name: array[seed : seed + count] for name, array in galaxies().items()}
    body = io.BytesIO()
    torch.save(TensorDataset(*map(torch.from_numpy, rows.values())), body)
    if columns is not None:
        writing.append(body, columns)
    path.write_bytes(body.getvalue())
    return str(path)


def test_every_prediction_has_its_own_identifier(tmp_path: Path) -> None:
    """Of several partitions of several batches, through ranks of their own."""
    sources = [
        _partition(tmp_path / f"{n}.pt", 50, {"id": BEYOND_A_FLOAT[n * 50 :][:50]}, n * 50) for n in range(2)
    ]
    one = _partition(tmp_path / "all.pt", 100, {"id": BEYOND_A_FLOAT[:100]})
    infer(sources, tmp_path / "apart", 16, 1)
    infer([one], tmp_path / "together", 32, 1)
    redshifts: dict[str, dict[int, float]] = {}
    for name, ranks in (("apart", 2), ("together", 1)):
        redshifts[name] = {}
        for rank in range(ranks):
            with np.load(tmp_path / name / "predictions" / f"{rank}.npz") as arrays:
                redshifts[name] |= dict(zip(arrays["id"].tolist(), arrays["z_pred"].tolist(), strict=True))
    assert redshifts["apart"] == redshifts["together"]
    assert set(redshifts["apart"]) == set(BEYOND_A_FLOAT[:100].tolist())


def test_a_partition_without_identifiers_is_predicted_as_before(tmp_path: Path) -> None:
    infer([_partition(tmp_path / "1.pt", 8)], tmp_path / "out", 8, 1)
    with np.load(tmp_path / "out" / "predictions" / "0.npz") as arrays:
        assert not {"id", "ra", "dec"} & set(arrays.files)
    rows = _catalogue(tmp_path / "out")
    assert [(row["file"], row["row"]) for row in rows] == [(str(tmp_path / "1.pt"), str(n)) for n in range(8)]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([np.array([2**62 + 1]), np.array([3], np.int64)], [2**62 + 1, 3]),
        ([np.array([2**62 + 1]), np.array([2**63 + 1], np.uint64)], [str(2**62 + 1), str(2**63 + 1)]),
        ([np.array([2**62 + 1]), np.array(["é"])], [str(2**62 + 1), "é"]),
        ([np.array([2**62 + 1]), None], [str(2**62 + 1), ""]),
        ([np.array([0.5], np.float32), np.array([0.25])], [0.5, 0.25]),
        ([np.array([True]), np.array([7])], ["True", "7"]),
    ],
)
def test_partitions_of_different_types_are_joined_exactly(
    parts: list[np.ndarray | None], expected: list[object]
) -> None:
    """numpy by itself would make 64-bit floats of signed and unsigned numbers."""
    columns: list[tuple[Objects | None, int]] = [(None if one is None else {"a": one}, 1) for one in parts]
    assert joined(columns)["a"].tolist() == expected


def test_a_missing_number_is_nan() -> None:
    values = joined([({"ra": np.array([1.5])}, 1), (None, 2), ({"ra": np.array([2.5])}, 1)])["ra"]
    assert np.array_equal(values, [1.5, np.nan, np.nan, 2.5], equal_nan=True)


def test_ranks_of_signed_and_unsigned_identifiers_make_one_exact_catalogue(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    identifiers = np.array([2**62 + 1]), np.array([2**63 + 1], np.uint64)
    for rank, one in enumerate(identifiers):
        about = {"files": np.array([f"{rank}.pt"]), "rows": np.array([1]), "run_id": np.array("r")}
        np.savez(tmp_path / "predictions" / f"{rank}.npz", id=one, z_pred=np.float32([0.3]), **about)
    assert [row["id"] for row in _catalogue(tmp_path)] == [str(2**62 + 1), str(2**63 + 1)]


# Records of strangers


def _npy(array: np.ndarray) -> bytes:
    body = io.BytesIO()
    np.lib.format.write_array(body, array, allow_pickle=True)
    return body.getvalue()


def _header(shape: str, descr: str = "[('id', '<i8')]", rest: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest


class _Hostile:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("executed",)


def _with(data: bytes, record: bytes, name: str = RECORD, compression: int = zipfile.ZIP_STORED) -> bytes:
    body = io.BytesIO(data)
    with zipfile.ZipFile(body, "a", compression) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{name}", record)
    return body.getvalue()


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (b"", "is not one that"),
        (b"junk", "is not one that"),
        (pickle.dumps(_Hostile()), "is not one that"),
        (_npy(np.array([_Hostile(), _Hostile()], object)), "is not a table"),
        (_npy(np.array([(_Hostile(),)] * 2, [("id", "O")])), "id has the type"),
        (_npy(np.arange(2)), "is not a table"),
        (_npy(np.zeros(3, [("id", "<i8")])), r"has the shape \(3,\), but the images have 2 rows"),
        (_npy(np.zeros((2, 1), [("id", "<i8")])), "has the shape"),
        (_header("(10000000000000,)"), "has the shape"),
        (_header("(2,)", rest=bytes(15)), "has 15 bytes of rows, expected 16"),
        (_header("(2,)", rest=bytes(17)), "has 17 bytes of rows, expected 16"),
        (_header("(2,)", "[('id', '<U99999999')]"), "id has the type"),
        (_header("(2,)", "[('id', '<M8[s]')]"), "id has the type"),
        (_header("(2,)", "[('id', '<i8', (9,))]"), "id has the type"),
        (_header("(2,)", "[('id', [('a', '<i8')])]"), "id has the type"),
        (_header("(2,)", "[(('title', 'id'), '<i8')]"), "is not"),
        (_header("(2,)", "'<i8'"), "is not a table"),
        (_header("(2,)", "__import__('os').mkdir('executed')"), "is not one that"),
        (_header("(" * 3000 + ")" * 3000), "is not one that"),
        (_npy(np.zeros(2, [("id", ">i8")])), "id has the type"),
        (_npy(np.zeros(2, [("id", "<f8")])), "id has the type"),
        (_npy(np.zeros(2, [("id", "<i8"), ("ra", "<U3")])), "ra has the type"),
        (_npy(np.zeros(2, [("ra", "<f8")])), "no column id"),
        (_npy(np.zeros(2, [("id", "<i8"), ("ID", "<i8")])), "two columns of one name"),
        (_npy(np.zeros(2, [("id", "<i8"), ("z_pred", "<f8")])), "'z_pred' is not allowed as the name"),
        (_npy(np.zeros(2, [("id", "<i8"), ("file", "<f8")])), "'file' is not allowed as the name of a column"),
        (_npy(np.zeros(2, [("id", "<i8"), ("../../x", "<f8")])), "is not allowed as the name of a column"),
        (_npy(np.zeros(2, [("id", "<i8"), ("a\x1b[2J", "<f8")])), r"'a\\x1b\[2J' is not allowed as the name"),
        (_npy(np.zeros(2, [("id", "<i8"), *((f"c{n}", "<i8") for n in range(64))])), "1 to 64 columns"),
        (_npy(np.full(2, 0xD800, "<u4").view([("id", "<U1")])), "id holds bytes that are not text"),
        (_npy(np.full(2, 0x110000, "<u4").view([("id", "<U1")])), "id holds bytes that are not text"),
        (_npy(np.full(18, 7, "u1").view([("id", "<i8"), ("a", "|b1")])), "neither true nor false"),
    ],
)  # fmt: skip
def test_a_record_of_anything_else_is_refused(
    saved: Save,
    make_partition: Make,
    record: bytes,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PartitionError, match=rf"^1\.pt: its record {RECORD}.*{fault}") as refused:
        PartitionFile.open(Buffer(_with(saved(make_partition(2)), record)), "1.pt")
    assert str(refused.value).isprintable()
    assert not (tmp_path / "executed").exists()


def test_bounds_of_the_entry_itself(saved: Save, make_partition: Make) -> None:
    data, record = saved(make_partition(2)), _npy(np.zeros(2, [("id", "<i8")]))
    assert PartitionFile.open(Buffer(_with(data, record)), "1.pt").objects is not None
    with pytest.raises(PartitionError, match=r"objects\.npy is compressed, which torch never writes"):
        PartitionFile.open(Buffer(_with(data, record, compression=zipfile.ZIP_DEFLATED)), "1.pt")
    with pytest.raises(
        PartitionError, match=rf"objects\.npy has {MOST_BYTES + 1} bytes, more than {MOST_BYTES}"
    ):
        PartitionFile.open(Buffer(_with(data, bytes(MOST_BYTES + 1))), "1.pt")
    damaged = bytearray(_with(data, record))
    damaged[damaged.rindex(b"\x93NUMPY") + len(record) - 1] ^= 1
    with pytest.raises(PartitionError, match=r"checksum of cosmicai/objects\.npy is not"):
        PartitionFile.open(Buffer(bytes(damaged)), "1.pt")
    assert PartitionFile.open(Buffer(_with(data, b"junk", "notes/mine")), "1.pt").objects is None


def test_a_file_of_before_torch_1_6_has_none(make_partition: Make, tmp_path: Path) -> None:
    torch.save(make_partition(2), tmp_path / "1.pt", _use_new_zipfile_serialization=False)
    assert _opened(tmp_path / "1.pt").objects is None
