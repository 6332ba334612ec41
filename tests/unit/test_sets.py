"""A folder or a prefix holds one set of partitions: the old one or the new one, never both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cosmicai.data import copying
from cosmicai.data.listing import list_folder, partitions_in
from cosmicai.data.places import Bucket, Folder
from cosmicai.data.sets import Place, SetError
from cosmicai.processes import process_birth
from cosmicai.results.outputs import OutputError
from inference.data.partition import PartitionError
from initialize.plan import PlanError, list_partitions

BUCKET, PREFIX = "team3-cosmicai", "25MB"
OLD = {f"{number}.pt": b"old %d" % number for number in (1, 2, 3, 10)}
NEW = {"1.pt": b"new 1", "2.pt": OLD["2.pt"]}
OTHERS = {"notes.txt": b"mine", "5.PT": b"not taken", "6.pth": b"not taken", "empty.pt": b""}
Write = Callable[[dict[str, bytes]], object]


@dataclass
class Kind:
    """A place of one kind: how to open it, to put files there as a user does, and what is there."""

    open: Callable[[], Place]
    put: Write
    read: Callable[[], dict[str, bytes]]
    refused: type[Exception]
    list: Callable[[], Any]


def _put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def _objects(s3: Any) -> dict[str, bytes]:
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    return {
        key.removeprefix(f"{PREFIX}/"): s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(params=["folder", "bucket"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    out = tmp_path / "out"
    if request.param == "folder":
        return Kind(
            lambda: Folder(out),
            lambda files: _put(out, files),
            lambda: _files(out),
            PartitionError,
            lambda: partitions_in(out),
        )
    s3 = request.getfixturevalue("s3")

    def put(files: dict[str, bytes]) -> None:
        for name, body in files.items():
            s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=body)

    return Kind(
        lambda: Bucket(s3, BUCKET, PREFIX),
        put,
        lambda: _objects(s3),
        PlanError,
        lambda: list_partitions(s3, BUCKET, PREFIX),
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return _put(tmp_path / "old", OLD)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return _put(tmp_path / "new", NEW)


def test_another_set_is_refused_and_nothing_changes(kind: Kind, old: Path, new: Path) -> None:
    copying.copy(old, kind.open())
    kind.put(OTHERS)
    before = kind.read()
    with pytest.raises(SetError, match=r"holds partitions of another set: 3\.pt, 10\.pt; give --overwrite"):
        copying.copy(new, kind.open())
    assert kind.read() == before


def test_overwriting_removes_the_leftovers_and_no_other_file(kind: Kind, old: Path, new: Path) -> None:
    copying.copy(old, kind.open())
    kind.put(OTHERS)
    copied = copying.copy(new, kind.open(), overwrite=True)
    assert (copied.removed, copied.written) == (["3.pt", "10.pt"], 1)
    assert kind.read() == {**NEW, **OTHERS}
    assert len(kind.list().files) == 2


def test_the_same_set_again_changes_nothing(kind: Kind, old: Path) -> None:
    assert copying.copy(old, kind.open()).written == 4
    before = kind.read()
    assert copying.copy(old, kind.open()).written == 0
    assert kind.read() == before


def test_a_partition_that_differs_is_refused_before_the_rest_is_written(
    kind: Kind, old: Path, tmp_path: Path
) -> None:
    copying.copy(old, kind.open())
    before = kind.read()
    changed = _put(tmp_path / "changed", {**OLD, "3.pt": b"changed"})
    with pytest.raises(SetError, match=r"another set: 3\.pt; give --overwrite"):
        copying.copy(changed, kind.open())
    assert kind.read() == before
    copying.copy(changed, kind.open(), overwrite=True)
    assert kind.read() == {**OLD, "3.pt": b"changed"}


@pytest.mark.parametrize("name", ["survey.pt", "models/checkpoint.pt"])
def test_what_a_user_has_put_there_is_never_removed(kind: Kind, new: Path, name: str) -> None:
    kind.put({name: b"mine"})
    for overwrite in (False, True):
        with pytest.raises(SetError, match=name):
            copying.copy(new, kind.open(), overwrite)
    assert kind.read() == {name: b"mine"}


def test_nested_partitions_are_copied_by_their_paths(s3: Any, tmp_path: Path) -> None:
    nested = {"a/1.pt": b"1", "a/b/2.pt": b"2", "c.pt": b"3"}
    skipped = {"._1.pt": b"x", ".git/4.pt": b"x", "5.pt.gz": b"x", "6.PT": b"x", "7.pth": b"x", "8.pt": b""}
    folder = _put(tmp_path / "in", {**nested, **skipped})
    copied = copying.copy(folder, Bucket(s3, BUCKET, PREFIX))
    assert _objects(s3) == nested
    assert copied.note is not None
    for named in (
        "6 files in ",
        " are left out (",
        "hidden: ._1.pt, .git",
        "5.pt.gz, 6.PT, 7.pth",
        "empty: 8.pt",
    ):
        assert named in copied.note
    flat = _put(tmp_path / "flat", {"1.pt": b"1"})
    assert copying.copy(flat, Bucket(s3, BUCKET, PREFIX), overwrite=True).removed == sorted(nested)
    assert _objects(s3) == {"1.pt": b"1"}


class _Interrupted(BaseException):
    """As Ctrl-C."""


def test_a_call_that_is_cut_off_leaves_the_old_set_and_is_finished_by_the_next(
    kind: Kind, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying.copy(old, kind.open())
    new = _put(tmp_path / "more", {f"{number}.pt": b"new %d" % number for number in range(1, 30)})
    place = kind.open()
    stage, count = place.stage, iter(range(100))

    def interrupted(*arguments: Any) -> None:
        if next(count) == 12:
            raise _Interrupted
        stage(*arguments)

    monkeypatch.setattr(place, "stage", interrupted)
    with pytest.raises(_Interrupted):
        copying.copy(new, place, overwrite=True)
    assert {name: body for name, body in kind.read().items() if name in OLD} == OLD
    assert [file.key.rpartition("/")[2] for file in kind.list().files] == list(OLD)
    assert copying.copy(new, kind.open(), overwrite=True).written < 29
    assert kind.read() == _files(new)


def test_a_cut_off_move_is_refused_by_all_readers_until_the_same_call_has_finished_it(
    kind: Kind, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying.copy(old, kind.open())
    place = kind.open()
    move = "_copy" if isinstance(place, Bucket) else "_move"

    def interrupted(*arguments: Any) -> None:
        raise _Interrupted

    monkeypatch.setattr(place, move, interrupted)
    with pytest.raises(_Interrupted):
        copying.copy(new, place, overwrite=True)
    with pytest.raises(kind.refused, match=r"incomplete set of partitions.*same command again"):
        kind.list()
    copying.copy(new, kind.open(), overwrite=True)
    assert kind.read() == NEW
    assert len(kind.list().files) == 2


def test_a_first_upload_that_is_cut_off_is_no_data_for_a_run(
    s3: Any, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Bucket(s3, BUCKET, PREFIX)
    stage, count = place.stage, iter(range(100))

    def interrupted(*arguments: Any) -> None:
        if next(count) == 2:
            raise _Interrupted
        stage(*arguments)

    monkeypatch.setattr(place, "stage", interrupted)
    with pytest.raises(_Interrupted):
        copying.copy(old, place)
    with pytest.raises(PlanError, match="data_prefix: s3://team3-cosmicai/25MB/ holds an incomplete set"):
        list_partitions(s3, BUCKET, PREFIX)
    assert copying.copy(old, Bucket(s3, BUCKET, PREFIX)).written in (1, 2)
    assert _objects(s3) == OLD
    assert len(list_partitions(s3, BUCKET, PREFIX).files) == 4


def test_two_processes_at_once_are_refused_and_a_killed_one_is_not_in_the_way(kind: Kind, new: Path) -> None:
    with (
        kind.open().locked(),
        pytest.raises((SetError, OutputError), match=r"writes to .*(25MB/|out): wait until it has ended"),
    ):
        copying.copy(new, kind.open())
    if isinstance(kind.open(), Folder):
        _killed(lambda: kind.open().locked().__enter__())
    else:
        dead = b'{"host": "%s", "pid": %d, "birth": 1}' % (os.uname().nodename.encode(), os.getpid())
        kind.put({".partial/lock": dead})
    copying.copy(new, kind.open())
    assert kind.read() == NEW


def test_a_process_of_another_machine_is_named(s3: Any, new: Path) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/.partial/lock", Body=b'{"host": "away", "pid": 7, "birth": 1}')
    with pytest.raises(SetError, match=r"process 7 on away writes to .* delete s3://.*/\.partial/lock"):
        copying.copy(new, Bucket(s3, BUCKET, PREFIX))
    assert process_birth(os.getpid()) is not None


def _killed(call: Callable[[], object]) -> None:
    """Does something in a process that is killed then."""
    pid = os.fork()
    if pid == 0:
        call()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_copy_that_is_killed_while_it_moves_leaves_no_half_of_both(
    tmp_path: Path, old: Path, new: Path
) -> None:
    out = tmp_path / "out"
    copying.copy(old, Folder(out))

    def killed() -> None:
        replace = Path.replace

        def then_killed(self: Path, target: Path) -> None:
            replace(self, target)
            if target.parent == out:
                os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = then_killed  # type: ignore[assignment,method-assign]
        copying.copy(new, Folder(out), overwrite=True)

    _killed(killed)
    assert {body for name, body in _files(out).items() if "/" not in name} <= {b"new 1", b"old 2", b""}
    with pytest.raises(PartitionError, match="incomplete set"):
        partitions_in(out)
    with pytest.raises(SetError):
        copying.copy(old, Folder(out))  # and what waits is not lost by it
    copying.copy(new, Folder(out), overwrite=True)
    assert _files(out) == NEW


def test_links_are_followed_once(tmp_path: Path) -> None:
    data = _put(tmp_path / "data", {"1.pt": b"1"})
    folder = _put(tmp_path / "folder", {"sub/2.pt": b"2"})
    (folder / "linked").symlink_to(data)
    (folder / "sub" / "around").symlink_to(folder)
    (folder / "nowhere.pt").symlink_to(tmp_path / "missing")
    listing = list_folder(folder)
    assert [file.key for file in listing.files] == ["linked/1.pt", "sub/2.pt"]
    assert listing.left_out == {"empty": ["nowhere.pt"]}
