"""What Initialize sees of an arrival before a rank starts: network and columns of partitions; S3 is moto's."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import TensorDataset

from cosmicai.data import objects
from inference.engine.choice import network_digest, read_graphs
from inference.engine.loading import BUNDLED_MODEL
from initialize.arrival import _LOOKED_AT
from initialize.deployed import Deployed
from initialize.model_folder import Model
from initialize.partition_head import Head, HeadError, read_head
from initialize.payload import PayloadError
from initialize.run import start
from tests.arrivals import BUCKET, CATALOGUE, LOG, PAYLOAD, Arrival, Json, keys, put

COLUMNS = {"ra": np.arange(2.0), "dec": np.arange(2.0), "tile": np.array(["a", "b"])}
WITH_ID = {"id": np.arange(2) + 2**60, **COLUMNS}
Make = Callable[..., bytes]


@pytest.fixture
def partition(make_partition: Callable[..., TensorDataset], saved: Callable[[object], bytes]) -> Make:
    """The bytes of a partition of two galaxies with these columns; redshift: whether it has them."""

    def make(columns: dict[str, np.ndarray] | None = None, redshift: bool = True, rows: int = 2) -> bytes:
        body = io.BytesIO(saved(make_partition(rows, with_redshift=redshift)))
        if columns:
            objects.append(body, columns)
        return body.getvalue()

    return make


@pytest.fixture
def begun(s3: Any) -> Any:
    """An S3 client; a catalogue holds an arrival with identifiers, positions, tiles and redshifts."""
    arrival = Arrival(s3, "in/first")
    arrival.rank(0, **COLUMNS, z_true=np.zeros(2, np.float32))
    arrival.grown()
    return s3


def _started(s3: Any, bundled: Model = Model(), **fields: Any) -> Json:  # noqa: B008
    deployed = Deployed(True, False, lambda: 999, lambda name: False, bundled=bundled)
    return start(s3, {**PAYLOAD, **fields}, "run-9", "2026-11-22T00:00:00Z", deployed)


def _put_all(s3: Any, *bodies: bytes) -> None:
    for number, body in enumerate(bodies, 1):
        put(s3, f"in/a/{number}.pt", body)


def _untouched(s3: Any) -> bool:
    """Whether the run has written nothing, and the catalogue has its first version alone."""
    return not keys(s3, "results/in/a/") and len(keys(s3, f"{LOG}/")) == 1


def test_the_head_of_a_partition_has_its_columns_as_a_rank_writes_them(s3: Any, partition: Make) -> None:
    kinds = {
        "id": np.array([1, 2], np.uint64), "f": np.zeros(2, np.float32), "b": np.array([True, False]),
        "n": np.arange(2),
    }  # fmt: skip
    _put_all(s3, partition({**kinds, **COLUMNS}), partition(redshift=False), partition(rows=0))
    part = Arrival(s3).rank(0, **{**kinds, **COLUMNS})
    head = read_head(s3, BUCKET, "in/a/1.pt")
    assert head == Head({name: part.columns[name] for name in (*kinds, *COLUMNS)}, 3)
    assert read_head(s3, BUCKET, "in/a/2.pt") == Head({}, 2)


def test_a_server_that_does_not_say_what_it_sends_is_a_fault_of_the_head() -> None:
    class Server:
        def get_object(self, **_: str) -> Json:
            return {"ContentRange": "", "Body": io.BytesIO()}

    with pytest.raises(HeadError, match="S3 does not state the range of its answer"):
        read_head(Server(), BUCKET, "in/a/1.pt")


def test_a_fitting_arrival_is_accepted_in_silence(begun: Any, partition: Make) -> None:
    _put_all(begun, *[partition(WITH_ID)] * 3)
    assert _started(begun)["notes"] == []


_MISFITS: dict[str, tuple[dict[str, np.ndarray], bool, str]] = {
    "a column more": (
        {**WITH_ID, "seeing": np.ones(2)}, True,
        "in/a/2.pt has columns that the catalogue lacks: seeing",
    ),
    "another type of identifiers": (
        {**WITH_ID, "id": np.array(["a", "b"])}, True,
        "the column id is long in the catalogue and string in in/a/2.pt",
    ),
    "another type of a kept column": (
        {**WITH_ID, "tile": np.arange(2)}, True,
        "the column tile is string in the catalogue and long in in/a/2.pt",
    ),
    "arrival": (
        {**WITH_ID, "Arrival": np.arange(2)}, True,
        "the partitions have a column Arrival, which a catalogue has for something else",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", _MISFITS)
def test_one_partition_that_cannot_fit_is_refused(begun: Any, partition: Make, case: str) -> None:
    """Of two, the other fits: no other partition of the arrival could change it."""
    columns, redshift, said = _MISFITS[case]
    _put_all(begun, partition(WITH_ID), partition(columns, redshift))
    with pytest.raises(PayloadError) as refused:
        _started(begun)
    message = str(refused.value)
    assert message.startswith("catalogue: ")
    assert said in message
    assert _untouched(begun)
    if case != "arrival":
        assert f"the arrival s3://{BUCKET}/in/a/ does not fit into s3://{BUCKET}/{CATALOGUE}: " in message
        assert (
            "`cosmicai data prepare` with the same --id, --keep and --redshift), or give another catalogue"
            in message
        )


@pytest.mark.parametrize(
    ("columns", "redshift", "lacking"),
    [
        ({}, True, "id, ra, dec, tile"),
        ({"id": np.arange(2), "tile": np.array(["a", "b"])}, True, "ra, dec"),
        (WITH_ID, False, "z_true"),
    ],
)
def test_a_column_that_all_partitions_lack_is_refused(
    begun: Any, partition: Make, columns: dict[str, np.ndarray], redshift: bool, lacking: str
) -> None:
    _put_all(begun, *[partition(columns, redshift)] * 3)
    with pytest.raises(PayloadError, match=f"all of its 3 partitions lack columns of the catalogue: {lacking}"):
        _started(begun)
    assert _untouched(begun)


def test_a_column_that_only_some_partitions_have_is_accepted(begun: Any, partition: Make) -> None:
    """It is null for the others."""
    _put_all(begun, partition({"id": np.arange(2)}, redshift=False), partition(WITH_ID), partition(WITH_ID))
    assert _started(begun)["notes"] == []


def test_what_only_ranks_can_know_is_said_aloud(begun: Any, partition: Make) -> None:
    """A column that none of those looked at has; a type that a rank of several partitions may change."""
    _put_all(begun, *[partition({"id": np.arange(2)}, redshift=False)] * 20)
    (note,) = _started(begun)["notes"]
    assert note.startswith(
        f"catalogue: the {_LOOKED_AT} of its 20 partitions that were read (in/a/1.pt, …) lack columns of the "
        "catalogue: ra, dec, z_true, tile; if the others lack them too, the arrival cannot become part of it"
    )
    _put_all(begun, *[partition({**WITH_ID, "tile": np.arange(2)})] * 20)
    notes = _started(begun, world_size=3, result_path="results/other")["notes"]
    assert "the column tile is string in the catalogue and long in in/a/1.pt" in notes[0]


def test_a_new_catalogue_needs_partitions_that_are_alike(s3: Any, partition: Make) -> None:
    _put_all(s3, partition(WITH_ID), partition({"id": np.array(["a", "b"])}))
    with pytest.raises(PayloadError, match=r"the column id is long in in/a/1\.pt and string in in/a/2\.pt"):
        _started(s3)
    assert _started(s3, world_size=1)["notes"] == []  # one rank joins them: identifiers become text


def test_partitions_without_galaxies_say_nothing(begun: Any, partition: Make) -> None:
    nothing = {name: column[:0] for name, column in {**WITH_ID, "seeing": np.ones(2)}.items()}
    _put_all(begun, partition(WITH_ID), partition(nothing, rows=0))
    assert _started(begun)["notes"] == []


@pytest.mark.parametrize(
    "body",
    [b"x", b"PK\x05\x06" + bytes(18), b"\x80\x02" + bytes(100), bytes(100_000)],
    ids=["no zip", "an empty zip", "a pickle", "zeros"],
)
def test_what_is_no_partition_is_left_to_its_rank(
    begun: Any, partition: Make, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fails with the reason, and a resume repeats it alone."""
    _put_all(begun, partition(WITH_ID), body)
    assert _started(begun)["notes"] == []
    with pytest.raises(HeadError):
        read_head(begun, BUCKET, "in/a/2.pt")
    assert f"s3://{BUCKET}/in/a/2.pt is not used" in capsys.readouterr().out


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_compressed_head_is_left_to_ranks(s3: Any, method: int) -> None:
    """Libraries that decompress raise exceptions of their own."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        archive.writestr("x/data.pkl", bytes(range(256)) * 20)
        start = len("x/data.pkl") + 30
    damaged = bytearray(body.getvalue())
    damaged[start : start + 40] = bytes(255 - byte for byte in damaged[start : start + 40])
    put(s3, "in/a/1.pt", bytes(damaged))
    with pytest.raises(HeadError, match="is compressed"):
        read_head(s3, BUCKET, "in/a/1.pt")


def test_damaged_heads_never_stop_initialize(begun: Any, partition: Make) -> None:
    """Every place of the end of a partition and of its header is damaged once."""
    whole = partition(WITH_ID)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole) - 3000, len(whole), 150):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        put(begun, "in/a/1.pt", bytes(damaged))
        try:
            head = read_head(begun, BUCKET, "in/a/1.pt")
        except HeadError:
            continue
        assert head is None or isinstance(head.columns, dict)


class _Counting:
    """An S3 client that counts requests and bytes."""

    def __init__(self, s3: Any) -> None:
        self._s3, self.calls, self.read = s3, Counter[str](), 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._s3, name)
        if name != "get_object":
            return attribute

        def get(**arguments: Any) -> Any:
            self.calls[arguments["Key"]] += 1
            answer = self._s3.get_object(**arguments)
            self.read += answer["ContentLength"]
            return answer

        return get


def test_few_bytes_of_few_partitions_are_read(
    begun: Any, partition: Make, make_partition: Any, saved: Any
) -> None:
    """However many there are, and however large."""
    body = io.BytesIO(saved(make_partition(40)))
    objects.append(body, {name: np.resize(column, 40) for name, column in WITH_ID.items()})
    _put_all(begun, *[body.getvalue()] * 50)
    counting = _Counting(begun)
    _started(counting)
    reads = {key: count for key, count in counting.calls.items() if key.endswith(".pt")}
    assert len(reads) == _LOOKED_AT
    assert {"in/a/1.pt", "in/a/50.pt"} <= reads.keys()
    assert max(reads.values()) <= 3
    assert counting.read < _LOOKED_AT * 100_000 < _LOOKED_AT * len(body.getvalue())


# The network


NEWER = Model({"network": "newer"})
SAME = Model({"network": "n"})  # that of the arrivals here


def test_a_new_bundled_network_is_refused_at_once(begun: Any, partition: Make) -> None:
    _put_all(begun, partition(WITH_ID))
    with pytest.raises(PayloadError, match="than this deployment bundles now"):
        _started(begun, NEWER)
    assert _untouched(begun)
    assert _started(begun, SAME)["world_size"] == 1


def test_an_image_from_elsewhere_may_bundle_any_network(begun: Any, partition: Make) -> None:
    """Its network is compared when the ranks have ended."""
    _put_all(begun, partition(WITH_ID))
    assert _started(begun, Model())["world_size"] == 1


def test_a_resume_that_only_commits_is_not_asked_for_the_network(begun: Any, partition: Make) -> None:
    """All ranks have ended under the earlier deployment: their results are as they were."""
    _put_all(begun, partition(WITH_ID), partition(WITH_ID))
    _started(begun, SAME)
    with pytest.raises(PayloadError, match="this deployment bundles now"):
        _started(begun, NEWER, resume=True)
    for rank in range(2):
        info = {"rank": rank, "run_id": "run-9", "duration (seconds)": 1, "memory_limit (MB)": 1}
        put(begun, f"results/in/a/{rank}.json", json.dumps(info).encode())
    assert _started(begun, NEWER, resume=True)["jobs"] == 0


def test_initialize_knows_the_network_by_which_ranks_name_theirs() -> None:
    assert Model.bundled().graphs["network"] == network_digest(BUNDLED_MODEL, read_graphs(BUNDLED_MODEL))


# What only ranks know


def test_ranks_that_differ_are_named_with_the_column_and_the_arrival(begun: Any) -> None:
    before = keys(begun, f"{LOG}/")
    arrival = Arrival(begun, "in/b")
    arrival.run = replace(arrival.run, data_map={"0": "in/b/1.pt", "1": ["in/b/2.pt", "in/b/3.pt"]})
    arrival.rank(0, **COLUMNS)
    arrival.rank(1, **{**COLUMNS, "tile": np.arange(2)})
    assert arrival.grow().fault == (
        f"the partitions of the arrival s3://{BUCKET}/in/b/ differ in the column tile: it is string in "
        "in/b/1.pt and long in in/b/2.pt and others of rank 1. Prepare them alike, and run again with another "
        "result_path; the catalogue stays as it was"
    )
    assert keys(begun, f"{LOG}/") == before
