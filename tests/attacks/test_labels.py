"""No label of a galaxy costs a rank its redshifts: what cannot be a redshift is unknown."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai.results import historic
from cosmicai.runs.infer import infer
from inference.contract.accuracy import Metrics, exact_nmad, is_known
from inference.engine import astromae
from inference.metrics.reduction import Share
from tests.small_network import SMALL

STRANGE = [
    -1.0,
    -99.0,
    -1e30,
    float("inf"),
    float("-inf"),
    float("nan"),
    -1.0000001,
    99.0,
    float(np.float32(99.9)),
    9999.0,
]
KNOWN = [0.5, 1.0, 0.0, -0.5, 3.0]


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_label_counts_as_none(strange: float) -> None:
    predicted, magnitudes = [0.5, 0.9, 0.2], [20.0, 21.0, 22.0]
    with_it = Metrics.of(predicted, [0.6, strange, 0.3], magnitudes)
    without = Metrics.of([0.5, 0.2], [0.6, 0.3], [20.0, 22.0])
    assert with_it == without
    assert exact_nmad(predicted, [0.6, strange, 0.3]) == exact_nmad([0.5, 0.2], [0.6, 0.3])
    assert not is_known(strange)


@pytest.mark.parametrize("label", [*KNOWN, float(np.nextafter(np.float32(-1), np.float32(0))), 3e38])
def test_every_label_that_divides_is_measured(label: float) -> None:
    metrics = Metrics.of([0.5], [label], [20.0])
    assert metrics.total.count == 1
    assert Metrics.from_json(json.loads(json.dumps(metrics.to_json()))) == metrics
    json.dumps(metrics.report(), allow_nan=False)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network with random weights."""
    folder = tmp_path_factory.mktemp("model")
    astromae.save(astromae.AstroMAE(SMALL).eval(), folder)
    return folder


def test_a_partition_with_strange_labels_is_inferred(tmp_path: Path, model_folder: Path) -> None:
    """Through a rank, its summary, Results.json and inference.png."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([*KNOWN, *STRANGE])
    count = len(labels)
    images = torch.rand((count, 5, 32, 32), generator=generator)
    magnitudes = 20 + torch.rand((count, 5), generator=generator)
    torch.save(TensorDataset(images, magnitudes, labels), tmp_path / "1.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = infer([str(tmp_path / "1.pt")], tmp_path / "out", 4, 1, model_folder).summary
    assert summary.num_samples == count
    assert summary.accuracy is not None
    assert summary.accuracy["count"] == len(KNOWN)
    written = np.load(tmp_path / "out" / "predictions" / "0.npz")
    assert np.array_equal(written["z_true"], labels.numpy(), equal_nan=True)  # as it was given
    measured = json.loads((tmp_path / "out" / historic.RESULTS).read_text())
    assert measured["Precision"] == pytest.approx(exact_nmad(written["z_pred"][:5], KNOWN), rel=1e-5)
    assert (tmp_path / "out" / "inference.png").exists()


def _state(**changes: Any) -> Any:
    state = json.loads(json.dumps(Metrics.of([0.5], [0.6], [20.0]).to_json()))
    state["total"].update(changes)
    return state


@pytest.mark.parametrize(
    "state",
    [
        None, [], "text", {}, {"total": {}}, _state(count="1"), _state(count=True), _state(count=7),
        _state(outliers=9), _state(squared=10**200), _state(absolute=float("nan")), _state(histogram=7),
        _state(histogram="no base64"), _state(histogram="AAAA"), {**_state(), "by_redshift": {"edges": [0, 1]}},
        {**_state(), "density": {"width": 0.05, "counts": []}},
    ],
)  # fmt: skip
def test_a_forged_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"accuracy|density"):
        Metrics.from_json(state)


def test_a_small_message_does_not_become_a_large_histogram() -> None:
    import base64

    bomb = base64.b64encode(zlib.compress(bytes(1 << 28), 9)).decode()
    with pytest.raises(ValueError, match="too large"):
        Metrics.from_json(_state(histogram=bomb))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"[]",
        b"{}",
        b"7",
        b'[["a"], 1, null]',
        b"[[0], -1, null]",
        b"[[0], 1, {}]",
        b"[[0], 1e9, 0]",
    ],
)
def test_a_forged_share_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Share.unpack(zlib.compress(content))


def test_a_share_is_not_unpacked_beyond_its_limit() -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Share.unpack(zlib.compress(b" " * (1 << 28), 9))
