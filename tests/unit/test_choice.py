"""Names of bands and columns, missing values, units: what is taken, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosmicai.data import bands, missing, units, values
from cosmicai.data.missing import MissingError
from cosmicai.data.reading import Columns, Reading
from inference.contract.missing import FLUX_MARKERS, MAGNITUDE_MARKERS, Missing

from .galaxies import BANDS, Arrays, galaxies, made, refused

COUNT = 60


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return galaxies(COUNT)


def _npz(path: Path, **columns: object) -> Path:
    np.savez(path, **columns)
    return path


# Bands


@pytest.mark.parametrize(
    ("name", "band"),
    [
        *(
            (name, "g")
            for name in ("g", "G", "HSC-G", "DES-g", "MAG_AUTO_G", "modelMag_g", "g_cmodel_mag", "gmag")
        ),
        *(
            (name, "g")
            for name in ("g DECam SDSS c0001 4720.0 1520.0", "g.MP9401", "SCI_G", "mag_g_lsst", "dered_g")
        ),
        *((name, "z") for name in ("z", "zKronMag", "Z", "decals-z", "z_gaap1p0Mag", "zMag")),
        *(
            (name, None)
            for name in ("IVAR", "MASK", "redshift", "ra", "objid", "g_minus_r", "SIGMA", "", "size")
        ),
    ],
)
def test_a_band_is_a_word_of_a_name(name: str, band: str | None) -> None:
    hit = bands.named(name, tuple(BANDS))
    assert (hit.band if hit else None) == band


@given(st.permutations(["SDSS-u", "sdss_g", "R", "mag_i", "zMag", "HSC-Y", "W1"]))
def test_every_order_of_names_gives_the_models(names: list[str]) -> None:
    order = bands.order(names, tuple(BANDS))
    assert [names[place] for place in order if place is not None] == ["SDSS-u", "sdss_g", "R", "mag_i", "zMag"]


def test_a_band_twice_or_missing_is_named() -> None:
    with pytest.raises(bands.BandError, match="band g occurs 2 times: g, HSC-G"):
        bands.order(["g", "HSC-G", "r", "i", "z"], tuple("griz"))
    with pytest.raises(bands.BandError, match="no band u or z among g, r; the model takes u, g, r, z"):
        bands.order(["g", "r"], tuple("ugrz"))


# The redshift


def _bare(arrays: Arrays) -> dict[str, np.ndarray]:
    return {band: arrays["magnitudes"][:, n] for n, band in enumerate(BANDS)}


def test_the_magnitude_z_is_no_redshift(arrays: Arrays, tmp_path: Path) -> None:
    source = _npz(tmp_path / "a.npz", images=arrays["images"], **_bare(arrays))
    written, prepared = made(source, tmp_path / "out")
    assert "redshift" not in written
    assert np.array_equal(written["magnitudes"], arrays["magnitudes"])
    assert "magnitudes are u, g, r, i, z" in prepared.summary.notes
    refused(source, "z is a magnitude already: give another --redshift", Reading(Columns(redshift="z")))


def test_a_bare_z_among_bands_is_left_alone(arrays: Arrays, tmp_path: Path) -> None:
    columns = _bare(arrays)
    source = _npz(
        tmp_path / "a.npz", images=arrays["images"], mags=arrays["magnitudes"], g=columns["g"], z=columns["z"]
    )
    _, prepared = made(source, tmp_path / "out")
    assert any(
        "no redshifts: z is next to g and so counts as a band" in note for note in prepared.summary.notes
    )


def test_a_bare_z_is_taken_last_and_said(arrays: Arrays, tmp_path: Path) -> None:
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=arrays["magnitudes"], z=arrays["redshift"])
    written, prepared = made(source, tmp_path / "out")
    assert np.array_equal(written["redshift"], arrays["redshift"])
    assert "z counts as the redshift, because no column is called u, g, r or i" in prepared.summary.notes
    both = dict(np.load(source)) | {"z_spec": arrays["redshift"] + 1}
    written, _ = made(_npz(tmp_path / "b.npz", **both), tmp_path / "both")
    assert np.array_equal(written["redshift"], arrays["redshift"] + 1)


def test_a_redshift_that_is_a_magnitude_by_its_values_isrefused(arrays: Arrays, tmp_path: Path) -> None:
    columns = {"images": arrays["images"], "mags": arrays["magnitudes"], "z": arrays["magnitudes"][:, 4]}
    refused(_npz(tmp_path / "a.npz", **columns), r"z has a median of 2\d\.\d+, which is not a redshift")


def test_photometric_redshifts_are_never_taken_for_true_ones(arrays: Arrays, tmp_path: Path) -> None:
    columns = {"images": arrays["images"], "mags": arrays["magnitudes"], "z_phot": arrays["redshift"]}
    assert "redshift" not in made(_npz(tmp_path / "a.npz", **columns), tmp_path / "out")[0]


def test_unknown_redshifts(arrays: Arrays, tmp_path: Path) -> None:
    redshift = arrays["redshift"].copy()
    markers = (-1, -9.99, -99, -9999, np.nan, np.inf, 99, 9999)
    redshift[: len(markers)] = markers
    redshift[10] = -0.001
    source = _npz(tmp_path / "a.npz", **{**arrays, "redshift": redshift})
    written, prepared = made(source, tmp_path / "out")
    assert np.isnan(written["redshift"][: len(markers)]).all()
    assert np.array_equal(written["redshift"][8:], redshift[8:])
    counts = {marker: count for column, marker, kind, count in prepared.summary.missing if kind == "unknown"}
    assert counts == {"not finite or masked": 2, "-1 or less": 4, "99, 999, …": 2}


# Magnitudes


def test_two_sets_of_magnitudes_arerefused(arrays: Arrays, tmp_path: Path) -> None:
    columns = {
        f"{kind}Mag_{band}": arrays["magnitudes"][:, n]
        for kind in ("psf", "model")
        for n, band in enumerate(BANDS)
    }
    columns |= {f"psfMagErr_{band}": np.ones(COUNT) for band in BANDS}
    source = _npz(tmp_path / "a.npz", images=arrays["images"], **columns)
    refused(source, r"magnitudes could be psfMag_u, .* or modelMag_u, .*: give --magnitudes NAMES")
    reading = Reading(Columns(magnitudes=("modelMag_*",)))
    written, _ = made(source, tmp_path / "out", reading)
    assert np.array_equal(written["magnitudes"], arrays["magnitudes"])


def test_named_magnitudes_go_by_their_bands(arrays: Arrays, tmp_path: Path) -> None:
    source = _npz(tmp_path / "a.npz", images=arrays["images"], **_bare(arrays))
    reading = Reading(Columns(magnitudes=tuple("zirgu")))
    assert np.array_equal(made(source, tmp_path / "out", reading)[0]["magnitudes"], arrays["magnitudes"])


def test_each_marker_becomes_what_it_means(arrays: Arrays, tmp_path: Path) -> None:
    magnitudes = arrays["magnitudes"].astype(np.float64)
    undetected, unobserved = (99.0, 99.99, np.inf, 29.5), (-99.0, -9999.0, -1.0, 0.0, np.nan)
    magnitudes[: len(undetected), 1] = undetected
    magnitudes[10 : 10 + len(unobserved), 2] = unobserved
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=magnitudes)
    written, prepared = made(source, tmp_path / "out")
    assert (written["magnitudes"][: len(undetected), 1] == np.float32(29.04)).all()
    assert np.isnan(written["magnitudes"][10 : 10 + len(unobserved), 2]).all()
    rest = np.ones((COUNT, 5), bool)
    rest[: len(undetected), 1] = rest[10 : 10 + len(unobserved), 2] = False
    assert np.array_equal(written["magnitudes"][rest], arrays["magnitudes"][rest])
    rows = {(column, marker): (kind, count) for column, marker, kind, count in prepared.summary.missing}
    assert rows == {
        ("g", "99"): ("not detected", 1),
        ("g", "99.99"): ("not detected", 1),
        ("g", "inf"): ("not detected", 1),
        ("g", "fainter than the limit"): ("not detected", 1),
        ("r", "-99"): ("not observed", 1),
        ("r", "-9999"): ("not observed", 1),
        ("r", "-1"): ("not observed", 1),
        ("r", "0"): ("not observed", 1),
        ("r", "nan"): ("not observed", 1),
    }
    assert any("5 magnitudes are not known: NaN" in text for text in prepared.summary.warnings)


def test_the_user_says_what_a_marker_means(arrays: Arrays, tmp_path: Path) -> None:
    magnitudes = arrays["magnitudes"].astype(np.float64)
    magnitudes[3, 0], magnitudes[4, 0] = np.nan, 25.5
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=magnitudes)
    markers = missing.parse_markers(["nan=not-detected", "25.5=not-observed"])
    reading = Reading(missing=markers, limits=(26.0, 27.0, 27.0, 27.0, 27.0))
    written, _ = made(source, tmp_path / "out", reading)
    assert written["magnitudes"][3, 0] == 26
    assert np.isnan(written["magnitudes"][4, 0])
    with pytest.raises(MissingError, match="--missing 99: give VALUE=not-detected"):
        missing.parse_markers(["99"])


def test_fluxes_have_markers_of_their_own(arrays: Arrays, tmp_path: Path) -> None:
    fluxes = 10 ** (-0.4 * (arrays["magnitudes"].astype(np.float64) - 22.5))
    fluxes[0, 1], fluxes[1, 1], fluxes[2, 1] = -0.3, 0.0, -9999
    source = _npz(tmp_path / "a.npz", images=arrays["images"], flux=fluxes)
    refused(source, r"no column for magnitudes, but fluxes: flux\. Give --flux-unit")
    written, prepared = made(source, tmp_path / "out", Reading(flux_zero_point=22.5))
    assert written["magnitudes"][0, 1] == np.float32(29.04)
    assert np.isnan(written["magnitudes"][1:3, 1]).all()
    assert np.abs(written["magnitudes"][3:] - arrays["magnitudes"][3:]).max() < 4e-6
    assert ("g", "a flux below 0", "not detected", 1) in prepared.summary.missing


@pytest.mark.parametrize(
    ("magnitudes", "reason"),
    [
        (lambda m: 10 ** (-0.4 * (m - 22.5)), "likely fluxes: give --flux-unit"),
        (lambda m: 10 ** (-0.4 * (m - 31.4)), "likely fluxes: give --flux-unit"),
        (lambda m: (m - m.mean()) / m.std(), "likely colours or scaled values"),
    ],
)
def test_what_is_no_magnitude_is_refused_with_the_likely_reason(
    magnitudes: object, reason: str, arrays: Arrays, tmp_path: Path
) -> None:
    wrong = magnitudes(arrays["magnitudes"].astype(np.float64))  # type: ignore[operator]
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=wrong)
    refused(source, rf"\d+ of \d+ magnitudes in . are outside 8 to 36, the range of all surveys; .*{reason}")


def test_magnitudes_taken_for_fluxes_arerefused(arrays: Arrays, tmp_path: Path) -> None:
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=arrays["magnitudes"])
    refused(source, "look like magnitudes.*--pixel-unit", Reading(flux_zero_point=22.5))


def test_one_odd_magnitude_costs_one_galaxy(arrays: Arrays, tmp_path: Path) -> None:
    magnitudes = arrays["magnitudes"].copy()
    magnitudes[7, 3] = 45
    source = _npz(tmp_path / "a.npz", images=arrays["images"], mags=magnitudes)
    written, prepared = made(source, tmp_path / "out")
    assert np.isnan(written["magnitudes"][7, 3])
    assert np.isfinite(written["magnitudes"]).sum() == 5 * COUNT - 1
    assert ("i", "outside 8 to 36 mag", "unusable", 1) in prepared.summary.missing
    written, prepared = made(source, tmp_path / "drop", Reading(drop_unusable=True))
    assert prepared.galaxies == len(written["images"]) == COUNT - 1


# Units and values


@pytest.mark.parametrize(
    ("unit", "zero_point"),
    [("nanomaggies", 22.5), ("nanomaggy", 22.5), ("nmgy", 22.5), ("nJy", 31.4), ("uJy", 23.9), ("Jy", 8.9)],
)
def test_units_and_their_zero_points(unit: str, zero_point: float) -> None:
    assert units.zero_point_of(unit) == pytest.approx(zero_point)
    assert units.zero_point_of(f"{unit}/pixel") == pytest.approx(zero_point)


@given(st.floats(10, 34), st.floats(0, 35))
def test_magnitudes_of_fluxes(magnitude: float, zero_point: float) -> None:
    flux = np.array([10 ** (-0.4 * (magnitude - zero_point)), 0.0, -1.0, np.nan])
    converted = units.magnitudes(flux, zero_point)
    assert converted[0] == pytest.approx(magnitude)
    assert np.isposinf(converted[1:3]).all()
    assert np.isnan(converted[3])


def test_text_is_numbers_blank_or_a_fault() -> None:
    numbers, blank = values.numbers(np.array([" 1.5", "", "NULL", "nan", "1e3", "--"]))
    assert np.array_equal(numbers, [1.5, np.nan, np.nan, np.nan, 1000, np.nan], equal_nan=True)
    assert blank.tolist() == [False, True, True, False, False, True]
    with pytest.raises(values.ValueFault, match="holds '1,5' in row 1, which is not a number"):
        values.numbers(np.array(["1", "1,5"]))


@pytest.mark.parametrize(
    "ids",
    [
        np.array([2**62 + 1, -5]),
        np.array([2**64 - 1], np.uint64),
        np.array(["0042", "J1"]),
        np.array([b"a"], "S3"),
    ],
)
def test_identifiers_stay_exact(ids: np.ndarray) -> None:
    kept = values.identifiers(ids)
    assert [str(one) for one in kept] == [one.decode() if isinstance(one, bytes) else str(one) for one in ids]


@pytest.mark.parametrize("ids", [["a", "", "b"], ["a", "  ", "b"], [b"a", b"", b"b"]])
def test_an_empty_identifier_is_refused_as_a_masked_one_is(ids: list[object]) -> None:
    with pytest.raises(values.ValueFault, match="has no identifier in row 1"):
        values.identifiers(np.array(ids))
    assert len(values.exact(np.array(ids))) == 3


def test_identifiers_that_a_float_cannot_hold_arerefused() -> None:
    assert values.identifiers(np.array([1.0, 2.0])).tolist() == [1, 2]
    with pytest.raises(values.ValueFault, match="floating-point numbers do not hold it exactly"):
        values.identifiers(np.array([2.0**60]))
    with pytest.raises(values.ValueFault, match="no identifier in row 1"):
        values.identifiers(np.ma.MaskedArray([1, 2], mask=[False, True]))


def test_the_kinds_of_missing_values_are_three() -> None:
    kinds = set(MAGNITUDE_MARKERS.values()) | set(FLUX_MARKERS.values())
    assert kinds == set(Missing)
