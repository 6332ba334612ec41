"""photometry.json beside partitions: one rule for all commands that read partitions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cosmicai import cli
from cosmicai.data import copying, photometry
from cosmicai.data.inspect import look
from cosmicai.data.photometry import FILE, Photometry, PhotometryError
from cosmicai.data.places import Bucket, Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.reading import Reading
from cosmicai.data.sources import SourceError
from cosmicai.packaging.places import BuildFolder
from cosmicai.runs.infer import infer
from initialize.contract.photometry import common, parsed
from initialize.deployed import Deployed
from initialize.model_folder import Model
from initialize.plan import PlanError
from initialize.run import start
from tests.arrivals import BUCKET, keys

from .galaxies import galaxies, made

MODELS = Photometry(tuple("ugriz"), 27.0, 0.2)
SOURCES = Photometry(tuple("zirgu"), 22.5, 0.1, "nanomaggies", (26.0, 26.1, 26.2, 26.3, 26.4))
DIFFERENT = [
    (replace(MODELS, bands=tuple("grizy")), "bands is g, r, i, z, y, but u, g, r, i, z"),
    (replace(MODELS, zero_point=22.5), "zero_point is 22.5, but 27"),
    (Photometry(flux_unit="nJy"), "zero_point is 31.4, but 27"),
    (replace(MODELS, pixel_scale=0.262), "pixel_scale is 0.262, but 0.2"),
]
COMMANDS = {
    "infer": "infer in --model model --out new",
    "infer, one partition": "infer in/1.pt --model model --out new",
    "model train": "model train in --from model --out new --epochs 1",
    "model calibrate": "model calibrate model --calibration in",
    "model optimise": "model optimise model --calibration in",
    "model speed": "model speed model in",
}
"""Those that use a network, in the folder of the fixture `place`."""


def _card(folder: Path, stated: Photometry) -> None:
    (folder / "card.json").write_text(json.dumps({"photometry": json.loads(photometry.as_bytes(stated))}))


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("stated", "said"), DIFFERENT, ids=["bands", "zero point", "flux unit", "pixel scale"])
def test_every_command_refuses_partitions_that_contradict_the_models_card(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, stated: Photometry, said: str
) -> None:
    _card(place / "model", MODELS)
    photometry.write(stated, place / "in")
    assert cli.run(line.split()) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"in/{FILE}: {said} on the card of the model model" in message
    assert "make partitions for this model with `cosmicai data prepare`" in message
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    "stated",
    [
        MODELS,
        Photometry(),
        Photometry(magnitude_limits=(1.0, 2.0, 3.0, 4.0, 5.0)),
        replace(MODELS, pixel_scale=0.2005),
    ],
    ids=["the same", "nothing", "other limits", "nearly the same scale"],
)
def test_what_agrees_or_is_not_stated_is_accepted(tmp_path: Path, stated: Photometry) -> None:
    _card(tmp_path, MODELS)
    photometry.write(stated, tmp_path)
    photometry.check(photometry.beside(tmp_path / "1.pt"), tmp_path)


def test_partitions_that_agree_with_the_card_are_computed(place: Path) -> None:
    _card(place / "model", MODELS)
    photometry.write(MODELS, place / "in")
    assert cli.run(COMMANDS["infer"].split()) == 0


_FOLDERS = {
    "infer": "infer in other --model model --out new",
    "model train": "model train in other --config config.json --out new --epochs 1",
    "model pretrain": "model pretrain in other --config config.json --out new --epochs 1",
    "model calibrate": "model calibrate model --calibration in --calibration other",
    "model optimise": "model optimise model --calibration in --calibration other",
    "model speed": "model speed model in other",
}


@pytest.mark.parametrize("line", _FOLDERS.values(), ids=_FOLDERS)
def test_every_command_refuses_folders_that_contradict_each_other(
    place: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """Also where the model has no card that could say which of them is right."""
    shutil.copytree(place / "in", place / "other")
    photometry.write(Photometry(zero_point=22.5), place / "in")
    photometry.write(Photometry(flux_unit="nJy"), place / "other")
    assert cli.run(line.split()) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"other/{FILE}: zero_point is 31.4, but 22.5 in in/{FILE}" in message


@pytest.mark.parametrize("line", [*COMMANDS.values(), "data inspect in/1.pt", "data prepare in --out new"])
def test_every_command_names_a_broken_description(
    place: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (place / "in" / FILE).write_text('{"pixel_scale": -1}')
    assert cli.run(line.split()) == 1
    assert f"in/{FILE}: pixel_scale is -1, not arcsec, above 0; correct the file" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--bands=g,r,i,z,y", "bands is u, g, r, i, z, but --bands says g, r, i, z, y"),
        ("--zero-point=22.5", "zero_point is 27, but --zero-point or --flux-unit says 22.5"),
        ("--flux-unit=nJy", "zero_point is 27, but --zero-point or --flux-unit says 31.4"),
        ("--pixel-scale=0.3", "pixel_scale is 0.2, but --pixel-scale says 0.3"),
    ],
)
def test_options_of_a_training_may_complete_a_description_and_not_contradict_it(
    place: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    photometry.write(MODELS, place / "in")
    line = f"model train in --config config.json --out new --epochs 1 {option}"
    assert cli.run(line.split()) == 1
    assert f"in/{FILE}: {said}: leave the option out" in " ".join(capsys.readouterr().err.split())
    photometry.write(Photometry(), place / "in")
    assert photometry.stated_for([place / "in"], MODELS, None) == MODELS


# data inspect and data prepare


def _partitions(folder: Path, stated: Photometry | None, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    whole = galaxies() | arrays
    torch.save(TensorDataset(*(torch.from_numpy(whole[name]) for name in whole)), folder / "1.pt")
    if stated is not None:
        photometry.write(stated, folder)
    return folder


@pytest.mark.parametrize("name", ["", "1.pt"], ids=["a folder", "one partition"])
def test_a_partition_is_prepared_for_another_network_by_its_description(tmp_path: Path, name: str) -> None:
    """Bands are put into the model's order, pixels resampled and multiplied, limits are not detections."""
    large = np.random.default_rng(0).normal(0, 1, (130, 5, 64, 64)).astype(np.float32)
    magnitudes = galaxies()["magnitudes"]
    magnitudes[3] = SOURCES.magnitude_limits
    source = _partitions(tmp_path / "in", SOURCES, images=large, magnitudes=magnitudes) / name
    arrays, prepared = made(source, tmp_path / "out")
    expected = large[:, ::-1].reshape(130, 5, 64, 64) * np.float32(10 ** (0.4 * 4.5))
    np.testing.assert_allclose(arrays["images"].sum((2, 3)), expected.sum((2, 3)), rtol=0.02, atol=60)
    np.testing.assert_array_equal(arrays["magnitudes"][:3], magnitudes[:3, ::-1])
    np.testing.assert_array_equal(arrays["magnitudes"][3], np.float32([27.79, 29.04, 29.06, 28.62, 27.98]))
    assert photometry.read(tmp_path / "out").pixel_scale == 0.2
    notes = [note for note in prepared.summary.notes if FILE in note]
    assert notes == [
        f'{tmp_path / "in" / FILE} says: bands z, i, r, g, u, zero point 22.5, pixel scale 0.1", magnitude '
        "limits 26, 26.1, 26.2, 26.3, 26.4"
    ]
    counted = [row for row in prepared.summary.missing if "photometry.json" in row[1]]
    assert [count for *_, count in counted] == [1, 1, 1, 1, 1]


