"""FMI's configuration file as it stands: what is read from it, and which back end operations then take."""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fmi
import pytest

from cosmicai.emulator import Emulator

from .rendezvous import Host

Json = dict[str, Any]

# The shape, names and figures of FMI's own file.
FMIS_OWN = """
{
  "backends": {
    "S3": {
      "enabled": true, "bucket_name": "team3", "s3_region": "eu-central-1", "timeout": 100, "max_timeout": 1000
    },
    "Redis": {"enabled": true, "host": "127.0.0.1", "port": 6379, "timeout": 1, "max_timeout": 1000},
    "Direct": {"enabled": true, "host": "127.0.0.1", "port": 10000, "max_timeout": 1000}
  },
  "model": {
    "FaaS": {"gib_second_price": 0.0000166667},
    "S3": {
      "bandwidth": 50.0, "overhead": 40.4,
      "transfer_price": 0.0, "download_price": 0.00000043, "upload_price": 0.0000054
    },
    "Redis": {
      "bandwidth_single": 100.0, "bandwidth_multiple": 400.0, "overhead": 5.2,
      "transfer_price": 0.0, "instance_price": 0.0038,
      "requests_per_hour": 1000, "include_infrastructure_costs": true
    },
    "Direct": {
      "bandwidth": 400.0, "overhead": 0.34,
      "transfer_price": 0.0, "vm_price": 0.0134,
      "requests_per_hour": 1000, "include_infrastructure_costs": true
    }
  }
}
"""


def _written(folder: Path, content: Any) -> str:
    path = folder / "fmi.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def _changed(**figures: Json) -> Json:
    """FMI's own file with other figures in its model."""
    content: Json = json.loads(FMIS_OWN)
    for name, part in figures.items():
        content["model"][name] |= part
    return content


def _as_strings(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _as_strings(value) for key, value in content.items()}
    return str(content).lower() if isinstance(content, bool) else str(content)


# (memory in MB, ranks, operation, bytes of a rank, in the order of ranks): what FMI's C++ formulas choose.
# For example, a send of 8 bytes at 128 MB costs 0.0134/1000 + 0.34 · 0.0000166667/8 = 0.0000141 directly and
# 0.0038/1000 + 5.2 · 0.0000166667/8 = 0.0000146 through Redis.
CHEAPEST = [
    (128, 2, "send", 8, False, "Direct"),
    (128, 2, "recv", 8, False, "Direct"),
    (128, 2, "bcast", 8, False, "Direct"),
    (128, 2, "gather", 8, False, "Redis"),
    (128, 2, "scatter", 8, False, "Redis"),
    (128, 2, "reduce", 8, False, "Direct"),
    (128, 2, "reduce", 8, True, "Redis"),
    (128, 2, "allreduce", 8, False, "Redis"),
    (128, 3, "bcast", 4, False, "Redis"),
    (128, 3, "barrier", 0, False, "Redis"),
    (128, 16, "scan", 8, False, "Direct"),
    (128, 16, "scan", 8, True, "Direct"),
    (512, 2, "send", 8, False, "Direct"),
]


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize(("memory", "ranks", "operation", "size", "ordered", "expected"), CHEAPEST)
def test_fmis_own_file_chooses_as_fmi_does(
    tmp_path: Path,
    memory: int,
    ranks: int,
    operation: str,
    size: int,
    ordered: bool,
    expected: str,
    strings: bool,
) -> None:
    """Whose hint is cheap at first; numbers may be strings."""
    content = json.loads(FMIS_OWN)
    path = _written(tmp_path, _as_strings(content) if strings else FMIS_OWN)
    communicator = fmi.Communicator(ranks - 1, ranks, path, "run-", memory)
    assert communicator.chosen(operation, size, ordered) == expected
    communicator.hint(fmi.hints.cheap)
    assert communicator.chosen(operation, size, ordered) == expected
    communicator.hint(fmi.hints.fast)
    assert communicator.chosen(operation, size, ordered) == "Direct"


