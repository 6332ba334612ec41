"""What a rank makes of what a user's script wrote, and of what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from inference import script
from inference.contract.event import RankEvent
from inference.contract.rank_info import RankInfo
from inference.data.storage import ObjectError, Range, Storage
from inference.metrics import collectives

BEGIN = datetime(2026, 11, 22, tzinfo=UTC)
EVENT = RankEvent(
    rank=2, world_size=3, run_id="r", bucket="own", result_path="results/1", data_bucket="own",
    data_prefix="25MB", data_paths=("25MB/3.pt",), batch_size=512, model=None, engine="auto", precision="auto",
    save_predictions=True, script_folder="code", script="/tmp/code/s.py",  # noqa: S108
)  # fmt: skip
KEY = "results/1/2.json"


class _Buckets(Storage):
    """Objects with the time when they were written; buckets that may not be listed are refused as S3 does."""

    def __init__(self, *forbidden: str) -> None:
        super().__init__(None)
        self.objects: dict[tuple[str, str], tuple[bytes, datetime]] = {}
        self.forbidden = forbidden

    def put(self, bucket: str, body: bytes, seconds: float) -> None:
        self.objects[bucket, KEY] = body, BEGIN + timedelta(seconds=seconds)

    def list_versions(self, bucket: str, prefix: str) -> dict[str, tuple[str, datetime]]:
        if bucket in self.forbidden:
            raise ObjectError(f"s3://{bucket}/{prefix} could not be listed: AccessDenied")
        objects = {key: value for (place, key), value in self.objects.items() if place == bucket}
        return {key: (str(hash(body)), time) for key, (body, time) in objects.items() if key.startswith(prefix)}

    def get_range(self, bucket: str, key: str, start: int, stop: int, etag: str | None = None) -> Range:
        body = self.objects[bucket, key][0]
        return Range(body[start:stop], len(body), "etag")


@pytest.mark.parametrize("data_bucket", ["own", "survey"])
@pytest.mark.parametrize("written_to", ["own", "survey"])
def test_the_scripts_own_rank_info_is_found(data_bucket: str, written_to: str) -> None:
    event, buckets = replace(EVENT, data_bucket=data_bucket), _Buckets()
    before = script.info_versions(event, buckets)
    buckets.put(written_to, b'{"total": 1}', 1)
    expected = {"total": 1} if written_to in ("own", data_bucket) else {}
    assert script.written_info(event, buckets, before) == expected


def test_one_of_before_is_not_the_scripts_unless_it_is_written_again() -> None:
    """A script that computes the same again writes the same bytes, whose ETag is the same."""
    buckets = _Buckets()
    buckets.put("own", b'{"total": 1}', 0)
    before = script.info_versions(EVENT, buckets)
    assert script.written_info(EVENT, buckets, before) == {}
    buckets.put("own", b'{"total": 1}', 5)
    assert script.written_info(EVENT, buckets, before) == {"total": 1}


def test_a_data_bucket_that_the_role_may_only_read_is_no_fault() -> None:
    event, buckets = replace(EVENT, data_bucket="survey"), _Buckets("survey")
    assert script.written_info(event, buckets, script.info_versions(event, buckets)) == {}
    with pytest.raises(ObjectError):
        script.info_versions(EVENT, _Buckets("own"))


@pytest.mark.parametrize(
    ("body", "info"),
    [
        (
            b'{"total": NaN, "most": Infinity, "list": [1]}',
            {
                "total": None,
                "most": None,
                "list": [1],
                "left_out": [
                    "total: NaN is not a finite number within bounds",
                    "most: Infinity is not a finite number within bounds",
                ],
            },
        ),
        (b"[1, 2]", {"result": [1, 2]}),
    ],
)
def test_what_the_script_wrote_is_json_when_it_is_read(body: bytes, info: dict[str, Any]) -> None:
    buckets = _Buckets()
    before = script.info_versions(EVENT, buckets)
    buckets.put("own", body, 1)
    written = script.written_info(EVENT, buckets, before)
    assert written == info
    json.dumps(written, allow_nan=False)


def test_what_is_not_json_is_named_and_left_out() -> None:
    buckets = _Buckets()
    before = script.info_versions(EVENT, buckets)
    buckets.put("own", b"total 3", 1)
    written = script.written_info(EVENT, buckets, before)
    assert list(written) == ["left_out"]
    assert written["left_out"][0].startswith("s3://own/results/1/2.json, which the script wrote, is not used: ")


_MEASURED = RankInfo(
    world_size=3, memory_limit=1769, architecture="x86_64", s3_num_requests=4, inference=2.0,
    data_paths=("25MB/3.pt",), rank=2, run_id="r", duration=5.0, cold_start=True,
)  # fmt: skip


def test_the_measured_figures_stay_and_the_scripts_are_kept_beside_them() -> None:
    written = {
        "rank": 7, "world_size": 3, "total": 7, "num_samples": 20, "s3_num_requests": 9,
        "architecture": "Lambda", "memory_limit (MB)": "3 GB", "accuracy_state": "x", "duration (seconds)": 1.0,
        "data_path": "mine",
    }  # fmt: skip
    info = script.rank_info(_MEASURED, written)
    assert info["script_values"] == {
        "accuracy_state": "x", "architecture": "Lambda", "duration (seconds)": 1.0, "memory_limit (MB)": "3 GB",
    }  # fmt: skip
    assert (info["architecture"], info["memory_limit (MB)"], info["accuracy_state"]) == ("x86_64", 1769, None)
    assert (info["total"], info["num_samples"], info["s3_num_requests"], info["data_path"]) == (
        7,
        20,
        9,
        "mine",
    )
    assert info["engine"] == "script"
    assert (info["rank"], info["duration (seconds)"]) == (2, 5.0)


def test_requests_that_are_no_number_are_not_billed() -> None:
    info = script.rank_info(_MEASURED, {"s3_num_requests": None})
    assert (info["s3_num_requests"], info["script_values"]) == (4, {"s3_num_requests": None})
    assert script.rank_info(_MEASURED, {}) == replace(_MEASURED, engine="script").to_json()


Run = Callable[[str], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a source as a rank's script, without shielding the tests' own process."""
    monkeypatch.setattr(script, "shield", lambda: None)
    (tmp_path / "code").mkdir()

    def start(source: str) -> None:
        (tmp_path / "code" / "s.py").write_text(source)
        script.run(EVENT, tmp_path / "code", tmp_path, {})

    return start


