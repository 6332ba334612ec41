"""What the numbers of partitions mean is read, agreed on, or named as unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosmicai.data.photometry import FILE, Photometry, PhotometryError, common_to, read, write

SDSS = Photometry(tuple("ugriz"), 22.5, 0.396, "nanomaggies", (22.0, 22.2, 22.2, 21.3, 20.5))


def test_it_round_trips_and_lacks_nothing(tmp_path: Path) -> None:
    write(SDSS, tmp_path)
    assert read(tmp_path) == SDSS
    assert SDSS.unknown == []


def test_a_folder_without_a_description_is_unknown(tmp_path: Path) -> None:
    assert read(tmp_path).unknown == ["bands", "zero_point", "pixel_scale", "flux_unit", "magnitude_limits"]


def test_folders_complete_each_other_and_may_not_contradict(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    write(Photometry(bands=("g", "r")), folders[0])
    write(Photometry(zero_point=22.5), folders[1])
    assert common_to(folders) == Photometry(bands=("g", "r"), zero_point=22.5)
    write(Photometry(zero_point=27.0), folders[2])
    with pytest.raises(
        PhotometryError, match=r"c/photometry\.json: zero_point is 27, but 22\.5 in \S+b/photometry\.json"
    ):
        common_to(folders)


@pytest.mark.parametrize("text", ["[1]", "nonsense", '{"band": "u"}'])
def test_a_broken_description_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PhotometryError, match=FILE):
        read(tmp_path)
