"""Networks of other kinds, from ONNX files to catalogues: what torch and scikit-learn give comes out."""

from __future__ import annotations

import csv
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from typer.testing import CliRunner

from cosmicai.cli import app
from cosmicai.model.import_onnx import import_onnx, report_lines
from cosmicai.model.onnxfile.choosing import Asked
from cosmicai.runs.infer import InferenceError, infer
from inference.contract.flags import Flag
from inference.contract.mapping import Mapping
from inference.engine.choice import choose, read_graphs
from inference.engine.interface import EngineError
from tests import networks
from tests.networks import StarOrGalaxy, export, partition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    from astropy.table import Table

CLOSE: dict[str, Any] = {"abs": 1e-5}
TYPES = ("DEV", "EXP", "PSF", "SER")


pytestmark = pytest.mark.usefixtures("quiet_libraries")


@pytest.fixture(scope="module")
def network() -> StarOrGalaxy:
    return networks.star_or_galaxy()


@pytest.fixture(scope="module")
def imported(network: StarOrGalaxy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The model folder of the network by the command line, and what that prints."""
    folder = tmp_path_factory.mktemp("types")
    file = export(network, (networks.sdss()[0][:2],), folder / "net.onnx", ["pixels"], ["probability"])
    arguments = [
        "model", "import-onnx", str(file), str(folder / "model"),
        "--output", "type=probability", "--classes", "type=galaxy,star", "--labels", "type=-1,1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder / "model", result.output


@pytest.fixture(scope="module")
def model(imported: tuple[Path, str]) -> Path:
    return imported[0]


def test_the_command_says_what_it_has_imported(imported: tuple[Path, str]) -> None:
    output = imported[1]
    assert "pixels takes images (N, 5, 48, 48)" in output
    assert "true values in partitions are those of type: -1 galaxy, 1 star; NaN where not known" in output


def _probabilities(network: StarOrGalaxy, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(images).numpy()


@pytest.mark.parametrize("with_magnitudes", [True, False])
def test_stars_and_galaxies_of_sdss(
    network: StarOrGalaxy, model: Path, tmp_path: Path, with_magnitudes: bool
) -> None:
    """The classes of real stamps, with and without magnitudes beside them, in two ranks."""
    images, magnitudes, labels = networks.sdss()
    labels[3] = float("nan")  # of which nobody has said what it is
    (tmp_path / "data").mkdir()
    for number, rows in enumerate((slice(0, 13), slice(13, 20)), 1):
        tensors = (images[rows], *([magnitudes[rows]] if with_magnitudes else []), labels[rows])
        partition(tmp_path / "data" / f"{number}.pt", *tensors)
    inferred = infer(tmp_path / "data", tmp_path / "out", model=model, batch_size=4)
    expected = _probabilities(network, images)
    table = inferred.to_astropy()
    assert np.stack([table["type_galaxy"], table["type_star"]], 1) == pytest.approx(expected, **CLOSE)
    names = np.array(["galaxy", "star"])
    assert table["type"].tolist() == names[expected.argmax(1)].tolist()
    assert table["type_true"].tolist() == ["" if np.isnan(one) else names[int(one > 0)] for one in labels]
    assert not {"z_pred", "z_true", "pdf"} & set(table.colnames)
    known = ~np.isnan(labels.numpy())
    true, probabilities = (labels.numpy()[known] > 0).astype(int), expected[known]
    accuracy: Any = inferred.summary.accuracy
    assert accuracy["count"] == 19
    assert accuracy["confusion"] == confusion_matrix(true, probabilities.argmax(1)).tolist()
    assert accuracy["log loss"] == pytest.approx(log_loss(true, probabilities), **CLOSE)
    assert accuracy["Brier score"] == pytest.approx(
        ((probabilities - np.eye(2)[true]) ** 2).sum(1).mean(), **CLOSE
    )
    assert accuracy["accuracy"] == np.mean(true == probabilities.argmax(1))
    assert [info.columns for info in inferred.ranks] == [["type", "type_galaxy", "type_star"]] * 2
    page = inferred.report.read_text()
    assert "19 objects whose class is known" in page
    assert "true ↓ predicted →" in page
    assert "balanced accuracy" in page
    results = json.loads((inferred.folder / "Results.json").read_text())
    assert (results["number of batches"], results["Precision"], results["MAE"]) == (4 + 2, None, None)


def test_a_catalogue_of_classes_in_every_format(model: Path, tmp_path: Path) -> None:
    images, _, labels = networks.sdss()
    inferred = infer(partition(tmp_path / "1.pt", images, labels), tmp_path / "out", model=model)
    csv_file, parquet, fits, votable = inferred.write("csv", "parquet", "fits", "votable")
    expected = inferred.to_astropy()
    frame = pd.read_parquet(parquet)
    assert frame["type"].tolist() == expected["type"].tolist()
    assert frame["type_star"].tolist() == expected["type_star"].tolist()
    for file, form in ((fits, "fits"), (votable, "votable")):
        table = Table.read(file, 1 if form == "fits" else None, format=form)
        assert [str(one).strip() for one in table["type_true"]] == expected["type_true"].tolist()
        assert np.array_equal(table["type_galaxy"], expected["type_galaxy"])
    with csv_file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["type_star"]) for row in rows] == pytest.approx(expected["type_star"].tolist(), abs=1e-7)


def test_one_bad_object_costs_one_object(network: StarOrGalaxy, model: Path, tmp_path: Path) -> None:
    images, _, labels = networks.sdss()
    images[2, 1, 5, 5] = float("nan")
    images[4] = 0
    table = infer(partition(tmp_path / "1.pt", images, labels), tmp_path / "out", model=model).to_astropy()
    lacking = [2, 4]
    assert [row for row in range(20) if table["type"][row] == ""] == lacking
    assert [row for row in range(20) if np.isnan(table["type_star"][row])] == lacking
    assert table["flags"][2] == Flag.IMAGE | Flag.NO_REDSHIFT
    others = np.setdiff1d(np.arange(20), lacking)
    assert table["type_star"][others] == pytest.approx(_probabilities(network, images)[others, 1], **CLOSE)


def test_a_class_that_the_model_does_not_have_is_refused(model: Path, tmp_path: Path) -> None:
    images, _, labels = networks.sdss()
    labels[5] = 0
    message = (
        r"type_true: 0 in row 5 is not a class of the model \(1 of 20 rows are wrong\); the classes are -1, 1, "
    )
    with pytest.raises(InferenceError, match=message):
        infer(partition(tmp_path / "1.pt", images, labels), tmp_path / "out", model=model)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lambda images, _, labels: (images, labels[:, None]), "that is type_true, or magnitudes of one band"),
        (lambda images, _, labels: (images[:, :4], labels), r"images have shape \(20, 4, 48, 48\), expected"),
        (
            lambda images, _, labels: (images, labels[:, None, None]),
            r"type_true have shape \(20, 1, 1\), expected",
        ),
        (lambda images, magnitudes, labels: (images, magnitudes, labels, labels), "has 4 tensors"),
    ],
)
def test_a_partition_of_another_form_is_refused(
    model: Path, tmp_path: Path, tensors: Any, message: str
) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(partition(tmp_path / "1.pt", *tensors(*networks.sdss())), tmp_path / "out", model=model)


def test_magnitudes_alone_beside_images_are_no_true_values(model: Path, tmp_path: Path) -> None:
    images, magnitudes, _ = networks.sdss()
    inferred = infer(partition(tmp_path / "1.pt", images, magnitudes), tmp_path / "out", model=model)
    assert inferred.summary.accuracy is None
    assert "type_true" not in inferred.to_astropy().colnames


SEVERAL: dict[str, Any] = {
    "inputs": {"images": "pixels", "values": "colours"},
    "outputs": {"redshift": "z", "morphology": "logits", "features": "features"},
    "kinds": {"features": "values"},
    "classes": {"morphology": TYPES},
    "logits": ["morphology"],
}


def _several_outputs(place: Path) -> tuple[torch.nn.Module, Path]:
    """A network that gives a redshift, classes by logits and features of legacy stamps, and its ONNX file."""
    images, colours, _, _ = networks.legacy()
    network = networks.several_outputs(TYPES)
    names = ["pixels", "colours"], ["z", "logits", "features"]
    return network, export(network, (images[:2], colours[:2]), place, *names)


def test_several_outputs_of_legacy_stamps(tmp_path: Path) -> None:
    images, colours, redshift, _ = networks.legacy()
    network, file = _several_outputs(tmp_path / "net.onnx")
    card = import_onnx(file, tmp_path / "model", Asked(**SEVERAL, truth="redshift"))
    assert "output logits (N, 4): logits of DEV, EXP, PSF, SER; columns morphology, morphology_DEV" in " ".join(
        report_lines(card, tmp_path / "model")
    )
    data = partition(tmp_path / "1.pt", images, colours, redshift)
    inferred = infer(data, tmp_path / "out", model=tmp_path / "model")
    with torch.no_grad():
        z, logits, features = (one.numpy() for one in network(images, colours))
    table = inferred.to_astropy()
    assert table["z_pred"] == pytest.approx(z[:, 0], **CLOSE)
    assert np.array_equal(table["z_true"], redshift.numpy())
    assert np.asarray(table["features"]) == pytest.approx(features, **CLOSE)
    expected = torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert np.stack([table[f"morphology_{one}"] for one in TYPES], 1) == pytest.approx(expected, **CLOSE)
    assert table["morphology"].tolist() == [TYPES[number] for number in logits.argmax(1)]
    accuracy: Any = inferred.summary.accuracy
    assert accuracy["MAE"] == pytest.approx(mean_absolute_error(redshift, z[:, 0]), **CLOSE)
    assert (inferred.folder / "inference.png").exists()


def test_true_classes_of_a_network_with_several_outputs(tmp_path: Path) -> None:
    images, colours, _, true = networks.legacy()
    network, file = _several_outputs(tmp_path / "net.onnx")
    import_onnx(file, tmp_path / "types", Asked(**SEVERAL, truth="morphology"))
    numbers = torch.tensor([float(TYPES.index(one)) for one in true])
    types = infer(
        partition(tmp_path / "2.pt", images, colours, numbers), tmp_path / "b", model=tmp_path / "types"
    )
    with torch.no_grad():
        logits = network(images, colours)[1].numpy()
    rows = precision_recall_fscore_support(numbers, logits.argmax(1), zero_division=np.nan)
    measured: Any = types.summary.accuracy
    for name, column in zip(("precision", "recall", "F1", "count"), rows, strict=True):
        reported = [np.nan if one[name] is None else one[name] for one in measured["classes"]]
        if name == "F1":  # which scikit-learn takes for undefined where precision is
            reported, column = zip(
                *((a, b) for a, b in zip(reported, column, strict=True) if b == b), strict=True
            )
        assert reported == pytest.approx(column, nan_ok=True), name
    assert measured["balanced accuracy"] == pytest.approx(
        balanced_accuracy_score(numbers, logits.argmax(1)), **CLOSE
    )
    assert types.to_astropy()["morphology_true"].tolist() == true
    assert "z_true" not in types.to_astropy().colnames


def test_values_are_no_magnitudes(tmp_path: Path) -> None:
    """-1, 0 and 99 are markers among magnitudes, and numbers like others among values."""
    images, colours, _, _ = networks.legacy()
    colours[0, 0], colours[1, 1], colours[2, 2], colours[3, 0] = -1.0, 0.0, 99.0, float("nan")
    network = networks.several_outputs(TYPES)
    file = export(network, (images[:2], colours[:2]), tmp_path / "net.onnx", ["x", "c"], ["z", "l", "f"])
    redshifts = {}
    for tensor in ("values", "magnitudes"):
        model, asked = tmp_path / tensor, Asked({"images": "x", tensor: "c"}, {"redshift": "z"})
        assert import_onnx(file, model, asked)["not used"] == ["l", "f"]
        data = partition(tmp_path / "1.pt", images, colours)
        options: Any = {"model": model, "max_bad_fraction": 1, "overwrite": True}
        redshifts[tensor] = infer(data, tmp_path / "out", **options).to_astropy()["z_pred"][:4]
    assert np.isnan(redshifts["values"]).tolist() == [False, False, False, True]
    assert np.isnan(redshifts["magnitudes"]).tolist() == [True, True, True, True]


def test_tables_of_scikit_learn(tmp_path: Path) -> None:
    """Rows of a table in place of images: an MLPClassifier and an MLPRegressor of scikit-learn."""
    _, magnitudes, labels = networks.sdss()
    rows = magnitudes - magnitudes.mean()
    classifier = MLPClassifier(hidden_layer_sizes=(8,), random_state=0, max_iter=300).fit(
        rows.numpy(), labels.numpy()
    )
    file = networks.of_sklearn(classifier, tmp_path / "c.onnx", "p", "Sigmoid")
    asked = Asked(
        {"images": "row"}, {"type": "p"}, classes={"type": ["galaxy", "star"]}, labels={"type": [-1, 1]}
    )
    import_onnx(file, tmp_path / "classifier", asked)
    classified = infer(
        partition(tmp_path / "1.pt", rows, labels), tmp_path / "a", model=tmp_path / "classifier"
    )
    expected = classifier.predict_proba(rows.numpy())
    assert classified.to_astropy()["type_star"] == pytest.approx(expected[:, 1], **CLOSE)
    accuracy: Any = classified.summary.accuracy
    assert accuracy["accuracy"] == pytest.approx(classifier.score(rows.numpy(), labels.numpy()))

    blue, red = rows[:, :4], rows[:, 4]
    regressor = MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=300).fit(
        blue.numpy(), red.numpy()
    )
    file = networks.of_sklearn(regressor, tmp_path / "r.onnx", "y", "Identity")
    asked = Asked({"images": "row"}, {"z-band": "y"}, {"z-band": "regression"})
    import_onnx(file, tmp_path / "regressor", asked)
    regressed = infer(partition(tmp_path / "2.pt", blue, red), tmp_path / "b", model=tmp_path / "regressor")
    predicted = regressor.predict(blue.numpy())
    assert regressed.to_astropy()["z-band"] == pytest.approx(predicted, **CLOSE)
    assert np.array_equal(regressed.to_astropy()["z-band_true"], red.numpy())
    measured: Any = regressed.summary.accuracy
    assert measured["kind"] == "regression"
    assert measured["R2"] == pytest.approx(r2_score(red, predicted), **CLOSE)
    assert measured["MAE"] == pytest.approx(mean_absolute_error(red, predicted), **CLOSE)
    assert measured["bias"] == pytest.approx(float(np.mean(predicted - red.numpy())), **CLOSE)


def test_what_is_not_said_is_refused_and_listed(tmp_path: Path) -> None:
    images, colours, _, _ = networks.legacy()
    network, inputs = networks.several_outputs(TYPES), {"images": "x", "values": "c"}
    file = export(network, (images[:2], colours[:2]), tmp_path / "net.onnx", ["x", "c"], ["z", "l", "f"])
    types = {"outputs": {"type": "l"}, "inputs": inputs}
    for asked, message in (
        (Asked(), "its outputs are z, l, f: say by --output COLUMN=NAME which"),
        (Asked(outputs={"redshift": "z"}), "its inputs are x (N, 4, 23, 23); c (N, 3): say by --input"),
        (Asked({"images": "x"}, {"redshift": "z"}), "its inputs are x (N, 4, 23, 23); c (N, 3): say"),
        (Asked({"images": "c", "values": "x"}, {"redshift": "z"}), "values: the shape (N, 4, 23, 23) does"),
        (Asked({"images": "x", "spectra": "c"}), "--input: unknown tensor: spectra; give one of images, mag"),
        (Asked(inputs, {"redshift": "y"}), "--output: unknown output of the graph: y; give one of z"),
        (Asked(inputs, {"redshift": "l"}), "a redshift is one number per object, and the output"),
        (Asked(inputs, {"mass": "z"}), "the column mass of shape (N, 1) has no kind: give"),
        (Asked(**types, classes={"type": TYPES}), "are not probabilities, which are from"),
        (Asked(**types, classes={"type": TYPES[:3]}, logits=["type"]), "3 classes are given, and the"),
        (
            Asked(**types, classes={"type": TYPES}, logits=["type"], labels={"type": [0, 1, 2]}),
            "labels must be 4 different whole numbers, one for each class",
        ),
        (Asked(**types, classes={"typ": TYPES}), "--classes: unknown column of --output: typ; give"),
        (Asked(inputs, {"flags": "z"}, {"flags": "values"}), "'flags': cannot name a column"),
        (Asked(inputs, {"RA": "z"}, {"RA": "regression"}), "'RA': cannot name a column"),
        (
            Asked(inputs, {"a": "z", "A": "z"}, {"a": "values", "A": "values"}),
            "two columns would have the name a, a_true",
        ),
        (
            Asked(inputs, {"redshift": "z", "type": "l"}, classes={"type": TYPES}, logits=["type"]),
            "the true values in partitions may be those of redshift, type: say which by --truth COLUMN",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            import_onnx(file, tmp_path / "model", asked)
        assert str(error.value).startswith(f"{file}: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx"], "nothing is left"


def test_an_imported_network_says_what_cannot_run_it(model: Path) -> None:
    graphs = read_graphs(model)
    for engine, precision, device in (
        ("torch", "auto", "cpu"),
        ("auto", "int8", "cpu"),
        ("auto", "bfloat16", "cpu"),
        ("auto", "auto", "cuda"),
    ):
        with pytest.raises(EngineError, match="imported"):
            choose(graphs, engine, precision, device)
    assert choose(graphs, "auto", "auto").mapping == Mapping.from_json((graphs or {})["mapping"])


def test_an_embedding_is_not_asked_of_an_imported_network(model: Path, tmp_path: Path) -> None:
    data = partition(tmp_path / "1.pt", networks.sdss()[0])
    with pytest.raises(EngineError, match="an imported network gives no embedding; leave embedding out"):
        infer(data, tmp_path / "out", model=model, outputs=["embedding"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("inputs", 0, "tensor"), "spectra"),
        (("inputs", 0, "shape"), [10**9, 10**9]),
        (("outputs", 0, "kind"), "guess"),
        (("outputs", 0, "classes"), ["galaxy"]),
        (("outputs", 0, "column"), "../x"),
        (("outputs", 0, "labels"), [0.5, 1]),
        (("truth",), "mass"),
        (("inputs",), []),
        ((), "text"),
    ],
)
def test_a_mapping_that_no_import_writes_is_refused(
    model: Path, tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    graphs: Any = {"mapping": None, **json.loads((model / "graphs.json").read_text())}
    within = graphs
    *path, last = ("mapping", *place)
    for name in path:
        within = within[name]
    within[last] = value
    (tmp_path / "graphs.json").write_text(json.dumps(graphs))
    with pytest.raises(EngineError, match=r"graphs\.json is malformed"):
        read_graphs(tmp_path)
