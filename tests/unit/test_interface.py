"""`import cosmicai`: predictions on this machine, and results as tables."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units
from torch.utils.data import TensorDataset

import cosmicai
from cosmicai import errors
from cosmicai.data import objects
from cosmicai.packaging.places import ROOT
from cosmicai.results.catalogue import CatalogueError
from cosmicai.results.report import ResultsError
from cosmicai.runs.infer import InputError
from inference.engine import astromae
from inference.engine.loading import BUNDLED_MODEL

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    import qp

IDS = 2**62 + np.arange(1, 8)
_SCRIPT = """
import sys
import cosmicai
print("once")
print(len(cosmicai.infer(sys.argv[1], sys.argv[2], processes=2).to_astropy()))
"""


pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.fixture(scope="module")
def partition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven galaxies with ids, places and redshifts; the last has a missing magnitude."""
    random = np.random.default_rng(0)
    magnitudes = random.normal(24, 1, (7, 5))
    magnitudes[-1, 2] = np.nan
    arrays = (random.normal(0, 0.1, (7, 5, 32, 32)), magnitudes, random.uniform(0.1, 2, 7))
    body = io.BytesIO()
    torch.save(TensorDataset(*(torch.from_numpy(array.astype(np.float32)) for array in arrays)), body)
    objects.append(body, {"id": IDS, "ra": random.uniform(0, 360, 7), "dec": random.uniform(-90, 90, 7)})
    path = tmp_path_factory.mktemp("partition") / "1.pt"
    path.write_bytes(body.getvalue())
    return path


@pytest.fixture(scope="module")
def results(partition: Path, tmp_path_factory: pytest.TempPathFactory) -> cosmicai.Results:
    return cosmicai.infer(partition, tmp_path_factory.mktemp("out"), max_bad_fraction=0.5)


@pytest.fixture
def arrays(results: cosmicai.Results) -> dict[str, Any]:
    with np.load(results.folder / "predictions" / "0.npz") as content:
        return dict(content)


def test_results_have_a_summary_and_a_report(results: cosmicai.Results) -> None:
    assert results.is_finished
    assert results.summary.num_samples == 7
    assert [info.rank for info in results.ranks] == [0]
    assert results.report.read_text().startswith("<!doctype html>")
    again = cosmicai.load_results(str(results.folder))
    assert again.summary == results.summary


def test_an_astropy_table_has_units_and_descriptions(results: cosmicai.Results, arrays: dict[str, Any]) -> None:
    table = results.to_astropy()
    assert table["id"].tolist() == IDS.tolist()
    assert (table["ra"].unit, table["dec"].unit, table["z_pred"].unit) == (units.deg, units.deg, None)
    assert table["z_pred"].description == "predicted redshift"
    assert table["z_pred"].meta["ucd"] == "src.redshift.phot"
    for name in ("z_pred", "z_median", "flags", "ra"):
        assert np.array_equal(table[name], arrays[name], equal_nan=True)
    assert table["pdf"].shape == (7, len(table.meta["z_grid"]))
    assert table.meta["run_id"] == results.summary.run_id


def test_a_pandas_frame_has_the_same_rows(results: cosmicai.Results, arrays: dict[str, Any]) -> None:
    frame = results.to_pandas()
    assert frame["id"].tolist() == IDS.tolist()
    assert np.array_equal(frame["z_pred"], arrays["z_pred"], equal_nan=True)
    assert frame["pdf"].iloc[0].shape == (len(frame.attrs["z_grid"]),)
    assert frame.attrs["units"] == {"ra": "deg", "dec": "deg"}
    assert len(frame.query("flags != 4").set_index("id")) == 6


def test_an_ensemble_has_what_has_a_density(results: cosmicai.Results, arrays: dict[str, Any]) -> None:
    ensemble = results.to_qp()
    assert ensemble.npdf == 6
    assert ensemble.ancil["id"].tolist() == IDS[:-1].tolist()
    assert ensemble.median().ravel() == pytest.approx(arrays["z_median"][:-1], abs=0.01)


