"""Units, UCDs and descriptions of an imported network's columns, read back by astropy, pandas and pyarrow."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.model.import_onnx import import_onnx, report_lines
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.model.onnxfile.reading import OnnxFileError
from cosmicai.results.catalogue import Catalogue, CatalogueError
from cosmicai.runs.infer import infer
from inference.contract.fields import RecordError
from inference.contract.mapping import Mapping
from tests import networks
from tests.networks import export, partition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from astropy import units
    from astropy.io import fits, votable
    from astropy.table import Table
    from pyarrow import dataset

TYPES = ("DEV", "EXP", "PSF", "SER")
EXPECTED = {
    "mass": {"unit": "solMass", "ucd": "phys.mass", "description": "stellar mass"},
    "mass_true": {
        "unit": "solMass",
        "ucd": "phys.mass",
        "description": "true value that the partition holds: stellar mass",
    },
    "shape": {"ucd": "src.morph.type", "description": "most probable class: profile of Tractor"},
    **{
        f"shape_{one}": {
            "ucd": "stat.probability;src.morph.type",
            "description": f"probability of the class {one}: profile of Tractor",
        }
        for one in TYPES
    },
    "features": {"unit": "mag", "description": "six features"},
    "flags": {"ucd": "meta.code.qual"},
}


pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with a quantity, logits of classes, and several values per object."""
    images, colours, _, _ = networks.legacy()
    names = ["pixels", "colours"], ["z", "logits", "features"]
    place = tmp_path_factory.mktemp("network") / "net.onnx"
    return export(networks.SeveralOutputs(len(TYPES)).eval(), (images[:2], colours[:2]), place, *names)


ASKED: dict[str, Any] = {
    "inputs": {"images": "pixels", "values": "colours"},
    "outputs": {"mass": "z", "shape": "logits", "features": "features"},
    "kinds": {"mass": "regression", "features": "values"},
    "classes": {"shape": TYPES},
    "logits": ["shape"],
    "truth": "mass",
}


def test_the_metadata_in_every_format(network: Path, tmp_path: Path) -> None:
    arguments = [
        "model", "import-onnx", str(network), str(tmp_path / "model"),
        "--input", "images=pixels", "--input", "values=colours",
        "--output", "mass=z", "--kind", "mass=regression", "--truth", "mass",
        "--unit", "mass=solMass", "--ucd", "mass=phys.mass", "--description", "mass=stellar mass",
        "--output", "shape=logits", "--classes", "shape=DEV,EXP,PSF,SER", "--logits", "shape",
        "--ucd", "shape=src.morph.type", "--description", "shape=profile of Tractor",
        "--output", "features=features", "--kind", "features=values",
        "--unit", "features=mag", "--description", "features=six features",
    ]  # fmt: skip
    imported = CliRunner().invoke(app, arguments)
    assert imported.exit_code == 0, imported.output
    assert "column mass, solMass, phys.mass, stellar mass" in imported.output
    assert "units and UCDs: checked by astropy" in imported.output
    images, colours, redshift, _ = networks.legacy()
    data = partition(tmp_path / "1.pt", images, colours, redshift)
    results = infer(data, tmp_path / "out", model=tmp_path / "model")
    csv_file, parquet, fits_file, votable_file = results.write("csv", "parquet", "fits", "votable")
    read = {
        "CSV": _of_csv(csv_file.with_name("columns.csv")),
        "Parquet": _of_parquet(parquet),
        "FITS": _of_fits(fits_file),
        "VOTable": _of_votable(votable_file),
    }
    for form, columns in read.items():
        for name, metadata in EXPECTED.items():
            if form != "CSV" or name != "features":  # CSV has no columns of several values
                assert {**columns[name], **metadata} == columns[name], (form, name)
    mass = units.Unit("solMass")
    assert Table.read(fits_file, 1)["mass"].unit == mass
    assert Table.read(votable_file)["mass_true"].unit == mass
    assert results.to_astropy()["mass"].unit == mass
    assert results.to_pandas().attrs["units"]["features"] == "mag"