@pytest.mark.parametrize(
    ("hint", "operation", "figures", "before", "after"),
    [
        ("cheap", "send", {"Direct": {"vm_price": 0.0150}}, "Direct", "Redis"),
        ("cheap", "send", {"Direct": {"requests_per_hour": 900}}, "Direct", "Redis"),
        ("cheap", "send", {"FaaS": {"gib_second_price": 0.000005}}, "Direct", "Redis"),
        ("cheap", "send", {"Direct": {"transfer_price": 100.0}}, "Direct", "Redis"),
        ("cheap", "gather", {"Redis": {"instance_price": 0.02}}, "Redis", "Direct"),
        ("cheap", "gather", {"Direct": {"include_infrastructure_costs": False}}, "Redis", "Direct"),
        ("cheap", "gather", {"FaaS": {"gib_second_price": 0.001}}, "Redis", "Direct"),
        ("fast", "send", {"Direct": {"overhead": 6}}, "Direct", "Redis"),
        ("fast", "send", {"Direct": {"bandwidth": 0.0000001}}, "Direct", "Redis"),
        ("fast", "send", {"Direct": {"overhead": 200}, "Redis": {"overhead": 100}}, "Direct", "S3"),
    ],
)
def test_the_figures_of_model_decide(
    tmp_path: Path, hint: str, operation: str, figures: dict[str, Json], before: str, after: str
) -> None:
    for content, expected in ((_changed(), before), (_changed(**figures), after)):
        communicator = fmi.Communicator(0, 2, _written(tmp_path, content), "run-", 128)
        communicator.hint(fmi.hints[hint])
        assert communicator.chosen(operation, 8) == expected
    misplaced: Json = json.loads(FMIS_OWN)  # in `backends` FMI does not look for them
    for name, part in figures.items():
        misplaced["backends"].setdefault(name, {"enabled": False}).update(part)
    communicator = fmi.Communicator(0, 2, _written(tmp_path, misplaced), "run-", 128)
    communicator.hint(fmi.hints[hint])
    assert communicator.chosen(operation, 8) == before


def test_back_ends_that_are_not_enabled_are_never_chosen(tmp_path: Path) -> None:
    for kept in ("Direct", "Redis", "S3"):
        content: Json = json.loads(FMIS_OWN)
        for name, part in content["backends"].items():
            part["enabled"] = name == kept
        del content["backends"]["S3" if kept != "S3" else "Redis"]["enabled"]  # missing is not enabled
        for model in (content["model"], {}):  # which one back end does not need
            path = _written(tmp_path, {**content, "model": model})
            for hint in fmi.hints:
                communicator = fmi.Communicator(0, 4, path, "run-")
                communicator.hint(hint)
                assert communicator.chosen("allreduce", 8) == kept


def test_a_figure_that_is_missing_is_taken_from_fmis_example_and_said(tmp_path: Path) -> None:
    content = _changed()
    del content["model"]["Redis"]["overhead"]
    with pytest.warns(UserWarning, match=r"model\.Redis: overhead = 5\.2 taken from FMI's example"):
        communicator = fmi.Communicator(0, 2, _written(tmp_path, content), "run-")
    assert communicator.chosen("gather", 8) == "Redis"
    del content["model"]
    with pytest.warns(UserWarning, match="taken from FMI's example") as warned:
        fmi.Communicator(0, 2, _written(tmp_path, content), "run-")
    assert [str(one.message).partition(":")[0] for one in warned] == [
        f"model.{name}" for name in ("FaaS", "S3", "Redis", "Direct")
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", r"fmi\.json is not JSON"),
        ("[]", r"backends is not a JSON object"),
        ({}, r"no back end is enabled; give backends\.Direct"),
        ({"backends": {"Direct": {"host": "h"}}}, r"no back end is enabled"),
        ({"backends": {"Direct": {"enabled": "true"}}}, r"backends\.Direct\.host is missing; give it"),
        ({"backends": {"S3": {"enabled": "true"}}}, r"backends\.S3\.bucket_name is missing"),
        (
            {"backends": {"Kafka": {"enabled": True}}},
            r"backends\.Kafka is unknown; give Direct or Redis or S3",
        ),
        ({"backends": {"Direct": "on"}}, r"backends\.Direct is not a JSON object"),
        (_changed(S3={"overhead": "fast"}), r"model\.S3\.overhead: 'fast' is not a number"),
        (_changed(S3={"bandwidth": 0}), r"model\.S3\.bandwidth: 0 must be finite and above 0"),
        (_changed(Redis={"instance_price": -1}), r"model\.Redis\.instance_price: -1 must be .* at least 0"),
        (_changed(Direct={"overhead": None}), r"model\.Direct\.overhead: None is not a number"),
        (_changed(FaaS={"gib_second_price": "NaN"}), r"model\.FaaS\.gib_second_price: 'NaN' must be finite"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(tmp_path: Path, content: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        fmi.Communicator(0, 2, _written(tmp_path, content), "run-")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"port": "ten"}, r"backends\.Direct\.port: 'ten' is not a number above 0"),
        ({"port": 70_000}, r"backends\.Direct\.port: 70000 is not a port; give 1 to 65535"),
        ({"max_timeout": 0}, r"backends\.Direct\.max_timeout: 0 is not a number above 0"),
        ({"secret": "key"}, r"backends\.Direct\.secret must have only hexadecimal digits"),
        ({"relay_key": "key"}, r"backends\.Direct\.relay_key must have only hexadecimal digits"),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path: Path, settings: Json, fault: str) -> None:
    direct = {"enabled": True, "host": "127.0.0.1", **settings}
    communicator = fmi.Communicator(0, 2, _written(tmp_path, {"backends": {"Direct": direct}}), "run-")
    with pytest.raises(ValueError, match=fault):
        communicator.barrier()


