"""docs/data.md is that of the code, and every kind of source is read by a test."""

from __future__ import annotations

from pathlib import Path

from cosmicai.data import page
from cosmicai.data.sources import KINDS

_TESTED = {
    "FITS": "test_source_fits.py",
    "HDF5": "test_source_arrays.py",
    "Multimodal Universe": "test_source_arrays.py",
    "Parquet": "test_source_arrays.py",
    "numpy": "test_source_arrays.py",
    "torch": "test_source_arrays.py",
    "CSV": "test_source_files.py",
    "table of paths": "test_source_files.py",
    "folder of cut-outs": "test_source_files.py",
    "one frame per band": "test_source_files.py",
}


def test_the_page_is_that_of_the_code() -> None:
    assert page.PAGE.read_text() == page.page(), "run `python -m cosmicai.data.page`"


def test_every_kind_of_source_has_its_tests() -> None:
    assert len(KINDS) == len(_TESTED)
    for kind, (name, tests) in zip(KINDS, _TESTED.items(), strict=True):
        assert kind.name.startswith(name)
        assert (Path(__file__).parent / tests).exists()
