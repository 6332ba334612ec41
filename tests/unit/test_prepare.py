"""Teams' own files become partitions that hold the same galaxies, bit for bit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from torch.utils.data import TensorDataset

from cosmicai.data import photometry
from cosmicai.data.places import Folder
from cosmicai.data.prepare import prepare
from cosmicai.data.reading import Columns, Reading
from cosmicai.data.sets import SetError
from cosmicai.data.sources import SourceError
from cosmicai.results.outputs import OutputError
from inference.data.partition import read

from .galaxies import BANDS, COUNT, Arrays, differing, prepared
from .galaxies import galaxies as made_up

ROWS_OF_1_MB = 51
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


@pytest.fixture(scope="module")
def galaxies() -> Arrays:
    return made_up()


def _pt(path: Path, arrays: Arrays) -> None:
    torch.save(TensorDataset(*(torch.from_numpy(array) for array in arrays.values())), path)


def _npz(path: Path, arrays: Arrays) -> None:
    np.savez(path, **arrays)


def _npz_compressed(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, **arrays)


def _hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def _fits_table(path: Path, arrays: Arrays) -> None:
    columns = [
        fits.Column("image", "5120E", dim="(32,32,5)", array=arrays["images"]),
        fits.Column("mags", "5E", array=arrays["magnitudes"]),
        fits.Column("z", "E", array=arrays["redshift"]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)


def _fits_cube(path: Path, arrays: Arrays) -> None:
    table = fits.BinTableHDU.from_columns(
        [fits.Column("mags", "5E", array=arrays["magnitudes"]), fits.Column("z", "E", array=arrays["redshift"])]
    )
    fits.HDUList([fits.PrimaryHDU(arrays["images"]), table]).writeto(path)


def _fits_bands(path: Path, arrays: Arrays) -> None:
    table = fits.BinTableHDU.from_columns(
        [fits.Column("mags", "5E", array=arrays["magnitudes"]), fits.Column("z", "E", array=arrays["redshift"])]
    )
    bands = [fits.ImageHDU(arrays["images"][:, band], name="ugriz"[band]) for band in range(5)]
    fits.HDUList([fits.PrimaryHDU(), *bands, table]).writeto(path)


Write = Callable[[Path, Arrays], None]
FORMATS: dict[str, Write] = {
    "a.pt": _pt,
    "a.npz": _npz,
    "compressed.npz": _npz_compressed,
    "a.h5": _hdf5,
    "table.fits": _fits_table,
    "cube.fits": _fits_cube,
    "bands.fits": _fits_bands,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_round_trips(name: str, galaxies: Arrays, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, galaxies)
    outcome = prepare(tmp_path / name, Folder(tmp_path / "out"), 1)
    assert (outcome.partitions, outcome.galaxies, outcome.written) == (3, COUNT, 3)
    sizes = [len(read((tmp_path / "out" / f"{n}.pt").read_bytes(), "")) for n in (1, 2, 3)]
    assert sizes == [ROWS_OF_1_MB, ROWS_OF_1_MB, COUNT - 2 * ROWS_OF_1_MB]
    assert not differing(prepared(tmp_path / "out"), galaxies)


def test_a_second_call_writes_only_what_is_missing(galaxies: Arrays, tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", galaxies)
    out = tmp_path / "out"
    prepare(tmp_path / "a.h5", Folder(out), 1)
    assert prepare(tmp_path / "a.h5", Folder(out), 1).written == 0
    (out / "1.pt").unlink()
    assert prepare(tmp_path / "a.h5", Folder(out), 1).written == 1
    assert not differing(prepared(out), galaxies)


def test_another_set_is_refused_or_replaced_with_all_that_belongs_to_it(
    galaxies: Arrays, tmp_path: Path
) -> None:
    """Galaxies of two sources are never in one folder, whichever source is larger."""
    out, few = tmp_path / "out", {name: array[60:110] for name, array in galaxies.items()}
    _hdf5(tmp_path / "many.h5", galaxies)
    _hdf5(tmp_path / "few.h5", few)
    prepare(tmp_path / "many.h5", Folder(out), 1)
    for name in ("stamps.png", "notes.txt", "4.PT"):
        (out / name).write_bytes(b"there")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SetError, match=r"holds partitions of another set: 2\.pt, 3\.pt; give --overwrite"):
        prepare(tmp_path / "few.h5", Folder(out), 1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert prepare(tmp_path / "few.h5", Folder(out), 1, overwrite=True).removed == ["2.pt", "3.pt"]
    assert {path.name for path in out.iterdir()} == {"1.pt", "photometry.json", "notes.txt", "4.PT"}
    assert not differing(prepared(out), few)
    with pytest.raises(SetError, match=r"another set: 1\.pt"):
        prepare(tmp_path / "many.h5", Folder(out), 1)
    assert not differing(prepared(out), few)


def test_without_redshifts(galaxies: Arrays, tmp_path: Path) -> None:
    arrays = {name: galaxies[name] for name in ("images", "magnitudes")}
    _npz(tmp_path / "a.npz", arrays)
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1)
    assert not differing(prepared(tmp_path / "out"), arrays)


def test_columns_by_name_one_magnitude_per_band(galaxies: Arrays, tmp_path: Path) -> None:
    arrays = {"pixels": galaxies["images"], "spec": galaxies["redshift"]}
    arrays |= {f"m{n}": galaxies["magnitudes"][:, n] for n in range(5)}
    _hdf5(tmp_path / "a.h5", arrays)
    columns = Columns(("pixels",), ("m0", "m1", "m2", "m3", "m4"), "spec")
    outcome = prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1, Reading(columns))
    assert not differing(prepared(tmp_path / "out"), galaxies)
    assert "magnitudes are in the order given: m0, m1, m2, m3, m4" in outcome.summary.notes


def test_more_channels_last_and_larger_are_selected_turned_and_cropped(
    galaxies: Arrays, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    large = rng.normal(0, 1, (COUNT, 7, 64, 64))
    large[:, [1, 2, 4, 5, 6], 16:48, 16:48] = galaxies["images"]
    _hdf5(tmp_path / "a.h5", {**galaxies, "images": large.transpose(0, 2, 3, 1)})
    reading = Reading(bands=("y", "u", "g", "J", "r", "i", "z"), pixel_scale=0.2)
    outcome = prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1, reading)
    assert not differing(prepared(tmp_path / "out"), galaxies)
    assert "left out, because the model does not take them: y, J" in outcome.summary.notes
    with pytest.raises(SourceError, match=r"images have 7 channels that nothing names.*Give --bands"):
        prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)


def test_larger_stamps_of_unknown_scale_are_refused_with_the_options(tmp_path: Path) -> None:
    _npz(tmp_path / "a.npz", {"images": np.zeros((2, 5, 64, 64)), "magnitudes": np.full((2, 5), 20.0)})
    with pytest.raises(SourceError, match=r"64×64.*32×32.*--pixel-scale.*--fit crop.*--fit resize"):
        prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1)


def test_resizing_keeps_the_flux(tmp_path: Path) -> None:
    grid = np.mgrid[:64, :64] - 31.5
    blob = np.exp(-(grid**2).sum(0) / (2 * 6.0**2))
    images = np.tile(blob.astype(np.float32), (2, 5, 1, 1))
    _npz(tmp_path / "a.npz", {"images": images, "magnitudes": np.full((2, 5), 20, np.float32)})
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1, Reading(fit="resize"))
    resized = prepared(tmp_path / "out")["images"]
    assert resized.shape == (2, 5, 32, 32)
    assert resized[0, 0].sum() == pytest.approx(blob.sum(), rel=1e-6)


def test_small_stamps_are_refused_unless_padding_is_asked_for(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (2, 5, 16, 16)).astype(np.float32)
    _npz(tmp_path / "a.npz", {"images": images, "magnitudes": np.full((2, 5), 20.0)})
    with pytest.raises(SourceError, match=r"16×16 pixels.*cut larger stamps, or give --pad"):
        prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1, Reading(pixel_scale=0.2))
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1, Reading(pixel_scale=0.2, pad=True))
    padded = prepared(tmp_path / "out")["images"]
    assert np.array_equal(padded[:, :, 8:24, 8:24], images)
    assert np.abs(padded).sum() == pytest.approx(np.abs(images).sum())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pictures": np.zeros((2, 5, 32))},
            r"no column holds images.*it has pictures \(2, 5, 32\): give --images",
        ),
        ({"images": np.zeros((2, 5, 32, 32))}, "no column for magnitudes"),
        (
            {"images": np.zeros((2, 3, 32, 32)), "mags": np.full((2, 5), 20.0)},
            "images have 3 channels .*takes 5 bands, u, g, r, i, z: at least 2 of them",
        ),
        (
            {"images": np.zeros((2, 5, 32, 32)), "mags": np.full((2, 4), 20.0)},
            r"magnitudes are mags \(2, 4\), the model takes 5",
        ),
        ({"images": np.zeros((2, 5, 32, 32)), "mags": np.full((3, 5), 20.0)}, "mags has 3 rows, images has 2"),
        ({"images": np.zeros((0, 5, 32, 32)), "mags": np.ones((0, 5))}, "holds no galaxy"),
    ],
)
def test_faults_name_file_and_place(arrays: Arrays, message: str, tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", arrays)
    with pytest.raises(SourceError, match=rf"a\.h5: {message}"):
        prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)


def test_bad_pixels_are_counted_and_stay_bad_unless_asked_for_zeros(galaxies: Arrays, tmp_path: Path) -> None:
    images = galaxies["images"].copy()
    images[77, 4, 3, 2], images[90, 0, 0, 0] = np.inf, np.nan
    _hdf5(tmp_path / "a.h5", {**galaxies, "images": images})
    outcome = prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)
    assert ("bad pixels", "in 2 galaxies, the first in row 77, left as NaN") in outcome.summary.facts
    assert any(text.startswith("2 galaxies hold NaN") for text in outcome.summary.warnings)
    assert not differing(prepared(tmp_path / "out"), {**galaxies, "images": images})
    prepare(tmp_path / "a.h5", Folder(tmp_path / "zero"), 1, Reading(bad_pixels="zero"))
    zeroed = images.copy()
    zeroed[77, 4, 3, 2], zeroed[90, 0, 0, 0] = 0, 0
    assert not differing(prepared(tmp_path / "zero"), {**galaxies, "images": zeroed})
    outcome = prepare(tmp_path / "a.h5", Folder(tmp_path / "drop"), 1, Reading(drop_unusable=True))
    good = np.delete(np.arange(COUNT), [77, 90])
    assert not differing(prepared(tmp_path / "drop"), {name: array[good] for name, array in galaxies.items()})
    assert outcome.galaxies == COUNT - 2


def test_what_the_numbers_mean_lies_beside_the_partitions(galaxies: Arrays, tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", galaxies)
    prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)
    assert photometry.read(tmp_path / "out").bands == tuple(BANDS)
    assert photometry.read(tmp_path / "out").unknown == ["zero_point", "pixel_scale", "flux_unit"]
    prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1, Reading(pixel_zero_point=27.0, pixel_scale=0.2))
    assert photometry.read(tmp_path / "out").unknown == []


@pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.h5", "cube.fits"])
def test_a_source_cut_short_is_an_error(name: str, galaxies: Arrays, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, galaxies)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=rf"{name}: "):
        prepare(tmp_path / name, Folder(tmp_path / "out"), 1)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(SourceError, match=r"unknown format; give FITS, HDF5, Parquet, \.npz"):
        prepare(tmp_path / "a.doc", Folder(tmp_path / "out"), 1)


class _Full(Folder):
    """A folder whose disk is full."""

    def stage(self, name: str, body: object, digest: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)


def test_a_failure_of_writing_is_no_fault_of_the_source(galaxies: Arrays, tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", galaxies)
    with pytest.raises(OutputError, match=r"out cannot be written: No space left"):
        prepare(tmp_path / "a.h5", _Full(tmp_path / "out"), 1)
    assert not (tmp_path / "out").exists()


_MEASURED = """
import re, sys
from cosmicai.cli import main
try:
    main()