def test_the_arguments_of_a_communicator_are_checked(tmp_path: Path) -> None:
    path = _written(tmp_path, FMIS_OWN)
    with pytest.raises(FileNotFoundError, match=r"config_path: there is no file nowhere\.json; .*FMI_CONFIG"):
        fmi.Communicator(0, 2, "nowhere.json", "run-")
    for arguments, error, fault in (
        ((2, 2), ValueError, r"peer_id: rank 2 is not in a group of 2"),
        ((-1, 2), ValueError, r"peer_id: rank -1 is not in a group of 2"),
        ((0, 0), ValueError, r"peer_id: rank 0 is not in a group of 0"),
        (("0", 2), TypeError, r"peer_id: '0' is not a whole number"),
        ((0, 2.0), TypeError, r"num_peers: 2\.0 is not a whole number"),
    ):
        with pytest.raises(error, match=fault):
            fmi.Communicator(*arguments, path, "run-")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"faas_memory: '512' is not a whole number"):
        fmi.Communicator(0, 2, path, "run-", "512")  # type: ignore[arg-type]


def test_max_timeout_is_milliseconds_of_an_operation(host: Host, tmp_path: Path) -> None:
    direct = {"enabled": True, "host": "127.0.0.1", "port": host.port, "max_timeout": 300}
    communicator = fmi.Communicator(0, 2, _written(tmp_path, {"backends": {"Direct": direct}}), "alone-")
    with pytest.raises(fmi.PeerTimeout, match=r"in barrier: rank 0: rank 1 .* in 0\.3 s"):
        communicator.barrier()
    communicator.close()


def test_ranks_relay_with_the_key_that_the_configuration_names(
    host: Host, tmp_path: Path, s3_cloud: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digits, or an object in S3 that holds it; why an object cannot be read is told."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.2)
    monkeypatch.setattr("fmi.punching._dialled", lambda own, address: None)
    for name, value in s3_cloud.environment.items():
        monkeypatch.setenv(name, value)
    s3_cloud.client("s3").put_object(Bucket="fmi", Key=".cosmicai/relay-key", Body=host.key)
    direct = {"enabled": "true", "host": "127.0.0.1", "port": str(host.port), "secret": b"s".hex()}

    def reduced(key: str, seconds: int) -> list[Any]:
        settings = {**direct, "relay_key": key, "max_timeout": seconds * 1000}
        path = _written(tmp_path, {"backends": {"Direct": settings}})

        def work(rank: int) -> Any:
            communicator = fmi.Communicator(rank, 2, path, key)
            try:
                return communicator.allreduce(rank + 0.5, fmi.func(fmi.op.sum), fmi.types(fmi.datatypes.double))
            except fmi.FmiError as error:
                return str(error)
            finally:
                communicator.close()

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(work, range(2)))

    assert reduced(host.key.hex(), 20) == [2.0, 2.0]
    assert reduced("s3://fmi/.cosmicai/relay-key", 20) == [2.0, 2.0]
    for message in reduced("s3://fmi/elsewhere", 3):
        assert "relay key, s3://fmi/elsewhere, cannot be read" in message
        assert "NoSuchKey" in message


@pytest.mark.parametrize("name", ["job1", "2026", "job1-"])
@pytest.mark.parametrize("secret", ["", b"s".hex()])
def test_a_name_that_ends_in_a_digit_works_with_a_warning(
    host: Host, tmp_path: Path, name: str, secret: str
) -> None:
    """Of FMI's plain wire alone, where names of different groups can be the same; with a secret they cannot."""
    direct = {"enabled": "true", "host": "127.0.0.1", "port": str(host.port), "secret": secret}
    path = _written(tmp_path, {"backends": {"Direct": direct}})
    total = fmi.func(fmi.op.sum)

    def work(rank: int) -> Any:
        communicator = fmi.Communicator(rank, 3, path, f"{secret}{name}")
        try:
            return communicator.allreduce(rank + 0.5, total, fmi.types(fmi.datatypes.double))
        finally:
            communicator.close()

    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("always")
        assert list(pool.map(work, range(3))) == [4.5] * 3
    if secret or name.endswith("-"):
        assert not warned
    else:
        assert {one.category for one in warned} == {UserWarning}
        assert f"comm_name: '{name}' ends in a digit, so its ranks can be paired with those of another" in str(
            warned[0].message
        )
        assert f"such as '{name}-'" in str(warned[0].message)
