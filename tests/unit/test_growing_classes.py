"""A catalogue of classes that grows: Initialize, real ranks and Summarize on moto's S3, read by deltalake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from cosmicai.model.import_onnx import import_onnx
from cosmicai.model.onnxfile.choosing import Asked
from inference.contract.event import RankEvent
from inference.data.storage import Storage
from inference.rank import Rank
from inference.sandbox import Host, Sandbox
from initialize.payload import PayloadError
from summarize.gather import summarize_run
from tests import networks
from tests.arrivals import BUCKET, CATALOGUE, PAYLOAD, Json, keys, put, rows, started

MODEL = "models/types"
CLASSES = np.array(["galaxy", "star", ""])
ASKED: dict[str, Any] = {
    "outputs": {"type": "probability"},
    "classes": {"type": ["galaxy", "star"]},
    "labels": {"type": [-1, 1]},
    "ucds": {"type": "src.class.starGalaxy"},
    "descriptions": {"type": "by the stamps of SDSS"},
}


@pytest.fixture(scope="module")
def network() -> networks.StarOrGalaxy:
    return networks.star_or_galaxy()


@pytest.fixture(scope="module")
def graph(network: networks.StarOrGalaxy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, _, _ = networks.sdss()
    place = tmp_path_factory.mktemp("network") / "net.onnx"
    return networks.export(network, (images[:2],), place, ["pixels"], ["probability"])


def _upload(s3: Any, graph: Path, folder: Path, **asked: Any) -> None:
    import_onnx(graph, folder, Asked(**{**ASKED, **asked}))
    for path in folder.iterdir():
        put(s3, f"{MODEL}/{path.name}", path.read_bytes())


def _run(s3: Any, folder: Path, prefix: str, *parts: tuple[torch.Tensor, ...], run: str = "run") -> Json:
    """The summary of a run over these partitions, each computed by a rank of its own."""
    for key in keys(s3, f"{prefix}/"):
        s3.delete_object(Bucket=BUCKET, Key=key)
    for number, tensors in enumerate(parts, 1):
        put(s3, f"{prefix}/{number}.pt", networks.partition(folder / "part.pt", *tensors).read_bytes())
    result = {"result_path": f"results/{prefix}/{run}", "collectives": "none", "model": MODEL}
    event = started(s3, {**PAYLOAD, "data_prefix": prefix, **result})
    sandbox = Sandbox(lambda: Storage(s3), Host(2048, 1, folder))
    for one in json.loads(s3.get_object(Bucket=BUCKET, Key=event["manifest"])["Body"].read()):
        Rank(RankEvent.from_json(one), sandbox).run()
    summarize_run(s3, event)
    body = s3.get_object(Bucket=BUCKET, Key=f"{event['result_path']}/summary.json")["Body"].read()
    return dict(json.loads(body))


@pytest.fixture
def table(s3: Any, tmp_path: Path) -> Any:
    """The rows by arrival, partition and row, as deltalake reads them."""
    order = [("arrival", "ascending"), ("file", "ascending"), ("row", "ascending")]
    return lambda name: rows(s3, tmp_path / name, order).to_pylist()


Columns = tuple[list[str], list[str], Any]
"""Classes, true classes, and probabilities of galaxy and star."""


def _columns(rows_: list[Json], prefix: str) -> Columns:
    """Of the rows of one arrival."""
    arrival = [row for row in rows_ if row["file"].startswith(f"{prefix}/")]
    probabilities = np.array([[row["type_galaxy"], row["type_star"]] for row in arrival])
    return [row["type"] for row in arrival], [row["type_true"] for row in arrival], probabilities


def test_classes_of_arrivals_one_of_them_twice(
    s3: Any, network: networks.StarOrGalaxy, graph: Path, tmp_path: Path, table: Any
) -> None:
    images, _, labels = networks.sdss()
    images[3, 1, 5, 5] = float("nan")  # an object without a prediction
    labels[4] = float("nan")  # and one whose class nobody has said
    _upload(s3, graph, tmp_path / "model")
    first = _run(s3, tmp_path, "in/a", (images[:7], labels[:7]), (images[7:12], labels[7:12]))
    second = _run(s3, tmp_path, "in/b", (images[12:], labels[12:]))
    assert [one["catalogue"]["version"] for one in (first, second)] == [0, 1]
    with torch.no_grad():
        expected = network(images).numpy()
    numbers = labels.numpy()
    true = np.where(np.isnan(numbers), 2, numbers > 0).astype(int)
    names = CLASSES[np.where(np.isnan(expected).any(1), 2, expected.argmax(1))].tolist()

    def expected_columns(objects: slice) -> Columns:
        probabilities = pytest.approx(expected[objects], abs=1e-5, nan_ok=True)
        return names[objects], CLASSES[true[objects]].tolist(), probabilities

    whole = table("first")
    assert len(whole) == 20
    assert _columns(whole, "in/a") == expected_columns(slice(0, 12))
    assert _columns(whole, "in/b") == expected_columns(slice(12, 20))
    assert names[3] == ""
    again = _run(s3, tmp_path, "in/a", (images[:5], labels[:5]), run="again")
    assert (again["catalogue"]["version"], again["catalogue"]["replaced_files"]) == (2, 2)
    whole = table("again")
    assert len(whole) == 13
    assert _columns(whole, "in/a") == expected_columns(slice(0, 5))
    assert _columns(whole, "in/b") == expected_columns(slice(12, 20))


def test_the_metadata_of_classes_are_in_the_table_and_in_its_files(
    s3: Any, graph: Path, tmp_path: Path
) -> None:
    images, _, labels = networks.sdss()
    _upload(s3, graph, tmp_path / "model")
    _run(s3, tmp_path, "in/a", (images, labels))
    (file,) = [key for key in keys(s3, CATALOGUE) if key.endswith(".parquet")]
    body = s3.get_object(Bucket=BUCKET, Key=file)["Body"].read()
    (tmp_path / "rank.parquet").write_bytes(body)
    of_file = pyarrow.parquet.read_schema(tmp_path / "rank.parquet")
    of_table = rows(s3, tmp_path / "table", "row").schema
    described = {
        "type": ("src.class.starGalaxy", "most probable class: by the stamps of SDSS"),
        "type_star": (
            "stat.probability;src.class.starGalaxy",
            "probability of the class star: by the stamps of SDSS",
        ),
        "type_true": ("src.class.starGalaxy", "true value that the partition holds: by the stamps of SDSS"),
        "flags": ("meta.code.qual", None),
    }
    for name, (ucd, description) in described.items():
        for schema in (of_file, of_table):
            metadata = schema.field(name).metadata
            assert metadata[b"ucd"] == ucd.encode(), (name, schema)
            assert description is None or metadata[b"description"] == description.encode()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"outputs": {"kind": "probability"}, "classes": {"kind": ["galaxy", "star"]}, "labels": {},
             "ucds": {}, "descriptions": {}},
            "the catalogue has no column kind, kind_galaxy, kind_star. Give another catalogue",
        ),
        ({"classes": {"type": ["galaxy", "quasar"]}}, "the catalogue has no column type_quasar. Give"),
        ({"ucds": {"type": "src.class"}}, f"than s3://{BUCKET}/{MODEL} holds now. Give another catalogue"),
    ],
)  # fmt: skip
def test_another_network_in_the_models_folder_is_refused_before_anything_runs(
    s3: Any, graph: Path, tmp_path: Path, other: Json, message: str
) -> None:
    images, _, labels = networks.sdss()
    _upload(s3, graph, tmp_path / "model")
    _run(s3, tmp_path, "in/a", (images, labels))
    before = keys(s3, "")
    _upload(s3, graph, tmp_path / "other", **other)
    with pytest.raises(PayloadError) as error:
        _run(s3, tmp_path, "in/b", (images, labels))
    assert f"catalogue: s3://{BUCKET}/{CATALOGUE} holds predictions of another network" in str(error.value)
    assert message in str(error.value)
    assert keys(s3, "") == sorted([*before, "in/b/1.pt"]), "nothing is written"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"network": 7}', b"\xff"])
def test_a_folder_that_does_not_say_its_network_is_left_to_the_ranks(
    s3: Any, graph: Path, tmp_path: Path, body: bytes
) -> None:
    """One without graphs.json is not a model folder (test_model_folder.py)."""
    images, _, labels = networks.sdss()
    _upload(s3, graph, tmp_path / "model")
    _run(s3, tmp_path, "in/a", (images, labels))
    put(s3, f"{MODEL}/graphs.json", body)
    assert started(s3, {**PAYLOAD, "result_path": "results/in/b", "model": MODEL})["world_size"] == 1


def test_a_network_that_changes_while_a_run_is_planned_leaves_the_catalogue(
    s3: Any, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _, labels = networks.sdss()
    _upload(s3, graph, tmp_path / "model")
    _run(s3, tmp_path, "in/a", (images, labels))
    monkeypatch.setattr("initialize.catalogue._check_network", lambda *arguments: None)
    _upload(s3, graph, tmp_path / "other", classes={"type": ["galaxy", "quasar"]})
    fault = _run(s3, tmp_path, "in/b", (images, labels))["catalogue"]["fault"]
    assert "it lacks columns of the catalogue: type_star; " in fault
    assert "it has columns that the catalogue lacks: type_quasar; another network" in fault
    assert rows(s3, tmp_path / "table", "row").num_rows == 20
