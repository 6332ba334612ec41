"""A run of a network of another kind: stars and galaxies among real stamps, with direct collectives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cosmicai.model.import_onnx import import_onnx
from cosmicai.model.onnxfile.choosing import Asked
from tests import networks

from .conftest import Cloud
from .test_runs import Run


def test_classes_of_real_stamps(cloud: Cloud, run: Run, prefix: str, tmp_path: Path) -> None:
    network, (images, _, labels) = networks.star_or_galaxy(), networks.sdss()
    file = networks.export(network, (images[:2],), tmp_path / "net.onnx", ["pixels"], ["probability"])
    asked = Asked(
        outputs={"type": "probability"}, classes={"type": ["galaxy", "star"]}, labels={"type": [-1, 1]}
    )
    import_onnx(file, tmp_path / "model", asked)
    for path in (tmp_path / "model").iterdir():
        cloud.put(f"models/types/{path.name}", path.read_bytes())
    parts = [range(start, start + 5) for start in range(0, 20, 5)]
    for number, rows in enumerate(parts, 1):
        body = networks.partition(tmp_path / "part.pt", images[list(rows)], labels[list(rows)]).read_bytes()
        cloud.put(f"{prefix}/{number}.pt", body)
    ran = run(cloud.payload(prefix, model="models/types", collectives="direct"))
    assert ran.status == "SUCCEEDED", ran.cause
    with torch.no_grad():
        expected = network(images).numpy()
    predictions = [ran.predictions(rank) for rank in range(4)]
    probabilities = np.concatenate([np.stack([one["type_galaxy"], one["type_star"]], 1) for one in predictions])
    assert probabilities == pytest.approx(expected, abs=1e-5)
    summary = ran.read("summary.json")
    assert summary["metrics_source"] == "collectives (direct) of 4 ranks"
    true = (labels.numpy() > 0).astype(int)
    assert summary["accuracy"]["accuracy"] == np.mean(true == expected.argmax(1))
    assert [one["count"] for one in summary["accuracy"]["classes"]] == np.bincount(true).tolist()
    assert {info["engine"] for info in ran.read("combined_data.json")} == {"onnxruntime"}
    assert b"20 objects whose class is known" in ran.summaries()["report.html"]
