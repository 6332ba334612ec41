"""One catalogue of a run in every format, read back by the programs that astronomers use."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits, votable
from astropy.io.votable.ucd import parse_ucd
from astropy.table import Table

from cosmicai.results.catalogue import Catalogue, CatalogueError
from cosmicai.results.formats import FORMATS, write
from inference.contract.columns import COLUMNS, GRID
from inference.engine.loading import BUNDLED_MODEL
from inference.probability.calibration import Calibration
from inference.probability.predictive import densities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    import qp

_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))
_LARGE = 2**53 + np.arange(1, 6)  # ids that no float64 holds


pytestmark = pytest.mark.usefixtures("quiet_libraries")


def _rank(count: int, seed: int, **more: Any) -> dict[str, Any]:
    """The arrays of a rank whose model is calibrated; its last galaxy has no redshift."""
    random = np.random.default_rng(seed)
    true = random.uniform(0.1, 2, count).astype(np.float32)
    z_pred = true + np.float32(0.01)
    z_pred[-1] = np.nan
    magnitudes = random.normal(24, 1, (count, 5)).astype(np.float32)
    estimates = densities(Calibration.read(BUNDLED_MODEL), z_pred, magnitudes, true)
    return {
        "index": np.arange(count),
        "z_pred": z_pred,
        "flags": np.array([0] * (count - 1) + [8], np.uint16),
        "files": np.array(["survey/é1.pt", "survey/2.pt"]),
        "rows": np.array([2, count - 2]),
        "run_id": np.array("run-1"),
        "z_true": true,
        **estimates.arrays(),
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of eleven ranks; rank 10 comes last, and knows no true redshifts."""
    (tmp_path / "predictions").mkdir()
    for rank in range(11):
        arrays = _rank(5, rank, id=_LARGE + 10 * rank)
        if rank == 10:
            del arrays["z_true"], arrays["pit"]
        np.savez(tmp_path / "predictions" / f"{rank}.npz", **arrays)
    return tmp_path


@pytest.fixture
def expected(folder: Path) -> dict[str, np.ndarray]:
    parts = []
    for rank in range(11):
        with np.load(folder / "predictions" / f"{rank}.npz") as content:
            parts.append({name: content[name] for name in content.files})
    ids, z_pred = (np.concatenate([part[name] for part in parts]) for name in ("id", "z_pred"))
    true = np.concatenate([part.get("z_true", np.full(5, np.nan, np.float32)) for part in parts])
    pdf = np.concatenate([part["pdf"] for part in parts]).astype(np.float32)
    median, flags = (np.concatenate([part[name] for part in parts]) for name in ("z_median", "flags"))
    places = np.tile(["survey/é1.pt"] * 2 + ["survey/2.pt"] * 3, 11)
    return {"id": ids, "z_pred": z_pred, "z_true": true, "pdf": pdf, "z_median": median, "flags": flags,
            "file": places, "row": np.tile([0, 1, 0, 1, 2], 11)}  # fmt: skip


def _written(folder: Path, name: str) -> Path:
    return write(Catalogue.of(folder), [name], folder)[0]


def _differing(actual: dict[str, Any], expected: dict[str, np.ndarray], names: set[str]) -> list[str]:
    """The columns that are not the expected ones, with floats compared in single precision."""
    return [name for name in names if not _agree(np.asarray(actual[name]), expected[name])]


def _agree(values: np.ndarray, expected: np.ndarray) -> bool:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "f":
        return np.array_equal(values.astype(np.float32), expected, equal_nan=True)
    return bool(values.tolist() == expected.tolist())


def test_csv_is_read_by_pandas(folder: Path, expected: dict[str, np.ndarray]) -> None:
    table = pd.read_csv(_written(folder, "csv"))
    assert not _differing(dict(table), expected, set(expected) - {"pdf"})
    assert "pdf" not in table
    with (folder / "columns.csv").open(encoding="utf-8") as file:
        described = {row["name"]: row for row in csv.DictReader(file)}
    assert list(described) == list(table.columns)
    assert described["z_pred"]["ucd"] == "src.redshift.phot"


def test_parquet_is_read_by_pandas(folder: Path, expected: dict[str, np.ndarray]) -> None:
    path = _written(folder, "parquet")
    table = pd.read_parquet(path)
    columns = {name: np.stack(table[name]) if name == "pdf" else table[name].to_numpy() for name in table}
    columns["file"] = table["file"].astype(str).to_numpy().astype(str)
    assert not _differing(columns, expected, set(expected))
    assert len(list(path.iterdir())) == 11
    from pyarrow import dataset

    schema = dataset.dataset(path).schema
    assert schema.field("z_std").metadata[b"ucd"] == b"stat.stdev;src.redshift.phot"
    assert len(json.loads(schema.metadata[b"z_grid"])) == expected["pdf"].shape[1]


def test_fits_is_read_by_astropy(folder: Path, expected: dict[str, np.ndarray]) -> None:
    path = _written(folder, "fits")
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert not _differing({name: hdus[1].data[name] for name in expected}, expected, set(expected))
        assert hdus[2].data["z_grid"].shape == (expected["pdf"].shape[1],)
        number = hdus[1].columns.names.index("z_conf") + 1
        assert hdus[1].header[f"TUCD{number}"] == "stat.probability;src.redshift.phot"
        assert "within 0.15 (1 + z_median)" in hdus[1].header[f"TCOMM{number}"]
    assert len(Table.read(path, hdu=1)) == 55


