"""Teams' own files become partitions that hold the same galaxies, bit for bit."""

from __future__ import annotations

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

from cosmicai.data.prepare import Folder, prepare
from cosmicai.data.sources import Columns, SourceError
from inference.partition import read

COUNT = 130
ROWS_OF_1_MB = 51
_COSMICAI = str(Path(sys.executable).with_name("cosmicai"))


@pytest.fixture(scope="module")
def galaxies() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.normal(0, 1, (COUNT, 5, 32, 32)),
        "magnitudes": rng.normal(23, 1, (COUNT, 5)),
        "redshift": rng.uniform(0, 2, COUNT),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _pt(path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch.save(TensorDataset(*(torch.from_numpy(array) for array in arrays.values())), path)


def _npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)


def _npz_compressed(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **arrays)


def _hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def _fits_table(path: Path, arrays: dict[str, np.ndarray]) -> None:
    columns = [
        fits.Column("image", "5120E", dim="(32,32,5)", array=arrays["images"]),
        fits.Column("mags", "5E", array=arrays["magnitudes"]),
        fits.Column("z", "E", array=arrays["redshift"]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)


def _fits_cube(path: Path, arrays: dict[str, np.ndarray]) -> None:
    table = fits.BinTableHDU.from_columns(
        [fits.Column("mags", "5E", array=arrays["magnitudes"]), fits.Column("z", "E", array=arrays["redshift"])]
    )
    fits.HDUList([fits.PrimaryHDU(arrays["images"]), table]).writeto(path)


def _fits_bands(path: Path, arrays: dict[str, np.ndarray]) -> None:
    table = fits.BinTableHDU.from_columns(
        [fits.Column("mags", "5E", array=arrays["magnitudes"]), fits.Column("z", "E", array=arrays["redshift"])]
    )
    bands = [fits.ImageHDU(arrays["images"][:, band], name="ugriz"[band]) for band in range(5)]
    fits.HDUList([fits.PrimaryHDU(), *bands, table]).writeto(path)


Write = Callable[[Path, dict[str, np.ndarray]], None]
FORMATS: dict[str, Write] = {
    "a.pt": _pt,
    "a.npz": _npz,
    "compressed.npz": _npz_compressed,
    "a.h5": _hdf5,
    "table.fits": _fits_table,
    "cube.fits": _fits_cube,
    "bands.fits": _fits_bands,
}


def _prepared(folder: Path) -> dict[str, np.ndarray]:
    """All partitions of a folder, in order, as one."""
    files = sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))
    parts = [read(path.read_bytes(), path.name) for path in files]
    found = {
        "images": np.concatenate([part.images for part in parts]),
        "magnitudes": np.concatenate([part.magnitudes for part in parts]),
    }
    redshifts = [part.redshift for part in parts if part.redshift is not None]
    return found | ({"redshift": np.concatenate(redshifts)} if redshifts else {})


def _assert_equal(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    found = _prepared(folder)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array), name


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_round_trips(name: str, galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, galaxies)
    done = prepare(tmp_path / name, Folder(tmp_path / "out"), 1)
    assert (done.partitions, done.galaxies, done.written) == (3, COUNT, 3)
    sizes = [len(read((tmp_path / "out" / f"{n}.pt").read_bytes(), "")) for n in (1, 2, 3)]
    assert sizes == [ROWS_OF_1_MB, ROWS_OF_1_MB, COUNT - 2 * ROWS_OF_1_MB]
    _assert_equal(tmp_path / "out", galaxies)


def test_a_second_call_writes_only_what_is_missing_or_differs(
    galaxies: dict[str, np.ndarray], tmp_path: Path
) -> None:
    _hdf5(tmp_path / "a.h5", galaxies)
    out = tmp_path / "out"
    prepare(tmp_path / "a.h5", Folder(out), 1)
    assert prepare(tmp_path / "a.h5", Folder(out), 1).written == 0
    (out / "1.pt").unlink()
    (out / "3.pt").write_bytes(b"something else")
    assert prepare(tmp_path / "a.h5", Folder(out), 1).written == 2
    _assert_equal(out, galaxies)


def test_without_redshifts(galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    arrays = {name: galaxies[name] for name in ("images", "magnitudes")}
    _npz(tmp_path / "a.npz", arrays)
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1)
    _assert_equal(tmp_path / "out", arrays)


def test_columns_by_name_one_magnitude_per_band(galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    arrays = {"pixels": galaxies["images"], "spec": galaxies["redshift"]}
    arrays |= {f"m_{band}": galaxies["magnitudes"][:, n] for n, band in enumerate("ugriz")}
    _hdf5(tmp_path / "a.h5", arrays)
    columns = Columns("pixels", ("m_u", "m_g", "m_r", "m_i", "m_z"), "spec")
    prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1, columns)
    _assert_equal(tmp_path / "out", galaxies)


def test_more_channels_last_and_larger_are_selected_turned_and_cropped(
    galaxies: dict[str, np.ndarray], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    large = rng.normal(0, 1, (COUNT, 7, 64, 64))
    large[:, :5, 16:48, 16:48] = galaxies["images"]
    arrays = {**galaxies, "images": large.transpose(0, 2, 3, 1)}
    _hdf5(tmp_path / "a.h5", arrays)
    prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)
    _assert_equal(tmp_path / "out", galaxies)


