"""Rank infos that users' scripts have written are read without assuming what is in them."""

from __future__ import annotations

from typing import Any

import pytest

from summarize.contract.images import counted, images_text, is_exact, samples
from summarize.contract.rank_info import RankInfo, is_result
from summarize.contract.run_records import Run
from summarize.report import report
from summarize.summary import summary

Json = dict[str, Any]
UNKNOWN = (None, "unknown")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"num_samples": 1278}, (1278, "num_samples")),
        ({"num_samples": "1278"}, (1278, "num_samples")),
        ({"num_samples": 5.0, "num_batches": 9, "batch_size": 9}, (5, "num_samples")),
        ({"num_batches": 3, "batch_size": "512"}, (1536, "num_batches * batch_size")),
        ({"number of batches": 2, "batch size": 256}, (512, "number of batches * batch size")),
        ({"num_samples": 0}, (0, "num_samples")),
        ({"num_batches": 3}, UNKNOWN),
        ({"num_batches": 3, "batch size": 4}, UNKNOWN),
        ({"num_samples": -1}, UNKNOWN),
        ({"num_samples": 1.5}, UNKNOWN),
        ({"num_samples": True}, UNKNOWN),
        ({"num_samples": [1, 2]}, UNKNOWN),
        ({"num_samples": float("nan")}, UNKNOWN),
        ({"num_samples": 10**400}, UNKNOWN),
        ({"num_samples": "9" * 5000}, UNKNOWN),
        ({"num_samples": "²"}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_images_are_counted_from_what_the_script_wrote(written: Json, expected: tuple[int | None, str]) -> None:
    assert samples(_info({"engine": "script", **written})) == expected


@pytest.mark.parametrize(
    ("infos", "text", "exact"),
    [
        ([{"engine": "onnxruntime", "num_samples": 1000}] * 5, "5,000", True),
        ([], "0", True),
        ([{"engine": "script", "num_samples": 9}] * 2, "18 (num_samples of 2 ranks)", True),
        (
            [{"engine": "script", "num_batches": 2, "batch_size": 512}],
            "at most 1,024 (num_batches * batch_size of 1 rank)",
            False,
        ),
        (
            [{"engine": "script", "num_samples": 9}, {"engine": "script"}],
            "9 (num_samples of 1 rank, unknown for 1 rank)",
            False,
        ),
        (
            [{"engine": "script"}] * 3,
            "unknown (the script wrote neither num_samples, nor num_batches and batch_size)",
            False,
        ),
    ],
)
def test_what_was_counted_is_said(infos: list[Json], text: str, exact: bool) -> None:
    total, sources = counted(map(_info, infos))
    assert images_text(total, sources) == text
    assert is_exact(sources) is exact


@pytest.mark.parametrize("value", [None, "1", True, float("inf"), float("nan"), [], {}, 10**400])
def test_what_is_no_number_is_no_figure(value: object) -> None:
    assert _info({"x": value}).figure("x") is None
    assert _info({"sample_persec": value}).figure("sample_persec") is None


def _info(written: Json) -> RankInfo:
    return RankInfo.from_json({"rank": 0, "run_id": "r", **written})


def _measured(**written: Any) -> Json:
    return {
        "rank": 0, "run_id": "r", "engine": "script", "num_samples": None, "memory_limit (MB)": 1769,
        "duration (seconds)": 3.0, "architecture": "x86_64", "cold_start": True, "s3_num_requests": 3,
        "accuracy_state": None, "ended (unix seconds)": 1795305605.0, "inference (seconds)": 2.0, **written,
    }  # fmt: skip


@pytest.mark.parametrize(
    "content", [None, [], "text", {"run_id": "r"}, {"run_id": "r", "rank": 0, "num_samples": 3},
                {**_measured(), "run_id": "other"}, {**_measured(), "rank": "0"}],
)  # fmt: skip
def test_what_a_script_writes_before_its_rank_has_ended_is_no_result(content: object) -> None:
    assert not is_result(content, "r")
    assert is_result(_measured(), "r")


@pytest.mark.parametrize(
    ("written", "images"),
    [
        ({}, "<b>unknown</b>"),
        ({"num_batches": 3, "batch_size": 8}, "<b>at most 24</b>"),
        ({"num_samples": 20, "sample_persec": float("nan"), "throughput_bps": "fast"}, "<b>20</b>"),
        ({"sample_persec": float("inf"), "total_process_memory (MB)": 10**400, "MAE": []}, "<b>unknown</b>"),
    ],
)
def test_summary_and_report_of_a_scripts_run(written: Json, images: str) -> None:
    run = Run(run_id="r", started="2026-11-22T00:00:00Z", payload={}, world_size=1, bytes=1)
    infos = [_info(_measured(**written))]
    content = summary(run, infos, {})
    assert content.num_samples == samples(infos[0])[0]
    assert images in report(content, infos)
