"""`terraform test`, `validate` and `fmt`, and finding the provider."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cosmicai.deploy.providers import PLUGIN_DIR_VARIABLE, ProviderError, plugin_dir
from cosmicai.deploy.terraform import TERRAFORM
from cosmicai.packaging.assembly import package
from cosmicai.packaging.places import BuildFolder


def _terraform(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_DATA_DIR": str(data), "AWS_EC2_METADATA_DISABLED": "true"}
    command = ["terraform", f"-chdir={TERRAFORM}", *arguments, "-no-color"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package(BuildFolder())
    data = tmp_path_factory.mktemp("terraform")
    mirror = plugin_dir(os.environ)
    done = _terraform(data, "init", "-backend=false", *([f"-plugin-dir={mirror}"] if mirror else []))
    assert done.returncode == 0, done.stderr
    return data


def test_every_module_and_every_validation(initialised: Path) -> None:
    done = _terraform(initialised, "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout


def test_it_is_valid(initialised: Path) -> None:
    done = _terraform(initialised, "validate")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_validation_has_a_test() -> None:
    """Counts `validation` and `precondition` blocks against the refusals in tests/."""
    sources = [path.read_text() for path in TERRAFORM.rglob("*.tf")]
    rules = sum(text.count("\n  validation {") + text.count("\n    precondition {") for text in sources)
    tests = "".join(path.read_text() for path in (TERRAFORM / "tests").glob("*.hcl"))
    assert tests.count("expect_failures") == rules


def test_a_named_mirror_comes_first(tmp_path: Path) -> None:
    mirror = tmp_path / "registry.terraform.io" / "hashicorp" / "aws"
    mirror.mkdir(parents=True)
    assert plugin_dir({PLUGIN_DIR_VARIABLE: str(tmp_path)}) == tmp_path


def test_a_named_mirror_without_the_provider_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=f"{PLUGIN_DIR_VARIABLE}=.* holds no registry.terraform.io"):
        plugin_dir({PLUGIN_DIR_VARIABLE: str(tmp_path)})