def test_votable_is_read_by_astropy(folder: Path, expected: dict[str, np.ndarray]) -> None:
    path = _written(folder, "votable")
    table = votable.parse(path, verify="exception").get_first_table()
    names = set(expected) - {"flags"}
    read = table.to_table()
    columns = {name: np.ma.filled(read[name], np.nan) if name == "z_true" else read[name] for name in names}
    assert not _differing(columns, expected, names)
    assert read["flags"].tolist() == expected["flags"].tolist()
    field = table.get_field_by_id_or_name("z_true")
    assert (field.ucd, field.description) == ("src.redshift", COLUMNS["z_true"].description)


def test_qp_reads_what_has_a_density(folder: Path, expected: dict[str, np.ndarray]) -> None:
    ensemble = qp.read(str(_written(folder, "qp")))
    known = np.isfinite(expected["z_median"])
    assert ensemble.npdf == known.sum() == 44
    grid = np.ravel(ensemble.metadata["xvals"])
    assert ensemble.pdf(grid) == pytest.approx(expected["pdf"][known], abs=1e-4, rel=1e-3)
    assert np.asarray(ensemble.ancil["id"]).tolist() == expected["id"][known].tolist()
    assert ensemble.median().ravel() == pytest.approx(expected["z_median"][known], abs=0.01)


def test_rails_evaluator_takes_the_ensemble(folder: Path, expected: dict[str, np.ndarray]) -> None:
    from rail.evaluation.metrics.cdeloss import CDELoss

    ensemble = qp.read(str(_written(folder, "qp")))
    rows = np.isfinite(expected["z_median"]) & np.isfinite(expected["z_true"])
    grid, some = (
        np.ravel(ensemble.metadata["xvals"]),
        ensemble[np.flatnonzero(rows[np.isfinite(expected["z_median"])])],
    )
    loss = CDELoss(some, grid, expected["z_true"][rows].astype(float)).evaluate().statistic
    assert loss < -2


def test_hats_needs_places_on_the_sky(folder: Path) -> None:
    with pytest.raises(CatalogueError, match=r"hats: .* the predictions have no ra and dec"):
        _written(folder, "hats")


def test_lsdb_opens_the_hats_catalogue(tmp_path: Path) -> None:
    import lsdb

    (tmp_path / "predictions").mkdir()
    random, identifiers = np.random.default_rng(0), 2**53 + np.arange(1, 51)
    places = {"ra": random.uniform(0, 360, 50), "dec": random.uniform(-90, 90, 50)}
    rank = _rank(50, 0, id=identifiers, **places)
    np.savez(tmp_path / "predictions" / "0.npz", **rank)
    opened = lsdb.open_catalog(_written(tmp_path, "hats")).compute().sort_values("id")
    assert opened["id"].tolist() == identifiers.tolist()
    for name in ("ra", "dec", "z_pred", "z_q160", "flags"):
        assert np.array_equal(opened[name].to_numpy(), {**rank, **places}[name], equal_nan=True), name
    written = np.stack([np.asarray(row, np.float32) for row in opened["pdf"]])
    assert np.array_equal(written, rank["pdf"].astype(np.float32), equal_nan=True)


def test_uncalibrated_runs_have_a_catalogue_too(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    np.savez(tmp_path / "predictions" / "0.npz", z_pred=np.array([0.5, 0.25], np.float32), run_id="r")
    for name in ("csv", "parquet", "fits", "votable"):
        _written(tmp_path, name)
    assert Table.read(tmp_path / "catalogue.fits", hdu=1)["z_pred"].tolist() == [0.5, 0.25]
    with pytest.raises(CatalogueError, match="no p\\(z\\); run `cosmicai model calibrate`"):
        _written(tmp_path, "qp")


@pytest.mark.parametrize(
    "change", [{"run_id": np.array("run-2")}, {"z_grid": np.arange(3.0)}, {"id": np.arange(4)}]
)
def test_ranks_that_contradict_each_other_are_refused(folder: Path, change: dict[str, Any]) -> None:
    np.savez(folder / "predictions" / "3.npz", **{**_rank(5, 3, id=_LARGE), **change})
    with pytest.raises(CatalogueError):
        Catalogue.of(folder)


def test_what_is_no_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="holds no predictions"):
        Catalogue.of(tmp_path)
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "0.npz").write_bytes(b"PK")
    with pytest.raises(CatalogueError, match=r"0\.npz cannot be read"):
        Catalogue.of(tmp_path)


def test_the_command_writes_several(folder: Path) -> None:
    process = subprocess.run(
        [_COSMICAI, "catalogue", str(folder), "--format", "csv,fits"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert (folder / "catalogue.csv").exists()
    assert (folder / "catalogue.fits").exists()


def test_every_ucd_is_of_the_vocabulary() -> None:
    for column in (*COLUMNS.values(), GRID):
        if column.ucd:
            parse_ucd(column.ucd, check_controlled_vocabulary=True)


def test_the_command_offers_every_format() -> None:
    from cosmicai.cli import results

    assert set(results._FORMATS.names) == set(FORMATS)
