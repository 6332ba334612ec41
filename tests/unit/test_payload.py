"""The payload is checked whole before anything is started."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmicai.packaging.places import ROOT
from initialize.contract.event import DEFAULT_OUTPUTS, OUTPUTS
from initialize.payload import PayloadError, resolve, schema

MINIMAL = {"bucket": "team3-cosmicai", "result_path": "results/1", "data_prefix": "25MB"}


def test_defaults_are_filled_in() -> None:
    resolved = resolve(MINIMAL)
    assert resolved["data_bucket"] == "team3-cosmicai"
    assert resolved["batch_size"] == 256
    assert resolved["save_predictions"] is True
    assert "world_size" not in resolved


def test_the_historic_payload_with_numbers_as_strings_is_accepted() -> None:
    resolved = resolve(json.loads((ROOT / "payloads" / "historic.json").read_text()))
    assert (resolved["file_limit"], resolved["world_size"], resolved["batch_size"]) == (4, 4, 512)


def test_all_faults_are_reported_at_once_with_field_value_and_remedy() -> None:
    payload = {**MINIMAL, "world_size": "eleven", "batch_size": 0, "wrold_size": 3}
    with pytest.raises(PayloadError) as error:
        resolve(payload)
    message = str(error.value)
    assert 'world_size: "eleven" is not allowed; give a whole number from 1 to 100000 (' in message
    assert "batch_size: 0 is not allowed; give a whole number from 1 to 65536" in message
    assert "wrold_size: unknown field; did you mean world_size?" in message


@pytest.mark.parametrize("field", ["bucket", "result_path", "data_prefix"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(PayloadError, match=f"^{field}: is missing"):
        resolve({name: value for name, value in MINIMAL.items() if name != field})


@pytest.mark.parametrize(
    "path", ["../secrets", "/etc", "a/../b", "a//b", "", "/", "a\nb", "ab\n", ".", "..", "a/."]
)
def test_paths_that_leave_their_folder_are_refused(path: str) -> None:
    for field in ("result_path", "data_prefix", "model"):
        with pytest.raises(PayloadError, match=f"^{field}: "):
            resolve({**MINIMAL, field: path})


@pytest.mark.parametrize("path", ["results/1/copies", "results/1/failures/", "x/predictions", "copies"])
def test_a_run_is_not_put_into_a_folder_of_another_run(path: str) -> None:
    with pytest.raises(PayloadError, match=r"^result_path: .* is not allowed: each run has folders named pred"):
        resolve({**MINIMAL, "result_path": path})
    assert resolve({**MINIMAL, "result_path": f"{path.rstrip('/')}-2"})


@pytest.mark.parametrize("path", ["25MB", "results/25MB/1GB/1", "a.b/..c/d..", "Anomaly Detection/x"])
def test_ordinary_paths_are_accepted_and_lose_a_closing_slash(path: str) -> None:
    assert resolve({**MINIMAL, "data_prefix": path + "/"})["data_prefix"] == path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("world_size", True),
        ("world_size", 1.5),
        ("world_size", 100_001),
        ("save_predictions", "yes"),
        ("save_predictions", 1),
        ("tolerated_failure_percentage", 100.5),
        ("engine", "magic"),
        ("bucket", "Team_3"),
        ("bucket", 7),
        ("data_prefix", None),
    ],
)
def test_a_refused_value_is_shown(field: str, value: object) -> None:
    with pytest.raises(PayloadError) as error:
        resolve({**MINIMAL, field: value})
    assert str(error.value).startswith(f"{field}: {json.dumps(value)} is not allowed; give ")


@pytest.mark.parametrize(
    ("outputs", "resolved"),
    [
        (["embedding"], ["redshift", "embedding"]),
        (["embedding", "pdf", "redshift"], ["redshift", "pdf", "embedding"]),
        ("redshift", ["redshift"]),
        ("pdf,embedding", ["redshift", "pdf", "embedding"]),
        ([], ["redshift"]),
    ],
)
def test_outputs_are_a_list_or_a_text(outputs: object, resolved: list[str]) -> None:
    payload = {**MINIMAL, "outputs": outputs}
    assert resolve(payload)["outputs"] == resolved
    jsonschema.validate(payload, schema())
    assert resolve(MINIMAL)["outputs"] == list(DEFAULT_OUTPUTS)
    assert schema()["properties"]["outputs"]["items"]["enum"] == list(OUTPUTS)


@pytest.mark.parametrize(
    "outputs",
    ["", "pdf,pdf", "pdf, embedding", "pdf\n", ["pdfs"], ["pdf", "pdf"], [["pdf"]], {"pdf": 1}, 3, None],
)
def test_other_outputs_are_refused(outputs: object) -> None:
    payload = {**MINIMAL, "outputs": outputs}
    with pytest.raises(
        PayloadError, match=r"outputs: .* is not allowed; give a list of redshift, pdf, embedding"
    ):
        resolve(payload)
    assert outputs == "pdf\n" or not jsonschema.Draft202012Validator(schema()).is_valid(payload)


@pytest.mark.parametrize("payload", [None, [], "text", 3])
def test_a_payload_must_be_an_object(payload: object) -> None:
    with pytest.raises(PayloadError, match="is not a JSON object"):
        resolve(payload)


@pytest.mark.parametrize("name", ["demo.json", "historic.json", "repeated.json"])
def test_the_shipped_payloads_satisfy_the_schema(name: str) -> None:
    payload = json.loads((ROOT / "payloads" / name).read_text())
    jsonschema.validate(payload, schema())
    resolve(payload)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 20000),
    st.floats(-5, 200),
    st.text(max_size=8),
    st.just("12"),
    st.sampled_from(["pdf", "pdf,pdf", "embedding,redshift"]),
    st.lists(st.sampled_from(["redshift", "pdf", "embedding", "pdfs"]), max_size=4),
)


@given(st.dictionaries(st.sampled_from([*schema()["properties"], "unknown"]), _VALUES))
def test_what_it_accepts_is_what_the_schema_accepts(changes: dict[str, object]) -> None:
    """Ours refuses all that a standard validator refuses, and beyond it only what a schema cannot say: numbers
    in strings out of range, a script outside its folder, copies in a catalogue, line breaks at the end."""
    payload = {**MINIMAL, **changes}
    standard = jsonschema.Draft202012Validator(schema()).is_valid(payload)
    try:
        resolve(payload)
    except PayloadError:
        strings = [value for value in payload.values() if isinstance(value, str)]
        assert (
            not standard
            or "script" in payload
            or {"catalogue", "repeat_data"} <= payload.keys()
            or any(value.replace(".", "").isdigit() or "\n" in value for value in strings)
        )
    else:
        assert standard
