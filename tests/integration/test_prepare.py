"""Partitions prepared straight into S3, and what is there already is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from inference.data.partition import read

from .conftest import Cloud


def test_data_prepare_into_a_bucket_is_resumable(cloud: Cloud, tmp_path: Path, prefix: str) -> None:
    images = np.random.default_rng(0).normal(0, 1, (600, 5, 32, 32)).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["magnitudes"] = images, np.full((600, 5), 20, np.float32)
    command = [str(Path(sys.executable).with_name("cosmicai")), "data", "prepare", str(tmp_path / "a.h5")]
    command += ["--out", f"s3://{cloud.bucket}/{prefix}", "--partition-mb", "10"]
    environment = {**os.environ, **cloud.aws.environment, "COLUMNS": "200"}

    def call() -> str:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "2 partitions of 600 galaxies" in call()
    parts = [read(cloud.get(cloud.bucket, f"{prefix}/{n}.pt"), "") for n in (1, 2)]
    assert np.array_equal(np.concatenate([part.images for part in parts]), images)
    cloud.s3.delete_object(Bucket=cloud.bucket, Key=f"{prefix}/1.pt")
    modified = cloud.s3.head_object(Bucket=cloud.bucket, Key=f"{prefix}/2.pt")["LastModified"]
    assert ", 1 of them already there" in call()
    assert cloud.keys(cloud.bucket, f"{prefix}/") == {"1.pt", "2.pt", "photometry.json"}
    assert cloud.s3.head_object(Bucket=cloud.bucket, Key=f"{prefix}/2.pt")["LastModified"] == modified