finally:
    kilobytes = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
    print("PEAK_MB", kilobytes // 1024, file=sys.stderr)
"""


def test_memory_stays_bounded_and_a_killed_call_is_finished_by_the_next(tmp_path: Path) -> None:
    """A source of 1.2 GB; the limit is that of the libraries and a few partitions."""
    source, out = tmp_path / "large.pt", tmp_path / "out"
    rows = 60_000
    images = torch.randn(100, 5, 32, 32).repeat(rows // 100, 1, 1, 1)
    images[:, 0, 0, 0] = torch.arange(rows)
    torch.save(TensorDataset(images, torch.full((rows, 5), 20.0), torch.rand(rows)), source)
    command = [sys.executable, "-c", _MEASURED, "data", "prepare", str(source), "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / ".partial" / "10.pt").exists():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(out.glob("*.pt"))
    there = len(list(out.glob(".partial/*.pt")))
    assert there < 47
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    made = f"47 partitions of 60,000 galaxies in {out}, {there} of them already there"
    assert made in " ".join(process.stdout.split())
    peak = int(process.stderr.rpartition("PEAK_MB ")[2])
    assert peak < 800, f"peak of {peak} MB"
    start = 0
    for number in range(1, 48):
        partition = read((out / f"{number}.pt").read_bytes(), "")
        assert np.array_equal(partition.images, images[start : start + len(partition)].numpy())
        start += len(partition)
    assert start == rows


def test_inspect_shows_figures_and_a_sheet(galaxies: Arrays, tmp_path: Path) -> None:
    _fits_cube(tmp_path / "cube.fits", galaxies)
    command = [
        _COSMICAI,
        "data",
        "inspect",
        str(tmp_path / "cube.fits"),
        "--sheet",
        str(tmp_path / "sheet.png"),
    ]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert process.returncode == 0, process.stderr
    assert "(130, 5, 32, 32)" in process.stdout
    assert f"{galaxies['redshift'].max():.4g}" in process.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
