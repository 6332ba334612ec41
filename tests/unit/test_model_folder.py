"""Initialize refuses a model folder that lacks a file which ranks may need, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from inference.contract.model_files import GRAPHS, REDUCED
from inference.engine.choice import choose, read_graphs
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL
from initialize.model_folder import check_model
from initialize.payload import PayloadError, resolve

MAPPING = {
    "inputs": [{"tensor": "images", "name": "pixels", "shape": [5, 32, 32]}],
    "outputs": [{"column": "z", "name": "z", "kind": "redshift", "shape": []}],
}
BUCKET, MODEL = "team3-cosmicai", "models/mine"
PAYLOAD = {"bucket": BUCKET, "data_prefix": "25MB", "result_path": "results/1", "model": MODEL}
FILES = sorted(path.name for path in BUNDLED_MODEL.iterdir())
ENGINES, PRECISIONS = ("auto", "onnxruntime", "torch"), ("auto", "float32", "int8", "bfloat16")
OTHER = {"int8": "bfloat16", "bfloat16": "int8"}
PLACE = f"s3://{BUCKET}/{MODEL}/"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.Session("a", "b", region_name="us-east-1").client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client


def _upload(s3: Any, names: list[str], folder: str = MODEL) -> None:
    for name in names:
        body = (BUNDLED_MODEL / name).read_bytes() if name == GRAPHS else b"x"
        s3.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=body)


def _refusal(s3: Any, **fields: Any) -> str:
    with pytest.raises(PayloadError) as refused:
        check_model(s3, resolve({**PAYLOAD, **fields}))
    return str(refused.value)


@pytest.mark.parametrize(
    ("engine", "precision"),
    [case for case in product(ENGINES, PRECISIONS) if case[0] != "torch" or case[1] not in REDUCED],
)
def test_what_a_rank_would_read_must_be_there(s3: Any, engine: str, precision: str) -> None:
    """By the rank's own choice of files, each missing alone. `auto` may choose any precision, by the CPU."""
    chosen = ("float32", "int8", "bfloat16") if (engine, precision) != ("torch", "auto") else ("float32",)
    graphs = read_graphs(BUNDLED_MODEL)
    needed = {
        file
        for one in (chosen if precision == "auto" else (precision,))
        for file in choose(graphs, engine, one).files
    }
    for lacking in FILES:
        if lacking == GRAPHS:
            continue
        _upload(s3, FILES)
        s3.delete_object(Bucket=BUCKET, Key=f"{MODEL}/{lacking}")
        fields = {"engine": engine, "precision": precision}
        if lacking in needed:
            message = f"model: {PLACE} lacks {lacking}; copy the whole model folder there"
            assert _refusal(s3, **fields) == message
        else:
            check_model(s3, resolve({**PAYLOAD, **fields}))


@pytest.mark.parametrize("precision", REDUCED)
def test_a_precision_is_refused_where_ranks_would_not_compute_it(s3: Any, precision: str) -> None:
    message = f"precision: only onnxruntime computes in {precision}"
    assert message in _refusal(s3, engine="torch", precision=precision)
    _upload(s3, FILES)
    graphs = json.loads((BUNDLED_MODEL / GRAPHS).read_bytes())
    kept = {name: one for name, one in graphs.items() if name != precision}
    for refused, choices in (
        (
            {**graphs, precision: {**graphs[precision], "admitted": False}},
            f"auto, float32 or {OTHER[precision]}",
        ),
        (kept, f"auto, float32 or {OTHER[precision]}"),  # as before there was bfloat16
        ({"float32": graphs["float32"]}, "auto or float32"),
    ):
        s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/{GRAPHS}", Body=json.dumps(refused))
        message = (
            f"precision: {precision} is not admitted for this model; run `cosmicai model optimise "
            f"--calibration …`, or give {choices}"
        )
        with pytest.raises(EngineError) as error:
            choose(refused, "auto", precision)
        assert str(error.value) == _refusal(s3, precision=precision) == message
        check_model(s3, resolve(PAYLOAD))


@pytest.mark.parametrize(("engine", "precision"), list(product(ENGINES, PRECISIONS)))
def test_an_imported_network_is_refused_as_by_its_ranks(s3: Any, engine: str, precision: str) -> None:
    """It has a float32 graph alone, which onnxruntime runs."""
    float32 = json.loads((BUNDLED_MODEL / GRAPHS).read_bytes())["float32"]
    graphs = {"float32": float32, "mapping": MAPPING}
    s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/{GRAPHS}", Body=json.dumps(graphs))
    for name in float32["files"]:
        s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/{name}", Body=b"x")
    payload = {**PAYLOAD, "engine": engine, "precision": precision}
    try:
        choose(graphs, engine, precision)
    except EngineError as error:
        alone = f"computes in {precision}"
        message = alone if engine == "torch" and precision in REDUCED else str(error)
        assert message in _refusal(s3, engine=engine, precision=precision)
    else:
        check_model(s3, resolve(payload))
        assert engine != "torch"
        assert precision not in REDUCED


def test_without_graphs_only_torch_can_run_it(s3: Any) -> None:
    _upload(s3, ["config.json", "model.safetensors"])
    for engine in ("auto", "torch"):
        check_model(s3, resolve({**PAYLOAD, "engine": engine}))
    for fields in ({"engine": "onnxruntime"}, {"precision": "int8"}, {"precision": "bfloat16"}):
        assert f"lacks {GRAPHS}" in _refusal(s3, **fields)
    s3.delete_object(Bucket=BUCKET, Key=f"{MODEL}/config.json")
    assert "lacks config.json" in _refusal(s3)


def test_a_folder_that_holds_something_else_is_refused(s3: Any) -> None:
    assert f"model: {PLACE} holds no file; copy a model folder there" in _refusal(s3)
    s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/", Body=b"")  # as the console makes a folder
    assert f"model: {PLACE} holds no file" in _refusal(s3)
    _upload(s3, ["card.json"])
    expected = (
        f"{PLACE} is not a model folder: it holds neither {GRAPHS} nor config.json, model.safetensors; copy"
    )
    assert expected in _refusal(s3)


def test_a_folder_of_model_folders_names_them(s3: Any) -> None:
    for name in ("first", "second"):
        _upload(s3, FILES, f"{MODEL}/{name}")
    assert _refusal(s3).endswith("; name one of its folders: first, second")


def test_a_script_reads_what_it_likes(s3: Any) -> None:
    script = {"S3_object_name": "scripts/mine", "script": "/tmp/scripts/mine/run.py"}  # noqa: S108
    assert "holds no file" in _refusal(s3, **script)
    s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/weights.pth", Body=b"x")
    check_model(s3, resolve({**PAYLOAD, **script}))


@pytest.mark.parametrize(
    "graphs", [b"", b"[]", b'{"float32": 1}', json.dumps({"int8": {"admitted": 7}}).encode()]
)
def test_what_malformed_graphs_name_is_left_to_the_ranks(s3: Any, tmp_path: Path, graphs: bytes) -> None:
    """They say what is wrong with it; Initialize does not fail."""
    _upload(s3, ["model.onnx"])
    s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/{GRAPHS}", Body=graphs)
    check_model(s3, resolve(PAYLOAD))
    (tmp_path / GRAPHS).write_bytes(graphs)
    with pytest.raises(Exception, match=re.escape(f"model: {GRAPHS} is malformed")):
        read_graphs(tmp_path)


def test_hostile_names_are_printable(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{MODEL}/\x1b[31m/x", Body=b"")
    assert "\x1b" not in _refusal(s3)
