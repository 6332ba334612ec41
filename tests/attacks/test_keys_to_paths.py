"""Names that others chose never become files outside the folder that they are meant for."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmicai.results.runfolder import RECORD
from cosmicai.runs.download import download
from inference import script
from inference.contract.event import RankEvent
from inference.contract.model_files import GRAPHS
from inference.contract.paths import PathError, below, is_marker, plain
from inference.data.storage import Folder, ObjectError, Storage
from inference.engine.choice import read_graphs
from inference.engine.interface import EngineError
from inference.engine.loading import BUNDLED_MODEL

# Where code that lacks the check writes to, it does no harm there.
ABSOLUTE = "/tmp/cosmicai-attack/x"  # noqa: S108
ESCAPES = [
    "../x", "a/../../x", "..", "a/..", ABSOLUTE, f"/{ABSOLUTE}", "a//b", "", "a/", ".", "./x", "a/./b", "C:/x",
    "C:x", "a/c:x", "..\\x", "a\\..\\b", "\\\\server\\share", "a\0b", "a\nb", "a\x1b[2Jb", "a\x7f", "a\x9bb",
    "\ud800", "x" * 256, "é" * 128, "/".join(["x" * 200] * 6),
]  # fmt: skip
ORDINARY = [
    "1.json",
    "predictions/0.npz",
    "a b/[c].pt",
    "..a/b..",
    "a..b",
    "é" * 127,
    "12:30.json",
    "~/x",
    "-rf",
    "$HOME",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PathError) as error:
        below(tmp_path, name)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_is_a_path_below(tmp_path: Path, name: str) -> None:
    assert below(tmp_path, name) == tmp_path / name
    assert not is_marker(name)


@given(
    st.text(st.sampled_from([*"./\\:\0\n ~aC", "é", "\u202e"]) | st.sampled_from(string.printable), max_size=30)
)
@settings(max_examples=2000, deadline=None)
def test_what_is_allowed_lies_below_and_no_two_names_are_one_file(name: str) -> None:
    folder = Path("/folder")
    try:
        path = below(folder, name)
    except PathError:
        return
    assert path.relative_to(folder).as_posix() == name
    assert ".." not in path.parts


@pytest.mark.parametrize("name", [*ESCAPES, "a/b"])
def test_a_name_of_a_file_in_a_folder_has_no_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(PathError):
        plain(tmp_path, name)


class _S3:
    """Objects by key, as boto3's client lists and downloads them."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[Any]:
        keys = [key for key in self.keys if key.startswith(Prefix)]
        return [{"Contents": [{"Key": key, "LastModified": datetime.now(UTC)} for key in keys]}]

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(b'{"run_id": "r", "world_size": 1}')}

    def download_file(self, bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(key.encode(errors="replace"))


def _tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_results_are_written_below_their_folder_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    keys = ["run.json", "predictions/", "predictions/0.npz", "", "a", "a/b"]
    s3 = _S3([f"results/1/{key}" for key in [*keys, "../../outside", f"/{outside}", "x\\..\\y", "x\0y"]])
    target = tmp_path / "work" / "results"
    downloaded = download(s3, "bucket", "results/1", "r", target)
    assert _tree(tmp_path) >= {"work/results/run.json", "work/results/predictions/0.npz"}
    written = {f"work/results/{path.relative_to(target)}" for path in downloaded.files}
    assert _tree(tmp_path) == {*written, f"work/results/{RECORD}"}
    refused = {key.removeprefix("results/1/") for key in downloaded.left_out}
    assert refused - {"a", "a/b"} == {"../../outside", f"/{outside}", "x\\..\\y", "x\0y"}
    assert len(refused & {"a", "a/b"}) == 1  # both cannot be: whichever comes second is named


class _Objects(Storage):
    """A bucket in memory."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(None)
        self.objects = objects

    def list_versions(self, bucket: str, prefix: str) -> dict[str, tuple[str, datetime]]:
        matching = {key: body for key, body in self.objects.items() if key.startswith(prefix)}
        return {key: (str(hash(body)), datetime.now(UTC)) for key, body in matching.items()}

    def read(self, bucket: str, key: str) -> bytes:
        return self.objects[key]


EVENT = RankEvent(
    rank=0, world_size=1, run_id="r", bucket="own", result_path="results/1", data_bucket="own",
    data_prefix="25MB", data_paths=("25MB/1.pt",), batch_size=512, model=None, engine="auto", precision="auto",
    save_predictions=True, script_folder="code", script="/tmp/code/s.py",  # noqa: S108
)  # fmt: skip


@pytest.mark.parametrize("name", [*(name for name in ESCAPES if name and not name.endswith("/")), "s.py/x"])
def test_a_script_folder_is_fetched_into_its_folder_alone(tmp_path: Path, name: str) -> None:
    scratch = tmp_path / "scratch"
    storage = _Objects({"code/s.py": b"", f"code/{name}": b"stolen"})
    with pytest.raises(script.ScriptError, match="S3_object_name: "):
        script.Scripts(scratch).fetch(EVENT, storage)
    assert _tree(tmp_path) <= {"scratch/code/s.py"}


@pytest.mark.parametrize("folder", ["../elsewhere", ABSOLUTE, "a/../.."])
def test_the_script_folder_itself_lies_below_the_scratch_folder(tmp_path: Path, folder: str) -> None:
    storage = _Objects({f"{folder}/s.py": b""})
    with pytest.raises(script.ScriptError, match="S3_object_name: "):
        script.Scripts(tmp_path / "scratch").fetch(replace(EVENT, script_folder=folder), storage)
    with pytest.raises(script.ScriptError, match="script: "):
        script.run(replace(EVENT, script=f"/tmp/{folder}/s.py"), tmp_path, tmp_path, {})  # noqa: S108
    assert _tree(tmp_path) == set()


def test_folders_made_in_the_console_are_no_files(tmp_path: Path) -> None:
    storage = _Objects({"code/": b"", "code/lib/": b"", "code/s.py": b"print()", "code/lib/m.py": b""})
    folder = script.Scripts(tmp_path).fetch(EVENT, storage)
    assert _tree(folder) == {"s.py", "lib/m.py"}
    with pytest.raises(script.ScriptError, match="holds no object"):
        script.Scripts(tmp_path).fetch(EVENT, _Objects({"code/": b""}))


def _changed(change: Callable[[Any], None]) -> str:
    graphs = json.loads((BUNDLED_MODEL / GRAPHS).read_text())
    change(graphs)
    return json.dumps(graphs)


def _named(name: str) -> str:
    return _changed(lambda graphs: graphs["float32"]["files"].update({name: "0" * 64}))


@pytest.mark.parametrize(
    "content",
    [
        *(_named(name) for name in [*ESCAPES, "sub/model.bin"]),
        "", "[]", "{}", "null", "not JSON", "[" * 100_000, '{"float32": 3}', '{"float32": {"files": []}}',
        '{"float32": {"files": {}}}', '{"float32": {"files": {"a.onnx": 7}}}', _named("second.onnx"),
        _changed(lambda graphs: graphs["int8"].update(admitted="yes")),
        _changed(lambda graphs: graphs.update(int8=[])),
        _changed(lambda graphs: graphs.update(bfloat16=7)),
        _changed(lambda graphs: graphs.update(bfloat16={**graphs["int8"], "admitted": 1})),
        _changed(lambda graphs: graphs.update(bfloat16={"files": {"../a.onnx": "0" * 64}, "admitted": True})),
        _changed(lambda graphs: graphs.update(bfloat16={"files": {"a.onnx": "0"}, "admitted": True})),
    ],
)  # fmt: skip
def test_graphs_json_names_files_of_its_folder_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / GRAPHS).write_text(content)
    with pytest.raises(EngineError, match=r"^model: graphs\.json is malformed"):
        read_graphs(tmp_path)


def test_the_bundled_graphs_json_is_as_it_must_be() -> None:
    assert read_graphs(BUNDLED_MODEL) == json.loads((BUNDLED_MODEL / GRAPHS).read_text())


@pytest.mark.parametrize("name", ["../x", ABSOLUTE, "sub/x", "..\\x"])
def test_a_model_folder_is_fetched_into_its_cache_alone(tmp_path: Path, name: str) -> None:
    storage = _Objects({f"model/{name}": b"stolen"})
    folder = Folder(storage, "own", "model", {name: "etag"}, tmp_path / "cache")
    with pytest.raises(ObjectError, match="s3://own/model/: "):
        folder.fetch([name])
    assert _tree(tmp_path) == set()
