"""What Initialize refuses before anything is written."""

from __future__ import annotations

import pytest

from initialize.payload import PayloadError
from initialize.run import start

_SCRIPT = {
    "bucket": "team3-cosmicai",
    "result_path": "results/1",
    "data_prefix": "25MB",
    "S3_object_name": "code",
    "script": "/tmp/code/run.py",  # noqa: S108
}


def test_scripts_are_off_unless_the_deployment_allows_them() -> None:
    """No S3 client is given: nothing may be asked of it."""
    with pytest.raises(PayloadError, match="switched off in this deployment; set allow_scripts = true"):
        start(None, _SCRIPT, "run-1", "2026-11-22T00:00:00Z", allow_scripts=False)