def test_a_partition_keeps_its_meaning_for_a_network_that_is_not_trained(tmp_path: Path) -> None:
    """Its config.json states no photometry: that of the source is handed on."""
    config = tmp_path / "config.json"
    config.write_text("{}")
    source = _partitions(tmp_path / "in", SOURCES)
    prepare(source, Folder(tmp_path / "out"), 1, model=config)
    assert photometry.read(tmp_path / "out") == SOURCES


@pytest.mark.parametrize(
    ("stated", "reading", "said"),
    [
        (SOURCES, Reading(bands=tuple("ugriz")), "bands is z, i, r, g, u, but --bands says u, g, r, i, z"),
        (SOURCES, Reading(pixel_scale=0.2), "pixel_scale is 0.1, but --pixel-scale says 0.2"),
        (SOURCES, Reading(pixel_zero_point=27), "zero_point is 22.5, but --pixel-zero-point or --pixel-unit"),
        (Photometry(tuple("gri")), Reading(), r"names 3 bands, g, r, i, but the images of \S+ have 5 channels"),
        (Photometry(magnitude_limits=(1, 2)), Reading(), r"has 2 magnitude_limits, but \S+ has 5 magnitudes"),
        (Photometry(tuple("grizy")), Reading(), "there is no band u among g, r, i, z, y"),
    ],
)
def test_a_description_that_contradicts_options_or_partitions_is_refused(
    tmp_path: Path, stated: Photometry, reading: Reading, said: str
) -> None:
    source = _partitions(tmp_path / "in", stated)
    with pytest.raises(SourceError, match=said):
        look(source / "1.pt", reading)
    with pytest.raises(SourceError, match=said):
        prepare(source, Folder(tmp_path / "out"), 1, reading)
    assert not (tmp_path / "out").exists()