def test_a_catalogue_is_written_beside_the_results(results: cosmicai.Results) -> None:
    (path,) = results.write("csv")
    assert path.read_text().count("\n") == 8
    with pytest.raises(ResultsError, match="format 'xlsx' is not known: give csv, parquet, fits"):
        results.write("xlsx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0: give a whole number from 1 to 65,536"),
        ({"batch_size": True}, "batch_size: True: give a whole number"),
        ({"processes": 1.5}, "processes: 1.5: give a whole number from 1 to 1,024"),
        ({"max_bad_fraction": float("nan")}, "max_bad_fraction: nan: give a number from 0 to 1"),
        ({"device": "tpu"}, "device: 'tpu': give cpu or cuda"),
        ({"engine": "tensorflow"}, "engine: 'tensorflow': give auto, onnxruntime or torch"),
        ({"outputs": ["redshift", "pdfs"]}, "outputs: ['redshift', 'pdfs']: give a list of redshift, pdf"),
        ({"outputs": "pdf"}, "outputs: 'pdf': give a list"),
        ({"precision": "int4"}, "precision: 'int4': give auto, float32, int8 or bfloat16"),
    ],
)
def test_an_option_that_is_not_allowed_is_named(
    partition: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        cosmicai.infer(partition, tmp_path / "out", **options)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_embeddings_are_written_where_they_are_asked_for(partition: Path, tmp_path: Path, engine: str) -> None:
    options: dict[str, Any] = {"max_bad_fraction": 0.5, "engine": engine, "precision": "float32"}
    inferred = cosmicai.infer(partition, tmp_path / "out", 3, outputs=["embedding"], **options)
    table = inferred.to_astropy()
    assert "pdf" not in table.colnames
    assert np.isfinite(table["z_median"][:-1]).all()
    dataset = torch.load(partition, weights_only=False)
    network = astromae.load(BUNDLED_MODEL)
    with torch.inference_mode():
        images = torch.asinh(dataset.tensors[0] / network.softening)
        expected = network.encoder.embedding(images).numpy()
    assert table["embedding"].dtype == np.float32
    assert np.asarray(table["embedding"]) == pytest.approx(expected, abs=5e-3)  # in half precision
    frame = pd.read_parquet(*inferred.write("parquet"))
    assert np.array_equal(np.stack(frame["embedding"]), table["embedding"])
    (qp_file,) = cosmicai.infer(
        partition, tmp_path / "both", outputs=("redshift", "pdf", "embedding"), **options
    ).write("qp")
    assert qp.read(str(qp_file)).ancil["embedding"].shape == (6, expected.shape[1])


def test_an_image_that_cannot_be_used_has_no_embedding(tmp_path: Path, partition: Path) -> None:
    dataset = torch.load(partition, weights_only=False)
    dataset.tensors[0][1, 0, 0, 0] = float("nan")
    dataset.tensors[0][2] = 0
    torch.save(dataset, tmp_path / "1.pt")
    inferred = cosmicai.infer(tmp_path / "1.pt", tmp_path / "out", outputs=["embedding"], max_bad_fraction=1)
    known = np.isfinite(np.asarray(inferred.to_astropy()["embedding"])).all(axis=1)
    assert known.tolist() == [True, False, False, True, True, True, True]


def test_a_script_needs_no_guard(partition: Path, tmp_path: Path) -> None:
    """Its processes do not run it again."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.replace("processes=2", "processes=2, max_bad_fraction=0.5"))
    command = [sys.executable, str(script), str(partition), str(tmp_path / "out")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.stdout == "once\n7\n", process.stderr


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no results of a run: give a folder"):
        cosmicai.load_results(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    unfinished = cosmicai.load_results(tmp_path)
    assert not unfinished.is_finished
    with pytest.raises(CatalogueError, match="holds no predictions"):
        unfinished.to_pandas()
    with pytest.raises(ResultsError, match=r"summary\.json is missing"):
        _ = unfinished.summary
    with pytest.raises(AttributeError, match="module 'cosmicai' has no attribute 'inferr'"):
        _ = cosmicai.inferr  # type: ignore[attr-defined]


def test_every_public_name_is_there_and_documented() -> None:
    assert set(cosmicai.__all__) <= set(dir(cosmicai))
    page = (ROOT / "docs" / "python.md").read_text()
    for name in set(cosmicai.__all__) - {"__version__"}:
        assert getattr(cosmicai, name).__doc__, name
        assert re.search(rf"`(cosmicai\.)?{name}\b", page), f"{name} is not in docs/python.md"
    for name in errors.__all__:
        assert re.search(rf"\b{name}\b", page), f"{name} is not in docs/python.md"
    for extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]:
        assert extra in ("docs", "test") or f"| {extra} |" in page
