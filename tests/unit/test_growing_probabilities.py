"""Whether a run's p(z) fits into its catalogue, by calibration.json, before a rank starts; S3 is moto's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import TensorDataset

from cosmicai.data import objects
from inference.contract.columns import redshift_grid
from inference.contract.model_files import CALIBRATION, NOVELTY
from inference.engine.loading import BUNDLED_MODEL
from inference.probability.calibration import Calibration
from inference.probability.predictive import densities
from initialize.deployed import Deployed
from initialize.model_folder import Model
from initialize.payload import PayloadError
from initialize.run import start
from tests.arrivals import BUCKET, CATALOGUE, PAYLOAD, Arrival, Json, keys, put

GRAPHS: Json = {"network": "n", "float32": {"admitted": True, "files": []}}
KNOWN = Calibration.read(BUNDLED_MODEL).to_json()
FINER: Json = {**KNOWN, "redshifts": {"to": 3.3, "step": 0.005}}
MODEL = "models/mine"
WITHOUT_PDF = {"outputs": ["redshift"]}


@pytest.fixture
def catalogue(
    s3: Any, make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes]
) -> Callable[..., Any]:
    """Begins a catalogue with an arrival, calibrated or not, and puts a partition of the next one."""

    def begin(calibrated: bool = True, scores: Json | None = None, **payload: Any) -> Any:
        arrival, more = Arrival(s3, "in/first", **payload), dict(scores or {})
        if calibrated:
            more |= densities(
                Calibration.read(BUNDLED_MODEL), np.ones(2, np.float32), np.full((2, 5), 22.0)
            ).arrays()
            if "pdf" not in arrival.payload["outputs"]:
                del more["pdf"], more["z_grid"]
        arrival.rank(0, z_true=np.zeros(2, np.float32), **more)
        arrival.grown()
        partition = io.BytesIO(saved(make_partition(2)))
        objects.append(partition, {"id": np.arange(2) + 2**60})
        put(s3, "in/a/1.pt", partition.getvalue())
        return s3

    return begin


def _started(s3: Any, calibration: Any, of_a_folder: bool, **fields: Any) -> Json:
    """With the calibration of a model folder in S3, or of the bundled model. None: not known; {}: none."""
    bundled = Model() if of_a_folder else Model(GRAPHS, calibration=calibration)
    if of_a_folder:
        fields["model"] = MODEL
        put(s3, f"{MODEL}/graphs.json", json.dumps(GRAPHS).encode())
        if calibration:
            put(s3, f"{MODEL}/{CALIBRATION}", json.dumps(calibration).encode())
    deployed = Deployed(True, False, lambda: 9, lambda name: False, bundled=bundled)
    return start(s3, {**PAYLOAD, **fields}, "run-9", "2026-11-22T00:00:00Z", deployed)


@pytest.mark.parametrize(
    ("before", "now", "outputs", "said"),
    [
        pytest.param(True, FINER, {}, "has p(z) at other redshifts than {} gives it", id="finer grid"),
        pytest.param(True, {}, {}, "has p(z), which {} does not give: it lacks calibration.json", id="lost"),
        pytest.param(False, KNOWN, {}, "has no p(z), which {} gives", id="new"),
        pytest.param(True, {}, WITHOUT_PDF, "has p(z), which {} does not give: it lacks", id="lost, no pdf"),
    ],
)
@pytest.mark.parametrize("of_a_folder", [True, False])
def test_other_probabilities_than_the_catalogues_are_refused(
    catalogue: Callable[..., Any], of_a_folder: bool, before: bool, now: Json, outputs: Json, said: str
) -> None:
    s3 = catalogue(before, **({"model": MODEL} if of_a_folder else {}), **outputs)
    with pytest.raises(PayloadError) as error:
        _started(s3, now, of_a_folder, **outputs)
    has = f"s3://{BUCKET}/{MODEL}" if of_a_folder else "the bundled model"
    remedy = (
        f"put the earlier {CALIBRATION} back"
        if of_a_folder
        else f"version with the earlier {CALIBRATION} again"
    )
    assert f"catalogue: s3://{BUCKET}/{CATALOGUE} {said.format(has)}" in str(error.value)
    assert remedy in str(error.value)
    assert keys(s3, "results/") == []


@pytest.mark.parametrize(
    ("before", "now", "outputs"),
    [
        pytest.param(True, KNOWN, {}, id="the same"),
        pytest.param(False, {}, {}, id="none"),
        pytest.param(True, FINER, WITHOUT_PDF, id="another grid, which is not written"),
        pytest.param(
            True, {**KNOWN, "redshifts": {"to": "far", "step": 0}}, {}, id="malformed: the ranks say so"
        ),
        pytest.param(True, {**KNOWN, "redshifts": {"to": 1e300, "step": 1e-300}}, {}, id="endless"),
        pytest.param(True, {**KNOWN, "redshifts": {"to": 1e9, "step": 1e-3}}, {}, id="too many redshifts"),
        pytest.param(True, [1], {}, id="no object"),
        pytest.param(True, {"format": 1}, {}, id="without redshifts"),
    ],
)
@pytest.mark.parametrize("of_a_folder", [True, False])
def test_what_fits_or_is_not_certain_is_started(
    catalogue: Callable[..., Any], of_a_folder: bool, before: bool, now: Any, outputs: Json
) -> None:
    s3 = catalogue(before, **({"model": MODEL} if of_a_folder else {}), **outputs)
    assert _started(s3, now, of_a_folder, **outputs)["world_size"] == 1


_SCORES = {"ood_score": np.ones(2, np.float32), "ood_p": np.full(2, 0.5, np.float32)}


@pytest.mark.parametrize(
    ("before", "now", "said", "remedy"),
    [
        (
            True,
            False,
            "has ood_score, which {} does not give: it lacks novelty.json",
            "put the earlier novelty.json back",
        ),
        (False, True, "has no ood_score, which {} gives by its novelty.json", "remove novelty.json"),
        (True, True, None, ""),
        (False, False, None, ""),
    ],
)
def test_scores_that_the_catalogue_lacks_or_has_alone_are_refused(
    catalogue: Callable[..., Any], before: bool, now: bool, said: str | None, remedy: str
) -> None:
    s3 = catalogue(calibrated=False, scores=_SCORES if before else {}, model=MODEL)
    if now:
        put(s3, f"{MODEL}/{NOVELTY}", b"{}")
    if said is None:
        assert _started(s3, None, of_a_folder=True)["world_size"] == 1
        return
    with pytest.raises(PayloadError) as error:
        _started(s3, None, of_a_folder=True)
    place, folder = f"s3://{BUCKET}/{CATALOGUE}", f"s3://{BUCKET}/{MODEL}"
    assert f"catalogue: {place} {said.format(folder)}. Give another catalogue, or {remedy}" in str(error.value)
    assert keys(s3, "results/") == []


def test_a_bundled_calibration_that_is_not_known_is_left_to_the_ranks(catalogue: Callable[..., Any]) -> None:
    assert _started(catalogue(calibrated=False), None, of_a_folder=False)["world_size"] == 1


def test_initialize_packages_the_calibration_of_the_image() -> None:
    assert Model.bundled().calibration == json.loads((BUNDLED_MODEL / CALIBRATION).read_text())


@pytest.mark.parametrize(("to", "step"), [(3.2, 0.01), (3.155, 0.005), (1.0, 0.001), (0.1 + 0.2, 0.1)])
def test_the_grid_is_numpys_to_the_last_bit(to: float, step: float) -> None:
    """Catalogues of earlier versions have the digest of numpy's."""
    grid = redshift_grid(to, step)
    assert grid == np.linspace(0.0, to, round(to / step) + 1).tolist()
    known = replace(Calibration.read(BUNDLED_MODEL), redshift_to=to, redshift_step=step)
    assert known.redshifts.tolist() == grid