def test_options_that_agree_with_the_description_are_accepted(tmp_path: Path) -> None:
    source = _partitions(tmp_path / "in", replace(SOURCES, pixel_scale=0.2))
    reading = Reading(bands=SOURCES.bands, pixel_scale=0.2, pixel_zero_point=22.5)
    assert look(source, reading).facts == look(source, Reading()).facts


def test_a_fit_by_the_user_says_that_the_pixels_are_the_models(tmp_path: Path) -> None:
    """Else a run would refuse what the user has asked for."""
    source = _partitions(tmp_path / "in", replace(SOURCES, pixel_scale=0.4))
    prepared = prepare(source, Folder(tmp_path / "out"), 1, Reading(fit="crop"))
    assert photometry.read(tmp_path / "out").pixel_scale == 0.2
    note = "pixels of 0.4 arcsec are used as the model's of 0.2 arcsec, because --fit crop says so"
    assert note in prepared.summary.notes


def test_subfolders_are_described_by_one_photometry(tmp_path: Path, s3: Any) -> None:
    """`data upload` stores what they agree on next to the partitions."""
    _partitions(tmp_path / "set" / "a", replace(SOURCES, magnitude_limits=None))
    _partitions(tmp_path / "set" / "b", Photometry(magnitude_limits=SOURCES.magnitude_limits))
    copying.copy(tmp_path / "set", Bucket(s3, BUCKET, "set"))
    stored = s3.get_object(Bucket=BUCKET, Key=f"set/{FILE}")["Body"].read()
    assert Photometry.from_json(json.loads(stored)) == SOURCES
    photometry.write(MODELS, tmp_path / "set" / "b")
    with pytest.raises(PhotometryError, match=rf"b/{FILE}: bands is u, g, r, i, z, but z, i, r, g, u in \S+a/"):
        copying.copy(tmp_path / "set", Bucket(s3, BUCKET, "set"), overwrite=True)
    with pytest.raises(SourceError, match=f"b/{FILE}: bands is"):
        look(tmp_path / "set", Reading())


def test_an_upload_replaces_the_description_with_the_set(tmp_path: Path, s3: Any) -> None:
    copying.copy(_partitions(tmp_path / "a", SOURCES), Bucket(s3, BUCKET, "set"))
    assert f"set/{FILE}" in keys(s3, "set")
    others = _partitions(tmp_path / "b", None, redshift=np.zeros(130, np.float32))
    copying.copy(others, Bucket(s3, BUCKET, "set"), overwrite=True)
    assert keys(s3, "set") == ["set/1.pt"]


# run


def _started(s3: Any, **fields: Any) -> dict[str, Any]:
    """What Initialize answers."""
    deployed = Deployed(True, False, lambda: 9, lambda name: False, bundled=Model.bundled())
    payload = {"bucket": BUCKET, "data_prefix": "in", "result_path": "results", **fields}
    return start(s3, payload, "run-1", "2026-11-22T00:00:00Z", deployed)


def _put(s3: Any, key: str, body: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


@pytest.mark.parametrize(("stated", "said"), DIFFERENT, ids=["bands", "zero point", "flux unit", "pixel scale"])
@pytest.mark.parametrize("model", [None, "models/mine"])
def test_initialize_refuses_partitions_that_contradict_the_models_card(
    s3: Any, stated: Photometry, said: str, model: str | None
) -> None:
    """Before a rank starts, and before anything is written."""
    card = {"photometry": json.loads(photometry.as_bytes(MODELS))}
    for name, body in (
        ("card.json", json.dumps(card).encode()),
        ("config.json", b"{}"),
        ("model.safetensors", b"x"),
    ):
        _put(s3, f"models/mine/{name}", body)
    _put(s3, "in/1.pt", b"x")
    _put(s3, f"in/{FILE}", photometry.as_bytes(stated))
    named = "the bundled model" if model is None else f"s3://{BUCKET}/models/mine"
    with pytest.raises(
        PlanError, match=rf"^data_prefix: s3://{BUCKET}/in/{FILE}: {said} on the card of {named}"
    ):
        _started(s3, **({} if model is None else {"model": model}))
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="results")