def _of_csv(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as lines:
        return {row.pop("name"): row for row in csv.DictReader(lines)}


def _of_parquet(path: Path) -> dict[str, dict[str, str]]:
    schema = dataset.dataset(path).schema
    return {
        field.name: {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        for field in schema
    }


def _of_fits(path: Path) -> dict[str, dict[str, str]]:
    keywords = {"TUNIT": "unit", "TUCD": "ucd", "TCOMM": "description"}
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header, names = hdus[1].header, hdus[1].columns.names
        return {
            name: {
                what: header[f"{key}{number}"] for key, what in keywords.items() if f"{key}{number}" in header
            }
            for number, name in enumerate(names, 1)
        }


def _of_votable(path: Path) -> dict[str, dict[str, str]]:
    table = votable.parse(path, verify="exception").get_first_table()
    return {
        field.name: {
            "unit": "" if field.unit is None else field.unit.to_string("vounit"),
            "ucd": field.ucd,
            "description": field.description,
        }
        for field in table.fields
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"units": {"mass": "Msun"}}, "'Msun' of mass is not a unit of both FITS and VOUnits; write solMass"),
        ({"units": {"mass": "erg/s/cm2"}}, "write "),
        ({"units": {"mass": "dex"}}, "leave it out, and say by --description what the numbers are"),
        ({"units": {"features": "foo"}}, "'foo' of features is not a unit of both FITS and VOUnits"),
        ({"units": {"mass": "k" * 61}}, "its unit is not 1 to 60 printable ASCII characters"),
        ({"units": {"mass": ""}}, "its unit is not 1 to 60 printable ASCII characters"),
        ({"units": {"shape": "mag"}}, "'shape': classes and their probabilities have no unit"),
        ({"units": {"weight": "kg"}}, "--unit: unknown column of --output: weight; give one of mass, shape"),
        ({"ucds": {"mass": "phys.foo"}}, "'phys.foo' of mass is not of UCD1+ (Unknown word 'phys.foo')"),
        ({"ucds": {"mass": "phys.mass;"}}, "a UCD must be words such as phys.mass, separated by ;"),
        ({"ucds": {"shape": "meta.code.class"}}, "'stat.probability;meta.code.class' of shape_DEV is not of"),
        ({"descriptions": {"mass": "Stellarmasse in M☉"}}, "its description is not 1 to 200 printable ASCII"),
    ],
)
def test_what_is_not_of_the_standards_is_refused(
    network: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(OnnxFileError) as error:
        import_onnx(network, tmp_path / "model", Asked(**ASKED, **more))
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_a_redshift_has_its_metadata_already(network: Path, tmp_path: Path) -> None:
    asked = Asked(ASKED["inputs"], {"redshift": "z"}, ucds={"redshift": "src.redshift"})
    with pytest.raises(OnnxFileError, match="'redshift': a redshift has a UCD and a description already"):
        import_onnx(network, tmp_path / "model", asked)


def test_without_astropy_the_import_says_that_nothing_was_checked(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "astropy.units", None)
    card = import_onnx(network, tmp_path / "model", Asked(**ASKED, units={"mass": "foo"}))
    assert card["units and UCDs"].startswith("not checked: ")
    assert any("units and UCDs: not checked" in line for line in report_lines(card, tmp_path / "model"))


def test_metadata_do_not_change_what_an_import_without_them_writes(network: Path, tmp_path: Path) -> None:
    """The digest of a network, by which a catalogue that grows knows it, is that of earlier versions."""
    card = import_onnx(network, tmp_path / "model", Asked(**ASKED))
    assert card["units and UCDs"] == ""
    assert not {"unit", "ucd", "description"} & set(card["mapping"]["outputs"][0])


@pytest.mark.parametrize("content", ["{", "[]", '{"z_pred": 1}', '{"z_pred": {"unit": "a\\nb"}}', "9" * 5000])
def test_metadata_that_no_rank_writes_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "predictions").mkdir()
    arrays = {"z_pred": np.ones(2, np.float32), "run_id": "r", "column_metadata": content}
    np.savez(tmp_path / "predictions" / "0.npz", **arrays)
    with pytest.raises(CatalogueError, match=r"0\.npz is not what a rank writes"):
        Catalogue.of(tmp_path)


def test_ranks_with_other_metadata_are_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    for rank, unit in enumerate(("mag", "Jy")):
        metadata = json.dumps({"flux": {"unit": unit}})
        arrays = {"flags": np.zeros(2, np.uint16), "flux": np.ones(2), "column_metadata": metadata}
        np.savez(tmp_path / "predictions" / f"{rank}.npz", **arrays)
    with pytest.raises(CatalogueError, match=r"1\.npz: flux has another unit, UCD or description"):
        Catalogue.of(tmp_path)


@pytest.mark.parametrize("field", ["unit", "ucd", "description"])
def test_a_mapping_with_text_that_fits_no_header_is_refused(network: Path, tmp_path: Path, field: str) -> None:
    mapping = import_onnx(network, tmp_path / "model", Asked(**ASKED))["mapping"]
    mapping["outputs"][0][field] = "a\x1b[2J"
    with pytest.raises(RecordError, match=f"its {field} is not 1 to"):
        Mapping.from_json(mapping)
