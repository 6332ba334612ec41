"""The markers by which tests are chosen: they follow from where a test is and what it asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cosmicai.packaging.places import ROOT
from tests.conftest import marker_names


@pytest.mark.parametrize(
    ("path", "fixtures", "markers"),
    [
        ("unit/test_plan.py", {"tmp_path"}, ["unit"]),
        ("unit/test_emulator.py", {"build"}, ["unit", "emulator"]),
        ("browser/test_site.py", {"browser"}, ["browser"]),
        ("attacks/test_pickles.py", set(), []),
        ("integration/test_scripts.py", {"aws", "build", "torch_build"}, ["emulator", "slow"]),
    ],
)
def test_markers_follow_from_folder_and_fixtures(path: str, fixtures: set[str], markers: list[str]) -> None:
    assert marker_names(Path(path), fixtures) == markers


def test_this_very_test_has_its_marker(request: pytest.FixtureRequest) -> None:
    assert [mark.name for mark in request.node.iter_markers()] == ["unit"]


def test_every_marker_is_registered() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    names = [line.partition(":")[0].partition("(")[0] for line in stated]
    assert names == ["unit", "browser", "emulator", "network", "slow", "fault"]