def test_initialize_takes_what_agrees_and_says_what_it_has_not_read(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(s3, "in/1.pt", b"x")
    _put(s3, f"in/{FILE}", photometry.as_bytes(MODELS))
    assert _started(s3)["notes"] == []
    _put(s3, f"in/below/{FILE}", b"[]")
    with pytest.raises(PlanError, match=f"in/below/{FILE}: is not a JSON object"):
        _started(s3)

    def refused(*arguments: object) -> bytes:
        raise s3.exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    monkeypatch.setattr("initialize.photometry.read_small", refused)
    assert _started(s3)["notes"] == [
        f"could not be read, and so was not compared with the model: in/below/{FILE}, in/{FILE}"
    ]


def test_a_script_has_its_own_network(s3: Any) -> None:
    _put(s3, "in/1.pt", b"x")
    _put(s3, f"in/{FILE}", photometry.as_bytes(SOURCES))
    script = {"S3_object_name": "code", "script": "/tmp/code/a.py"}  # noqa: S108
    assert _started(s3, **script)["world_size"] == 1


def test_partitions_in_s3_are_read_by_the_same_rule_on_this_machine(
    s3: Any, tmp_path: Path, saved: Callable[[object], bytes], make_partition: Callable[..., TensorDataset]
) -> None:
    _put(s3, "in/1.pt", saved(make_partition(3)))
    _put(s3, f"in/{FILE}", photometry.as_bytes(replace(MODELS, pixel_scale=0.262)))
    with pytest.raises(PhotometryError, match=f"s3://{BUCKET}/in/{FILE}: pixel_scale is 0.262, but 0.2"):
        infer(f"s3://{BUCKET}/in", tmp_path / "out")


def test_the_zip_of_initialize_has_what_the_image_bundles(build: BuildFolder) -> None:
    """Initialize compares with these two files, and ranks use them."""
    import zipfile

    from inference.engine.loading import BUNDLED_MODEL

    with zipfile.ZipFile(build.zip_file("initialize")) as archive:
        held = {name: archive.read(f"initialize/{name}") for name in ("graphs.json", "card.json")}
    assert held == {name: (BUNDLED_MODEL / name).read_bytes() for name in held}


@pytest.mark.parametrize(("limit", "is_refused"), [(2, False), (3, True)])
def test_only_descriptions_of_the_files_that_are_read_are_compared(
    s3: Any, limit: int, is_refused: bool
) -> None:
    """file_limit takes the first ones, here those of one folder."""
    for name, zero_point in (("a/x", 27.0), ("b", 22.5)):
        for number in (1, 2):
            s3.put_object(Bucket=BUCKET, Key=f"in/{name}/{number}.pt", Body=b"galaxies")
        body = photometry.as_bytes(Photometry(zero_point=zero_point))
        s3.put_object(Bucket=BUCKET, Key=f"in/{name.partition('/')[0]}/{FILE}", Body=body)
    with pytest.raises(PlanError, match=r"22\.5, but 27 in ") if is_refused else nullcontext():
        _started(s3, data_prefix="in", result_path="r", file_limit=limit)


@pytest.mark.parametrize("name", ["zero_point", "pixel_scale", "magnitude_limits"])
def test_a_number_beyond_the_floats_is_named(name: str) -> None:
    value = f"[1{400 * '0'}]" if name == "magnitude_limits" else f"1{400 * '0'}"
    with pytest.raises(PhotometryError, match=f"in/{FILE}: {name} is \\[?1000"):
        parsed(f'{{"{name}": {value}}}'.encode(), f"in/{FILE}")


def test_a_difference_names_the_description_that_states_the_other_value() -> None:
    """Not one whose flux unit has no known zero point."""
    stated = [
        ("a", Photometry(flux_unit="counts")),
        ("b", Photometry(zero_point=22.5)),
        ("c", Photometry(zero_point=27.0)),
    ]
    with pytest.raises(PhotometryError, match=r"^c: zero_point is 27, but 22\.5 in b: "):
        common(stated)
