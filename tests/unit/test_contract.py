"""The records that the parts of a run write and read as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cosmicai import reference
from summarize.contract.event import EventError, RankEvent
from summarize.contract.fields import Record, RecordError
from summarize.contract.pricing import Cost
from summarize.contract.rank_info import RankInfo
from summarize.contract.run_records import ReducedMetrics, Run, Summary

Json = dict[str, Any]
RECORDS: tuple[type[Record], ...] = (Run, RankEvent, RankInfo, ReducedMetrics, Summary, Cost)
RUN = Run(
    run_id="r", started="2026-11-22T00:00:00Z", payload={"bucket": "b"}, world_size=2, bytes=9,
    data_map={"0": "1.pt", "1": ["2.pt", "3.pt"]},
)  # fmt: skip
EVENT = RankEvent(
    bucket="b", world_size=2, data_bucket="d", data_prefix="25MB", result_path="results/1", batch_size=512,
    run_id="r", rank=1, data_paths=("25MB/2.pt", "25MB/3.pt"),
)  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_is_in_the_reference_with_its_unit(record: type[Record]) -> None:
    page = reference.PAGE.read_text()
    for one in record.described():
        meaning = one.field.meaning.replace("|", "\\|")
        assert f"| {one.name} | {one.field.unit} | {meaning} |" in page, "run python -m cosmicai.reference"


@pytest.mark.parametrize("record", RECORDS)
def test_a_unit_in_a_name_is_the_unit_of_the_field(record: type[Record]) -> None:
    units = {"(seconds)": "s", "(MB)": "MB", "(USD)": "USD", "(seconds/batch)": "s/batch"}
    for one in record.described():
        for end, unit in units.items():
            assert not one.name.endswith(end) or one.field.unit == unit, one.name


@pytest.mark.parametrize("record", [RUN, EVENT, replace(EVENT, data_paths=("1.pt",), rendezvous="h:1")])
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    content = json.loads(json.dumps(record.to_json()))
    assert type(record).from_json(content) == record
    assert type(record).from_json({**content, "of a later version": 1}) == record


def test_an_event_has_the_historic_names_in_their_order() -> None:
    assert list(EVENT.to_json()) == [
        "S3_BUCKET", "S3_OBJECT_TYPE", "S3_OBJECT_NAME", "SCRIPT", "WORLD_SIZE", "DATA_BUCKET", "DATA_PREFIX",
        "RESULT_PATH", "BATCH_SIZE", "RUN_ID", "MODEL", "ENGINE", "PRECISION", "COLLECTIVES",
        "SAVE_PREDICTIONS", "MAX_BAD_FRACTION", "OUTPUTS", "RANK", "DATA_PATH",
    ]  # fmt: skip
    assert EVENT.to_json()["DATA_PATH"] == ["25MB/2.pt", "25MB/3.pt"]
    assert replace(EVENT, data_paths=("1.pt",)).to_json()["DATA_PATH"] == "1.pt"


def test_numbers_of_an_event_may_be_texts() -> None:
    texts = {name: str(EVENT.to_json()[name]) for name in ("RANK", "WORLD_SIZE", "BATCH_SIZE")}
    assert RankEvent.from_json(EVENT.to_json() | texts) == EVENT


def test_all_faults_of_an_event_are_named() -> None:
    content = EVENT.to_json() | {"RANK": -1, "MODEL": 7, "DATA_PATH": [1], "SAVE_PREDICTIONS": "yes"}
    del content["RUN_ID"]
    with pytest.raises(EventError) as refused:
        RankEvent.from_json(content)
    assert str(refused.value) == (
        "rank event: RUN_ID: is missing; MODEL: 7 is not a string; SAVE_PREDICTIONS: 'yes' is not true or "
        "false; RANK: -1 is not a whole number from 0; DATA_PATH: [1] is not a key or a list of keys; "
        "start runs through Initialize"
    )


@pytest.mark.parametrize("content", [None, [], "text", {}, {**RUN.to_json(), "payload": []}, {"run_id": "r"}])
def test_what_is_no_record_is_refused(content: object) -> None:
    with pytest.raises(RecordError):
        Run.from_json(content)


@pytest.mark.parametrize("foreign", [7, {"a": 1}, "text", [None]])
def test_notes_that_a_script_has_replaced_are_left_out(foreign: object) -> None:
    assert Run.from_json({**RUN.to_json(), "notes": foreign, "collectives": "s3", "files": "many"}) == RUN


def test_a_measure_is_null_where_the_reason_is_given() -> None:
    info = RankInfo(rank=0, run_id="r")
    assert info.to_json() == {"num_samples": None, "accuracy_state": None, "rank": 0, "run_id": "r"}
    measured = replace(info, mae=0.1, undefined={"R2": "all known redshifts are the same"}).to_json()
    assert (measured["MAE"], measured["R2"]) == (0.1, None)
    assert "sample_persec" not in measured


def test_what_a_script_has_written_keeps_its_place() -> None:
    content = {"rank": 0, "mine": [1], "batch size": "512", "run_id": "r", "MAE": "good", "data_path": "1.pt"}
    info = RankInfo.from_json(content, ["a fault"])
    assert (info.historic_batch_size, info.mae, info.data_paths) == (512, None, ("1.pt",))
    assert list(info.to_json()) == ["rank", "mine", "batch size", "run_id", "data_path", "left_out"]
    assert info.to_json()["left_out"] == ["a fault", "MAE: 'good' is not a number within bounds"]
    assert info.figure("mine") is None
    assert replace(info, ended=1.0).ended == 1.0