def test_resizing_keeps_the_flux(tmp_path: Path) -> None:
    grid = np.mgrid[:64, :64] - 31.5
    blob = np.exp(-(grid**2).sum(0) / (2 * 6.0**2))
    images = np.tile(blob.astype(np.float32), (2, 5, 1, 1))
    _npz(tmp_path / "a.npz", {"images": images, "magnitudes": np.ones((2, 5), np.float32)})
    prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1, fit="resize")
    resized = _prepared(tmp_path / "out")["images"]
    assert resized.shape == (2, 5, 32, 32)
    assert resized[0, 0].sum() == pytest.approx(blob.sum(), rel=1e-3)


def test_small_stamps_are_refused(tmp_path: Path) -> None:
    _npz(tmp_path / "a.npz", {"images": np.zeros((2, 5, 16, 16)), "magnitudes": np.ones((2, 5))})
    with pytest.raises(SourceError, match="stamps are 16×16; the network takes 32×32"):
        prepare(tmp_path / "a.npz", Folder(tmp_path / "out"), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 5, 32, 32))}, "no column for images .* it has pictures: give --images NAME"),
        ({"images": np.zeros((2, 5, 32, 32))}, "no column for magnitudes"),
        ({"images": np.zeros((2, 3, 32, 32)), "mags": np.ones((2, 5))}, r"images have shape \(2, 3, 32, 32\)"),
        ({"images": np.zeros((2, 5, 32, 32)), "mags": np.ones((2, 4))}, r"magnitudes have shape \(2, 4\)"),
        ({"images": np.zeros((2, 5, 32, 32)), "mags": np.ones((3, 5))}, "mags has 3 rows, images has 2"),
        ({"images": np.zeros((0, 5, 32, 32)), "mags": np.ones((0, 5))}, "holds no galaxy"),
    ],
)
def test_faults_name_file_and_place(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    _hdf5(tmp_path / "a.h5", arrays)
    with pytest.raises(SourceError, match=rf"a\.h5: {message}"):
        prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)


def test_values_that_are_not_finite_are_located(galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    images = galaxies["images"].copy()
    images[77, 4, 3, 2] = np.inf
    _hdf5(tmp_path / "a.h5", {**galaxies, "images": images})
    with pytest.raises(SourceError, match=r"a\.h5: images of galaxy 77, channel 4 .* hold NaN or infinity"):
        prepare(tmp_path / "a.h5", Folder(tmp_path / "out"), 1)


def test_fits_faults_name_the_hdu(galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    flat = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((32, 32)), name="SKY")])
    flat.writeto(tmp_path / "flat.fits")
    with pytest.raises(SourceError, match=r"flat\.fits: HDU 1 \(SKY\) has 2 axes"):
        prepare(tmp_path / "flat.fits", Folder(tmp_path / "out"), 1)
    images = galaxies["images"]
    table = fits.BinTableHDU.from_columns([fits.Column("mags", "5E", array=galaxies["magnitudes"])])
    bands = [fits.ImageHDU(images[:, band], name="ugri"[band]) for band in range(4)]
    fits.HDUList([fits.PrimaryHDU(), *bands, table]).writeto(tmp_path / "missing.fits")
    with pytest.raises(SourceError, match=r"missing\.fits: bands U, G, R, I: expected 5"):
        prepare(tmp_path / "missing.fits", Folder(tmp_path / "out"), 1)
    nan = images.copy()
    nan[3, 2] = np.nan
    bands = [fits.ImageHDU(nan[:, band], name="ugriz"[band]) for band in range(5)]
    fits.HDUList([fits.PrimaryHDU(), *bands, table]).writeto(tmp_path / "nan.fits")
    with pytest.raises(
        SourceError, match=r"nan\.fits: HDU 3 \(R\): the stamp of galaxy 3 \(from 0\) holds NaN"
    ):
        prepare(tmp_path / "nan.fits", Folder(tmp_path / "out"), 1)
    (tmp_path / "header.fits").write_bytes(b"SIMPLE  = nonsense" + b" " * 3000)
    with pytest.raises(SourceError, match=r"header\.fits: cannot be read"):
        prepare(tmp_path / "header.fits", Folder(tmp_path / "out"), 1)


@pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.h5", "cube.fits"])
def test_a_source_cut_short_is_an_error(name: str, galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, galaxies)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=rf"{name}: "):
        prepare(tmp_path / name, Folder(tmp_path / "out"), 1)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(SourceError, match=r"unknown format; give \.pt, \.npz"):
        prepare(tmp_path / "a.csv", Folder(tmp_path / "out"), 1)


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
    torch.save(TensorDataset(images, torch.ones(rows, 5), torch.arange(rows).float()), source)
    command = [sys.executable, "-c", _MEASURED, "data", "prepare", str(source), "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "10.pt").exists():
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    there = len(list(out.glob("*.pt")))
    assert there < 47
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"47 partitions of 60,000 galaxies in {out}; {there} were there already" in " ".join(
        done.stdout.split()
    )
    peak = int(done.stderr.rpartition("PEAK_MB ")[2])
    assert peak < 800, f"peak of {peak} MB"
    start = 0
    for number in range(1, 48):
        partition = read((out / f"{number}.pt").read_bytes(), "")
        assert np.array_equal(partition.images, images[start : start + len(partition)].numpy())
        start += len(partition)
    assert start == rows


def test_inspect_shows_figures_and_a_sheet(galaxies: dict[str, np.ndarray], tmp_path: Path) -> None:
    _fits_cube(tmp_path / "cube.fits", galaxies)
    command = [
        _COSMICAI,
        "data",
        "inspect",
        str(tmp_path / "cube.fits"),
        "--sheet",
        str(tmp_path / "sheet.png"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "(130, 5, 32, 32)" in done.stdout
    assert f"{galaxies['redshift'].max():.4g}" in done.stdout
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
