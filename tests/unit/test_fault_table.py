"""docs/faults.md names the faults that tests inject."""

from __future__ import annotations

import pytest

from tests.conftest import FAULTS, fault_row


def test_every_injected_fault_stands_in_the_table(request: pytest.FixtureRequest) -> None:
    table = FAULTS.read_text().splitlines()
    for item in request.session.items:
        for mark in item.iter_markers("fault"):
            assert fault_row(mark) in table, f"{item.nodeid}: run COSMICAI_FAULTS=1 make test"
