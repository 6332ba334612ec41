"""`cosmicai local up` beside an embedded AWS that runs already."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cosmicai.deploy import local
from cosmicai.processes import process_birth


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state of one that runs with packages for scripts; its process is this one, and answers."""
    monkeypatch.setattr(local, "is_healthy", lambda endpoint, seconds: True)
    state = {
        **local.DEFAULTS,
        "pid": os.getpid(),
        "birth": process_birth(os.getpid()),
        "endpoint": "http://127.0.0.1:1",
        "image_variant": "torch",
        "extra_packages": ["einops==0.8.1"],
    }
    (tmp_path / "state.json").write_text(json.dumps(state))
    return state


@pytest.mark.parametrize(
    "asked", [{}, {"image_variant": "torch"}, {"concurrency": 16, "extra_packages": ["einops==0.8.1"]}]
)
def test_the_same_one_stays_as_it_is(running: dict[str, Any], tmp_path: Path, asked: dict[str, Any]) -> None:
    assert local.up(asked, tmp_path) == running


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image_variant": "lean"}, "image_variant 'torch', not 'lean'"),
        ({"concurrency": 4}, "concurrency 16, not 4"),
        ({"extra_packages": ["timm==0.4.12"]}, "extra_packages ['einops==0.8.1'], not ['timm==0.4.12']"),
    ],
)
@pytest.mark.usefixtures("running")
def test_another_one_is_refused_with_the_remedy(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(local.LocalError) as caught:
        local.up(asked, tmp_path)
    assert message in str(caught.value)
    assert "`cosmicai local down`" in str(caught.value)