def test_a_module_that_is_missing_is_named_with_the_remedy(run: Run) -> None:
    with pytest.raises(script.ScriptError) as caught:
        run("import no_such_module.inner")
    assert "the module no_such_module is neither in the script's folder nor in the image" in str(caught.value)
    assert "name its package in image.extra_packages and deploy; its last lines" in str(caught.value)
    with pytest.raises(script.ScriptError, match="exit status 1; its last lines"):
        run("print('ModuleNotFoundError, they say'); raise ValueError")


def test_requirements_that_the_image_does_not_meet_are_logged(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code" / "requirements.txt").write_text(
        "numpy\nno-such-package==1.0 # needed\nnumpy==1.0\nno_such_either>=2\n"
        "-r others.txt\nwin-thing==1; sys_platform == 'win32'\n\n# no-comment\nhttps://example.org/x.whl\n"
    )
    run("print('ran')")
    logged, ran = capsys.readouterr().out.splitlines()
    assert json.loads(logged)["packages"] == ["no-such-package==1.0", "numpy==1.0", "no_such_either>=2"]
    assert "extra_packages" in json.loads(logged)["message"]
    assert ran == "ran"


def test_a_package_in_the_scripts_folder_meets_its_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("Some_Package==1.0\n")
    assert script.unmet_requirements(tmp_path) == ["Some_Package==1.0"]
    metadata = tmp_path / "some_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    assert script.unmet_requirements(tmp_path) == []


class _Key(Storage):
    def read(self, bucket: str, key: str) -> bytes:
        return {("own", ".cosmicai/r/key"): b"secret"}[bucket, key]


@pytest.mark.parametrize(
    ("named", "host", "port"), [("redis.team", "redis.team", "6379"), ("h:7000", "h", "7000")]
)
def test_a_script_meets_at_the_redis_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, host: str, port: str
) -> None:
    """Whatever this process's environment says by then."""
    monkeypatch.setenv("REDIS_HOST", "elsewhere")
    event = replace(EVENT, collectives="redis")
    with collectives.for_script(event, _Key(None), named, tmp_path) as variables:
        (back_end,) = json.loads(Path(variables["FMI_CONFIG"]).read_text())["backends"].values()
    assert (back_end["host"], back_end["port"], back_end["secret"]) == (host, port, b"secret".hex())
    none = collectives.for_script(event, _Key(None), None, tmp_path)
    with (
        pytest.raises(collectives.CollectivesError, match="this deployment has no Redis; set redis_host"),
        none,
    ):
        pass
